// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The long runs, by their full counts: `deno task soak [NAME...] [COUNT]`.
 * Each prints its seed, which PROTON_STREAM_SEED sets, and how far it is.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { Host } from "../host_process.ts";
import { seedOf } from "../random.ts";
import { killInTrees } from "../trees.ts";
import { killKeepers, terminateWorkers } from "./batches.ts";
import { killCrowd } from "./crowd.ts";
import { serveClients } from "../clients.ts";
import { killHosts } from "./hosts.ts";
import { limitedPorts } from "./limits.ts";
import { peaks, type Work } from "./memory.ts";

interface Part {
  what: string;
  count: number;
  run: (seed: number, count: number, progress: (done: number) => void) => Promise<unknown>;
}

const PARTS: Readonly<Record<string, Part>> = {
  hosts: {
    what: "#31: spawns of hosts that are killed",
    count: 10_000,
    run: (seed, spawns, progress) =>
      killHosts({ seed, spawns, kill: ["auto", "tree"], start: Host.start, progress }),
  },
  workers: {
    what: "Workers that are terminated",
    count: 1_000,
    run: (seed, count, progress) => terminateWorkers({ seed, count, progress }),
  },
  keepers: {
    what: "#30: keepers that are killed at a start",
    count: 1_000,
    run: (seed, count, progress) => killKeepers({ seed, count, progress }),
  },
  crowd: {
    what: "#44: starts of a runtime with 200 children, which is then killed",
    count: 5_000,
    run: (_, count, progress) => killCrowd({ count, progress }),
  },
  limits: {
    what: "ports with limits in a row, and a hundred at once",
    count: 1_000,
    run: (_, count, progress) => limitedPorts({ count, crowd: 100, progress }),
  },
  trees: {
    what: "random supervised trees under random kills",
    count: 1_000,
    run: (seed, count, progress) => killInTrees({ seed, count, progress }),
  },
  clients: {
    what: "requests of 200 clients at a time, half of which go away",
    count: 4_000,
    run: (_, count, progress) =>
      serveClients({ parallel: 200, rounds: Math.max(1, Math.ceil(count / 200)), progress }),
  },
  stream: {
    what: "GiB through a default reader, in flat memory",
    count: 100,
    run: (_, count, progress) => flat("stream", { count, step: 1, progress }),
  },
  byob: {
    what: "GiB through a reader with one buffer, in flat memory",
    count: 100,
    run: (_, count, progress) => flat("byob", { count, step: 1, progress }),
  },
  spawns: {
    what: "starts, in flat memory",
    count: 100_000,
    run: (_, count, progress) => flat("spawns", { count, step: 1_000, progress }),
  },
};

/** Says the peaks, which are the answer. */
async function flat(work: Work, options: Parameters<typeof peaks>[1]): Promise<void> {
  const { first, last } = await peaks(work, options);
  console.log(`${work}: peak of the first half ${first} KiB, of the last half ${last} KiB`);
}

const SECOND = 1_000;

async function run(name: string, { what, count, run }: Part, wanted: number): Promise<void> {
  const most = Math.min(count, wanted);
  const seed = seedOf(name);
  const begin = performance.now();
  const seconds = () => ((performance.now() - begin) / SECOND).toFixed(0);
  let told = begin;
  await run(seed, most, (done) => {
    if (performance.now() - told < 10 * SECOND) return;
    told = performance.now();
    console.log(`${name}: ${done} of ${most} in ${seconds()} s`);
  });
  console.log(`${what}: ${most} in ${seconds()} s, nothing is left`);
}

/** Shared memory by name. */
function sharedMemory(): string[] {
  return [...Deno.readDirSync("/dev/shm")].map(({ name }) => name).filter((name) =>
    name.includes("proton")
  );
}

const counts = Deno.args.map(Number).filter(Number.isInteger);
const names = Deno.args.filter((arg) => !Number.isInteger(Number(arg)));
const unknown = names.find((name) => !Object.hasOwn(PARTS, name));
if (unknown !== undefined) {
  console.error(
    `soak: no part "${unknown}": give ${Object.keys(PARTS).join(", ")}, or none for all`,
  );
  Deno.exit(2);
}
const before = sharedMemory();
for (const [name, part] of Object.entries(PARTS)) {
  if (names.length === 0 || names.includes(name)) await run(name, part, counts[0] ?? Infinity);
}
assertEquals(sharedMemory(), before, "no shared memory is left");
