// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The window under any mixture of output, consumption and closing: real
 * outputs, pump and mailbox over a child that is made up, against a model that
 * counts bytes. The same in every run; a failure names its seed.
 */

import { assertEquals } from "@std/assert";
import type { Core } from "../src/core.ts";
import { WindowFullError } from "../src/errors.ts";
import { Mailbox, type Member, type Message } from "../src/mailbox.ts";
import { Pump } from "../src/messages.ts";
import type { Port } from "../src/port.ts";
import { Output, type Source } from "../src/streams.ts";
import { assert, Pattern, within } from "./helpers.ts";
import { type Below, random } from "./random.ts";

const EAGAIN = -11;

/** The bytes of the probe's pattern from `from` on. */
function pattern(stream: 1 | 2, from: number, into: Uint8Array): void {
  for (let i = 0; i < into.length; i++) {
    const at = from + i;
    const word = Math.imul(Math.floor(at / 4) + stream, 0x9E3779B1);
    into[i] = (word >>> (8 * (at % 4))) & 0xff;
  }
}

/** One stream of a child that writes when it pleases. */
class Written {
  read = 0;
  #there = 0;
  readonly total: number;

  constructor(readonly stream: 1 | 2, readonly below: Below) {
    this.total = below(4) === 0 ? below(3) : below(6_000);
  }

  /** As read(2): what is there now, nothing now, or the end. */
  take(into: Uint8Array): number {
    if (this.#there === 0) this.#there = Math.min(this.below(1_500), this.total - this.read);
    if (this.read === this.total) return 0;
    if (this.#there === 0) return EAGAIN;
    const taken = into.subarray(0, Math.min(this.#there, into.length));
    pattern(this.stream, this.read, taken);
    this.read += taken.length;
    this.#there -= taken.length;
    return taken.length;
  }
}

/** A port without a process: what {@link Process} makes of outputs, pump and mailbox. */
class Made implements Member {
  readonly sender = {} as Port;
  readonly subject = "made up";
  readonly written: readonly [Written, Written];
  readonly outputs: readonly [Output, Output];
  readonly #pump: Pump;
  /** Delivered and not consumed. */
  held = 0;
  most = 0;
  closed = false;

  constructor(readonly window: number, below: Below, mailbox: Mailbox) {
    this.written = [new Written(1, below), new Written(2, below)];
    const core = {
      read: (_port: number, stream: 1 | 2, into: Uint8Array) =>
        this.written[stream - 1]?.take(into) ?? 0,
      arm: (_port: number, stream: 1 | 2) =>
        later(below, () => this.outputs[stream - 1]?.onReady()),
      shut: () => {},
    } as Partial<Core> as Core;
    const source: Source = { core, handle: 0, subject: this.subject, drainTimeoutMs: 0 };
    this.outputs = [new Output(source, 1, true), new Output(source, 2, true)];
    this.#pump = new Pump(this.outputs, window, {
      deliver: (type, data, consumed) => {
        this.held += data.length;
        this.most = Math.max(this.most, this.held);
        const taken = () => {
          this.held -= data.length;
          consumed();
        };
        mailbox.deliver({ port: this.sender, type, data }, taken);
      },
      blocked: () => mailbox.review(),
    });
    void Promise.all(this.outputs.map((output) => output.ended)).then(() => mailbox.leave(this));
  }

  get blocked(): boolean {
    return this.#pump.blocked;
  }

  flow(): void {
    this.#pump.start();
  }

  end(): Promise<void> {
    this.closed = true;
    for (const output of this.outputs) output.abandon();
    this.#pump.stop();
    return Promise.resolve();
  }
}

/** At once, after microtasks, or in another turn of the event loop. */
function later(below: Below, call: () => void): void {
  const when = below(3);
  if (when === 0) queueMicrotask(call);
  else if (when === 1) void Promise.resolve().then(() => queueMicrotask(call));
  else setTimeout(call, 0);
}

/** Receives in random ways until nothing more can come, and checks each byte. */
async function consume(below: Below, made: Made, mailbox: Mailbox): Promise<[Pattern, Pattern]> {
  const seen: [Pattern, Pattern] = [new Pattern(1), new Pattern(2)];
  const take = (message: Message) => {
    assert(message.type === "data" || message.type === "error", message.type);
    seen[message.type === "data" ? 0 : 1].feed(message.data);
  };
  const closesAt = below(3) === 0 ? below(4_000) : Infinity;
  try {
    for (;;) {
      if (seen[0].bytes + seen[1].bytes >= closesAt) await made.end();
      const wanted = (["data", "error", "any", "any"] as const)[below(4)];
      const match = (message: Message) => wanted === "any" || message.type === wanted;
      await mailbox.receive(match).then(take, async (error) => {
        if (!(error instanceof WindowFullError)) throw error;
        assertEquals(made.held, made.window, "only a full window is full");
        take(await mailbox.receive());
      });
    }
  } catch (error) {
    if ((error as Error).name !== "ClosedError") throw error;
  }
  // What was delivered before the end is still there.
  for (;;) {
    const rest = await mailbox.receive().catch(() => null);
    if (rest === null) return seen;
    take(rest);
  }
}

Deno.test("messages: under any consumption no byte is lost, doubled or out of order, and the window holds", async () => {
  for (let seed = 1; seed <= 400; seed++) {
    const below = random(seed);
    await using mailbox = new Mailbox();
    const made = new Made(16 + below(below(2) === 0 ? 8 : 3_000), below, mailbox);
    mailbox.join(made);
    const what = `the end with seed ${seed}`;
    const seen = await within(consume(below, made, mailbox), { what });
    assert(
      made.most <= made.window,
      `${made.most} bytes in a window of ${made.window}: seed ${seed}`,
    );
    assertEquals(made.held, 0, `seed ${seed}`);
    for (const [i, { read, total }] of made.written.entries()) {
      const [bytes, lost] = [seen[i]?.bytes ?? 0, await made.outputs[i]?.ended];
      if (made.closed) {
        assert(bytes === read || lost, `${read - bytes} bytes lost unsaid: seed ${seed}`);
      } else assertEquals([bytes, read, lost], [total, total, false], `seed ${seed}`);
    }
  }
});
