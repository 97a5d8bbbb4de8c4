// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Restarts that wait for their time, while everything else goes on. One that
 * another will bring along waits for that other.
 *
 * @module
 */

type Timer = ReturnType<typeof setTimeout>;

/** Who waits to be restarted. */
export class Waits<T> {
  /** Null: its time has come. */
  readonly #timers: Map<T, Timer | null> = new Map();
  readonly #brings: (one: T, other: T) => boolean;
  readonly #due: (one: T) => void;

  /** `brings`: whether the restart of `one` is one of `other` as well. `due`: it may be {@link ready} now. */
  constructor(brings: (one: T, other: T) => boolean, due: (one: T) => void) {
    this.#brings = brings;
    this.#due = due;
  }

  has(one: T): boolean {
    return this.#timers.has(one);
  }

  /** It waits for `ms`. */
  begin(one: T, ms: number): void {
    clearTimeout(this.#timers.get(one) ?? undefined);
    const come = () => {
      this.#timers.set(one, null);
      this.#due(one);
    };
    this.#timers.set(one, setTimeout(come, ms));
  }

  /** It waits for nothing but those who will bring it along. */
  along(one: T): void {
    if (!this.#timers.has(one)) this.#timers.set(one, null);
  }

  /** Its time has come, and nobody whose time has not will bring it along. */
  ready(one: T): boolean {
    if (this.#timers.get(one) !== null) return false;
    return ![...this.#timers].some(([other, timer]) => timer !== null && this.#brings(other, one));
  }

  /** It waits no more, and those are due who waited for it alone. */
  cancel(one: T): void {
    const timer = this.#timers.get(one);
    if (!this.#timers.delete(one)) return;
    clearTimeout(timer ?? undefined);
    for (const other of this.#timers.keys()) if (this.ready(other)) this.#due(other);
  }

  /** Nobody waits any more. */
  clear(): void {
    for (const timer of this.#timers.values()) clearTimeout(timer ?? undefined);
    this.#timers.clear();
  }
}
