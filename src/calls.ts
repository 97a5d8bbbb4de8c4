// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Those who wait for a server's answer, and the one timer for all of them. A
 * call that is answered in its own turn never meets it.
 *
 * @module
 */

import type { From } from "./callbacks.ts";

/** Who waits for an answer. */
export class Call implements From<unknown> {
  readonly kind = "call";
  readonly request: unknown;
  readonly timeoutMs: number;
  /** When it is given up, once it is watched. */
  deadline = 0;
  /** It waits no more. */
  settled = false;
  /** Who watches it. */
  watch: Deadlines | null = null;
  readonly #resolve: (value: never) => void;
  readonly #reject: (reason: unknown) => void;

  constructor(
    request: unknown,
    timeoutMs: number,
    resolve: (value: never) => void,
    reject: (reason: unknown) => void,
  ) {
    this.request = request;
    this.timeoutMs = timeoutMs;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  reply(value: unknown): void {
    this.#settle();
    this.#resolve(value as never);
  }

  refuse(error: unknown): void {
    this.#settle();
    this.#reject(error);
  }

  #settle(): void {
    this.settled = true;
    this.watch?.forget(this);
  }
}

/** Calls that wait longer than their turn. */
export class Deadlines {
  readonly #calls: Set<Call> = new Set();
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** When the timer ends. */
  #next = Infinity;

  /** Counts a call's time from now on. Idempotent. */
  watch(call: Call): void {
    if (call.settled || call.watch !== null) return;
    call.watch = this;
    call.deadline = performance.now() + call.timeoutMs;
    this.#calls.add(call);
    if (call.deadline < this.#next) this.#arm(call.deadline);
  }

  forget(call: Call): void {
    if (this.#calls.delete(call) && this.#calls.size === 0) this.#disarm();
  }

  /** All that wait, who are not watched any more. */
  take(): Call[] {
    const calls = [...this.#calls];
    this.#calls.clear();
    this.#disarm();
    return calls;
  }

  #arm(deadline: number): void {
    this.#disarm();
    this.#next = deadline;
    const ms = Math.max(deadline - performance.now(), 0);
    this.#timer = setTimeout(() => this.#expire(), Math.ceil(ms));
  }

  #disarm(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#next = Infinity;
  }

  #expire(): void {
    this.#disarm();
    const now = performance.now();
    for (const call of this.#calls) {
      if (call.deadline > now) continue;
      call.refuse(new DOMException(`No answer within ${call.timeoutMs} ms`, "TimeoutError"));
    }
    const next = Math.min(...[...this.#calls].map(({ deadline }) => deadline));
    if (next < Infinity) this.#arm(next);
  }
}
