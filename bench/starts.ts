// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Rows: what a start costs. All of `true`, contained in tree mode unless it says otherwise. @module */

import type { Bench, Peered } from "./peers.ts";
import type { Row } from "./table.ts";

const N = 40;
const WIDTH = 32;
/** What the runtime holds in one row. */
const HEAP_MIB = 1024;

export function startRows(bench: Bench): Row[] {
  const spawn = { work: "spawn", n: N };
  const big = async (way: Peered) => {
    const peer = await bench.peer(way, "+heap");
    if (await peer.ask({ work: "heap", mib: 0 }) === 0) {
      await peer.ask({ work: "heap", mib: HEAP_MIB });
    }
    return await peer.ask({ ...spawn, n: way === "node" ? 5 : N, stdio: "pipes" });
  };
  return [
    {
      id: "spawn",
      work: "start and end of true, three pipes",
      unit: "µs",
      cells: {
        limit: bench.prints("spawner", N, 1, "pipes"),
        own: bench.prints("keeper", N, "pipes"),
        ...bench.works({ ...spawn, stdio: "pipes" }),
      },
      target: { most: 1, of: "command" },
    },
    {
      id: "null",
      work: "the same, null stdio",
      unit: "µs",
      cells: {
        limit: bench.prints("spawner", N, 1, "null"),
        own: bench.prints("keeper", N, "null"),
        ...bench.works({ ...spawn, stdio: "null" }),
      },
      target: { most: 1.2, of: "command" },
    },
    {
      id: "leaf",
      work: "three pipes, in a cgroup of its own (left: without one)",
      unit: "µs",
      cells: {
        command: bench.work("ours", { ...spawn, stdio: "pipes", kill: "tree" }),
        ours: bench.work("ours", { ...spawn, stdio: "pipes", kill: "auto" }),
      },
      target: { most: 1.25, of: "command", is: "<= 1.25x without" },
    },
    {
      id: "parallel",
      work: `three pipes, ${WIDTH} at a time, each`,
      unit: "µs",
      cells: {
        limit: bench.prints("spawner", 2 * WIDTH, WIDTH, "pipes"),
        ...bench.works({ work: "parallel", n: 2 * WIDTH, width: WIDTH }),
      },
      target: { most: 1, of: "command" },
    },
    {
      id: "heap",
      work: "three pipes, 1 GiB resident in the runtime (own path: our own without)",
      unit: "µs",
      cells: {
        limit: bench.prints("spawner", N, 1, "pipes", HEAP_MIB),
        own: bench.work("ours", { ...spawn, stdio: "pipes" }),
        command: () => big("command"),
        node: () => big("node"),
        bun: () => big("bun"),
        ours: () => big("ours"),
      },
      target: { most: 1.1, of: "own", is: "<= 1.10x our own without" },
    },
    {
      id: "blocked",
      work: "JavaScript's thread is busy for a start",
      unit: "µs",
      cells: bench.works({ work: "blocked", n: N }),
      target: { most: 0.3, of: "command" },
    },
  ];
}
