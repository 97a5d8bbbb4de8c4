// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Main and Workers share one native library; a Worker's ports end with it and disturb nobody. */

import { assertEquals } from "@std/assert";
import type { Mode, Task } from "./fixtures/worker.ts";
import {
  alive,
  bytesOf,
  Echo,
  gone,
  identities,
  type Identity,
  leavesNothing,
  PROBE,
  test,
  textOf,
  warmUp,
  within,
} from "./helpers.ts";
import { Host, USERS } from "./host_process.ts";

const SCRIPT = new URL("fixtures/worker.ts", import.meta.url);

await warmUp();

/** A Worker that is in the middle of `mode`, and the processes of its ports. */
async function working(
  mode: Mode,
  flag?: Int32Array,
): Promise<{ worker: Worker; ids: Identity[] }> {
  const worker = new Worker(SCRIPT, { type: "module" });
  const { promise, resolve, reject } = Promise.withResolvers<number[]>();
  worker.onmessage = ({ data }) => resolve(data);
  worker.onerror = (event) => {
    event.preventDefault();
    reject(new Error(`in the Worker: ${event.message}`));
  };
  const task: Task = { mode, probe: PROBE, ...(flag === undefined ? {} : { flag }) };
  worker.postMessage(task);
  const pids = await within(promise, { what: `a Worker that is ${mode}` });
  return { worker, ids: identities(pids) };
}

test("main and a Worker with ports of their own do not disturb one another", async () => {
  await using echo = await Echo.start();
  const { worker, ids } = await working("mid-message");
  for (let i = 0; i < 100; i++) await echo.turn();
  assertEquals(ids.filter((id) => !alive(id)), []);
  worker.terminate();
  for (let i = 0; i < 100; i++) await echo.turn();
  await gone(ids);
  await echo.turn();
});

/**
 * Deno itself keeps one of each for every Worker that has loaded a Node-API
 * addon, whichever: 100 Workers with an addon of one empty function leave 99.
 * Ours are one of each in the whole process.
 */
const DENO_KEEPS = {
  "the host: anon_inode:[eventpoll]": 100,
  "the host: anon_inode:[eventfd]": 100,
};

/** A hundred Workers load the library each: half a minute where nothing else runs. */
const HUNDRED_DEADLINE_MS = 300_000;

for (const mode of ["idle", "mid-read", "mid-message"] as const) {
  test(`a hundred Workers terminated ${mode}: nothing crashes, nothing is left`, async () => {
    await leavesNothing(
      async () => {
        await using echo = await Echo.start();
        for (let batch = 0; batch < 25; batch++) {
          const workers = await Promise.all(Array.from({ length: 4 }, () => working(mode)));
          for (const { worker } of workers) worker.terminate();
          await echo.turn();
          await gone(workers.flatMap(({ ids }) => ids));
        }
      },
      DENO_KEEPS,
    );
  }, HUNDRED_DEADLINE_MS);
}

test("a Worker terminated while it is busy: its port answers until the Worker yields", async () => {
  await using echo = await Echo.start();
  const flag = new Int32Array(new SharedArrayBuffer(4));
  const { worker, ids } = await working("busy", flag);
  try {
    worker.terminate();
    for (let i = 0; i < 10; i++) await echo.turn();
    // Deno does not stop a Worker that is stuck in synchronous code.
    assertEquals(ids.filter((id) => !alive(id)), []);
    assertEquals(await answer(ids.at(-1)?.pid ?? 0, "still here\n"), "still here\n");
  } finally {
    Atomics.store(flag, 0, 1);
  }
  await gone(ids);
});

/** What a `cat` answers whose own Worker has no turn: asked through the far ends of its port's pipes. */
async function answer(pid: number, line: string): Promise<string> {
  using stdin = await Deno.open(`/proc/${pid}/fd/0`, { write: true });
  using stdout = await Deno.open(`/proc/${pid}/fd/1`);
  await stdin.write(bytesOf(line));
  const buffer = new Uint8Array(64);
  const got = await within(stdout.read(buffer), { what: `the answer of ${pid}` });
  return textOf(buffer.subarray(0, got ?? 0));
}

test("a Worker that closes itself, and one that throws, end their ports too", async () => {
  for (const end of ["self.close()", "throw new Error('away')"]) {
    await using host = Host.start(`
      if (self.name === "inner") {
        const port = await open(PROBE, ["double-fork", "2", "stay"], { delayToSigkill: 20 });
        const pids = await ready(port);
        self.onmessage = () => { ${end}; };
        self.postMessage(pids);
      } else {
        const worker = new Worker(import.meta.url, { type: "module", name: "inner" });
        worker.onerror = (event) => event.preventDefault();
        worker.onmessage = ({ data }) => say("ready", ...data);
        await hear();
        worker.postMessage("end");
        await hear();
      }
    `);
    const ids = identities(await host.numbers("ready"));
    await host.tell("go\n");
    await gone(ids);
  }
});

/** What a Worker is doing when it is terminated; it posts the pids of its trees in the middle of it. */
const DOING: [mode: Exclude<Mode, "busy">, script: string][] = [
  ["idle", `self.postMessage(pids);`],
  [
    "mid-read",
    `
    const port = await open(PROBE, ["flood", ENDLESS, ENDLESS], { delayToSigkill: 20 });
    const reader = port.stdout.getReader();
    await reader.read();
    self.postMessage([...pids, port.pid]);
    while (!(await reader.read()).done);
    `,
  ],
  [
    "mid-message",
    `
    const owner = new Mailbox();
    const port = await open(PROBE, ["flood", ENDLESS, ENDLESS], { owner, delayToSigkill: 20 });
    await owner.receive();
    self.postMessage([...pids, port.pid]);
    while (true) await owner.receive();
    `,
  ],
];

for (const user of USERS) {
  for (const [mode, script] of DOING) {
    test(`as ${user.name}: a Worker terminated ${mode} takes its trees along, the main ones live`, async () => {
      await using host = Host.start(
        `
        const ENDLESS = String(Number.MAX_SAFE_INTEGER);
        const quiet = await open(PROBE, ["double-fork", "2", "stay"], { delayToSigkill: 20 });
        const pids = await ready(quiet);
        if (self.name === "inner") {
          ${script}
        } else {
          say("main", ...pids);
          const worker = new Worker(import.meta.url, { type: "module", name: "inner" });
          worker.onmessage = ({ data }) => say("inner", ...data);
          await hear();
          worker.terminate();
          await hear();
        }
        `,
        { user },
      );
      const main = identities(await host.numbers("main"));
      const inner = identities(await host.numbers("inner"));
      await host.tell("go\n");
      await gone(inner);
      assertEquals(main.filter((id) => !alive(id)), []);
      host.kill();
      await gone(main);
    });
  }
}
