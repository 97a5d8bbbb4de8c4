// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The boundary to the native library in TypeScript's words: its calls, and the
 * records that cross it. docs/abi.md is the contract; decoders here refuse
 * whatever is not in it.
 *
 * @module
 */

import type { Hierarchy, Leaf, Report, Scope } from "../core.ts";
import { NativeError, type Survivor } from "../errors.ts";
import { type CgroupVersion, type Figure, FINAL } from "../figures.ts";
import type { Check, Side } from "../limits.ts";
import type { Spec } from "../options.ts";
import type { CgroupPlan } from "../plan.ts";
import type { Answer, Question } from "../privileges.ts";
import type { TooMuch } from "../start_errors.ts";
import type { Cause, Ending, Guards, Lack } from "../status.ts";

/** The one number that this code and the native library must agree on. */
export const ABI: number = 6;

/** The raw calls of docs/abi.md. A result below zero is an error number. */
export interface Door {
  ps_abi_version(): number;
  ps_env_open(wake: () => void): number;
  ps_env_ref(env: number, on: number): number;
  ps_resolve(env: number, spec: Uint8Array, out: Uint8Array): number;
  ps_spawn(env: number, path: Uint8Array, out: Uint8Array): number;
  ps_drain(env: number, out: Uint8Array): number;
  ps_report(env: number, port: number, out: Uint8Array): number;
  ps_read(env: number, port: number, stream: number, out: Uint8Array): number;
  ps_take?(env: number, port: number, stream: number): ArrayBuffer | number;
  ps_user(env: number, question: Uint8Array): number;
  ps_answer(env: number, ticket: number, out: Uint8Array): number;
  ps_write(env: number, port: number, stream: number, bytes: Uint8Array): number;
  ps_resize(env: number, port: number, columns: number, rows: number): number;
  ps_arm(env: number, port: number, stream: number): number;
  ps_shut(env: number, port: number, stream: number): number;
  ps_join(env: number, port: number, stream: number, to: number): number;
  ps_part(env: number, port: number, stream: number): number;
  ps_signal(env: number, port: number, signal: number, scope: number): number;
  ps_signalled(env: number, port: number): number;
  ps_freeze(env: number, port: number, on: number): number;
  ps_leaves(env: number, port: number, out: Uint8Array): number;
  ps_watch(env: number, port: number): number;
  ps_hierarchies(out: Uint8Array): number;
  ps_cgroup_read(path: Uint8Array, out: Uint8Array): number;
  ps_cgroup_write(path: Uint8Array, value: Uint8Array, check: number): number;
  ps_close(env: number, port: number, cause: number, graceMs: number, deadlineMs: number): number;
  ps_release(env: number, port: number): number;
  ps_offer(env: number, port: number, out: Uint8Array): number;
  ps_adopt(env: number, port: number, key: Uint8Array): number;
  ps_reset(env: number): number;
}

/** One runtime's way to the native library, and what it adds to a launch. */
export interface Host {
  readonly door: Door;
  /** The runtime's own view of the environment, where it differs from the process's. */
  view(): Environment | null;
  /**
   * Asks the runtime's permissions for the program whose path these bytes are.
   *
   * @throws {PermissionError} where they refuse `path` or the environment of `spec`.
   */
  allow(path: Uint8Array, spec: Spec): void;
}

/** Variables as a runtime shows them; one that is `undefined` is not set. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** What a runtime lets us do before the library is open. Nothing here ever prompts but `open`. */
export interface Runtime {
  /** Whether `path` may be read without asking anybody. */
  mayRead(path: string): boolean;
  /** An environment variable, where it may be read without asking anybody. */
  variable(name: string): string | undefined;
  /**
   * Loads `file`, once `check` has let its ABI number pass (null: it has none).
   *
   * @throws {PermissionError} where the runtime's permissions refuse it.
   */
  open(file: string, check: (abi: number | null) => void): Host;
}

