// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** The host's memory stays flat: slices of `deno task soak stream`, `byob` and `spawns`. */

import { assert, test } from "./helpers.ts";
import { MARGIN, peaks, type Work } from "./soak/memory.ts";

/** In so short a time the collector has not come to its peak: a leak of a fiftieth would still be seen. */
const margin = 4 * MARGIN;

const SLICES: readonly [Work, count: number, step: number][] = [
  ["stream", 4, 1],
  ["byob", 2, 1],
  ["spawns", 600, 100],
];

for (const [work, count, step] of SLICES) {
  test(`memory of the last half of ${count} (${work}) is that of the first half`, async () => {
    const { first, last } = await peaks(work, { count, step, margin });
    assert(first > 0 && last > 0, `peaks of ${first} and ${last} KiB`);
  });
}
