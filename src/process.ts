// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * One child under all the port handles that it may have in its life: what is
 * known of it, its streams, its end.
 *
 * @module
 */

import { containmentError } from "./containment_error.ts";
import type { Core, Handle, PortEvents, Report, Scope, StreamNumber } from "./core.ts";
import {
  ClosedError,
  ContainmentError,
  errnoName,
  errnoSentence,
  quote,
  SurvivorsError,
  typeError,
} from "./errors.ts";
import type { Mailbox, Member, Message, Queued } from "./mailbox.ts";
import { Pump } from "./messages.ts";
import type { Spec } from "./options.ts";
import type { Port } from "./port.ts";
import { limitSignals } from "./privileges.ts";
import type { Moved, MovedMessage } from "./moved.ts";
import { foreign, used } from "./ticket.ts";
import { startError } from "./start_errors.ts";
import { type Cause, type ExitStatus, exitStatus } from "./status.ts";
import { type Deferred, deferred, ENDED, Input, Output, type Source } from "./streams.ts";

const ESRCH = 3;

/** How much longer than its grace a close may take where nobody says. */
const PATIENCE_MS = 5_000;

const NO_FDS: Process["fds"] = new Map();

/** What a terminal's line discipline takes for the end of the input, at the beginning of a line (termios(3)). */
const VEOF = Uint8Array.of(4);

/** @throws {ClosedError} for a ticket that is none, or none any more. */
function taken(core: Core, { handle, key }: Moved, events: PortEvents): Handle {
  const result = core.adopt(handle, key, events);
  if (result === 0) return handle;
  throw errnoName(-result) === "EXDEV" ? foreign() : used();
}

function isData(message: Message): message is Message & MovedMessage {
  return message.type === "data" || message.type === "error";
}

/** Of one that is on its way to another isolate. */
interface Away {
  key: Uint8Array;
  /** What its mailbox held of it. */
  messages: Queued[];
  /** What it was told to end by meanwhile. */
  stops: [cause: Cause, graceMs: number | undefined, deadlineMs: number | undefined][];
}

/** The life of one child. */
export class Process implements PortEvents, Source, Member {
  readonly core: Core;
  readonly handle: Handle;
  readonly spec: Spec;
  readonly subject: string;
  readonly drainTimeoutMs: number;
  readonly stdin: Input;
  readonly stdout: Output;
  readonly stderr: Output;
  /** The child's descriptors above 2 that are piped, by number. */
  readonly fds: ReadonlyMap<number, { readonly output: Output; readonly input: Input }>;
  /** All that it can be read from. */
  readonly outputs: readonly Output[];
  readonly #inputs: readonly Input[];
  /** Resolves when the program runs, rejects when it does not and nothing is left of it. */
  readonly running: Promise<void>;
  /** Resolves when the tree is gone. */
  readonly status: Promise<ExitStatus>;
  /** Resolves when the last byte was delivered. */
  readonly drained: Promise<{ truncated: boolean }>;
  readonly #running: Deferred<void>;
  readonly #status: Deferred<ExitStatus>;
  /** Rejects when it has gone to another isolate. */
  readonly #left: Deferred<never>;
  readonly #held: Deferred<ExitStatus | null>;
  readonly #pump: Pump;
  #report: Report | null = null;
  /** `done` was told. A report can say so before: it shows the state now, and its event is still on its way. */
  #done = false;
  readonly #alarmed = new Set<() => void>();
  #closing: Promise<void> | null = null;
  #ending = false;
  #over = false;
  /** While it is on its way to another isolate: what is needed to go on where nobody takes it. */
  #away: Away | null = null;
  /** Another owner has it for good. */
  #gone = false;
  /** How many signals and the like are not answered yet. */
  #asking = 0;
  #wanted = true;
  #holding = false;
  #mailbox: Mailbox;
  /** The handle that owns it now; messages carry it. */
  declare sender: Port;