/** Names of the steps of a start, by their numbers. */
export const STAGES: readonly string[] = [
  "spec",
  "library",
  "guardian",
  "keeper",
  "cwd",
  "program",
  "stdio",
  "clone",
  "group",
  "rlimit",
  "umask",
  "nice",
  "affinity",
  "scheduler",
  "ioprio",
  "chdir",
  "pdeathsig",
  "fds",
  "signals",
  "exec",
  "oom_score_adj",
  "cgroup",
  "user",
  "groups",
  "gid",
  "uid",
  "capabilities",
  "no_new_privs",
  "reach",
  "terminal",
  "controller",
  "leaf",
  "limit",
  "require",
];

const STDIO: readonly unknown[] = ["piped", "inherit", "null"];
const [DESCRIPTOR, STDOUT] = [3, 4];
const SCOPES: readonly Scope[] = ["child", "group", "tree"];
const GUARDS: readonly Guards[] = ["both", "guardian", "none"];
const LACKS: readonly Lack[] = [
  "nothing",
  "unwanted",
  "unmounted",
  "outside",
  "reserved",
  "make",
  "enter",
  "kill",
  "scope",
];
const REASONS: readonly Survivor["reason"][] = ["EPERM", "uninterruptible", "traced"];
const CAUSES: readonly Cause[] = [
  "exit",
  "close",
  "timeout",
  "abort",
  "owner",
  "oom",
  "limit",
  "guardian",
];

/** The number of a cause on the native side. */
export function causeNumber(cause: Cause): number {
  return CAUSES.indexOf(cause);
}

/** The number of a scope on the native side. */
export function scopeNumber(scope: Scope): number {
  return SCOPES.indexOf(scope);
}

/** What an event of a port tells; several may come as one. */
export const EVENT = {
  started: 1,
  done: 2,
  stdin: 4,
  stdout: 8,
  stderr: 16,
  signalled: 32,
  /** Of the first stream behind those three; the others' follow. */
  more: 64,
  /** Not of a port: a question to the user database has an answer. */
  answered: 0x40000000,
  alarm: 0x80000000,
} as const;

const EVENT_BYTES = 8;
const SPEC_FLAG = { clearEnv: 1, killOnOwnerDeath: 2, view: 4, treeOnly: 8 } as const;
const SCOPE_FLAG = { tree: 0, child: 16, group: 32 } as const;
const FLAG = {
  started: 1,
  failed: 2,
  exited: 4,
  done: 8,
  ownGroup: 16,
  discarded: 32,
  more: 64,
} as const;
const ALL_FLAGS = 127;
const NO_TIMEOUT = 0xffffffff;
const REPORT_BYTES = 80;
const SURVIVOR_BYTES = 28;

/**
 * The launch record, in `room` as far as that is enough. `view` is laid over
 * the native environment, unless that is not used at all.
 */
export function encodeSpec(
  spec: Spec,
  view: Environment | null = null,
  room?: Uint8Array<ArrayBuffer>,
): Uint8Array {
  const used = spec.clearEnv ? null : view;
  const record = new Writer(room);
  const flags = (spec.clearEnv ? SPEC_FLAG.clearEnv : 0) |
    (spec.killOnOwnerDeath ? SPEC_FLAG.killOnOwnerDeath : 0) | (used ? SPEC_FLAG.view : 0) |
    (spec.treeOnly ? SPEC_FLAG.treeOnly : 0) | SCOPE_FLAG[spec.closeScope];
  record.u32(ABI).u32(flags);
  record.u32(spec.graceMs).u32(spec.flushMs).u32(spec.timeoutMs ?? NO_TIMEOUT);
  for (const stdio of spec.stdio) record.u8(stdioKind(stdio));
  record.u8(0);
  for (const stdio of spec.stdio) if (typeof stdio === "number") record.u32(stdio);
  record.text(spec.command).text(spec.arg0).text(spec.cwd ?? "");
  record.u32(spec.args.length);
  for (const arg of spec.args) record.blob(arg);
  record.u32(spec.env.length);
  for (const [name, value] of spec.env) {
    record.text(name).u32(value === null ? 0 : 1);
    if (value instanceof Uint8Array) record.blob(value);
    else record.text(value ?? "");
  }
  if (used) putView(record, used);
  putAttributes(record, spec);
  putPlan(record, spec.cgroup);
  return record.bytes();
}

