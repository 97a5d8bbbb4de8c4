// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What happens to a tree's limits, as it happens: the kernel says that
 * something has, its counters say what and how often.
 *
 * @module
 */

import { liveCounters } from "./cgroup.ts";
import { type Counters, countersOf } from "./figures.ts";
import type { Process } from "./process.ts";
import { deferred } from "./streams.ts";

/** Something that happened to a tree's limits; `count` times since the last event of its type. */
export interface LimitEvent {
  /** One of {@link Counters}, or `"pressure"`: some of it waited for memory. */
  type: keyof Counters | "pressure";
  /** How often since the last event of this type. */
  count: number;
}

type Known = Counters & { pressure: number };

const NOTHING: Known = {
  memoryHigh: 0,
  memoryMax: 0,
  oom: 0,
  oomKill: 0,
  pidsMax: 0,
  pressure: 0,
};

/** From the start of the tree to its end; who reads slowly finds sums. */
export function limitEvents(process: Process): AsyncGenerator<LimitEvent, void, void> {
  let alarm = deferred<void>();
  const forget = process.onAlarm(() => alarm.resolve());
  async function* told(): AsyncGenerator<LimitEvent, void, void> {
    try {
      for (let before = NOTHING;;) {
        const { ended } = process;
        const now = ended ? last(process, before) : known(process);
        yield* changes(before, now);
        if (ended) return;
        before = now;
        await alarm.promise;
        // Before the next look: what rings from here on is looked for anew.
        alarm = deferred();
      }
    } finally {
      forget();
    }
  }
  return told();
}

function known({ core, handle }: Process): Known {
  const { counters, pressed } = liveCounters(core, handle);
  return { ...counters, pressure: pressed };
}

/** Its cgroups are gone; what they had counted is in the report of its end. */
function last(process: Process, before: Known): Known {
  return { ...countersOf(process.report.figures), pressure: before.pressure };
}

/** In the order in which one leads to the other. */
function changes(before: Known, now: Known): LimitEvent[] {
  const types = Object.keys(NOTHING) as LimitEvent["type"][];
  return types.map((type) => ({ type, count: now[type] - before[type] }))
    .filter(({ count }) => count > 0);
}
