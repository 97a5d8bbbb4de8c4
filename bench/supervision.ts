// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What callbacks and supervisors cost beside what they stand on: an awaited
 * function, a port with messages, a start, a thousand starts.
 *
 * @module
 */

import { Mailbox, open, startLink, Supervisor } from "../mod.ts";
import type { Row } from "./table.ts";

const CALLS = 100_000;
const FLOOD = 64 * 2 ** 20;
const RESTARTS = 40;
const CHILDREN = 1_000;
const log = (): void => {};

/** Nanoseconds per call, each awaited before the next. */
async function perCall(call: () => Promise<unknown>): Promise<number> {
  const begin = performance.now();
  for (let n = 0; n < CALLS; n++) await call();
  return (performance.now() - begin) * 1e6 / CALLS;
}

async function calls(): Promise<number> {
  const module = {
    init: () => ({ state: null }),
    handleCall: () => ({ reply: null, state: null }),
  };
  await using server = await startLink(module, "cat");
  return await perCall(() => server.call(null as never));
}

/** Says so much and ends. */
const WRITE = ["-c", `head -c ${FLOOD} /dev/zero`];

async function handled(): Promise<number> {
  const begin = performance.now();
  const module = {
    init: () => ({ state: 0 }),
    handleStdout: (data: Uint8Array, bytes: number) => ({ state: bytes + data.length }),
    handleExit: (_: unknown, bytes: number) => ({ stop: "normal", state: bytes }),
  };
  const server = await startLink(module, "sh", WRITE);
  await server.ended;
  return performance.now() - begin;
}

async function received(): Promise<number> {
  const begin = performance.now();
  await using owner = new Mailbox();
  await open("sh", WRITE, { owner });
  let bytes = 0;
  for await (const message of owner) if (message.type === "data") bytes += message.data.length;
  if (bytes !== FLOOD) throw new Error(`${bytes} bytes instead of ${FLOOD}`);
  return performance.now() - begin;
}

/** Milliseconds from the end of a killed child to the child that runs in its place. */
async function restarts(): Promise<number> {
  let ran = Promise.withResolvers<void>();
  const waitFor = () => {
    ran.resolve();
    return true;
  };
  const children = [{ id: "a", command: "cat", output: "keep", waitFor } as const];
  const options = { children, maxRestarts: RESTARTS, maxSeconds: 1e6, log };
  await using supervisor = await Supervisor.start(options);
  let sum = 0;
  for (let n = 0; n < RESTARTS; n++) {
    const port = supervisor.child("a")?.port;
    if (port === undefined) throw new Error("the child does not run");
    ran = Promise.withResolvers();
    void port.kill("SIGKILL");
    await port.status;
    const begin = performance.now();
    await ran.promise;
    sum += performance.now() - begin;
    await new Promise((resolve) => setTimeout(resolve)); // it is then known to run
  }
  return sum / RESTARTS;
}

async function starts(): Promise<number> {
  let sum = 0;
  for (let n = 0; n < RESTARTS; n++) {
    const before = await open("cat");
    void before.kill("SIGKILL");
    await before.status;
    const begin = performance.now();
    const port = await open("cat");
    sum += performance.now() - begin;
    await port.close({ graceMs: 0 });
  }
  return sum / RESTARTS;
}

const many = () =>
  Array.from({ length: CHILDREN }, (_, n) => ({
    id: `${n}`,
    command: "cat",
    output: "keep",
  } as const));

async function supervised(): Promise<number> {
  const begin = performance.now();
  const supervisor = await Supervisor.start({ children: many(), log });
  const took = performance.now() - begin;
  await supervisor.kill();
  return took / CHILDREN;
}

async function sweep(): Promise<number> {
  const supervisor = await Supervisor.start({ children: many(), log });
  const begin = performance.now();
  await supervisor.kill();
  return performance.now() - begin;
}

async function plain(): Promise<number> {
  await using owner = new Mailbox();
  const begin = performance.now();
  for (let n = 0; n < CHILDREN; n++) await open("cat", [], { owner, delayToSigkill: 0 });
  return (performance.now() - begin) / CHILDREN;
}

/** Each beside what it stands on. */
export function supervisionRows(): Row[] {
  return [
    {
      id: "call",
      work: "a call to a server and its answer (left: an awaited empty async function)",
      unit: "ns",
      cells: { base: () => perCall(async () => {}), ours: calls },
      target: { most: 3, of: "base" },
    },
    {
      id: "handle",
      work: "64 MiB of messages to handleStdout (left: to a mailbox)",
      unit: "ms",
      cells: { base: received, ours: handled },
      target: { most: 1.2, of: "base" },
    },
    {
      id: "restart",
      work: "restart of a killed child (left: open())",
      unit: "ms",
      cells: { base: starts, ours: restarts },
      target: { most: 1.3, of: "base" },
    },
    {
      id: "supervised",
      work: `${CHILDREN} children started by a supervisor, each (left: by open())`,
      unit: "ms",
      cells: { base: plain, ours: supervised },
      target: { most: 1.2, of: "base" },
    },
    {
      id: "sweep",
      work: `${CHILDREN} supervised children killed, all`,
      unit: "ms",
      cells: { ours: sweep },
    },
  ];
}