function stdioKind(stdio: Spec["stdio"][number]): number {
  if (typeof stdio === "number") return DESCRIPTOR;
  return stdio === "stdout" ? STDOUT : STDIO.indexOf(stdio);
}

/** What is asked for beyond what a child inherits: a bit for each, then each that has something to say. */
function putAttributes(record: Writer, { privileges: all, fds, pty }: Spec): void {
  if (all === null && fds.length === 0 && pty === null) return void record.u32(0);
  const body = new Writer();
  let mask = all?.noNewPrivs ? 1 : 0;
  const put = <T>(bit: number, value: T | null | undefined, write: (value: T) => unknown) => {
    if (value === null || value === undefined) return;
    mask |= 1 << bit;
    write(value);
  };
  const u32 = (value: number) => body.u32(value);
  put(1, all?.umask, u32);
  put(2, all?.nice, u32);
  put(3, all?.oomScoreAdj, u32);
  put(4, all?.bounding, (set) => body.u64(set));
  put(5, all?.ambient, (set) => body.u64(set));
  put(6, all?.uid, u32);
  put(7, all?.gid, u32);
  put(8, all?.groups, ({ implied, ids }) => {
    body.u32(implied ? 1 : 0).u32(ids.length);
    for (const id of ids) body.u32(id);
  });
  const limits = all?.rlimits ?? [];
  put(9, limits.length > 0 ? limits : null, (limits) => {
    body.u32(limits.length);
    for (const { number, soft, hard } of limits) {
      body.u32(number).u32((soft === null ? 0 : 1) | (hard === null ? 0 : 2));
      body.u64(soft ?? 0n).u64(hard ?? 0n);
    }
  });
  put(10, fds.length > 0 ? fds : null, (fds) => {
    body.u32(fds.length);
    for (const [number, source] of fds) {
      body.u32(number).u32(source === "piped" ? 0 : 1).u32(source === "piped" ? 0 : source);
    }
  });
  put(11, pty, ({ cols, rows }) => body.u32(cols).u32(rows));
  record.u32(mask).raw(body.bytes());
}

/** A question to the user database. */
export function encodeQuestion({ user, group, groups }: Question): Uint8Array {
  const record = new Writer().u32(ABI);
  for (const who of [user, group]) {
    if (who === null) record.u32(0);
    else if (typeof who === "string") record.u32(1).text(who);
    else record.u32(2).u32(who);
  }
  record.u32(groups.length);
  for (const name of groups) record.text(name);
  return record.bytes();
}

/** Whom a question was about that has no answer, and why. */
export interface Unknown {
  /** `at`: by its place among the names of groups. */
  unknown: { what: "uid" | "gid" | "groups"; at: number };
  errno: number;
}

/**
 * The answer to a question.
 *
 * @throws {NativeError} when `bytes` is not exactly one.
 */
export function decodeAnswer(bytes: Uint8Array): Answer | Unknown {
  const record = new Reader(bytes);
  if (record.flag() === false) {
    const what = named(["uid", "gid", "groups"] as const, record.u32(), "question");
    const [at, errno] = [record.u32(), record.u32()];
    return record.end({ unknown: { what, at }, errno });
  }
  const user = record.flag() ? decodeUser(record) : null;
  const [known, group] = [record.flag(), record.u32()];
  return record.end({ user, group: known ? group : null, groups: record.ids() });
}

function decodeUser(record: Reader): Answer["user"] {
  const [uid, gid] = [record.u32(), record.u32()];
  return { uid, gid, name: record.text(), home: record.text(), groups: record.ids() };
}

