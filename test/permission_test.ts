// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** FFI would sidestep --allow-run, so `open` asks for it itself. */

import { assertEquals, assertMatch } from "@std/assert";
import { CHECKOUT, test } from "./helpers.ts";
import { Host } from "./host_process.ts";

const LIBRARY = `--allow-ffi=${CHECKOUT}npm/native`;

/** What `open` says in a host with these permissions. */
async function answer(allow: string[], call: string): Promise<string> {
  await using host = Host.start(
    `
    const answer = await ${call}.then(async (port) => {
      const { reason } = await port.status;
      return reason.kind;
    }, (error) => error.name + ": " + error.message);
    say("answer", answer);
    `,
    { allow },
  );
  return (await host.next("answer")).join(" ");
}

test("--allow-ffi of the library's folder and --allow-run of the program are enough", async () => {
  assertEquals(await answer([LIBRARY, "--allow-run=true"], `open("true")`), "normal");
});

test("each permission that is missing is named, and nothing starts", async () => {
  const refused = /^PermissionError: Cannot start "\S+": .+ \(\w+\): .*--allow-run/;
  assertMatch(await answer([LIBRARY, "--allow-run=cat"], `open("true")`), refused);
  assertMatch(await answer([LIBRARY], `open("true")`), refused);
  assertMatch(await answer(["--allow-run"], `open("true")`), /^PermissionError: .*--allow-ffi/);
});

test("the permission is for the file that is executed, not for its name", async () => {
  // A PATH that leads to another program of the allowed name.
  const call = `open("true", [], { env: { PATH: "/proc/self/cwd" } })`;
  assertMatch(
    await answer([LIBRARY, "--allow-run=/bin/cat"], call),
    /^(PermissionError|SpawnError): /,
  );
});

test("LD_PRELOAD in env needs the full run permission", async () => {
  const call = `open("true", [], { env: { LD_PRELOAD: "" } })`;
  assertMatch(await answer([LIBRARY, "--allow-run=true"], call), /^PermissionError: .*LD_PRELOAD/);
  assertEquals(await answer([LIBRARY, "--allow-run"], call), "normal");
});
