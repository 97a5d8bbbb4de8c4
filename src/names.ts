// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Names of what runs in this isolate: each is given once at a time.
 *
 * @module
 */

import { quote, ServerError, typeError } from "./errors.ts";

/** Values by name. A name that is taken but has no value yet belongs to one that starts. */
export class Names<T> {
  readonly #values: Map<string, T | null> = new Map();

  /**
   * Reserves a name.
   *
   * @throws {TypeError} for what is no name.
   * @throws {ServerError} (EEXIST) where another has it, also one that is ending.
   */
  take(name: unknown): asserts name is string {
    if (typeof name !== "string" || name === "") {
      throw typeError("Cannot register a name", "it is no text, or empty", "give a string");
    }
    if (!this.#values.has(name)) return void this.#values.set(name, null);
    throw new ServerError({
      what: `Cannot register the name ${quote(name)}`,
      why: "a server that has not ended has it",
      code: "EEXIST",
      mend: "await its end, or give another name",
      op: "startLink",
      subject: name,
      reason: "taken",
    });
  }

  /** Gives a name that was taken its value. */
  set(name: string, value: T): void {
    this.#values.set(name, value);
  }

  get(name: string): T | null {
    return this.#values.get(name) ?? null;
  }

  free(name: string): void {
    this.#values.delete(name);
  }
}
