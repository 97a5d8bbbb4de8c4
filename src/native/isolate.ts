// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The native side for one isolate: calls go down through a door, events come
 * back up in batches and are handed to the port they belong to.
 *
 * @module
 */

import type {
  Core,
  Handle,
  Hierarchy,
  Leaf,
  PortEvents,
  Report,
  Scope,
  StreamNumber,
} from "../core.ts";
import { errnoName, errnoSentence, NativeError, PANIC, quote } from "../errors.ts";
import type { Check } from "../limits.ts";
import type { Spec } from "../options.ts";
import type { Answer } from "../privileges.ts";
import { startError } from "../start_errors.ts";
import type { Cause } from "../status.ts";
import {
  causeNumber,
  checkNumber,
  decodeAnswer,
  decodeHierarchies,
  decodeLeaves,
  decodeRefused,
  decodeReport,
  decodeStage,
  decodeTooMuch,
  type Door,
  eachEvent,
  encodeQuestion,
  encodeSpec,
  EVENT,
  type Host,
  scopeNumber,
  type Unknown,
} from "./abi.ts";

const [ESRCH, E2BIG, EBADF, EACCES] = [3, 7, 9, 13];
/** A user, its groups and those that were asked for, all as many as there can be. */
const ANSWER_MAX = 1 << 20;
/** `ps_signalled` has no answer left. */
const NO_ANSWER = 1;
/** Longest path the system takes, its final NUL included. */
const PATH_MAX = 4096;

/** The most that a file of a cgroup says, and more than a list of hierarchies does. */
const ROOM = 256 * 1024;

const DECODER = new TextDecoder();
const ENCODER = new TextEncoder();

/** One port's listener, and those who wait for an answer to their signal, oldest first. */
interface Listening {
  readonly events: PortEvents;
  readonly answers: ((result: number) => void)[];
}

/** The {@link Core} of one isolate over one runtime's {@link Host}. */
export class Isolate implements Core {
  readonly #host: Host;
  readonly #door: Door;
  readonly #env: number;
  readonly #ports = new Map<Handle, Listening>();
  /** Who waits for the user database, by ticket. */
  readonly #asking = new Map<number, () => void>();
  readonly #events = new Uint8Array(8 * 256);
  readonly #report = new Uint8Array(16 * 1024);
  /** The launch record, where it is no longer. */
  readonly #spec = new Uint8Array(4 * 1024);
  /** Or, behind a stage and a length, one that is refused. */
  readonly #path = new Uint8Array(8 + PATH_MAX);
  /** For what is seldom asked for, made when it is. */
  #room: Uint8Array | null = null;
  #references = 0;
  take?: (port: Handle, stream: StreamNumber) => Uint8Array<ArrayBuffer> | number;

  constructor(host: Host) {
    this.#host = host;
    this.#door = host.door;
    this.#env = host.door.ps_env_open(() => this.#wake());
    if (host.door.ps_take !== undefined) this.take = (port, stream) => this.#take(port, stream);
    // What keeps the event loop alive is an open port, not the library.
    this.#door.ps_env_ref(this.#env, 0);
  }

