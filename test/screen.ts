// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The other side of a terminal that a port was opened with.
 *
 * @module
 */

import type { Port } from "../mod.ts";
import { assert, textOf, within } from "./helpers.ts";

/** What a terminal shows, and what is typed into it. */
export class Screen {
  shown = "";
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;

  constructor(readonly port: Port) {
    this.#reader = port.stdout.getReader();
  }

  async type(text: string): Promise<void> {
    await this.port.command(text);
  }

  /** Until `text` is shown behind what was waited for before; without it, until the end. */
  async wait(text: RegExp | null): Promise<RegExpMatchArray> {
    while (true) {
      const found = text === null ? null : this.shown.match(text);
      if (found !== null) {
        this.shown = this.shown.slice((found.index ?? 0) + found[0].length);
        return found;
      }
      const { done, value } = await within(this.#reader.read(), {
        what: () => `${text} on the screen, which shows ${JSON.stringify(this.shown)}`,
      });
      if (done) {
        assert(text === null, `the screen ended before ${text}: ${JSON.stringify(this.shown)}`);
        return [this.shown];
      }
      this.shown += textOf(value);
    }
  }
}
