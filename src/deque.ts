// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What waits, in a ring that is as large as it has to be: putting in and
 * taking out cost the same however much waits, and what was taken out is held
 * no longer.
 *
 * @module
 */

/** Places of a ring that is hardly used. Every size is a power of 2. */
const LEAST = 16;

/** A queue that takes at both ends. */
export class Deque<T> {
  #places: (T | undefined)[] = new Array(LEAST).fill(undefined);
  #first = 0;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** Behind all others. */
  push(item: T): void {
    if (this.#length === this.#places.length) this.#resize(2 * this.#length);
    this.#places[(this.#first + this.#length++) & (this.#places.length - 1)] = item;
  }

  /** In front of all others. */
  unshift(item: T): void {
    if (this.#length === this.#places.length) this.#resize(2 * this.#length);
    this.#first = (this.#first - 1) & (this.#places.length - 1);
    this.#places[this.#first] = item;
    this.#length++;
  }

  /** Takes the first one out; undefined where there is none. */
  shift(): T | undefined {
    if (this.#length === 0) return undefined;
    const item = this.#places[this.#first];
    this.#places[this.#first] = undefined;
    this.#first = (this.#first + 1) & (this.#places.length - 1);
    this.#length--;
    // Never at once after it has grown: half of the smaller ring is free.
    if (4 * this.#length <= this.#places.length && this.#places.length > LEAST) {
      this.#resize(this.#places.length / 2);
    }
    return item;
  }

  /** All of them, the first one first. */
  *[Symbol.iterator](): Generator<T, void, void> {
    for (let at = 0; at < this.#length; at++) {
      yield this.#places[(this.#first + at) & (this.#places.length - 1)] as T;
    }
  }

  clear(): void {
    this.#places = new Array(LEAST).fill(undefined);
    this.#first = this.#length = 0;
  }

  #resize(size: number): void {
    const [from, last] = [this.#places, this.#places.length - 1];
    const places: (T | undefined)[] = new Array(size).fill(undefined);
    for (let at = 0; at < this.#length; at++) places[at] = from[(this.#first + at) & last];
    this.#places = places;
    this.#first = 0;
  }
}
