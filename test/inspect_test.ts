// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** What somebody sees who logs a port, a message or an error. */

import { assertEquals, assertRejects } from "@std/assert";
import { inspect } from "node:util";
import { Mailbox, open, SpawnError } from "../mod.ts";
import { assert, Scratch, test } from "./helpers.ts";

test("a port is one line: its command, its process, its state", async () => {
  const port = await open("cat");
  const shown = `Port "cat" (pid ${port.pid})`;
  assertEquals([Deno.inspect(port), inspect(port)], [shown, shown]);
  assertEquals(Deno.inspect({ port }), `{ port: ${shown} }`);
  await using owner = new Mailbox();
  const moved = await port.connect(owner);
  assertEquals(Deno.inspect(port), `Port "cat" (pid ${port.pid}, given to another owner)`);
  await moved.close();
  assertEquals(Deno.inspect(moved), `Port "cat" (pid ${moved.pid}, ended)`);
});

/** Where the errors below come from. */
const caller = async (command: string) => await open(command);

test("an error of a start shows who called open, and nothing of what is below it", async () => {
  using scratch = new Scratch();
  // One that the look-up finds, and one that execve(2) does, in another process.
  Deno.writeTextFileSync(scratch.file("text"), "no program\n", { mode: 0o755 });
  for (const command of ["no-such-program", scratch.file("text")]) {
    const error = await assertRejects(() => caller(command), SpawnError);
    for (const text of [Deno.inspect(error), inspect(error)]) {
      assert(text.startsWith(`SpawnError: Cannot start "${command}": `), text);
      assert(!text.includes("/src/"), text);
      assert(text.includes("inspect_test.ts"), text);
    }
    const properties = Deno.inspect({ ...error });
    assert(properties.split("\n").length <= 8, properties);
  }
});
