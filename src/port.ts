// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * `open()` and the port: a contained program, its messages and its streams.
 *
 * @module
 */

import { liveStats, setLimits } from "./cgroup.ts";
import type { Core } from "./core.ts";
import { type Given, refuseOptions } from "./checks.ts";
import { type PtySize, ptySize } from "./descriptors.ts";
import {
  ClosedError,
  errnoName,
  errnoSentence,
  ProtonError,
  SpawnError,
  typeError,
} from "./errors.ts";
import { type LimitEvent, limitEvents } from "./events.ts";
import type { Stats } from "./figures.ts";
import type { Limits } from "./limits.ts";
import { sink, source } from "./join.ts";
import { Mailbox, type Message } from "./mailbox.ts";
import { nativeCore } from "./native/load.ts";
import { abortSignal, answered, type OpenOptions, type Spec, validate } from "./options.ts";
import { Process } from "./process.ts";
import {
  type Containment,
  containment,
  type ExitStatus,
  type SignalName,
  signalNumber,
} from "./status.ts";
import { answerAt, closeAt, sendTo } from "./address.ts";
import { movedOf, type PortTicket, ticketOf } from "./ticket.ts";
import { concat, gather, type Room } from "./streams.ts";

/** How {@link Port.close} ends the tree. */
export interface CloseOptions {
  /** Milliseconds from SIGTERM to SIGKILL; 0 kills at once. Default: the port's `delayToSigkill`. */
  graceMs?: number;
  /** Milliseconds after which survivors are named. Default: `graceMs` + 5,000. */
  deadlineMs?: number;
}

/** A message to a port, as the methods of the same names send it. */
export type Request = { command: string | Uint8Array } | { connect: Mailbox } | "close";

/** Both directions of one of the child's descriptors above 2. */
export interface FdStreams {
  /** What the child writes: a byte stream that reads only when asked. */
  readonly readable: ReadableStream<Uint8Array<ArrayBuffer>>;
  /** What the child reads; closing it ends this direction alone. */
  readonly writable: WritableStream<Uint8Array>;
}

/** Whom {@link Port.kill} signals. */
export interface KillOptions {
  /** The child (default), its process group, or every descendant. */
  scope?: "child" | "group" | "tree";
}

/** Who gets a port that {@link Port.adopt} takes over. */
export interface AdoptOptions {
  /** The `Mailbox` that receives its messages; default: one of its own. */
  owner?: Mailbox;
  /** Ends the tree when it aborts. */
  signal?: AbortSignal;
}

const secret: unique symbol = Symbol("port");

/** What stands under a port, for those who build on it in here. */
export let processOf: (port: Port) => Process;

/**
 * A running program that leaves nothing behind: when the port is closed, when
 * its owner ends, when the program exits or the runtime is killed, every
 * descendant dies.
 *
 * ```ts
 * import { open } from "@proton-stream/port";
 * import { assertEquals } from "@std/assert";
 *
 * await using port = await open("cat");
 * await port.command("hello\n");
 * await port.closeStdin();
 * assertEquals(await port.text(), "hello\n");
 * assertEquals((await port.status).success, true);
 * ```
 */
export class Port {
  readonly #process: Process;
  readonly #mailbox: Mailbox;
  readonly #iterable: boolean;
  #stdin: WritableStream<Uint8Array> | null = null;
  #stdout: ReadableStream<Uint8Array<ArrayBuffer>> | null = null;
  #stderr: ReadableStream<Uint8Array<ArrayBuffer>> | null = null;
  readonly #fds = new Map<number, FdStreams>();
  #size: PtySize | null = null;
  #revoked = false;
  #draining = false;

  static {
    processOf = (port) => port.#process;
    // As Deno, Node and Bun look for it.
    for (const name of ["Deno.customInspect", "nodejs.util.inspect.custom"]) {
      const value = function (this: Port) {
        return this.#shown();
      };
      Object.defineProperty(this.prototype, Symbol.for(name), { value });
    }
  }

