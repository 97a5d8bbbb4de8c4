// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * A child's stdin, stdout and stderr over a {@link Core}: bytes are read only
 * when somebody asks for them, and what is not asked for stays in the pipe and
 * blocks the child. That is the flow control.
 *
 * @module
 */

import type { Core, Handle, StreamNumber } from "./core.ts";
import { BrokenPipeError, ClosedError, errnoName, errnoSentence, typeError } from "./errors.ts";
import { nextTurn, Share } from "./turns.ts";

const EAGAIN = -11;
const EPIPE = -32;

/** What one read takes at most: larger ones are slower (docs/decisions/0006). */
const CHUNK = 128 * 1024;

const NAMES = ["stdin", "stdout", "stderr"];

/** Why an input of a program that has ended takes nothing. */
export const ENDED: string = "the program has ended";
const LOOK = "look at port.status and at its output for the reason";

/** One port's native side, as its streams need it. */
export interface Source {
  readonly core: Core;
  readonly handle: Handle;
  /** The command, for messages. */
  readonly subject: string;
  /** How long the end of an empty pipe is awaited once the tree is gone. */
  readonly drainTimeoutMs: number;
}

/** Something that is waited for, and answered from outside. */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  resolve(value: T): void;
  reject(reason: unknown): void;
}

/** A promise with its ends in hand. A rejection that nobody awaits is not an uncaught one. */
export function deferred<T>(): Deferred<T> {
  let resolve!: (value: T) => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  promise.catch(() => {});
  return { promise, resolve, reject };
}

let shared: Uint8Array<ArrayBuffer> | undefined;

/**
 * One buffer for all of this isolate, made at its first use. Whoever fills it
 * copies from it before anybody else runs: without a wait in between.
 */
export function scratch(): Uint8Array<ArrayBuffer> {
  return shared ??= new Uint8Array(CHUNK);
}

/** What goes along when an output moves to another isolate. */
export interface MovedOutput {
  open: boolean;
  dry: boolean;
  truncated: boolean;
  held: Uint8Array | null;
}

/** One of the child's outputs. One consumer at a time reads it. */
export class Output {
  readonly number: StreamNumber;
  readonly name: string;
  /** Resolves, with whether bytes were lost, when the last byte was delivered. */
  readonly ended: Promise<boolean>;
  readonly #source: Source;
  readonly #end: Deferred<boolean> = deferred();
  #open = true;
  #claimed: string | null = null;
  /** Who that is, where there may be several of the name. */
  #holder: unknown = null;
  #ready: Deferred<void> | null = null;
  /** Bytes that were taken from the pipe but not delivered: a look ahead, or what an unread child has left behind. */
  #held: Uint8Array | null = null;
  /** The pipe itself has ended. */
  #dry = false;
  #treeGone = false;
  /** What comes goes to a stdin, past this side. */
  #joined = false;
  /** Of its stream, once it is made; a pull is under way. */
  #controller: ReadableByteStreamController | null = null;
  #pulling = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #expired = false;
  #truncated = false;
  /** Another isolate may have it, or has it for good. */
  #away = false;
  #gone = false;
  readonly #share = new Share();

  constructor(
    source: Source,
    number: StreamNumber,
    piped: boolean,
    name: string = NAMES[number] ?? "",
  ) {
    this.#source = source;
    this.number = number;
    this.name = name;
    this.ended = this.#end.promise;
    if (!piped) this.#finish(false);
  }

  get open(): boolean {
    return this.#open;
  }

  /** It has been read from for so long that others should have their turn: {@link wait} first. */
  get due(): boolean {
    return this.#share.spent;
  }

  /** Nothing is left in the pipe: what is still to be delivered is held here. */
  get dry(): boolean {
    return this.#dry;
  }

  get claimedBy(): string | null {
    return this.#claimed;
  }

