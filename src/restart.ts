// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What is restarted, how often and when: decisions without a clock, a process
 * or a wait of their own.
 *
 * @module
 */

/**
 * Who is restarted when a child ends: it alone, all, or it and those that were
 * started after it.
 */
export type Strategy = "one_for_one" | "one_for_all" | "rest_for_one";

/** When a child is restarted: always, where it did not end normally, or never. */
export type Restart = "permanent" | "transient" | "temporary";

/**
 * How long a restart waits: `minMs` at first, `factor` times as long each further time that it is the same child's,
 * at most `maxMs`. It begins anew for one that has run for longer than `maxSeconds`.
 */
export interface Backoff {
  /** Milliseconds, 1 or more. */
  minMs: number;
  /** Milliseconds; default 30,000. */
  maxMs?: number;
  /** 1 or more; default 2. */
  factor?: number;
  /** Which part of the wait is left to chance, 0 to 1; default 0.5. */
  jitter?: number;
}

/** Whether a child that ended by itself is started again. */
export function wantsRestart(restart: Restart, normal: boolean): boolean {
  return restart === "permanent" || (restart === "transient" && !normal);
}

/** Those of `children`, which stand in the order of their start, that are ended and started again with `child`. */
export function affected<T>(strategy: Strategy, children: readonly T[], child: T): T[] {
  if (strategy === "one_for_all") return [...children];
  const at = children.indexOf(child);
  return strategy === "rest_for_one" ? children.slice(at) : [child];
}

/** The restarts of the last seconds. */
export class Intensity {
  readonly #most: number;
  readonly #ms: number;
  #times: number[] = [];

  constructor(maxRestarts: number, maxSeconds: number) {
    this.#most = maxRestarts;
    this.#ms = maxSeconds * 1_000;
  }

  /** Counts one more at `now` (milliseconds); false where it is one too many. */
  add(now: number): boolean {
    this.#times = this.#times.filter((time) => now - time <= this.#ms);
    this.#times.push(now);
    return this.#times.length <= this.#most;
  }
}

/** Milliseconds before the `nth` restart (from 1); `random` is 0 or more and less than 1. */
export function backoffMs(backoff: Backoff | null, nth: number, random: number): number {
  if (backoff === null) return 0;
  const { minMs, maxMs = 30_000, factor = 2, jitter = 0.5 } = backoff;
  const whole = Math.min(minMs * factor ** (nth - 1), Math.max(maxMs, minMs));
  return Math.round(whole * (1 - jitter * random));
}