  /** Starts it, or takes over one that was `moved` here. */
  constructor(core: Core, spec: Spec, mailbox: Mailbox, moved: Moved | null = null) {
    // First, so that all else is made while the keeper starts it: no event comes before the event loop goes on.
    this.handle = moved === null ? core.spawn(spec, this) : taken(core, moved, this);
    this.core = core;
    this.spec = spec;
    this.subject = quote(spec.command);
    this.drainTimeoutMs = spec.drainTimeoutMs;
    this.#mailbox = mailbox;
    this.#running = deferred();
    this.#status = deferred();
    this.#left = deferred();
    this.#held = deferred();
    this.running = this.#running.promise;
    this.status = this.#status.promise;
    const piped = (n: StreamNumber) => spec.stdio[n] === "piped";
    this.stdin = new Input(this, piped(0), { sign: spec.pty === null ? null : VEOF });
    this.stdout = new Output(this, 1, piped(1));
    this.stderr = new Output(this, 2, piped(2));
    this.fds = this.#more(spec);
    const more = [...this.fds.values()];
    this.outputs = [this.stdout, this.stderr, ...more.map(({ output }) => output)];
    this.#inputs = [this.stdin, ...more.map(({ input }) => input)];
    this.#pump = new Pump([this.stdout, this.stderr], spec.windowBytes, {
      deliver: (type, data, consumed) =>
        this.#mailbox.deliver({ port: this.sender, type, data }, consumed),
      blocked: () => this.#mailbox.review(),
    });
    const ends = this.outputs.map((output) => output.ended);
    const drained = Promise.all([this.status, ...ends]).then(
      ([, ...lost]) => ({ truncated: lost.includes(true) || this.report.discarded }),
    );
    this.drained = Promise.race([drained, this.#left.promise]);
    this.drained.catch(() => {});
    this.#keepAlive();
    if (moved !== null) this.#restore(moved);
    for (const output of this.outputs) void output.ended.then(() => this.#settled());
  }

  /** The native side numbers them in pairs, in the order of the child's descriptors. */
  #more(spec: Spec): Process["fds"] {
    if (spec.fds.length === 0) return NO_FDS;
    const piped = spec.fds.filter(([, source]) => source === "piped");
    return new Map(piped.map(([fd], at) => {
      const name = `fd(${fd})`;
      const output = new Output(this, 3 + 2 * at, true, name);
      return [fd, { output, input: new Input(this, true, { number: 4 + 2 * at, name }) }];
    }));
  }

  get report(): Report {
    const past = this.#over || this.#away !== null;
    return this.#report !== null && past ? this.#report : this.core.report(this.handle);
  }

  get pid(): number {
    return this.#report?.pid ?? 0;
  }

  get blocked(): boolean {
    return this.#away === null && this.#pump.blocked;
  }

  /** No reason to stay alive and nothing left to tell. */
  get over(): boolean {
    return this.#over;
  }

  // ---- what the native side tells

  started(report: Report): void {
    this.#report = report;
    if (report.failure === null) return this.#running.resolve();
    this.#over = true;
    this.#letGo();
    this.core.release(this.handle);
    const { failure, about } = report;
    const { cgroup, command } = this.spec;
    const contained = containmentError(
      { failure, about },
      cgroup,
      command,
      () => this.core.hierarchies(),
    );
    this.#running.reject(contained ?? startError(failure, this.spec));
  }

  done(report: Report): void {
    if (this.#done) return; // one that moved may hear of it in both ways
    this.#report = report;
    this.#done = true;
    for (const input of this.#inputs) input.abandon(ENDED);
    const status = exitStatus(report, limitSignals(this.spec.privileges));
    this.#status.resolve(status);
    this.#held.resolve(status);
    this.alarm();
    for (const output of this.outputs) output.onTreeGone();
    this.#settled();
  }

  alarm(): void {
    for (const listener of this.#alarmed) listener();
  }

  /** `listener` is called when something happens to the tree's limits, and once at its end. */
  onAlarm(listener: () => void): () => void {
    if (this.#alarmed.size === 0 && !this.#done) this.core.watch(this.handle);
    this.#alarmed.add(listener);
    return () => this.#alarmed.delete(listener);
  }

  /** `done` was told. */
  get ended(): boolean {
    return this.#done;
  }

  ready(stream: StreamNumber): void {
    if (stream === 0) this.stdin.onReady();
    else if (stream === 1) this.stdout.onReady();
    else if (stream === 2) this.stderr.onReady();
    else this.#readyAbove(stream);
  }

  #readyAbove(stream: StreamNumber): void {
    for (const { output, input } of this.fds.values()) {
      if (output.number === stream) output.onReady();
      if (input.number === stream) input.onReady();
    }
  }

  /** Gives the handle up when nothing is left to read; lets the event loop end when nobody is reading. */
  #settled(): void {
    if (!this.#done || this.#over) return;
    const open = this.outputs.filter((output) => output.open);
    if (!open.some((output) => output.claimedBy !== null)) this.#letGo();
    if (open.some((output) => !output.dry)) return;
    this.#over = true;
    this.#letGo();
    this.core.release(this.handle);
  }

  // ---- the event loop

  #keepAlive(): void {
    if (this.#holding || !this.#wanted || this.#over || this.#away !== null) return;
    this.#holding = true;
    this.core.ref();
  }

  #letGo(): void {
    if (!this.#holding) return;
    this.#holding = false;
    this.core.unref();
  }

  ref(): void {
    this.#wanted = true;
    if (!this.#done) this.#keepAlive();
  }

  unref(): void {
    this.#wanted = false;
    this.#letGo();
  }

  // ---- owners

  flow(): void {
    this.#pump.start();
  }

  /** What becomes of it with the owner it was opened for: how it ended, or null where another got it for good. */
  get held(): Promise<ExitStatus | null> {
    return this.#held.promise;
  }

  /** It has left this isolate, and comes back where nobody takes it. */
  get away(): boolean {
    return this.#away !== null || this.#gone;
  }

  /** Another owner has it now, and has it for good. */
  handedOn(): void {
    this.#held.resolve(null);
    if (this.#away === null) return;
    (this.#away = null, this.#over = this.#gone = true);
    for (const output of this.outputs) output.gone();
    for (const input of this.#inputs) input.gone();
    this.#pump.stop();
    this.#mailbox.leave(this);
    const error = this.#cannotUse("it has gone to another Worker");
    this.#status.reject(error);
    this.#left.reject(error);
  }

  /**
   * Nobody wants it: it is here as before, whoever reads it, writes to it or waits for it goes on, and what was to end
   * meanwhile ends. False where somebody has it, who only did not say so in time.
   */
  comeBack(): boolean {
    if (this.#away === null) return false;
    const { key, messages, stops } = this.#away;
    if (this.core.adopt(this.handle, key, this) !== 0) return false;
    this.#away = null;
    this.#keepAlive();
    for (const { message, consumed } of messages) this.#mailbox.deliver(message, consumed);
    for (const output of this.outputs) output.comeBack();
    for (const input of this.#inputs) input.comeBack();
    if (this.#alarmed.size > 0) this.core.watch(this.handle);
    const report = this.core.report(this.handle);
    if (report.done) this.done(report);
    this.#ending = false;
    for (const stop of stops) this.stop(...stop);
    return true;
  }

  /** What comes from now on goes to `mailbox`. */
  moveTo(mailbox: Mailbox): void {
    this.handedOn();
    this.#mailbox.leave(this);
    this.#mailbox = mailbox;
    mailbox.join(this);
  }

  #restore({ outputs, inputs }: Moved): void {
    this.#report = this.core.report(this.handle);
    this.#running.resolve();
    this.outputs.forEach((output, at) => outputs[at] && output.restore(outputs[at]));
    this.#inputs.forEach((input, at) => input.restore(inputs[at] ?? null));
  }

  /** What came along is told, and what happened meanwhile. */
  arrive(messages: readonly MovedMessage[]): void {
    for (const { type, data } of messages) this.#pump.again(type, data);
    this.#mailbox.join(this);
    void this.farewell();
    const report = this.core.report(this.handle);
    if (report.done) this.done(report);
  }

  /**
   * Leaves this isolate, with everything that is known of it here; until it is {@link handedOn} or has
   * {@link comeBack} nothing happens to it.
   *
   * @throws {TypeError} while somebody reads its streams, writes to it or signals it.
   * @throws {ClosedError} where it is ending, or has ended.
   */
  leave(): Moved {
    if (this.#over || this.#ending || this.#away !== null) {
      throw this.#cannotUse("it is ending, or has ended");
    }
    const what = `Cannot transfer the port of ${this.subject}`;
    for (const { claimedBy, name } of this.outputs) {
      if (claimedBy === null || claimedBy === "messages") continue;
      throw typeError(what, `${name} is read by ${claimedBy}`, "do it before its streams are read");
    }
    if (this.#alarmed.size > 0) {
      throw typeError(what, "its events are listened to", "end that first");
    }
    if (this.#asking > 0 || this.#inputs.some(({ busy }) => busy)) {
      throw typeError(what, "something is on its way to it", "await what was sent to it first");
    }
    this.#report = this.report;
    const key = this.core.offer(this.handle);
    const messages = this.#mailbox.withdraw(this.sender);
    this.#away = { key, messages, stops: [] };
    const outputs = this.outputs.map((output) => output.leave());
    const inputs = this.#inputs.map((input) => input.leave());
    this.#letGo();
    const { handle, spec } = this;
    const moved = messages.map(({ message }) => message).filter(isData);
    return { handle, key, spec, outputs, inputs, messages: moved };
  }

  #cannotUse(why: string): ClosedError {
    return new ClosedError({
      what: `Cannot use the port of ${this.subject}`,
      why,
      code: "ECLOSED",
      mend: "use it where it is",
      op: "transfer",
      subject: this.subject,
    });
  }

  get mailbox(): Mailbox {
    return this.#mailbox;
  }

  /** The last words: `exit` after all data, and `closed` where somebody closed. */
  async farewell(): Promise<void> {
    const last = await Promise.all([this.status, this.drained]).catch(() => null);
    if (last === null) return; // it says that where it is
    const [status, { truncated }] = last;
    const nothing = () => {};
    const whole = { ...status, truncated };
    this.#mailbox.deliver(
      { port: this.sender, type: "exit", reason: status.reason, status: whole },
      nothing,
    );
    if (this.#closing !== null) {
      this.#mailbox.deliver({ port: this.sender, type: "closed" }, nothing);
    }
    this.#mailbox.leave(this);
  }

  // ---- the end

  /** Asks for the end of the tree; the first cause counts. */
  stop(cause: Cause, graceMs?: number, deadlineMs?: number): void {
    if (this.#gone) return;
    const grace = graceMs ??
      (cause === "owner" && this.spec.killOnOwnerDeath ? 0 : this.spec.graceMs);
    const first = !this.#ending;
    this.#ending = true;
    // Done where it comes back; until then its handle is another's.
    if (this.#away !== null) return void this.#away.stops.push([cause, graceMs, deadlineMs]);
    if (!this.#over) this.core.close(this.handle, cause, grace, deadlineMs ?? grace + PATIENCE_MS);
    if (!first) return;
    for (const input of this.#inputs) input.abandon("the port is closed");
    for (const output of this.outputs) output.abandon();
    this.#pump.stop();
  }

  /** Resolves when the tree is proven gone; at once while it is away, and may be another's. */
  async end(cause: Cause, graceMs?: number, deadlineMs?: number): Promise<void> {
    this.stop(cause, graceMs, deadlineMs);
    if (this.#away !== null) return;
    const { survivors } = await this.status;
    if (survivors.length === 0) return;
    const who = survivors.map(({ pid, comm, reason }) => `${comm} (${pid}, ${reason})`).join(", ");
    throw new SurvivorsError({
      what: `Cannot end the tree of ${this.subject}`,
      why: `still there: ${who}`,
      code: "ESURVIVORS",
      mend: "end those with the rights that it takes, or wait for what they wait for",
      op: "close",
      subject: this.subject,
      survivors,
    });
  }

  close(graceMs?: number, deadlineMs?: number): Promise<void> {
    this.#closing ??= this.end("close", graceMs, deadlineMs);
    this.#closing.catch(() => {});
    return this.#closing;
  }

  get closing(): boolean {
    return this.#closing !== null;
  }

  async kill(signal: number, scope: Scope): Promise<void> {
    const result = await this.#asked(() => this.core.signal(this.handle, signal, scope));
    if (result !== 0) throw this.#refused("signal", "kill", -result);
  }

  /** What the keeper answers; one that is asked stays where it is until then. */
  async #asked(ask: () => Promise<number>): Promise<number> {
    this.#asking++;
    try {
      return this.#done ? -ESRCH : await ask();
    } finally {
      this.#asking--;
    }
  }

  /** Stops the whole tree, or lets it go on. */
  async freeze(on: boolean): Promise<void> {
    const result = await this.#asked(() => this.core.freeze(this.handle, on));
    const op = on ? "freeze" : "thaw";
    if (result !== 0) throw this.#refused(op, op, -result);
  }

  /** What the keeper has answered, or that it has not. */
  #refused(doing: string, op: "kill" | "freeze" | "thaw", errno: number): Error {
    if (errno === ESRCH) return this.gone(doing, op, errno);
    const mend = errnoName(errno) === "EAGAIN"
      ? "wait for the answers to those that were asked before"
      : errnoName(errno) !== "ETIMEDOUT"
      ? "ask who set the policy, or run this program as who it runs as"
      : op === "kill"
      ? "look for who has stopped its keeper (ps -o stat,pid,comm -C proton-keeper), or close it"
      : "try again; what cannot be interrupted keeps the tree from standing still";
    return new ContainmentError({
      what: `Cannot ${doing} ${this.subject}`,
      why: errnoSentence(errno),
      code: errnoName(errno),
      mend,
      op,
      subject: this.subject,
      errno,
    });
  }

  /** It has ended, or is about to. */
  gone(doing: string, op: string, errno: number = ESRCH): ClosedError {
    return new ClosedError({
      what: `Cannot ${doing} ${this.subject}`,
      why: errnoSentence(errno),
      code: errnoName(errno),
      mend: "look at port.status first",
      op,
      subject: this.subject,
    });
  }
}
