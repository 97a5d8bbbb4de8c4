// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * One at a time, in order: what is put here is handled after what was put
 * before it, and what is handled without a wait costs none. However much
 * comes, timers and events have their turn in between.
 *
 * @module
 */

import { Deque } from "./deque.ts";
import { nextRound } from "./native/rounds.ts";

/** What becomes of the items. */
export interface Handler<T> {
  /** Handles one; a promise where that takes its time. */
  handle(item: T): void | Promise<void>;
  /** It threw, or rejected. */
  failed(error: unknown, item: T): void;
  /** It takes its time, or waits for one that does. */
  slow(item: T): void;
  /** Nothing waits any more. */
  idle(): void;
}

/** Milliseconds of turns before the event loop goes round: a handler that puts something in would else keep it for ever. */
const SLICE_MS = 5;

/** Turns from one look at the clock to the next: a look costs as much as a short turn. */
const LOOK = 8;

/** Turns of all queues together: two servers that tell each other would else keep the event loop between them. */
const slice: { since: number | null; turns: number } = { since: null, turns: 0 };

/** Looks at the clock now and then; true where the event loop is to go round first. */
function spent(): boolean {
  if (++slice.turns < LOOK) return false;
  slice.turns = 0;
  const now = performance.now();
  slice.since ??= now;
  return now - slice.since >= SLICE_MS;
}

/** A queue with one who works it off. */
export class Serial<T> {
  readonly #handler: Handler<T>;
  readonly #queue: Deque<T> = new Deque();
  #state: "closed" | "idle" | "due" | "busy" = "closed";
  /** Those who waited when somebody began to take his time are known to. Who comes later sees it by `busy`. */
  #told = false;

  constructor(handler: Handler<T>) {
    this.#handler = handler;
  }

  /** Somebody's turn takes its time, or none has begun. */
  get busy(): boolean {
    return this.#state === "busy" || this.#state === "closed";
  }

  /** The first turn may begin. */
  begin(): void {
    this.#state = "busy";
    this.#resume();
  }

  put(item: T): void {
    this.#queue.push(item);
    if (this.#state !== "idle") return;
    this.#state = "due";
    queueMicrotask(() => {
      if (this.#state !== "due") return;
      this.#state = "busy";
      this.#resume();
    });
  }

  /** In front of all that wait: for what belongs to the turn that puts it. */
  putFirst(item: T): void {
    this.#queue.unshift(item);
  }

  /** Handles it at once where it is its turn now; false where it is not. */
  now(item: T): boolean {
    if (this.#state !== "idle") return false;
    this.#state = "busy";
    if (this.#turn(item)) this.#resume();
    return true;
  }

  /** Takes out those that are meant and whose turn has not come. */
  withdraw(isMeant: (item: T) => boolean): T[] {
    const all = [...this.#queue];
    this.#queue.clear();
    for (const item of all) if (!isMeant(item)) this.#queue.push(item);
    return all.filter(isMeant);
  }

  /** No turn begins any more. Those whose turn has not come are returned. */
  close(): T[] {
    this.#state = "closed";
    const waiting = [...this.#queue];
    this.#queue.clear();
    return waiting;
  }

  #resume(): void {
    while (this.#queue.length > 0) {
      if (spent()) return this.#pause();
      if (!this.#turn(this.#queue.shift() as T)) return;
    }
    this.#state = "idle";
    this.#told = false;
    this.#handler.idle();
  }

  #pause(): void {
    this.#tell();
    nextRound(() => {
      slice.since = null;
      if (this.#state === "busy") this.#resume();
    });
  }

  #tell(): void {
    if (this.#told) return;
    this.#told = true;
    for (const item of this.#queue) this.#handler.slow(item);
  }

  /** True where the next turn may begin. */
  #turn(item: T): boolean {
    try {
      const handling = this.#handler.handle(item);
      if (handling === undefined) return this.#state === "busy";
      this.#handler.slow(item);
      this.#tell();
      handling.then(
        () => this.#state === "busy" && this.#resume(),
        (error) => this.#handler.failed(error, item),
      );
    } catch (error) {
      this.#handler.failed(error, item);
    }
    return false;
  }
}