  async lookup(spec: Spec): Promise<Answer> {
    const { question } = spec;
    if (question === null) return { user: null, group: null, groups: [] };
    const ticket = this.#door.ps_user(this.#env, encodeQuestion(question));
    if (ticket < 0) throw startError({ stage: "user", errno: -ticket }, spec);
    const answer = decodeAnswer(await this.#unlessAborted(this.#answerTo(ticket), spec.signal));
    if ("unknown" in answer) throw nobody(spec, answer);
    return answer;
  }

  /** It is taken whenever it comes, whether anybody waits for it then or not. */
  #answerTo(ticket: number): Promise<Uint8Array> {
    const answered = new Promise<void>((resolve) => this.#asking.set(ticket, resolve));
    return answered.then(() => {
      const out = new Uint8Array(ANSWER_MAX);
      const length = done("look a user up", this.#door.ps_answer(this.#env, ticket, out));
      return out.subarray(0, length);
    });
  }

  /** Keeps the event loop alive for as long as somebody waits. */
  async #unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | null): Promise<T> {
    let abort = () => {};
    const aborted = new Promise<never>((_, reject) => abort = () => reject(signal?.reason));
    signal?.addEventListener("abort", abort, { once: true });
    this.ref();
    try {
      return await Promise.race([promise, aborted]);
    } finally {
      this.unref();
      signal?.removeEventListener("abort", abort);
    }
  }

  /** The path whose permission is asked for is the very one that is executed. */
  spawn(spec: Spec, events: PortEvents): Handle {
    const record = encodeSpec(spec, this.#host.view(), this.#spec);
    const length = this.#door.ps_resolve(this.#env, record, this.#path);
    if (length < 0) throw startFailure(spec, this.#path, length);
    const path = this.#path.subarray(0, length);
    this.#host.allow(path, spec);
    const port = this.#door.ps_spawn(this.#env, path, this.#report);
    if (port < 0) throw startFailure(spec, this.#report, port);
    this.#ports.set(port, { events, answers: [] });
    return port;
  }

  read(port: Handle, stream: StreamNumber, into: Uint8Array): number {
    return unpanicked("read", this.#door.ps_read(this.#env, port, stream, into));
  }

  #take(port: Handle, stream: StreamNumber): Uint8Array<ArrayBuffer> | number {
    const taken = this.#door.ps_take?.(this.#env, port, stream) ?? -EBADF;
    return typeof taken === "number" ? unpanicked("read", taken) : new Uint8Array(taken);
  }

  write(port: Handle, stream: StreamNumber, bytes: Uint8Array): number {
    // Neither door takes an empty buffer.
    if (bytes.length === 0) return 0;
    return unpanicked("write", this.#door.ps_write(this.#env, port, stream, bytes));
  }

  arm(port: Handle, stream: StreamNumber): void {
    done("arm", this.#door.ps_arm(this.#env, port, stream));
  }

  resize(port: Handle, cols: number, rows: number): number {
    return unpanicked("resize", this.#door.ps_resize(this.#env, port, cols, rows));
  }

  shut(port: Handle, stream: StreamNumber): void {
    doneOrGone("shut", this.#door.ps_shut(this.#env, port, stream));
  }

  join(port: Handle, stream: StreamNumber, to: Handle): number {
    return unpanicked("join", this.#door.ps_join(this.#env, port, stream, to));
  }

  part(port: Handle, stream: StreamNumber): void {
    doneOrGone("part", this.#door.ps_part(this.#env, port, stream));
  }

  signal(port: Handle, signal: number, scope: Scope): Promise<number> {
    const listening = this.#ports.get(port);
    if (listening === undefined) return Promise.resolve(-ESRCH);
    const posted = unpanicked(
      "signal",
      this.#door.ps_signal(this.#env, port, signal, scopeNumber(scope)),
    );
    if (posted < 0) return Promise.resolve(posted);
    return new Promise((resolve) => listening.answers.push(resolve));
  }

  freeze(port: Handle, on: boolean): Promise<number> {
    const listening = this.#ports.get(port);
    if (listening === undefined) return Promise.resolve(-ESRCH);
    const posted = unpanicked("freeze", this.#door.ps_freeze(this.#env, port, on ? 1 : 0));
    if (posted < 0) return Promise.resolve(posted);
    return new Promise((resolve) => listening.answers.push(resolve));
  }

  leaves(port: Handle): { leaves: Leaf[]; pressed: number } {
    if (!this.#ports.has(port)) return { leaves: [], pressed: 0 };
    const room = this.#room ??= new Uint8Array(ROOM);
    return decodeLeaves(
      room.subarray(0, done("leaves", this.#door.ps_leaves(this.#env, port, room))),
    );
  }

  watch(port: Handle): void {
    doneOrGone("watch", this.#door.ps_watch(this.#env, port));
  }

  hierarchies(): Hierarchy[] {
    const room = this.#room ??= new Uint8Array(ROOM);
    return decodeHierarchies(
      room.subarray(0, done("hierarchies", this.#door.ps_hierarchies(room))),
    );
  }

  cgroupRead(path: string): string | number {
    const room = this.#room ??= new Uint8Array(ROOM);
    const length = this.#door.ps_cgroup_read(ENCODER.encode(path), room);
    if (length < 0) return unpanicked("cgroup_read", length);
    return DECODER.decode(room.subarray(0, length));
  }

  cgroupWrite(path: string, value: string, check: Check): number {
    const [at, bytes] = [ENCODER.encode(path), ENCODER.encode(value)];
    return unpanicked(
      "cgroup_write",
      this.#door.ps_cgroup_write(at, bytes, checkNumber(check)),
    );
  }

  close(port: Handle, cause: Cause, graceMs: number, deadlineMs: number): void {
    const result = this.#door.ps_close(this.#env, port, causeNumber(cause), graceMs, deadlineMs);
    doneOrGone("close", result);
  }

  report(port: Handle): Report {
    const length = this.#door.ps_report(this.#env, port, this.#report);
    done("report", length);
    return decodeReport(this.#report.subarray(0, length));
  }

  release(port: Handle): void {
    const listening = this.#ports.get(port);
    if (listening === undefined) return;
    this.#ports.delete(port);
    settle(listening, -ESRCH);
    doneOrGone("release", this.#door.ps_release(this.#env, port));
  }

  offer(port: Handle): Uint8Array {
    const length = done("offer", this.#door.ps_offer(this.#env, port, this.#report));
    this.#ports.delete(port);
    return this.#report.slice(0, length);
  }

  adopt(port: Handle, key: Uint8Array, events: PortEvents): number {
    // Neither door takes an empty buffer, and no key is empty.
    const result = key.length === 0 ? -EBADF : this.#door.ps_adopt(this.#env, port, key);
    if (result < 0) return unpanicked("adopt", result);
    this.#ports.set(port, { events, answers: [] });
    return 0;
  }

  ref(): void {
    if (this.#references++ === 0) this.#door.ps_env_ref(this.#env, 1);
  }

  unref(): void {
    if (this.#references === 0) return;
    if (--this.#references === 0) this.#door.ps_env_ref(this.#env, 0);
  }

  reset(): void {
    done("reset", this.#door.ps_reset(this.#env));
  }

  /** A throw that reached the native caller would, in Deno, end all wake-ups for good. */
  #wake(): void {
    guarded(() => this.#drain());
  }

  /** Until a batch is not full: only then is the next event sure to wake us again. */
  #drain(): void {
    const room = this.#events.length / 8;
    let count = room;
    while (count === room) {
      count = done("drain", this.#door.ps_drain(this.#env, this.#events));
      eachEvent(this.#events, count, (port, bits) => this.#route(port, bits));
    }
  }

  /** In the order of a port's life: what came together is told as if it had come apart. */
  #route(port: Handle, bits: number): void {
    if (bits === EVENT.answered) return this.#answered(port);
    const tell = (bit: number, what: (listening: Listening) => void) => {
      // Looked up anew each time: the listener before may have released the port.
      const listening = this.#ports.get(port);
      if ((bits & bit) !== 0 && listening !== undefined) guarded(() => what(listening));
    };
    tell(EVENT.started, ({ events }) => events.started(this.report(port)));
    tell(EVENT.stdin, ({ events }) => events.ready(0));
    tell(EVENT.stdout, ({ events }) => events.ready(1));
    tell(EVENT.stderr, ({ events }) => events.ready(2));
    for (
      let stream = 3, bit: number = EVENT.more;
      bit <= bits && bit < EVENT.answered;
      stream++, bit *= 2
    ) {
      tell(bit, ({ events }) => events.ready(stream));
    }
    tell(EVENT.signalled, (listening) => this.#answer(port, listening));
    tell(EVENT.alarm, ({ events }) => events.alarm());
    tell(EVENT.done, (listening) => {
      // Nobody is left to answer, whatever the native side still owes.
      settle(listening, -ESRCH);
      listening.events.done(this.report(port));
    });
  }

  #answered(ticket: number): void {
    const asking = this.#asking.get(ticket);
    this.#asking.delete(ticket);
    asking?.();
  }

  #answer(port: Handle, { answers }: Listening): void {
    while (answers.length > 0) {
      const result = this.#door.ps_signalled(this.#env, port);
      if (result === NO_ANSWER) return;
      answers.shift()?.(result);
    }
  }
}

/** Runs a listener; what it throws is reported as uncaught and disturbs nobody else. */
function guarded(listener: () => void): void {
  try {
    listener();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

function settle({ answers }: Listening, result: number): void {
  for (const answer of answers.splice(0)) answer(result);
}

/** A stage is there only where the call failed by itself and did not panic. */
function startFailure(spec: Spec, out: Uint8Array, result: number): Error {
  const stage = result === -PANIC ? "library" : decodeStage(out);
  const tooMuch = stage === "exec" && result === -E2BIG ? decodeTooMuch(out) : null;
  const refused = stage === "program" && result === -EACCES ? decodeRefused(out) : null;
  return startError({ stage, errno: -result, tooMuch, refused }, spec);
}

/** There is no such user or group. */
function nobody(spec: Spec, { unknown: { what, at }, errno }: Unknown): Error {
  const { question, identity } = spec;
  const name = what === "groups" ? question?.groups[at] : identity[what];
  const shown = typeof name === "string" ? quote(name) : String(name);
  const who = `${what === "uid" ? "user" : "group"} ${shown}`;
  return startError({ stage: "user", errno, who, byNumber: typeof name === "number" }, spec);
}

function unpanicked(op: string, result: number): number {
  return result === -PANIC ? done(op, result) : result;
}

/** A port that was given up has nothing left to close. */
function doneOrGone(op: string, result: number): void {
  if (result !== -EBADF) done(op, result);
}

/** `result`, where the call succeeded. */
function done(op: string, result: number): number {
  if (result >= 0) return result;
  throw new NativeError({
    what: `Cannot ${op}`,
    why: errnoSentence(-result),
    code: errnoName(-result),
    mend: "report it with what the program did before",
    op,
    subject: "the native library",
  });
}
