// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Rows: how fast bytes come and go, and what that takes. @module */

import type { Bench, Peered } from "./peers.ts";
import type { Row } from "./table.ts";

const KIB = 1024;
const GIB = 2 ** 30;
/** What is slow, or not compared, moves less; the figures are for a GiB. */
const PART = 8;

/** The rate that the original reaches with its window of 10,240 bytes, as measured: 0.12 GiB/s. */
const ORIGINAL_MS = 1000 / 0.12;

export function flowRows(bench: Bench): Row[] {
  const writer = bench.program("writer");
  const from = (block: number, bytes: number) => ({
    program: writer,
    args: [`${block}`, `${bytes}`],
    bytes,
  });
  const big = { work: "read", ...from(128 * KIB, GIB) };
  const zeros = { work: "read", program: "head", args: ["-c", `${GIB}`, "/dev/zero"], bytes: GIB };
  const limit = bench.prints("reader", writer, 128 * KIB, GIB);
  const zerosLimit = bench.prints("reader", "/usr/bin/head", "-c", GIB, "/dev/zero");
  const scaled = (way: Peered, request: Record<string, unknown>) => async () =>
    await bench.work(way, request)() * PART;
  const part = from(128 * KIB, GIB / PART);
  return [
    {
      id: "read",
      work: "1 GiB of stdout, 128 KiB writes, default reader",
      unit: "ms",
      cells: { limit, ...bench.works({ ...big, how: "default" }) },
      target: { most: 1 / 3, of: "command" },
    },
    {
      id: "byob",
      work: "the same, BYOB with 256 KiB",
      unit: "ms",
      cells: { limit, ...bench.works({ ...big, how: "byob" }, ["command", "ours", "oursNode"]) },
      target: { most: 1 / 0.95, of: "limit" },
    },
    {
      id: "zeros",
      work: "head -c 1G /dev/zero, default reader",
      unit: "ms",
      cells: { limit: zerosLimit, ...bench.works({ ...zeros, how: "default" }) },
      target: { most: 1 / 1.1, of: "command" },
    },
    {
      id: "zeros-byob",
      work: "the same, BYOB",
      unit: "ms",
      cells: { limit: zerosLimit, ...bench.works({ ...zeros, how: "byob" }, ["command", "ours"]) },
      target: { most: 1 / 0.95, of: "limit" },
    },
    {
      id: "messages",
      work: "messages, window of 10,240 bytes, for 1 GiB",
      unit: "ms",
      cells: {
        ours: scaled("ours", { work: "read", ...part, how: "messages" }),
        oursNode: scaled("oursNode", { work: "read", ...part, how: "messages" }),
        oursBun: scaled("oursBun", { work: "read", ...part, how: "messages" }),
      },
      target: { most: ORIGINAL_MS / 4, is: "<= a quarter of the original's 8,333 ms" },
    },
    {
      id: "write",
      work: "1 GiB to cat >/dev/null, writes of 128 KiB",
      unit: "ms",
      cells: bench.works({ work: "write", bytes: GIB, block: 128 * KIB }),
      target: { most: 1 / 1.2, of: "command" },
    },
    {
      id: "pipe",
      work: "1 GiB from one child to another by pipeTo",
      unit: "ms",
      cells: bench.works({ ...big, work: "pipe" }, ["command", "ours", "oursNode", "oursBun"]),
      target: { most: 1, of: "command" },
    },
    ...[1, 4, 16, 64].map((kib): Row => ({
      id: "blocks",
      work: `stdout in writes of ${kib} KiB, default reader, for 1 GiB`,
      unit: "ms",
      cells: {
        limit: async () => await bench.prints("reader", writer, kib * KIB, GIB / PART)() * PART,
        command: scaled("command", {
          work: "read",
          ...from(kib * KIB, GIB / PART),
          how: "default",
        }),
        ours: scaled("ours", { work: "read", ...from(kib * KIB, GIB / PART), how: "default" }),
      },
      target: { most: 1, of: "command" },
    })),
    {
      id: "cliff",
      work: "worst step between writes of 1, 4, 16 and 64 KiB: time of the larger to the smaller",
      unit: "times",
      cells: { ours: () => worstStep(bench, from) },
      target: { most: 1.25 },
    },
    {
      id: "cpu",
      work: "processor time of the reading runtime, default reader, for 1 GiB",
      unit: "ms",
      cells: processorTimes(bench, { ...big, how: "default" }, ["command", "node", "bun", "ours"]),
    },
    {
      id: "cpu",
      work: "the same, BYOB",
      unit: "ms",
      cells: processorTimes(bench, { ...big, how: "byob" }, ["command", "ours"]),
    },
    {
      id: "turns",
      work: "a line to cat and back",
      unit: "µs",
      cells: { limit: bench.prints("turner", 2000), ...bench.works({ work: "turns", n: 1000 }) },
      target: { most: 1.1, of: "command" },
    },
  ];
}

/** How much longer the next larger block takes than the one before, at worst. */
async function worstStep(
  bench: Bench,
  from: (block: number, bytes: number) => Record<string, unknown>,
): Promise<number> {
  let [worst, before] = [0, Infinity];
  for (const kib of [1, 4, 16, 64]) {
    const request = { work: "read", ...from(kib * KIB, GIB / PART), how: "default" };
    const ms = await bench.work("ours", request)();
    worst = Math.max(worst, ms / before);
    before = ms;
  }
  return worst;
}

/** Milliseconds of processor that a peer uses, all its threads; of 10 ms ticks. */
function processorTimes(
  bench: Bench,
  request: Record<string, unknown>,
  ways: readonly Peered[],
): Row["cells"] {
  const measure = (way: Peered) => async () => {
    const peer = await bench.peer(way);
    const before = ticks(peer.pid);
    await peer.ask(request);
    return (ticks(peer.pid) - before) * 10;
  };
  return Object.fromEntries(ways.map((way) => [way, measure(way)]));
}

function ticks(pid: number): number {
  const text = Deno.readTextFileSync(`/proc/${pid}/stat`);
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return Number(fields[11]) + Number(fields[12]);
}