  /** In one line: messages carry their port, and whoever logs them wants the rest to be seen. */
  #shown(): string {
    const { subject, pid, ended } = this.#process;
    const state = this.#revoked ? ", given to another owner" : ended ? ", ended" : "";
    return `Port ${subject} (pid ${pid}${state})`;
  }

  /** Ports come from {@link open} and {@link Port.connect} only. */
  constructor(key: typeof secret, process: Process, mailbox: Mailbox, iterable: boolean) {
    if (key !== secret) {
      throw typeError("Cannot make a Port", "it stands for a program that runs", "use open()");
    }
    this.#process = process;
    this.#mailbox = mailbox;
    this.#iterable = iterable;
  }

  /** The child's process id (not a helper's). */
  get pid(): number {
    return this.#process.pid;
  }

  /**
   * How it ended; resolves when the whole tree is gone, and never rejects. It
   * does not wait for readers; but a program that fills a pipe which nobody
   * reads waits itself, and does not end: read it, or give `stdout: "null"`.
   */
  get status(): Promise<ExitStatus> {
    return this.#process.status;
  }

  /** Resolves when the last byte of stdout and stderr was delivered; `truncated` where some never were. */
  get drained(): Promise<{ truncated: boolean }> {
    return this.#process.drained;
  }

  /** What holds this port's tree at this moment. */
  get containment(): Containment {
    return containment(this.#process.report);
  }

  /**
   * The child's stdin. A write resolves when the kernel has taken the bytes.
   *
   * @throws {TypeError} where stdin is not `"piped"`.
   */
  get stdin(): WritableStream<Uint8Array> {
    this.#mustBePiped(0);
    return this.#stdin ??= sink(this.#process.stdin);
  }

  /**
   * The child's stdout, a byte stream. Reading the property claims nothing; the first pull does.
   *
   * @throws {TypeError} where stdout is not `"piped"`.
   */
  get stdout(): ReadableStream<Uint8Array<ArrayBuffer>> {
    this.#mustBePiped(1);
    return this.#stdout ??= source(this.#process.stdout, this.#process.spec.highWaterMark);
  }

  /**
   * The child's stderr, as {@link Port.stdout}.
   *
   * @throws {TypeError} where stderr is not `"piped"`.
   */
  get stderr(): ReadableStream<Uint8Array<ArrayBuffer>> {
    this.#mustBePiped(2);
    return this.#stderr ??= source(this.#process.stderr, this.#process.spec.highWaterMark);
  }

  #mustBePiped(number: 0 | 1 | 2): void {
    const { spec } = this.#process;
    const mode = spec.stdio[number];
    if (mode === "piped") return;
    const name = ["stdin", "stdout", "stderr"][number];
    const what = `Cannot use port.${name}`;
    if (mode === "stdout") throw typeError(what, "it goes where stdout goes", "use port.stdout");
    const is = typeof mode === "number" ? `descriptor ${mode} of this process` : `"${mode}"`;
    throw typeError(what, `it is ${is}`, `open the port with ${name}: "piped"`);
  }

  /**
   * The other end of one of the child's descriptors above 2, a socket: what
   * the child writes there, and what it reads there. Each direction has its own end.
   *
   * ```ts
   * import { open } from "@proton-stream/port";
   * import { assertEquals } from "@std/assert";
   *
   * await using port = await open("sh", ["-c", "tr a-z A-Z <&3 >&3"], { fds: { 3: "piped" } });
   * const { readable, writable } = port.fd(3);
   * const writer = writable.getWriter();
   * await writer.write(new TextEncoder().encode("hello"));
   * await writer.close();
   * assertEquals(await new Response(readable).text(), "HELLO");
   * ```
   *
   * @throws {TypeError} where the port was not opened with this descriptor as `"piped"`.
   */
  fd(number: number): FdStreams {
    const { fds, spec } = this.#process;
    const found = fds.get(number);
    if (found === undefined) {
      throw typeError(
        `Cannot use port.fd(${number})`,
        "it is not piped",
        `open the port with fds: { ${number}: "piped" }`,
      );
    }
    const streams = this.#fds.get(number) ??
      {
        readable: found.output.stream(spec.highWaterMark),
        writable: found.input.stream(),
      };
    this.#fds.set(number, streams);
    return streams;
  }

  /**
   * Gives the child's terminal another size; the programs on it are told by SIGWINCH.
   *
   * @param size characters, each 1 to 65,535; what is left out stays as it is.
   * @throws {TypeError} where the port was opened without `pty`.
   * @throws {ClosedError} where the terminal is gone.
   */
  // deno-lint-ignore require-await -- refusals are rejections
  async resize(size: Partial<PtySize>): Promise<void> {
    this.#mustOwn("resize");
    const { core, handle, spec, subject } = this.#process;
    const now = this.#size ?? spec.pty;
    if (now === null) {
      throw typeError("Cannot resize", "it has no terminal", "open the port with pty");
    }
    refuseOptions("resize()", size, ["cols", "rows"]);
    const next = ptySize(size as Given, "", now);
    const result = core.resize(handle, next.cols, next.rows);
    if (result < 0) {
      throw new ClosedError({
        what: `Cannot resize the terminal of ${subject}`,
        why: errnoSentence(-result),
        code: errnoName(-result),
        mend: "look at port.status first",
        op: "resize",
        subject,
      });
    }
    this.#size = next;
  }

  /**
   * Writes to the child's stdin, in the order of the calls. Resolves when the kernel has taken all of it.
   *
   * @throws {BrokenPipeError} when nobody reads it any more.
   * @throws {ClosedError} after the end; it carries what was not sent.
   */
  async command(data: string | Uint8Array): Promise<void> {
    const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
    if (!(bytes instanceof Uint8Array)) {
      throw typeError(
        "Cannot send a command",
        "it is neither text nor bytes",
        "pass a string or a Uint8Array",
      );
    }
    this.#mustOwn("command", bytes);
    this.#mustBePiped(0);
    await this.#process.stdin.write(bytes);
  }

  /**
   * Half-close: the child reads the end of its stdin after what was written before; its output goes on. On a
   * terminal this types Ctrl-D, which is an end at the beginning of a line, and behind half a line twice.
   */
  async closeStdin(): Promise<void> {
    this.#mustOwn("closeStdin");
    await this.#process.stdin.end();
  }

  /**
   * Ends the tree: SIGTERM, grace, SIGKILL. Resolves when it is proven empty;
   * a second call returns the first's promise. Output that nobody has taken is gone.
   *
   * @throws {SurvivorsError} naming what could not be ended before the deadline.
   */
  close(options: CloseOptions = {}): Promise<void> {
    try {
      this.#mustOwn("close");
      refuseOptions("close()", options, ["graceMs", "deadlineMs"]);
      return this.#process.close(
        milliseconds("graceMs", options.graceMs),
        milliseconds("deadlineMs", options.deadlineMs),
      );
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Gives the port to another mailbox: data and lifetime move along. Messages
   * that were delivered before stay where they are; this mailbox gets
   * `connected`. This handle is revoked; the one returned is the port of the
   * messages to come. Servers and supervisors see it as {@link Port.transfer} says.
   *
   * @throws {TypeError} while one of its streams is claimed.
   */
  connect(owner: Mailbox): Promise<Port>;
  /**
   * Gives the port to a mailbox in another Worker, by its address
   * ({@link addressOf}). Resolves when it is there; where it is refused, it stays.
   *
   * @throws {ClosedError} (EREFUSED) where that mailbox is gone, or does not answer within 10 s.
   * @throws {TypeError} as {@link Port.transfer}.
   */
  connect(owner: MessagePort): Promise<void>;
  async connect(owner: Mailbox | MessagePort): Promise<Port | void> {
    this.#mustOwn("connect");
    if (owner instanceof MessagePort) return await this.#connectTo(owner);
    const what = "Cannot connect the port";
    if (!(owner instanceof Mailbox)) {
      throw typeError(what, "the new owner is not a Mailbox", "pass a Mailbox");
    }
    for (const { claimedBy } of [this.#process.stdout, this.#process.stderr]) {
      if (claimedBy !== null && claimedBy !== "messages") {
        throw typeError(what, `${claimedBy} is being read`, "connect before reading its streams");
      }
    }
    if (owner.disposed) throw disposed("connect");
    this.#revoked = true;
    // Before it leaves: whoever waits at the old owner is answered, not told that nobody is left.
    this.#mailbox.deliver({ port: this, type: "connected" }, () => {});
    const port = new Port(secret, this.#process, owner, false);
    this.#process.sender = port;
    this.#process.moveTo(owner);
    return port;
  }

  async #connectTo(address: MessagePort): Promise<void> {
    const ticket = this.#leave();
    const refused = await sendTo(address, ticket).catch((error) => String(error));
    // Who does not answer in time may have taken it all the same.
    if (refused === null || !this.#process.comeBack()) {
      // Before it leaves: whoever waits here is answered, not told that nobody is left.
      this.#mailbox.deliver({ port: this, type: "connected" }, () => {});
      return this.#process.handedOn();
    }
    this.#revoked = false;
    throw new ClosedError({
      what: `Cannot connect ${this.#process.subject}`,
      why: refused,
      code: "EREFUSED",
      mend: "use the address of a mailbox that is alive",
      op: "connect",
      subject: this.#process.subject,
    });
  }

  /**
   * Takes the port out of this Worker: the ticket goes through `postMessage`
   * to any other of this process, where {@link Port.adopt} makes a port of it,
   * once. Streams, window, messages that nobody has received, and its lifetime
   * go along; an `AbortSignal` stays behind. This handle is revoked, and its
   * `status` and `drained` reject. Until it is adopted it ends with this Worker.
   * A server whose program it is then ends, for the reason `"handedOn"`; a
   * supervisor takes its child for one that has ended normally, for that reason.
   *
   * @throws {TypeError} while its streams are read, or something that was sent to it is on its way.
   * @throws {ClosedError} where it is ending, or is not this handle's any more.
   */
  transfer(): PortTicket {
    this.#mustOwn("transfer");
    const ticket = this.#leave();
    this.#process.handedOn();
    return ticket;
  }

  #leave(): PortTicket {
    const ticket = ticketOf(this.#process.leave());
    this.#revoked = true;
    return ticket;
  }

  /**
   * The port of a ticket from {@link Port.transfer}.
   *
   * @throws {ClosedError} where it was used or its sender has ended (EBADF), or it is of another copy of this
   * package (EXDEV).
   * @throws {TypeError} for what is no ticket.
   */
  static adopt(ticket: PortTicket, options: AdoptOptions = {}): Port {
    const moved = movedOf(ticket);
    refuseOptions("Port.adopt()", options, ["owner", "signal"]);
    const { owner = null } = options;
    const signal = abortSignal(options as Given);
    if (owner !== null && !(owner instanceof Mailbox)) {
      throw typeError(
        "Cannot adopt a port",
        "owner is not a Mailbox",
        "pass a Mailbox, or nothing",
      );
    }
    if (owner?.disposed) throw disposed("adopt");
    signal?.throwIfAborted();
    const mailbox = owner ?? new Mailbox();
    const process = new Process(nativeCore(), moved.spec, mailbox, moved);
    const port = new Port(secret, process, mailbox, owner === null);
    process.sender = port;
    watchAbort(process, signal);
    process.arrive(moved.messages);
    return port;
  }

  /** `{ command }`, `{ connect }` or `"close"`, as the methods of these names. */
  async send(request: Request): Promise<void> {
    if (request === "close") return await this.close();
    if (typeof request === "object" && request !== null && "command" in request) {
      return await this.command(request.command);
    }
    if (typeof request === "object" && request !== null && "connect" in request) {
      return void await this.connect(request.connect);
    }
    throw typeError(
      "Cannot send",
      "the request is not one of the three",
      'send { command }, { connect } or "close"',
    );
  }

  /**
   * Sends a signal; the port stays as it is.
   *
   * @param signal name or number, default SIGTERM.
   * @throws {ClosedError} where it is gone (ESRCH), or this handle does not own it any more (ENOTOWNER).
   * @throws {ContainmentError} where it may not be signalled (EPERM), or its keeper has not answered for 5 seconds
   *   (ETIMEDOUT) or has 256 requests before it and more in its socket (EAGAIN): somebody holds that.
   * @throws {TypeError} for the group of a child that stands in the runtime's own.
   */
  async kill(signal: SignalName | number = "SIGTERM", options: KillOptions = {}): Promise<void> {
    this.#mustOwn("kill");
    refuseOptions("kill()", options, ["scope"]);
    const { scope = "child" } = options;
    if (!["child", "group", "tree"].includes(scope)) {
      throw typeError(
        "Cannot signal",
        `${String(scope)} is not a scope`,
        'use "child", "group" or "tree"',
      );
    }
    if (scope === "group" && !this.#process.report.ownGroup) {
      throw typeError(
        "Cannot signal the group",
        "the child stands in the runtime's own group, in a terminal's foreground",
        'use scope "tree"',
      );
    }
    await this.#process.kill(signalNumber(signal), scope);
  }

  /**
   * Stops every process of the tree until {@link Port.thaw}: by its cgroup
   * where it has one, which it cannot see, else by SIGSTOP. Closing lets it go
   * on first.
   *
   * @throws {ClosedError} where it is gone (ESRCH), or this handle does not own it any more (ENOTOWNER).
   * @throws {ContainmentError} where it does not stand still within a second (ETIMEDOUT); it goes on then.
   */
  async freeze(): Promise<void> {
    this.#mustOwn("freeze");
    await this.#process.freeze(true);
  }

  /** Lets the tree go on after {@link Port.freeze}. Errors as there. */
  async thaw(): Promise<void> {
    this.#mustOwn("thaw");
    await this.#process.freeze(false);
  }

  /**
   * What the tree uses at this moment, as far as its cgroups count it: all of
   * it with limits, its processor time with any cgroup v2, nothing without.
   *
   * @throws {ClosedError} where it is gone (ESRCH): the last figures are in `status`.
   */
  // deno-lint-ignore require-await -- refusals are rejections
  async stats(): Promise<Stats> {
    if (this.#process.ended) throw this.#process.gone("look at", "stats");
    return liveStats(this.#process.core, this.#process.handle);
  }

  /**
   * Changes limits while the tree runs; each is read back. Only those whose
   * controllers it was opened with.
   *
   * @throws {ContainmentError} where one is not to be had (file, value, errno).
   * @throws {TypeError} or {RangeError} for what cannot be meant.
   * @throws {ClosedError} where it is gone, or not owned any more.
   */
  // deno-lint-ignore require-await -- refusals are rejections
  async setLimits(limits: Limits): Promise<void> {
    this.#mustOwn("setLimits");
    const { core, handle, subject, ended } = this.#process;
    if (ended) throw this.#process.gone("set the limits of", "setLimits");
    setLimits(core, handle, limits, subject);
  }

  /**
   * What happens to the tree's limits, as it happens, from its start to its
   * end. A reader that is slow finds how often it was, summed up.
   *
   * With `pids` by cgroup v1 Linux 6.11 and newer wake nobody when a process is
   * refused: `pidsMax` comes with the next event of another type, or at the end
   * of the tree. {@link Port.stats} has its counter at any time.
   */
  events(): AsyncGenerator<LimitEvent, void, void> {
    return limitEvents(this.#process);
  }

  #mustOwn(op: string, unsent?: Uint8Array): void {
    if (!this.#revoked) return;
    const subject = this.#process.subject;
    throw new ClosedError({
      what: `Cannot ${op} ${subject}`,
      why: "this handle does not own it any more",
      code: "ENOTOWNER",
      mend: "use the handle that connect() returned",
      op,
      subject,
      ...(unsent === undefined ? {} : { unsent }),
    });
  }

  /** An open port keeps the event loop alive; this undoes {@link Port.unref}. */
  ref(): void {
    this.#process.ref();
  }

  /** The port does not keep the event loop alive. Its tree still ends with the program. */
  unref(): void {
    this.#process.unref();
  }

  /**
   * All of stdout, once. A stderr that nobody has begun to read by the next turn of the event loop is read to nothing.
   *
   * @throws {TypeError} where stdout was read before, in this way or another.
   * @throws {RangeError} beyond `maxOutputBytes` (default 64 MiB); the tree is then ended with cause `"limit"`.
   */
  async bytes(): Promise<Uint8Array<ArrayBuffer>> {
    return await this.#all("port.bytes()");
  }

  async #all(by: string): Promise<Uint8Array<ArrayBuffer>> {
    this.#mustBePiped(1);
    const { stdout, spec } = this.#process;
    stdout.claim(by, Symbol());
    this.#drainStderr();
    const room: Room = { left: spec.maxOutputBytes, exceeded: false };
    const all = await gather(stdout, room);
    if (room.exceeded) throw this.#tooMuch(`more than maxOutputBytes (${spec.maxOutputBytes})`);
    return all;
  }

  /** All of stdout as text; what is not UTF-8 becomes U+FFFD. Otherwise as {@link Port.bytes}. */
  async text(): Promise<string> {
    return new TextDecoder().decode(await this.#all("port.text()"));
  }

  /**
   * The lines of stdout without their ends (`\n` or `\r\n`). A stderr that
   * nobody reads is read to nothing, as by {@link Port.bytes}. A line over `maxLineBytes` (default 1 MiB) is a
   * RangeError, and the tree is ended with cause `"limit"`.
   */
  lines(): ReadableStream<string> {
    this.#mustBePiped(1);
    const { stdout, spec } = this.#process;
    const decoder = new TextDecoder();
    const buffer = new Uint8Array(64 * 1024);
    let parts: Uint8Array[] = [];
    let length = 0;
    let tooLong = false;
    const line = (last: Uint8Array) => {
      const whole = concat([...parts, last]);
      (parts = [], length = 0);
      return decoder.decode(whole.at(-1) === 13 ? whole.subarray(0, -1) : whole);
    };
    const pull = async (controller: ReadableStreamDefaultController<string>) => {
      stdout.claim("port.lines()", buffer);
      this.#drainStderr();
      for (let found = false; !found;) {
        if (tooLong) throw this.#tooMuch(`a line of more than maxLineBytes (${spec.maxLineBytes})`);
        const got = await stdout.read(buffer);
        if (got === 0) {
          if (length > 0) controller.enqueue(line(new Uint8Array(0)));
          return controller.close();
        }
        let from = 0;
        for (
          let end = buffer.indexOf(10);
          end !== -1 && end < got && !tooLong;
          end = buffer.indexOf(10, from)
        ) {
          // The end of a line is none of its bytes. Those before it are delivered first.
          tooLong = length + end - from - Number(buffer[end - 1] === 13) > spec.maxLineBytes;
          if (tooLong) break;
          controller.enqueue(line(buffer.subarray(from, end)));
          (from = end + 1, found = true);
        }
        if (from < got) parts.push(buffer.slice(from, got));
        length += got - from;
        tooLong ||= length > spec.maxLineBytes;
      }
    };
    return new ReadableStream({ pull, cancel: () => stdout.cancel() }, { highWaterMark: 0 });
  }

  #tooMuch(what: string): RangeError {
    this.#process.stop("limit");
    return new RangeError(
      `Cannot read stdout of ${this.#process.subject}: ${what} (ELIMIT): raise the limit, or read the stream`,
    );
  }

  /** Not before the next turn: whoever reads both asks for both in this one. */
  #drainStderr(): void {
    const { stderr } = this.#process;
    const free = () => stderr.claimedBy === null && stderr.open;
    if (this.#draining || !free()) return;
    this.#draining = true;
    const drain = async () => {
      await new Promise((resolve) => setTimeout(resolve));
      if (!free()) return;
      stderr.claim("port.text(), bytes() or lines(), which throw it away");
      const buffer = new Uint8Array(64 * 1024);
      while (await stderr.read(buffer) > 0);
    };
    drain().catch((error) =>
      this.#process.core.report(this.#process.handle) && queueMicrotask(() => {
        throw error;
      })
    );
  }

  /**
   * The port's messages, for a port that owns itself; ends after `exit`, or
   * after `closed` where the port was closed. Leaving the loop does not close the port.
   *
   * @throws {TypeError} where the port has an owner: receive from that.
   */
  [Symbol.asyncIterator](): AsyncGenerator<Message, void, void> {
    if (!this.#iterable) {
      throw typeError(
        "Cannot iterate the port",
        "its messages go to its owner",
        "receive from the Mailbox",
      );
    }
    return this.#mailbox[Symbol.asyncIterator]();
  }

  /** As {@link Port.close}; a revoked handle has nothing to close. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#revoked) await this.close();
  }
}

function milliseconds(name: string, value: number | undefined): number | undefined {
  if (value === undefined || (Number.isInteger(value) && value >= 0 && value < 2 ** 31)) {
    return value;
  }
  throw new RangeError(
    `Cannot close: ${name} is ${String(value)} (ERANGE): pass whole milliseconds, 0 or more`,
  );
}

function disposed(op: string): ClosedError {
  return new ClosedError({
    what: `Cannot ${op}`,
    why: "its owner has been disposed",
    code: "ECLOSED",
    mend: "use a mailbox that is alive",
    op,
    subject: "mailbox",
  });
}

/**
 * Starts a program that leaves nothing behind. Resolves when it runs.
 *
 * ```ts
 * import { open } from "@proton-stream/port";
 * import { assertEquals } from "@std/assert";
 *
 * await using port = await open("bc", ["-q"]);
 * await port.command("2 + 2\n");
 * for await (const message of port) {
 *   assertEquals(message.type === "data" && new TextDecoder().decode(message.data), "4\n");
 *   break;
 * }
 * ```
 *
 * @param command a name to look up on the child's PATH, or a path.
 * @param args what follows argv[0]: text, or bytes that need not be UTF-8.
 * @throws {SpawnError} when it does not start; nothing is left behind.
 * @throws {TypeError} or {RangeError} for what cannot be meant; nothing was started.
 * @throws {PermissionError} where the runtime's permissions refuse it.
 * @throws {NativeError} where the native library cannot be used.
 */
export async function open(
  command: string,
  args: readonly (string | Uint8Array)[] = [],
  options: OpenOptions = {},
): Promise<Port> {
  try {
    return await openOver(nativeCore, command, args, options);
  } catch (error) {
    // What it shows is who called us: what is below says nothing to its reader.
    if (error instanceof ProtonError) Error.captureStackTrace?.(error, open);
    throw error;
  }
}

/** The same over whatever stands in for the native side. */
export async function openOver(
  coreOf: () => Core,
  command: string,
  args: readonly (string | Uint8Array)[],
  options: OpenOptions,
): Promise<Port> {
  const asked = validate(command, args, options);
  const owner = ownerOf(asked);
  asked.signal?.throwIfAborted();
  const native = coreOf();
  const spec = asked.question === null ? asked : await identified(native, asked);
  const { process, port } = await started(native, spec, owner, RETRIES);
  process.mailbox.join(process);
  void process.farewell();
  if (spec.signal?.aborted === true) {
    await process.status;
    throw spec.signal.reason;
  }
  if (process.mailbox.disposed) {
    await process.end("owner");
    throw disposed("open");
  }
  return port;
}

/** How often a start is tried again that was lost with its keeper. */
const RETRIES = 2;

/** Once it runs. A keeper that somebody killed before it read what to start has started nothing: another one may. */
async function started(
  native: Core,
  spec: Spec,
  owner: Mailbox | null,
  retries: number,
): Promise<{ process: Process; port: Port }> {
  const process = new Process(native, spec, owner ?? new Mailbox());
  const port = new Port(secret, process, process.mailbox, owner === null);
  process.sender = port;
  watchAbort(process, spec.signal);
  try {
    await process.running;
    return { process, port };
  } catch (error) {
    // The abort may have ended it before it ran.
    if (spec.signal?.aborted === true) throw spec.signal.reason;
    const unread = error instanceof SpawnError && error.stage === "keeper" &&
      error.code === "ECONNRESET";
    if (!unread || retries === 0 || owner?.disposed === true) throw error;
  }
  return await started(native, spec, owner, retries - 1);
}

/** Once the user database has said who it is to be. It may take its time, and the owner may end meanwhile. */
async function identified(core: Core, asked: Spec): Promise<Spec> {
  const owner = new AbortController();
  const callOff = ownerOf(asked)?.atEnd(() => owner.abort(disposed("open")));
  const signals = [owner.signal, ...(asked.signal === null ? [] : [asked.signal])];
  try {
    return answered(asked, await core.lookup({ ...asked, signal: AbortSignal.any(signals) }));
  } finally {
    callOff?.();
  }
}

function ownerOf(spec: Spec): Mailbox | null {
  if (spec.owner === null) return null;
  if (!(spec.owner instanceof Mailbox)) {
    throw typeError("Cannot open", "owner is not a Mailbox", "pass a Mailbox, or nothing");
  }
  if (spec.owner.disposed) throw disposed("open");
  return spec.owner;
}

/** Ends the tree when the signal is aborted. */
function watchAbort(process: Process, signal: AbortSignal | null): void {
  if (signal === null) return;
  const abort = () => process.stop("abort");
  signal.addEventListener("abort", abort, { once: true });
  const forget = () => signal.removeEventListener("abort", abort);
  Promise.race([process.status, process.running.then(() => process.status)]).then(forget, forget);
}

/**
 * The address of a mailbox, for ports in other Workers: put it into a message
 * and into that message's list of what is transferred. It serves until the
 * mailbox is disposed or either side calls `close()`, and keeps this Worker's
 * event loop alive until then.
 *
 * @param onPort is told of each port that has come.
 */
export function addressOf(mailbox: Mailbox, onPort: (port: Port) => void = () => {}): MessagePort {
  if (mailbox.disposed) throw disposed("have an address");
  const { port1, port2 } = new MessageChannel();
  answerAt(port1, (ticket) => {
    const port = Port.adopt(ticket, { owner: mailbox });
    queueMicrotask(() => onPort(port)); // it has come, whatever that throws
  });
  mailbox.atEnd(() => closeAt(port1));
  return port2;
}

/** The next `open` starts a new guardian, with what the runtime is then allowed: for programs that restricted themselves by Landlock, which cannot be read back. */
export function resetGuardian(): void {
  nativeCore().reset();
}
