// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Owners: a mailbox holds the messages of the ports that it owns, and when it
 * ends, their trees die.
 *
 * @module
 */

import { delay, flag, type Given, kind, refuseOptions } from "./checks.ts";
import { ClosedError, typeError, WindowFullError } from "./errors.ts";
import type { Cause, ExitReason, ExitStatus } from "./status.ts";
// The one upward edge, of types only: a message names its port (docs/decisions/0001).
import type { Port } from "./port.ts";
import { type Deferred, deferred } from "./streams.ts";

/** From a port to its owner. `data` is stdout, `error` is stderr. */
export type Message =
  | { port: Port; type: "data"; data: Uint8Array<ArrayBuffer> }
  | { port: Port; type: "error"; data: Uint8Array<ArrayBuffer> }
  | { port: Port; type: "exit"; reason: ExitReason; status: ExitStatus & { truncated: boolean } }
  | { port: Port; type: "closed" }
  | { port: Port; type: "connected" };

/** Which message is wanted: one of this port, or one for which this is true. */
export type Match = Port | ((message: Message) => boolean);

/** How {@link Mailbox.receive} waits. */
export interface ReceiveOptions {
  /** Milliseconds; without it, for as long as it takes. */
  timeoutMs?: number;
  /** Ends the wait when it aborts, with its reason. */
  signal?: AbortSignal;
  /** Messages that do not match are dropped, and count as consumed. Default false: they stay. */
  discard?: boolean;
}

const NOTHING: ReceiveOptions = {};

/** What a mailbox knows of a port it owns. */
export interface Member {
  readonly sender: Port;
  readonly subject: string;
  /** Its window is full: nothing more comes before something is consumed. */
  readonly blocked: boolean;
  /** Has its messages flow, from the first receive on. */
  flow(): void;
  /** Ends its tree; resolves when it is gone. */
  end(cause: Cause): Promise<void>;
}

interface Waiter {
  matches(message: Message): boolean;
  /** The one port it waits for, where it is one. */
  only: Match | undefined;
  discard: boolean;
  answer: Deferred<Message>;
}

/** A message, and what its being taken out is told by. */
export interface Queued {
  message: Message;
  consumed: () => void;
}

/**
 * An inbox that owns ports. Several ports can share one; when it is disposed,
 * the trees of all its ports end.
 *
 * ```ts
 * import { Mailbox, open } from "@proton-stream/port";
 * import { assertEquals } from "@std/assert";
 *
 * await using mailbox = new Mailbox();
 * const a = await open("echo", ["a"], { owner: mailbox });
 * const b = await open("echo", ["b"], { owner: mailbox });
 * const fromB = await mailbox.receive(b);
 * assertEquals(fromB.type === "data" && new TextDecoder().decode(fromB.data), "b\n");
 * const fromA = await mailbox.receive(a);
 * assertEquals(fromA.type === "data" && new TextDecoder().decode(fromA.data), "a\n");
 * ```
 */
export class Mailbox {
  #queue: Queued[] = [];
  readonly #waiters: Set<Waiter> = new Set();
  readonly #members: Set<Member> = new Set();
  readonly #atEnd: Set<() => void> = new Set();
  #disposed: Promise<void> | null = null;

  /** True once it has been disposed. */
  get disposed(): boolean {
    return this.#disposed !== null;
  }

  /**
   * The next message that matches; it is taken out, and that makes room in its port's window.
   *
   * @param match a port, or a function; without it, any message.
   * @throws {TypeError} or {RangeError} for what cannot be meant.
   * @throws {ClosedError} when no open port is left that could send it.
   * @throws {WindowFullError} when every port that could send it has filled its window with messages that do
   * not match: it could never be served.
   * @throws {DOMException} `TimeoutError` after `timeoutMs`; the signal's reason when it is aborted.
   */
  receive(match?: Match, options: ReceiveOptions = NOTHING): Promise<Message> {
    try {
      checkReceive(match, options);
    } catch (error) {
      return Promise.reject(error);
    }
    const { timeoutMs, signal, discard = false } = options;
    if (signal?.aborted) return Promise.reject(signal.reason);
    for (const member of this.#members) member.flow();
    const matches = typeof match === "function"
      ? match
      : (m: Message) => match === undefined || m.port === match;
    const found = this.#take(matches, discard);
    if (found !== null) return Promise.resolve(found);
    const waiter: Waiter = { matches, only: match, discard, answer: deferred() };
    this.#waiters.add(waiter);
    this.review();
    return this.#bounded(waiter, timeoutMs, signal);
  }

  /** Ends all that a wait has armed when it ends, whatever ended it. */
  async #bounded(
    waiter: Waiter,
    timeoutMs: number | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Message> {
    const aborted = () => waiter.answer.reject(signal?.reason);
    const late = () =>
      waiter.answer.reject(new DOMException(`No message within ${timeoutMs} ms`, "TimeoutError"));
    const timer = timeoutMs === undefined ? undefined : setTimeout(late, timeoutMs);
    signal?.addEventListener("abort", aborted);
    try {
      return await waiter.answer.promise;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
      this.#waiters.delete(waiter);
    }
  }

  #take(matches: (message: Message) => boolean, discard: boolean): Message | null {
    for (let at = 0; at < this.#queue.length;) {
      const { message, consumed } = this.#queue[at] as Queued;
      const wanted = matches(message);
      if (!wanted && !discard) {
        at++;
        continue;
      }
      this.#queue.splice(at, 1);
      consumed();
      if (wanted) return message;
    }
    return null;
  }

