// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Who ends a crowd takes priority for it, and gives it back; who ends a few takes none. */

import { assertEquals, assertRejects } from "@std/assert";
import { open, type Port, SurvivorsError } from "../../mod.ts";
import { asRoot, gone, identities, stat, statusField, until } from "../helpers.ts";
import { HangingFiles } from "./hanging_files.ts";

const NICE = 19 - 3;
const PPID = 4 - 3;

function keeperOf(port: Port): number {
  return Number(stat(port.pid)?.[PPID]);
}

function nice(pid: number): number {
  return Number(stat(pid)?.[NICE]);
}

/** A tree of so many that hang where nothing can kill them; they do not fork any more. */
function stuck(count: number, on: string): Promise<Port> {
  const script = `i=0; while [ $((i += 1)) -lt ${count} ]; do cat "$0" & done; exec cat "$0"`;
  return open("sh", ["-c", script, on], { containment: { kill: "tree" } });
}

/** SIGKILL has been sent to it. */
function isKilled(pid: number): boolean {
  const pending = statusField(pid, "SigPnd");
  return (BigInt(`0x${pending}`) & 1n << 8n) !== 0n;
}

asRoot(
  "a keeper that ends a crowd has more priority until that has ended; with a few it has none",
  async () => {
    await using files = await HangingFiles.mount();
    const own = nice(Deno.pid);
    const few = await stuck(3, files.program);
    for (let n = 0; n < 3; n++) await files.heard("hung open");
    const keeper = keeperOf(few);
    const ids = identities([few.pid]);
    const closing = few.close({ graceMs: 0, deadlineMs: 1_000 });
    await until(() => isKilled(few.pid), { what: "SIGKILL for a few" });
    assertEquals(nice(keeper), own);
    await assertRejects(() => closing, SurvivorsError);
    assertEquals(nice(keeper), own);

    const crowd = await stuck(60, files.program);
    for (let n = 0; n < 60; n++) await files.heard("hung open");
    const busy = keeperOf(crowd);
    ids.push(...identities([crowd.pid]));
    const ending = crowd.close({ graceMs: 0, deadlineMs: 1_000 });
    await until(() => nice(busy) === -20, { what: "more priority for a crowd" });
    await assertRejects(() => ending, SurvivorsError);
    await until(() => nice(busy) === own, { what: "what it was before" });
    await files.tell("fail");
    await gone(ids);
  },
);