  /**
   * Makes `by` the one consumer; `holder` tells apart those of one name.
   *
   * @throws {TypeError} where another has claimed it before.
   */
  claim(by: string, holder: unknown = by): void {
    if (this.#claimed !== null && this.#holder !== holder) {
      throw typeError(
        `Cannot read ${this.name}`,
        this.#open ? `it is being read by ${this.#claimed}` : `${this.#claimed} has read it`,
        "read each stream once, in one way",
      );
    }
    this.#claimed = by;
    this.#holder = holder;
  }

  /** Bytes that are there now: 0 at the end, -11 where there are none yet. */
  readNow(into: Uint8Array): number {
    if (!this.#open) return 0;
    if (this.#away) return EAGAIN;
    if (this.#held !== null) return this.#readOn(into, this.#readHeld(into));
    if (this.#dry) return this.#finish(false);
    const got = this.#source.core.read(this.#source.handle, this.number, into);
    if (got <= 0) return this.#nothing(got);
    this.#share.use(got);
    return got;
  }

  /** A chunk of what is there now; 0 at the end, -11 where there is nothing yet. */
  #takeNow(): Uint8Array<ArrayBuffer> | number {
    const { core, handle } = this.#source;
    if (core.take === undefined || !this.#open || this.#away || this.#held !== null || this.#dry) {
      const buffer = scratch();
      const got = this.readNow(buffer);
      return got > 0 ? buffer.slice(0, got) : got;
    }
    const taken = core.take(handle, this.number);
    if (typeof taken === "number") return this.#nothing(taken);
    this.#share.use(taken.length);
    return taken;
  }

  /** What a read without bytes means. */
  #nothing(got: number): number {
    if (got === EAGAIN) return this.#expired ? this.#finish(true) : got;
    if (got < 0) throw new Error(`read: ${errnoSentence(-got)} (${errnoName(-got)})`);
    return this.#finish(false);
  }

  /** Waits for bytes: how many were read, 0 at the end. */
  async read(into: Uint8Array): Promise<number> {
    for (;;) {
      if (!this.due) {
        const got = this.readNow(into);
        if (got !== EAGAIN) return got;
      }
      await this.wait();
    }
  }

  /** Until there may be something to read. */
  async wait(): Promise<void> {
    this.#share.pause();
    if (!this.#open || (!this.#away && (this.#held !== null || this.#dry))) return;
    if (this.#treeGone) this.#startDrain();
    this.#ready ??= deferred();
    const { promise } = this.#ready;
    if (!this.#away) this.#source.core.arm(this.#source.handle, this.number);
    await promise;
    this.#stopDrain();
  }

  /** Whether a byte or the end is next; -11 where that is not known yet. The byte is kept. */
  peek(): number {
    if (this.#held !== null) return this.#held.length;
    const one = new Uint8Array(1);
    const got = this.readNow(one);
    if (got > 0) this.#held = one;
    return got;
  }

  /** The native side says that an armed read would not wait. */
  onReady(): void {
    nextTurn();
    this.#ready?.resolve();
    this.#ready = null;
  }

  /** Its stream holds nothing and nobody waits at it: what is next is in the pipe. */
  get idle(): boolean {
    const ready = this.#open && !this.#dry && this.#held === null && !this.#pulling;
    return ready && this.#controller?.desiredSize === 0;
  }

  /**
   * Has all that comes go straight into `input`, for as long as both are there
   * and nobody calls {@link part}. Whoever reads then goes on where this ends.
   */
  async join(input: Input): Promise<void> {
    const { core, handle } = this.#source;
    const to = input.handleAt(core);
    if (to === null || this.#treeGone || core.join(handle, this.number, to) !== 0) return;
    this.#joined = true;
    this.#ready ??= deferred();
    await this.#ready.promise;
    this.#joined = false;
    core.part(handle, this.number); // whatever woke it: from here on bytes go one way only
  }

  /** Ends a join. */
  part(): void {
    if (!this.#joined) return;
    this.#joined = false;
    this.onReady();
  }

  /**
   * The tree is gone. What an unclaimed stream still holds (at most what a pipe
   * is born with) is taken over, so that no descriptor waits for a reader who
   * may never come.
   */
  onTreeGone(): void {
    this.#treeGone = true;
    if (!this.#open) return;
    if (this.#claimed === null) this.#takeOver();
    else if (this.#joined) this.part(); // its end is waited for no longer than by any reader
    else if (this.#ready !== null) this.#startDrain();
  }

  /** Nobody is to read what is left. True where something may have been lost. */
  abandon(): void {
    const lost = this.#held !== null && this.#held.length > 0;
    this.#held = null;
    if (this.#open) this.#finish(lost);
    this.onReady();
  }

  /** It may be another isolate's: nothing comes, and who reads waits, until it is gone or has come back. */
  leave(): MovedOutput {
    this.#away = true;
    this.#stopDrain();
    return {
      open: this.#open,
      dry: this.#dry,
      truncated: this.#truncated,
      held: this.#held,
    };
  }

  /** Nobody wanted it. */
  comeBack(): void {
    this.#away = false;
    if (!this.#open) this.#source.core.shut(this.#source.handle, this.number); // nobody wants to read it since
    this.onReady();
  }

  /** It is another isolate's. Whoever waits for it goes on and finds that out. */
  gone(): void {
    (this.#away = false, this.#gone = true);
    this.#held = null;
    this.#open = false;
    this.onReady();
  }

  /** Goes on where it stopped in another isolate. */
  restore({ open, dry, truncated, held }: MovedOutput): void {
    this.#dry = dry;
    this.#held = held;
    if (!open && this.#open) this.#finish(truncated);
  }

  /** The consumer is not interested any more. */
  cancel(): void {
    if (!this.#gone) this.#source.core.shut(this.#source.handle, this.number);
    this.abandon();
  }

  #readHeld(into: Uint8Array): number {
    const held = this.#held as Uint8Array;
    const taken = held.subarray(0, into.length);
    into.set(taken);
    this.#held = taken.length < held.length ? held.subarray(taken.length) : null;
    return taken.length;
  }

  /**
   * Behind `taken` bytes that were held, what the pipe has: a byte that was
   * looked at is not to be a message of its own, whose room in the window is
   * then never more than one byte again. An end or an error shows at the next read.
   */
  #readOn(into: Uint8Array, taken: number): number {
    if (this.#held !== null || this.#dry || taken === into.length) return taken;
    const { core, handle } = this.#source;
    const got = Math.max(core.read(handle, this.number, into.subarray(taken)), 0);
    this.#share.use(got);
    return taken + got;
  }

  #takeOver(): void {
    const parts: Uint8Array[] = this.#held === null ? [] : [this.#held];
    const buffer = scratch();
    for (;;) {
      const got = this.#source.core.read(this.#source.handle, this.number, buffer);
      if (got === EAGAIN) break; // somebody outside the tree holds it: the reader who comes waits for it
      if (got <= 0) {
        this.#dry = true;
        break;
      }
      parts.push(buffer.slice(0, got));
    }
    this.#held = parts.length > 0 ? concat(parts) : null;
    if (this.#dry && this.#held === null) this.#finish(false);
  }

  #startDrain(): void {
    this.#timer ??= setTimeout(() => {
      this.#expired = true; // once more a look: what came in the last moment is not lost
      this.onReady();
    }, this.#source.drainTimeoutMs);
  }

  #stopDrain(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #finish(truncated: boolean): 0 {
    this.#open = false;
    this.#truncated = truncated;
    this.#stopDrain();
    this.#end.resolve(truncated);
    return 0;
  }

  /** By which its stream claims it. */
  get streamName(): string {
    return `the stream port.${this.name}`;
  }

  /** The byte stream over it: it claims at its first pull. */
  stream(highWaterMark: number): ReadableStream<Uint8Array<ArrayBuffer>> {
    const by = this.streamName;
    return new ReadableStream({
      type: "bytes",
      start: (controller) => void (this.#controller = controller),
      pull: async (controller) => {
        this.claim(by);
        this.#pulling = true;
        const request = controller.byobRequest;
        const filled = request?.view ? await this.#fill(controller, request) : null; // after that it has no view
        if (filled !== false) await this.#forward(controller, highWaterMark, filled !== null);
        this.#pulling = false; // one that fails errors its stream
      },
      cancel: () => this.cancel(),
    });
  }

  /** Chunks until there has been one and `ahead` bytes wait in the stream. */
  async #forward(
    controller: ReadableByteStreamController,
    ahead: number,
    some: boolean,
  ): Promise<void> {
    while (!some || -(controller.desiredSize ?? 0) < ahead) {
      const got = this.due ? EAGAIN : this.#takeNow();
      if (got === EAGAIN) await this.wait();
      else if (typeof got === "number") return close(controller);
      else {
        controller.enqueue(got);
        some = true;
      }
    }
  }

  /** Straight into the reader's own buffer. False at the end. */
  async #fill(
    controller: ReadableByteStreamController,
    request: ReadableStreamBYOBRequest,
  ): Promise<boolean> {
    const view = request.view as ArrayBufferView<ArrayBuffer>;
    const got = await this.read(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
    if (got === 0) close(controller);
    else request.respond(got);
    return got > 0;
  }
}

/** A reader with a buffer may have come while one without was waited for: it is answered too. */
function close(controller: ReadableByteStreamController): void {
  controller.close();
  controller.byobRequest?.respond(0);
}

/** How many bytes somebody still takes, over all that {@link gather} reads for it. */
export interface Room {
  left: number;
  /** More came than there was room for. */
  exceeded: boolean;
}

/** What an output says, up to its end or as far as there is room. Its consumer has claimed it. */
export async function gather(output: Output, room: Room): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array[] = [];
  const buffer = new Uint8Array(64 * 1024);
  while (!room.exceeded) {
    const got = await output.read(buffer);
    if (got === 0) break;
    const taken = Math.min(got, room.left);
    room.left -= taken;
    room.exceeded ||= taken < got;
    parts.push(buffer.slice(0, taken));
  }
  return concat(parts);
}

/** One array of all. */
export function concat(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Of an input that is not a pipe at the child's stdin. */
export interface InputOptions {
  number?: StreamNumber;
  name?: string;
  sign?: Uint8Array | null;
}

/** The child's stdin. Writes are done one after the other, whoever asks for them. */
export class Input {
  readonly #source: Source;
  readonly number: StreamNumber;
  readonly name: string;
  #last: Promise<unknown> = Promise.resolve();
  /** How many writes, and ends behind them, are not done. */
  #waiting = 0;
  #ready: Deferred<void> | null = null;
  /** Why nothing can be written any more. */
  #over: string | null = null;
  /** Another isolate may have it, or has it for good. */
  #away = false;
  #gone = false;
  readonly #share = new Share();

  /** What says to a terminal that this is the end: it has two sides, and none of them is for one direction. */
  readonly #sign: Uint8Array | null;
  /** That was written. */
  #lastByte: number | undefined;

  constructor(
    source: Source,
    piped: boolean,
    { number = 0, name = "stdin", sign = null }: InputOptions = {},
  ) {
    this.#source = source;
    this.number = number;
    this.name = name;
    this.#sign = sign;
    if (!piped) this.#over = "it is not a pipe";
  }

  /** Resolves when the kernel has taken all of `bytes`. */
  write(bytes: Uint8Array): Promise<void> {
    this.#waiting++;
    const written = this.#last.then(() => this.#write(bytes));
    this.#last = written.catch(() => {});
    return written;
  }

  async #write(bytes: Uint8Array): Promise<void> {
    try {
      let rest = bytes;
      this.#lastByte = bytes.at(-1) ?? this.#lastByte;
      while (rest.length > 0) {
        if (this.#over !== null) throw this.#closed(this.#over, rest);
        const took = this.#away || this.#share.spent
          ? EAGAIN
          : this.#source.core.write(this.#source.handle, this.number, rest);
        if (took === EPIPE) throw this.#broken(rest);
        if (took < 0 && took !== EAGAIN) {
          throw new Error(`write: ${errnoSentence(-took)} (${errnoName(-took)})`);
        }
        if (took === EAGAIN) await this.#room();
        else {
          this.#share.use(took);
          rest = rest.subarray(took);
        }
      }
    } finally {
      this.#waiting--;
    }
  }

  async #room(): Promise<void> {
    this.#share.pause();
    this.#ready ??= deferred();
    const { promise } = this.#ready;
    if (!this.#away) this.#source.core.arm(this.#source.handle, this.number);
    await promise;
  }

  #closed(why: string, unsent: Uint8Array): ClosedError {
    const { subject } = this.#source;
    const what = `Cannot write to ${this.name} of ${subject}`;
    return new ClosedError({
      what,
      why,
      code: "ECLOSED",
      mend: why === ENDED ? LOOK : "write before it is closed",
      op: "command",
      subject,
      unsent,
    });
  }

  #broken(unsent: Uint8Array): Error {
    if (this.#over !== null) return this.#closed(this.#over, unsent);
    const { subject } = this.#source;
    return new BrokenPipeError({
      what: `Cannot write to ${this.name} of ${subject}`,
      // What tells us so may be on its way yet.
      why: this.#source.core.report(this.#source.handle).wait === null
        ? "nobody reads it any more"
        : ENDED,
      code: "EPIPE",
      mend: LOOK,
      op: "command",
      subject,
    });
  }

  /** Resolves once all that was asked for before is written, or was refused. */
  async settled(): Promise<void> {
    await this.#last;
  }

  /** Its port at `core`, while it can be written to. */
  handleAt(core: Core): Handle | null {
    const here = this.#over === null && !this.#away && this.#source.core === core;
    return here ? this.#source.handle : null;
  }

  /** Half-close, once everything before has been written. */
  end(): Promise<void> {
    const sign = this.#sign;
    this.#waiting++;
    const ended = this.#last.then(() => {
      if (sign !== null && this.#over === null) {
        // Behind half a line the first only sends that off; the second is the end.
        const whole = [undefined, 0x0a, 0x0d].includes(this.#lastByte);
        return this.#write(whole ? sign : Uint8Array.of(...sign, ...sign)); // which counts down
      }
      this.#waiting--;
      return sign === null ? this.abandon("it is closed") : undefined;
    });
    this.#last = ended;
    return ended;
  }

  /** No more from now on; whoever waits is told with what was not sent. */
  abandon(why: string): void {
    this.#over ??= why;
    if (!this.#gone) this.#source.core.shut(this.#source.handle, this.number);
    this.onReady();
  }

  onReady(): void {
    nextTurn();
    this.#ready?.resolve();
    this.#ready = null;
  }

  /** Something is still to be written, or closed behind that. */
  get busy(): boolean {
    return this.#waiting > 0;
  }

  /** It may be another isolate's: who writes waits. Why it was over before; null where it was not. */
  leave(): string | null {
    this.#away = true;
    return this.#over;
  }

  /** Nobody wanted it. */
  comeBack(): void {
    this.#away = false;
    if (this.#over !== null) this.#source.core.shut(this.#source.handle, this.number); // it was ended meanwhile
    this.onReady();
  }

  /** It is another isolate's. */
  gone(): void {
    (this.#away = false, this.#gone = true);
    this.#over ??= "it has gone to another Worker";
    this.onReady();
  }

  /** Goes on where it stopped in another isolate. */
  restore(over: string | null): void {
    this.#over = over;
  }

  /**
   * The stream over it. An abort ends a write that waits, which would else wait
   * for the child; a chunk that is no bytes ends stdin: an errored stream can
   * never end it.
   */
  stream(): WritableStream<Uint8Array> {
    const abort = () => this.abandon("it was aborted");
    return new WritableStream({
      start: ({ signal }) => signal.addEventListener("abort", abort),
      write: (chunk: unknown) => {
        if (chunk instanceof Uint8Array) return this.write(chunk);
        void this.end();
        throw typeError(
          `Cannot write to ${this.name} of ${this.#source.subject}`,
          "the chunk is no Uint8Array",
          "pass text through a TextEncoderStream",
        );
      },
      close: () => this.end(),
      abort,
    });
  }
}
