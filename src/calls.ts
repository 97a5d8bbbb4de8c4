// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Those who wait for a server's answer, and the one timer for all of them. A
 * call that is answered in its own turn never meets it.
 *
 * @module
 */

import type { From } from "./callbacks.ts";
import { type Deferred, deferred } from "./streams.ts";

/** Who waits for an answer. */
export class Call implements From<unknown> {
  readonly request: unknown;
  readonly timeoutMs: number;
  /** When it is given up, once it is watched. */
  deadline = 0;
  /** It waits no more. */
  settled = false;
  /** What was answered. */
  value: unknown = undefined;
  /** Who watches it. */
  watch: Deadlines | null = null;
  /** Once it is known that there is no answer yet: a promise is half of what a call costs. */
  #answer: Deferred<unknown> | null = null;

  constructor(request: unknown, timeoutMs: number) {
    this.request = request;
    this.timeoutMs = timeoutMs;
  }

  get kind(): "call" {
    return "call";
  }

  /** The answer, which may have come. */
  get answer(): Promise<unknown> {
    this.#answer ??= deferred();
    if (this.settled) this.#answer.resolve(this.value); // no effect behind a refusal
    return this.#answer.promise;
  }

  reply(value: unknown): void {
    if (this.settled) return;
    this.value = value;
    this.#settle();
    this.#answer?.resolve(value);
  }

  refuse(error: unknown): void {
    if (this.settled) return;
    this.#settle();
    this.#answer ??= deferred();
    this.#answer.reject(error);
  }

  /** An answer is there that {@link Call.value} is. */
  get replied(): boolean {
    return this.settled && this.#answer === null;
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
