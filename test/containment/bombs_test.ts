// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Fork bombs, of at most 400 processes and 10 seconds, as a user of their own:
 * close() ends them all and proves it.
 */

import { assertEquals } from "@std/assert";
import { assert, identities, pause, stat } from "../helpers.ts";
import { matrixCase, type Run } from "../matrix.ts";

const KINDS = [
  "exponential",
  "setsid",
  "runners",
  "double-fork",
  "clone-parent",
  "sigcont",
  "threads",
] as const;

/** How long a bomb goes off before anybody does anything about it: one of the fixed waits. */
const ALIGHT_MS = 300;

/** No bomb goes off as root: below a host of root's it is another user's. */
function asBomber(run: Run, ...words: string[]): string {
  const drop = ["setpriv", `--reuid=${300_000 + Deno.pid}`, "--regid=65534", "--clear-groups"];
  return run.privileged
    ? `open("${drop[0]}", [...${JSON.stringify(drop.slice(1))}, PROBE, ...${
      JSON.stringify(words)
    }], options)`
    : `open(PROBE, ${JSON.stringify(words)}, options)`;
}

/** A host with a bomb beside another tree. It does `then` once it is told, and waits for the bomb's end. */
function bombed(run: Run, words: readonly string[], then: string): string {
  return `
    const options = { delayToSigkill: 0 };
    const echo = await open("cat");
    const port = await ${asBomber(run, ...words)};
    say("ready", ...await ready(port));
    await hear();
    ${then}
    const { survivors, cause } = await port.status;
    say("ended", cause, survivors.length);
    await echo.command("lives");
    for await (const { data } of echo) say("echo", new TextDecoder().decode(data));
  `;
}

function bomb(number: string, title: string, words: string[]): void {
  matrixCase({
    number,
    title,
    body: async (run) => {
      await using host = run.start(
        bombed(run, words, "await port.close({ graceMs: 0, deadlineMs: 60_000 });"),
      );
      const [first = 0] = await host.numbers("ready");
      await pause(ALIGHT_MS);
      const before = run.cgroup?.pids().length;
      await host.tell("go\n");
      assertEquals(await host.next("ended"), ["close", "0"]);
      // Proven empty: nobody of the bomb's is there, and so nobody comes back.
      assertEquals(
        run.cgroup?.pids().filter(isProbe) ?? [],
        [],
        `of ${before}, ${first} the first`,
      );
      assertEquals(await host.next("echo"), ["lives"], "another tree lives on");
    },
  });
}

function isProbe(pid: number): boolean {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/comm`).trim() === "probe";
  } catch {
    return false; // it has ended
  }
}

for (const kind of KINDS) bomb("#15", `a fork bomb, ${kind}`, ["bomb", kind]);

bomb("#16", "64 chains of processes that fork and exit", ["runner-chain", "64"]);

matrixCase({
  number: "+",
  title: "the keeper of a fork bomb is killed: the guardian ends it, and serves others meanwhile",
  body: async (run) => {
    await using host = run.start(bombed(
      run,
      ["bomb", "double-fork"],
      `
      const { success } = await (await open("true")).status;
      say("other", success);
      `,
    ));
    const [first = 0] = await host.numbers("ready");
    await pause(ALIGHT_MS);
    const [keeper] = identities([Number(stat(first)?.[1])]);
    assert(keeper !== undefined);
    Deno.kill(keeper.pid, "SIGKILL");
    await host.tell("go\n");
    assertEquals(await host.next("other"), ["true"]);
    assertEquals(await host.next("ended"), ["guardian", "0"]);
    assertEquals(run.cgroup?.pids().filter(isProbe) ?? [], []);
    assertEquals(await host.next("echo"), ["lives"], "another tree lives on");
  },
});
