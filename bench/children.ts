// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Rows: many children at once, and what stays fair and small beside them. @module */

import type { Bench, Peered } from "./peers.ts";
import type { Measure, Row } from "./table.ts";

const CROWDS = [10, 100, 1000] as const;

interface Live {
  start: number;
  end: number;
}
interface Quantiles {
  p50: number;
  p99: number;
}

export function childrenRows(bench: Bench): Row[] {
  const program = bench.program("ticker");
  const part =
    <T>(way: Peered, request: Record<string, unknown>, of: (answer: T) => number) => async () =>
      of(await (await bench.peer(way)).ask<T>(request));
  const live = (way: Peered, n: number, which: keyof Live): Measure =>
    part<Live>(way, { work: "live", n, program }, (answer) => answer[which] * 1000);
  const load = { work: "underLoad", n: 200, others: 100, program };
  const timer = { work: "timer", ms: 1500 };
  const both = (request: Record<string, unknown>, which: keyof Quantiles): Row["cells"] =>
    Object.fromEntries(
      (["command", "ours"] as const).map((way) => [
        way,
        part<Quantiles>(way, request, (answer) => answer[which]),
      ]),
    );
  return [
    ...CROWDS.map((n): Row => ({
      id: "live",
      work: `${n} live children, each starts and streams 64 KiB (own path: our own with 10), each`,
      unit: "µs",
      cells: {
        own: live("ours", 10, "start"),
        command: live("command", n, "start"),
        ours: live("ours", n, "start"),
      },
      target: { most: 1.25, of: "own", is: "<= 1.25x our own with 10" },
    })),
    ...CROWDS.map((n): Row => ({
      id: "live-end",
      work: `${n} live children, all ended at once, each`,
      unit: "µs",
      cells: { command: live("command", n, "end"), ours: live("ours", n, "end") },
    })),
    ...(["p50", "p99"] as const).map((which): Row => ({
      id: "load",
      work: `a line to cat and back beside 100 children that each say one every 10 ms, ${which}`,
      unit: "µs",
      cells: both(load, which),
      target: { most: 1.1, of: "command" },
    })),
    ...(["p50", "p99"] as const).map((which): Row => ({
      id: "timer",
      work: `a 10 ms timer while four children flood, ${which}`,
      unit: "ms",
      cells: both(timer, which),
      ...(which === "p99" ? { target: { most: 30 } } : {}),
    })),
  ];
}
