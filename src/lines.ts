// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Bytes that come in pieces cut anywhere, as whole lines of bounded length.
 *
 * @module
 */

import { concat } from "./streams.ts";

/** One line: what was kept of it, and whether that is less than all. */
export type EachLine = (text: string, truncated: boolean) => void;

const LF = 10;
const CR = 13;

/** Collects lines. */
export class Lines {
  readonly #most: number;
  readonly #each: EachLine;
  #parts: Uint8Array[] = [];
  #length = 0;
  #cut = false;

  /** Of each line at most `most` bytes are kept. */
  constructor(most: number, each: EachLine) {
    this.#most = most;
    this.#each = each;
  }

  push(bytes: Uint8Array): void {
    let from = 0;
    for (let end = bytes.indexOf(LF); end !== -1; end = bytes.indexOf(LF, from)) {
      this.#keep(bytes.subarray(from, end));
      this.#tell();
      from = end + 1;
    }
    this.#keep(bytes.subarray(from));
  }

  /** What has no line end behind it is a line as well. */
  end(): void {
    if (this.#length > 0 || this.#cut) this.#tell();
  }

  #keep(part: Uint8Array): void {
    const kept = Math.min(part.length, this.#most - this.#length);
    this.#cut ||= kept < part.length;
    if (kept === 0) return;
    this.#parts.push(part.slice(0, kept));
    this.#length += kept;
  }

  #tell(): void {
    const whole = concat(this.#parts);
    const bytes = !this.#cut && whole.at(-1) === CR ? whole.subarray(0, -1) : whole;
    // A character that the bound has cut in two is left out.
    const text = new TextDecoder().decode(bytes, { stream: this.#cut });
    const cut = this.#cut;
    (this.#parts = [], this.#length = 0, this.#cut = false);
    this.#each(text, cut);
  }
}