/** Takes fields off a record; whatever is not there is an error. */
class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #what: string;
  #at = 0;

  constructor(bytes: Uint8Array, what = "answer") {
    this.#what = what;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  #take(length: number): number {
    const at = this.#at;
    if (length > this.#bytes.length - at) throw malformed(this.#what, "cut off");
    this.#at += length;
    return at;
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  flag(): boolean {
    const value = this.u32();
    if (value > 1) throw malformed(this.#what, `flagged ${value}`);
    return value === 1;
  }

  text(): string {
    const length = this.u32();
    const at = this.#take(length);
    return DECODER.decode(this.#bytes.subarray(at, at + length));
  }

  version(): CgroupVersion {
    return named([0, 1, 2] as const, this.u32(), "version of cgroups");
  }

  /** Each takes four bytes at least. */
  list<T>(one: () => T): T[] {
    const count = this.u32();
    if (4 * count > this.#bytes.length - this.#at) throw malformed(this.#what, "cut off");
    return Array.from({ length: count }, one);
  }

  ids(): number[] {
    const count = this.u32();
    const at = this.#take(4 * count);
    return Array.from({ length: count }, (_, i) => this.#view.getUint32(at + 4 * i, true));
  }

  end<T>(value: T): T {
    if (this.#at === this.#bytes.length) return value;
    throw malformed(this.#what, `${this.#bytes.length} bytes long, not ${this.#at}`);
  }
}

const CHECKS: readonly Check[] = ["none", "exact", "bytes", "set", "line"];
const WHERES: readonly CgroupPlan["where"][] = ["own", "base", "path"];

/** The number of a check on the native side. */
export function checkNumber(check: Check): number {
  return CHECKS.indexOf(check);
}

function putPlan(record: Writer, plan: CgroupPlan | null): void {
  record.u32(plan === null ? 0 : 1);
  if (plan === null) return;
  record.u32(WHERES.indexOf(plan.where)).text(plan.path);
  record.u32(plan.endOnOom ? 1 : 0).u32(plan.moveSelf ? 1 : 0);
  record.u32(plan.require.kill).u32(plan.require.limits).u32(plan.settings.length);
  for (const { optional, v2, v1 } of plan.settings) {
    record.u32(optional ? 1 : 0);
    putSide(record, v2);
    putSide(record, v1);
  }
  record.u32(FINAL.length);
  for (const file of FINAL) record.text(file);
}

function putSide(record: Writer, side: Side | null): void {
  record.u32(side === null ? 0 : 1);
  if (side === null) return;
  record.text(side.controller).u32(side.writes.length);
  for (const { file, value, check } of side.writes) {
    record.text(file).text(value).u32(checkNumber(check));
  }
}

function putView(record: Writer, view: Environment): void {
  const variables = Object.entries(view).filter(([name, value]) =>
    value !== undefined && /^[^=\0]+$/.test(name)
  );
  record.u32(variables.length);
  for (const [name, value] of variables) {
    // A Worker's copy may hold a NUL; setenv(3) on the main thread would have cut there, too.
    record.text(name).text(value?.split("\0", 1)[0] ?? "");
  }
}

/** Appends fields to a record, which grows as needed. */
class Writer {
  #bytes: Uint8Array<ArrayBuffer>;
  #view: DataView;
  #length = 0;

  /** Begins in all of `room`'s memory. */
  constructor(room: Uint8Array<ArrayBuffer> = new Uint8Array(1024)) {
    this.#bytes = room;
    this.#view = new DataView(room.buffer);
  }

  u8(value: number): this {
    this.#reserve(1);
    this.#view.setUint8(this.#length, value);
    this.#length += 1;
    return this;
  }

  u32(value: number): this {
    this.#reserve(4);
    this.#view.setUint32(this.#length, value, true);
    this.#length += 4;
    return this;
  }

  u64(value: bigint): this {
    this.#reserve(8);
    this.#view.setBigUint64(this.#length, value, true);
    this.#length += 8;
    return this;
  }

  blob(bytes: Uint8Array): this {
    return this.u32(bytes.length).raw(bytes);
  }

  raw(bytes: Uint8Array): this {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
    return this;
  }

  /** A short one of ASCII is written here: a TextEncoder's call takes longer than all of it. */
  text(value: string): this {
    if (value.length > SHORT) return this.blob(ENCODER.encode(value));
    this.#reserve(4 + value.length);
    const at = this.#length + 4;
    for (let index = 0; index < value.length; index++) {
      const unit = value.charCodeAt(index);
      if (unit > 127) return this.blob(ENCODER.encode(value));
      this.#bytes[at + index] = unit;
    }
    this.u32(value.length);
    this.#length += value.length;
    return this;
  }

  bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  #reserve(more: number): void {
    const needed = this.#length + more;
    if (needed <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(needed, 2 * this.#bytes.length));
    grown.set(this.#bytes);
    this.#bytes = grown;
    this.#view = new DataView(grown.buffer);
  }
}

/** Characters. */
const SHORT = 64;
const ENCODER = new TextEncoder();
const DECODER = new TextDecoder();

/**
 * A port's state as the native side tells it.
 *
 * @throws {NativeError} when `bytes` is not exactly one report.
 */
export function decodeReport(bytes: Uint8Array): Report {
  if (bytes.length < REPORT_BYTES) throw malformed("report", `${bytes.length} bytes long`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const u32 = (at: number) => view.getUint32(at, true);
  const i32 = (at: number) => view.getInt32(at, true);
  const flags = u32(0);
  if ((flags & ~ALL_FLAGS) !== 0) throw malformed("report", `flagged ${flags}`);
  const has = (flag: number) => (flags & flag) !== 0;
  const { survivors, held, about, figures } = decodeRest(bytes, view, has(FLAG.more));
  // Field by field, without spreads: it is read twice in the life of every port.
  return {
    pid: i32(4),
    ownGroup: has(FLAG.ownGroup),
    failure: has(FLAG.failed) ? { stage: named(STAGES, u32(8), "stage"), errno: i32(12) } : null,
    wait: decodeWait(u32(16), i32(20)),
    done: has(FLAG.done),
    cause: named(CAUSES, u32(24), "cause"),
    killed: u32(28),
    wallMs: amount(view, 32),
    userMs: amount(view, 40),
    systemMs: amount(view, 48),
    maxRssBytes: amount(view, 56),
    discarded: has(FLAG.discarded),
    guards: named(GUARDS, u32(64), "guards"),
    cgroup: { lack: named(LACKS, u32(68), "lack"), errno: i32(72) },
    survivors,
    held,
    about,
    figures,
  };
}

/** The survivors, and what trees with limits have to say behind them. */
function decodeRest(
  bytes: Uint8Array,
  view: DataView,
  more: boolean,
): Pick<Report, "survivors" | "held" | "about" | "figures"> {
  const count = view.getUint32(REPORT_BYTES - 4, true);
  const end = REPORT_BYTES + count * SURVIVOR_BYTES;
  if (more ? bytes.length < end : bytes.length !== end) {
    throw malformed("report", `${bytes.length} bytes long with ${count} survivors`);
  }
  const survivors = decodeSurvivors(bytes, view);
  if (!more) return { survivors, held: NOT_HELD, about: null, figures: [] };
  const rest = new Reader(bytes.subarray(end), "report");
  const held = { kill: rest.version(), limits: rest.version() };
  const [setting, subject] = [rest.u32(), rest.text()];
  const figures = rest.list((): Figure => ({
    version: rest.version(),
    file: rest.text(),
    text: rest.text(),
  }));
  const about = subject === "" ? null : { setting: setting === NONE ? null : setting, subject };
  return rest.end({ survivors, held, about, figures });
}

const NOT_HELD: Report["held"] = Object.freeze({ kill: 0, limits: 0 });
const NONE = 0xffffffff;

/** The cgroups of a tree, as `ps_leaves` tells them. */
export function decodeLeaves(bytes: Uint8Array): { leaves: Leaf[]; pressed: number } {
  const record = new Reader(bytes, "list of cgroups");
  const pressed = record.u32();
  const leaves = record.list(() => {
    const version = record.version();
    record.flag(); // whether it can be frozen, which its keeper does
    return { version, path: record.text() };
  });
  return record.end({ leaves, pressed });
}

/** What is mounted, as `ps_hierarchies` tells it. */
export function decodeHierarchies(bytes: Uint8Array): Hierarchy[] {
  const record = new Reader(bytes, "list of hierarchies");
  const all = record.list(() => {
    const version = record.version();
    const controllers = record.list(() => record.text());
    const mount = record.text();
    const own = record.text();
    return { version, controllers, mount, own: own === "" ? null : own };
  });
  return record.end(all);
}

/** How much of something was used. */
function amount(view: DataView, at: number): number {
  const value = view.getFloat64(at, true);
  if (Number.isFinite(value) && value >= 0) return value;
  throw malformed("report", `with a use of ${value}`);
}

function decodeWait(kind: number, number: number): Ending["wait"] {
  switch (kind) {
    case 0:
      return null;
    case 1:
      return { code: number };
    case 2:
      return { signal: number };
    case 3:
      return "lost";
    default:
      throw malformed("report", `with a wait status of kind ${kind}`);
  }
}

function decodeSurvivors(bytes: Uint8Array, view: DataView): Survivor[] {
  const count = view.getUint32(REPORT_BYTES - 4, true);
  if (count === 0) return [];
  return Array.from({ length: count }, (_, index) => {
    const at = REPORT_BYTES + index * SURVIVOR_BYTES;
    const comm = bytes.subarray(at + 12, at + SURVIVOR_BYTES);
    const end = comm.indexOf(0);
    const reason = named(REASONS, view.getUint32(at + 4, true), "reason");
    return {
      pid: view.getInt32(at, true),
      comm: DECODER.decode(end < 0 ? comm : comm.subarray(0, end)),
      reason,
      ...(reason === "traced" ? { tracer: view.getInt32(at + 8, true) } : {}),
    };
  });
}

/**
 * Calls `take` for each of the `count` events that `ps_drain` put into `bytes`.
 *
 * @throws {NativeError} when there are not so many, or one has a bit that means nothing.
 */
export function eachEvent(
  bytes: Uint8Array,
  count: number,
  take: (port: number, bits: number) => void,
): void {
  if (count * EVENT_BYTES > bytes.length) {
    throw malformed("list of events", `${count} entries long in ${bytes.length} bytes`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < count * EVENT_BYTES; at += EVENT_BYTES) {
    const bits = view.getUint32(at + 4, true);
    // An answer is nobody's event.
    const mixed = (bits & EVENT.answered) !== 0 && bits !== EVENT.answered;
    if (mixed) throw malformed("list of events", `with the bits ${bits}`);
    take(view.getInt32(at, true), bits);
  }
}

/** The name of the stage that a failed `ps_resolve` or `ps_spawn` left in `out`. */
export function decodeStage(out: Uint8Array): string {
  if (out.length < 4) throw malformed("stage", `${out.length} bytes long`);
  const view = new DataView(out.buffer, out.byteOffset, 4);
  return named(STAGES, view.getUint32(0, true), "stage");
}

/** Which file or directory is not another user's to execute or to search; null where that is not why. */
export function decodeRefused(out: Uint8Array): string | null {
  if (out.length < 8) return null;
  const length = new DataView(out.buffer, out.byteOffset, 8).getUint32(4, true);
  if (length === 0 || length > out.length - 8) return null;
  return DECODER.decode(out.subarray(8, 8 + length));
}

/** What a start that is too long for the system says beside its stage: what, and both figures. */
export function decodeTooMuch(out: Uint8Array): TooMuch | null {
  if (out.length < 28) return null;
  const view = new DataView(out.buffer, out.byteOffset, 28);
  const what = named(["all", "argument", "variable"] as const, view.getUint32(4, true), "excess");
  const [bytes, most] = [view.getFloat64(12, true), view.getFloat64(20, true)];
  return { what, at: view.getUint32(8, true), bytes, most };
}

function named<T>(names: readonly T[], number: number, what: string): T {
  const name = names[number];
  if (name === undefined) throw malformed(what, `number ${number}`);
  return name;
}

function malformed(record: string, is: string): NativeError {
  return new NativeError({
    what: `Cannot read a ${record} of the native library`,
    why: `it is ${is}`,
    code: "EPROTO",
    mend: 'build the library again with "scripts/build", or reinstall the package',
    op: "decode",
    subject: record,
  });
}
