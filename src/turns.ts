// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * How long streams may go on before timers and others get their turn. Promises
 * alone never let the event loop go on: a child that writes faster than it is
 * read would keep it for ever.
 *
 * @module
 */

/** Milliseconds that all streams of an isolate together may keep the event loop, as far as they are many. */
const TURN_MS = 2;

/** And bytes that one of them may move meanwhile. */
const TURN_BYTES = 8 * 1024 * 1024;

/** Streams that have used up their share since the event loop went on last. */
let spent = 0;

/** Among how many a turn is divided: those that used up their shares in the last turns. */
let sharers = 1;

/** One stream's share of a turn of the event loop. */
export class Share {
  readonly #now: () => number;
  #begun: number | null = null;
  #bytes = 0;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Nothing is left of it. Asked before each move of bytes, of which there is always one. */
  get spent(): boolean {
    const now = this.#now();
    this.#begun ??= now;
    return this.#bytes >= TURN_BYTES || now - this.#begun >= TURN_MS / sharers;
  }

  /** Some bytes were moved. */
  use(bytes: number): void {
    this.#bytes += bytes;
  }

  /** Its stream waits for the event loop to come round. */
  pause(): void {
    if (this.#begun !== null && this.spent) spent++;
    this.#begun = null;
    this.#bytes = 0;
  }
}

/** The event loop has come round. */
export function nextTurn(): void {
  if (spent === 0) return;
  sharers = Math.max(spent, sharers >> 1);
  spent = 0;
}
