// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * From a child's outputs to its owner's mailbox, within the window: bytes that
 * were delivered but not consumed never exceed it, over both together.
 *
 * @module
 */

import { type Output, scratch } from "./streams.ts";

const EAGAIN = -11;

/** Where the pump's messages go. */
export interface Sink {
  deliver(type: "data" | "error", data: Uint8Array<ArrayBuffer>, consumed: () => void): void;
  /** The window is full and more is waiting. */
  blocked(): void;
}

/** Delivers what `outputs` say. */
export class Pump {
  readonly #outputs: readonly Output[];
  readonly #sink: Sink;
  #free: number;
  /** Who waits for room, the longest first: so a flood of one lets the other progress. */
  #queue: (() => void)[] = [];
  #stuck = 0;
  readonly #started: Set<Output> = new Set();

  constructor(outputs: readonly Output[], window: number, sink: Sink) {
    this.#outputs = outputs;
    this.#sink = sink;
    this.#free = window;
  }

  /** Nothing more can come before something is consumed. */
  get blocked(): boolean {
    const open = this.#outputs.filter((output) => output.open).length;
    return this.#stuck > 0 && this.#free === 0 && open > 0;
  }

  /** Claims what nobody else has claimed, and starts. */
  start(): void {
    for (const output of this.#outputs) {
      const { claimedBy } = output;
      if (this.#started.has(output) || (claimedBy !== null && claimedBy !== "messages")) continue;
      this.#started.add(output);
      output.claim("messages");
      void this.#run(output);
    }
  }

  /** A message that was delivered in another isolate, and came along: it fills the window as it did there. */
  again(type: "data" | "error", data: Uint8Array<ArrayBuffer>): void {
    for (const output of this.#outputs) if (output.claimedBy === null) output.claim("messages");
    this.#deliver(type, data);
  }

  async #run(output: Output): Promise<void> {
    const type = output.number === 1 ? "data" : "error";
    while (output.open) {
      if (this.#free === 0) {
        await this.#room(output);
        continue;
      }
      const buffer = scratch();
      const got = output.readNow(buffer.subarray(0, this.#free));
      if (got > 0) this.#deliver(type, buffer.slice(0, got));
      if (got === EAGAIN || output.due) await output.wait();
      if (got > 0) await this.#turn();
    }
  }

  #deliver(type: "data" | "error", data: Uint8Array<ArrayBuffer>): void {
    this.#free -= data.length;
    this.#sink.deliver(type, data, () => {
      this.#free += data.length;
      this.#queue.shift()?.();
    });
  }

  /** The other output's turn, where it waits for room that there is. */
  async #turn(): Promise<void> {
    if (this.#free > 0 && this.#queue.length > 0) this.#queue.shift()?.();
    await Promise.resolve();
  }

  /**
   * Until something is consumed. Whether more is waiting is looked at before
   * anybody is told that nothing can come: the end of the output may be next.
   */
  async #room(output: Output): Promise<void> {
    const next = output.peek();
    if (next === 0) return;
    if (next === EAGAIN) return await output.wait();
    const freed = new Promise<void>((resolve) => this.#queue.push(resolve));
    this.#stuck++;
    this.#sink.blocked();
    await freed;
    this.#stuck--;
  }

  /** The outputs are gone: whoever waits for room finds their end. */
  stop(): void {
    for (const resume of this.#queue.splice(0)) resume();
  }
}
