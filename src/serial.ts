// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * One at a time, in order: what is put here is handled after what was put
 * before it, and what is handled without a wait costs none.
 *
 * @module
 */

/** What becomes of the items. */
export interface Handler<T> {
  /** Handles one; a promise where that takes its time. */
  handle(item: T): void | Promise<void>;
  /** It threw, or rejected. */
  failed(error: unknown, item: T): void;
  /** It takes its time, and `waiting` are behind it. */
  slow(item: T, waiting: readonly T[]): void;
  /** Nothing waits any more. */
  idle(): void;
}

/** A queue with one who works it off. */
export class Serial<T> {
  readonly #handler: Handler<T>;
  #queue: T[] = [];
  /** How many at the front of the queue have been handled. */
  #handled = 0;
  #state: "closed" | "idle" | "due" | "busy" = "closed";

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

  /** Handles it at once where it is its turn now; false where it is not. */
  now(item: T): boolean {
    if (this.#state !== "idle") return false;
    this.#state = "busy";
    if (this.#turn(item)) this.#resume();
    return true;
  }

  /** No turn begins any more. Those whose turn has not come are returned. */
  close(): T[] {
    this.#state = "closed";
    const waiting = this.#queue.slice(this.#handled);
    this.#clear();
    return waiting;
  }

  #clear(): void {
    this.#queue = [];
    this.#handled = 0;
  }

  #resume(): void {
    while (this.#handled < this.#queue.length) {
      const item = this.#queue[this.#handled++] as T;
      if (!this.#turn(item)) return;
    }
    if (this.#handled > 0) this.#clear();
    this.#state = "idle";
    this.#handler.idle();
  }

  /** True where the next turn may begin. */
  #turn(item: T): boolean {
    try {
      const handling = this.#handler.handle(item);
      if (handling === undefined) return this.#state === "busy";
      this.#handler.slow(item, this.#queue.slice(this.#handled));
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
