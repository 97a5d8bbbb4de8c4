// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Rows: what the helper processes hold while children live. @module */

import { open, type Port } from "../mod.ts";
import { helpers } from "../test/helpers.ts";
import type { Row } from "./table.ts";

/** Ports whose keepers are looked at. */
const LIVE = 20;

export function memoryRows(): Row[] {
  return [
    {
      id: "memory",
      work: "watchdog and guardian together, PSS",
      unit: "KiB",
      cells: { ours: () => withLive(guards) },
      target: { most: 1536 },
    },
    {
      id: "memory",
      work: `of each of ${LIVE} live children, outside the child, private`,
      unit: "KiB",
      cells: { ours: () => withLive(keeper) },
      target: { most: 64 },
    },
  ];
}

async function withLive(measure: () => number): Promise<number> {
  const ports: Port[] = await Promise.all(Array.from({ length: LIVE }, () => open("cat")));
  try {
    return measure();
  } finally {
    await Promise.all(ports.map((port) => port.close()));
  }
}

function guards(): number {
  const { watchdog, guardian } = helpers(Deno.pid);
  const pss = (pid: number) => memory(pid, /^Pss:\s+(\d+)/gm);
  return pss(watchdog) + pss(guardian);
}

/** Of one keeper, on the average. */
function keeper(): number {
  const { keepers } = helpers(Deno.pid);
  if (keepers.length < LIVE) throw new Error(`found ${keepers.length} keepers of ${LIVE} ports`);
  const held = keepers.map((pid) => memory(pid, /^Private_\w+:\s+(\d+)/gm));
  return held.reduce((sum, kib) => sum + kib, 0) / keepers.length;
}

/** Sum of the named lines of a process's memory, in KiB. */
function memory(pid: number, lines: RegExp): number {
  const text = Deno.readTextFileSync(`/proc/${pid}/smaps_rollup`);
  return [...text.matchAll(lines)].reduce((sum, [, kib]) => sum + Number(kib), 0);
}