  /**
   * Puts a message in; `consumed` is called when the owner has taken it.
   *
   * @internal
   */
  deliver(message: Message, consumed: () => void): void {
    if (this.disposed) return consumed();
    for (const waiter of this.#waiters) {
      const wanted = waiter.matches(message);
      if (!wanted && !waiter.discard) continue;
      consumed();
      if (wanted) {
        this.#waiters.delete(waiter);
        waiter.answer.resolve(message);
      }
      return;
    }
    this.#queue.push({ message, consumed });
  }

  /**
   * Takes out what a port's program has said and nobody has received.
   *
   * @internal
   */
  withdraw(port: Port): Queued[] {
    const its = this.#queue.filter(({ message }) => isSaidBy(port, message));
    this.#queue = this.#queue.filter(({ message }) => !isSaidBy(port, message));
    return its;
  }

  /**
   * A port that this mailbox owns from now on.
   *
   * @internal
   */
  join(member: Member): void {
    this.#members.add(member);
    if (this.#waiters.size > 0) member.flow();
  }

  /**
   * A port that has said its last word, or has gone to another owner.
   *
   * @internal
   */
  leave(member: Member): void {
    this.#members.delete(member);
    this.review();
  }

  /**
   * Tells those who wait for what can never come. To be called when a port is blocked, or has left.
   *
   * @internal
   */
  review(): void {
    for (const waiter of this.#waiters) {
      const possible = [...this.#members].filter(({ sender }) =>
        typeof waiter.only !== "object" || waiter.only === sender
      );
      if (possible.length === 0) {
        this.#refuse(waiter, nobodyLeft());
      } else if (!waiter.discard && possible.every((member) => member.blocked)) {
        this.#refuse(waiter, windowFull(possible));
      }
    }
  }

  #refuse(waiter: Waiter, error: Error): void {
    this.#waiters.delete(waiter);
    waiter.answer.reject(error);
  }

  /** All messages, in order, until no open port is left. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Message, void, void> {
    for (;;) {
      try {
        yield await this.receive();
      } catch (error) {
        if (error instanceof ClosedError) return;
        throw error;
      }
    }
  }

  /** Ends the trees of all its ports as by their owner's end; resolves when they are gone. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  /**
   * Calls `what` when it is disposed; what is returned calls that off.
   *
   * @internal
   */
  atEnd(what: () => void): () => void {
    this.#atEnd.add(what);
    return () => this.#atEnd.delete(what);
  }

  async #dispose(): Promise<void> {
    for (const what of this.#atEnd) what();
    this.#atEnd.clear();
    const ends = [...this.#members].map((member) => member.end("owner"));
    for (const { consumed } of this.#queue.splice(0)) consumed();
    const results = await Promise.allSettled(ends);
    const failed = results.find((result) => result.status === "rejected");
    if (failed !== undefined) throw failed.reason;
  }
}

/** Whether it is what a port's program has said. */
export function isSaidBy(port: Port, message: Message): boolean {
  return message.port === port && (message.type === "data" || message.type === "error");
}

/** Refuses what would wait for something that can never be. */
function checkReceive(match: unknown, options: ReceiveOptions): void {
  const known = match === undefined || typeof match === "function" ||
    (typeof match === "object" && match !== null && "closeStdin" in match);
  if (!known) {
    const is = kind(match);
    throw typeError("Cannot receive", `match is ${is}`, "give a port, a function, or undefined");
  }
  if (options === NOTHING) return;
  refuseOptions("receive()", options, ["timeoutMs", "signal", "discard"]);
  delay(options as Given, "timeoutMs", 0);
  flag(options as Given, "discard");
}

function nobodyLeft(): ClosedError {
  return new ClosedError({
    what: "Cannot receive",
    why: "no open port is left that could send such a message",
    code: "ECLOSED",
    mend: "open a port with this mailbox as its owner",
    op: "receive",
    subject: "mailbox",
  });
}

function windowFull(members: readonly Member[]): WindowFullError {
  const subject = members.map((member) => member.subject).join(", ");
  return new WindowFullError({
    what: `Cannot receive from ${subject}`,
    why: "its window is full of messages that do not match, so nothing more can come",
    code: "EWINDOW",
    mend: "receive those first, pass { discard: true }, or open it with a larger stdioWindow",
    op: "receive",
    subject,
  });
}
