// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Supervisors: children that are started in order, restarted by a strategy,
 * and ended in the reverse order.
 *
 * @module
 */

import { checkMs } from "./callbacks.ts";
import {
  checkChild,
  type End,
  inWords,
  type NestedSpec,
  type Place,
  type ProgramSpec,
  refuseUnknown,
  type Running,
  type ServerSpec,
  startProgram,
  startServer,
} from "./children.ts";
import { ClosedError, quote, rangeError, SupervisorError, typeError } from "./errors.ts";
import { Holder } from "./inbox.ts";
import { type Log, tellLog, toConsole } from "./logging.ts";
import { runUntilSignal } from "./native/signals.ts";
import type { Port } from "./port.ts";
import { affected, type Backoff, backoffMs, Intensity, type Restart } from "./restart.ts";
import { type Strategy, wantsRestart } from "./restart.ts";
import type { Server } from "./server.ts";
import { type Deferred, deferred } from "./streams.ts";

/** A program, a server or a supervisor, and how it is supervised. */
export type ChildSpec = ProgramSpec | ServerSpec | NestedSpec<SupervisorOptions>;

/** What a supervisor is made of. */
export interface SupervisorOptions {
  /** Started in this order, each when the one before is ready. */
  children?: readonly ChildSpec[];
  /** Default `"one_for_one"`. */
  strategy?: Strategy;
  /** More restarts than this within `maxSeconds` end the supervisor; 0 or more, default 3. */
  maxRestarts?: number;
  /** Seconds, more than 0; default 5. */
  maxSeconds?: number;
  /** Default: restarts do not wait. */
  backoff?: Backoff;
  /** Gets the lines of its programs, and what becomes of its children; default: the console. Nested ones inherit it. */
  log?: Log;
}

/** A child as it is now. */
export interface Child {
  /** Its name among its siblings. */
  id: string;
  /** What it is. */
  kind: "program" | "server" | "supervisor";
  /** When it is started again. */
  restart: Restart;
  /** `stopped`: it has ended and is not to be restarted, or was terminated. */
  state: "starting" | "running" | "stopped";
  /** Of a program that runs. */
  port?: Port;
  /** Of a server that runs. */
  // deno-lint-ignore no-explicit-any -- any server; whereis() finds it with its type
  server?: Server<any, any, any>;
  /** Of a supervisor that runs. */
  supervisor?: Supervisor;
}

/** How many children there are. */
export interface ChildCounts {
  /** All. */
  specs: number;
  /** Those that run. */
  active: number;
  /** Supervisors, whether they run or not. */
  supervisors: number;
  /** All others. */
  workers: number;
}

interface Entry {
  readonly spec: ChildSpec;
  readonly kind: Child["kind"];
  readonly restart: Restart;
  starting: boolean;
  running: (Running & { supervisor?: Supervisor }) | null;
}

const STRATEGIES = ["one_for_one", "one_for_all", "rest_for_one"];
const secret: unique symbol = Symbol("supervisor");

/**
 * Keeps children running. When it ends, however that comes, none of them is left.
 *
 * ```ts
 * import { Supervisor } from "@proton-stream/port";
 * import { assertEquals } from "@std/assert";
 *
 * const lines: string[] = [];
 * await using supervisor = await Supervisor.start({
 *   log: ({ prefix, text }) => lines.push(prefix + text),
 *   children: [
 *     { id: "db", command: "sh", args: ["-c", "echo ready; sleep 1000"], waitFor: { line: /^ready$/ } },
 *     { id: "web", command: "sleep", args: ["1000"], shutdown: 100 },
 *   ],
 * });
 * assertEquals(supervisor.countChildren().active, 2);
 * assertEquals(lines, ["[db] ready"]);
 * ```
 */
export class Supervisor implements AsyncDisposable {
  /** Resolves when it was stopped; rejects with a {@link SupervisorError} when it gave up. */
  readonly ended: Promise<void>;
  readonly #end: Deferred<SupervisorError | null> = deferred();
  readonly #strategy: Strategy;
  readonly #intensity: Intensity;
  readonly #backoff: Backoff | null;
  readonly #place: Place;
  readonly #abort = new AbortController();
  /** In the order of their start. */
  #children: Entry[] = [];
  /** What is done to children is done one after the other. */
  #last: Promise<unknown> = Promise.resolve();
  #stopping: Promise<void> | null = null;
  #told = false;

  /** Supervisors come from {@link Supervisor.start} only. */
  constructor(key: typeof secret, options: SupervisorOptions) {
    if (key !== secret) {
      throw typeError("Cannot make a Supervisor", "its children must be started", "use start()");
    }
    this.#strategy = options.strategy ?? "one_for_one";
    this.#intensity = new Intensity(options.maxRestarts ?? 3, options.maxSeconds ?? 5);
    this.#backoff = options.backoff ?? null;
    const { signal } = this.#abort;
    this.#place = { owner: new Holder(), log: options.log ?? toConsole, signal };
    this.ended = this.#end.promise.then((error) => {
      if (error !== null) throw error;
    });
  }

  /**
   * Starts a supervisor and its children. Resolves when the last one is ready.
   *
   * @throws {SupervisorError} (ESTART) where one does not start: what kept it is the `cause`, and those before it
   * are ended in reverse order.
   * @throws {TypeError} or {RangeError} for what cannot be meant; nothing was started.
   */
  static async start(options: SupervisorOptions = {}): Promise<Supervisor> {
    checkSupervisor(options);
    const supervisor = new Supervisor(secret, options);
    await supervisor.#begin(options);
    return supervisor;
  }

  async #begin({ children = [] }: SupervisorOptions): Promise<void> {
    this.#children = children.map(entryOf);
    try {
      await this.#serial(() => this.#startAll(this.#children));
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  /**
   * A program that is nothing but its supervisor: starts it and stays until
   * SIGINT, SIGTERM or SIGHUP; then ends the children in reverse order and
   * this process by the same signal (as process 1: with code 128 + its
   * number). A second signal ends the children at once.
   *
   * @throws {SupervisorError} where a start fails or it gives up.
   */
  static async run(options: SupervisorOptions = {}): Promise<void> {
    checkSupervisor(options);
    const supervisor = new Supervisor(secret, options);
    const body = async () => {
      await supervisor.#begin(options);
      await supervisor.ended;
    };
    await runUntilSignal(body, (nth) => {
      const ended = nth === 1 ? supervisor.stop() : supervisor.kill();
      ended.catch(() => {}); // body throws it
    });
  }

  /**
   * Ends the children in reverse order, each by its `shutdown`. Resolves when
   * the last one is gone. A second call returns the first's promise.
   *
   * @throws {SupervisorError} (ESHUTDOWN) naming what could not be ended, once all others are.
   */
  stop(): Promise<void> {
    this.#told = true;
    return this.#stopping ??= this.#shutDown(null);
  }

  /** Ends all children at once, by SIGKILL, also where a `shutdown` is running. */
  async kill(): Promise<void> {
    this.#told = true;
    this.#abort.abort();
    await Promise.allSettled(this.#children.map(({ running }) => running?.stop("brutalKill")));
    await this.stop();
  }

  /** As {@link Supervisor.stop}; one that gave up has told whom it had to tell. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  // ---- children by name

  /** All children, in the order of their start. */
  whichChildren(): Child[] {
    return this.#children.map(childOf);
  }

  /** The child of that id; null where there is none. */
  child(id: string): Child | null {
    const entry = this.#find(id);
    return entry === undefined ? null : childOf(entry);
  }

  /** How many there are. */
  countChildren(): ChildCounts {
    const count = (is: (entry: Entry) => boolean) => this.#children.filter(is).length;
    const supervisors = count(({ kind }) => kind === "supervisor");
    const specs = this.#children.length;
    const active = count(({ running }) => running !== null);
    return { specs, active, supervisors, workers: specs - supervisors };
  }

  /**
   * Starts one more child, behind all others. Resolves when it is ready.
   *
   * @throws {SupervisorError} where the id is taken (EEXIST) or it does not start (ESTART): it is then no child.
   */
  async startChild(spec: ChildSpec): Promise<Child> {
    checkNested(spec);
    return await this.#live("start", async () => {
      if (this.#find(spec.id) !== undefined) {
        throw refused("start", spec.id, "there is one of this id", "EEXIST", "give another id");
      }
      const entry = entryOf(spec);
      this.#children.push(entry);
      await this.#startOne(entry).catch((error) => {
        this.#remove(entry);
        throw error;
      });
      return childOf(entry);
    });
  }

  /**
   * Ends a child; it is not restarted, and a temporary one is no child any more.
   *
   * @throws {SupervisorError} where there is none (ENOENT), or it cannot be ended (ESHUTDOWN).
   */
  async terminateChild(id: string): Promise<void> {
    await this.#live("terminate", () => this.#terminate([this.#mustFind("terminate", id)]));
  }

  /**
   * Starts a child that was terminated or has ended.
   *
   * @throws {SupervisorError} where there is none (ENOENT), it runs (EBUSY) or does not start (ESTART).
   */
  async restartChild(id: string): Promise<Child> {
    return await this.#live("restart", async () => {
      const entry = this.#stopped("restart", id);
      await this.#startOne(entry);
      return childOf(entry);
    });
  }

  /**
   * Forgets a child that was terminated or has ended.
   *
   * @throws {SupervisorError} where there is none (ENOENT), or it runs (EBUSY).
   */
  async deleteChild(id: string): Promise<void> {
    await this.#live("delete", () => {
      this.#remove(this.#stopped("delete", id));
      return Promise.resolve();
    });
  }

  #find(id: string): Entry | undefined {
    return this.#children.find(({ spec }) => spec.id === id);
  }

  #mustFind(doing: string, id: string): Entry {
    const entry = this.#find(id);
    if (entry !== undefined) return entry;
    throw refused(doing, id, "there is none of this id", "ENOENT", "look at whichChildren()");
  }

  #stopped(doing: string, id: string): Entry {
    const entry = this.#mustFind(doing, id);
    if (entry.running === null) return entry;
    throw refused(doing, id, "it runs", "EBUSY", "terminate it first");
  }

  #remove(entry: Entry): void {
    this.#children = this.#children.filter((other) => other !== entry);
  }

  /** As `#serial`, while the supervisor is not ending. */
  async #live<T>(doing: string, work: () => Promise<T>): Promise<T> {
    return await this.#serial(() => {
      if (!this.#abort.signal.aborted) return work();
      throw new ClosedError({
        what: `Cannot ${doing} a child`,
        why: "its supervisor has ended, or is ending",
        code: "ECLOSED",
        mend: "start another supervisor",
        op: doing,
        subject: "supervisor",
      });
    });
  }

  #serial<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work);
    this.#last = done.catch(() => {});
    return done;
  }

  // ---- start and end

  async #startAll(entries: readonly Entry[]): Promise<void> {
    for (const entry of entries) await this.#startOne(entry);
  }

  async #startOne(entry: Entry): Promise<void> {
    entry.starting = true;
    try {
      if (this.#abort.signal.aborted) throw new Error("its supervisor is ending");
      const running = await this.#start(entry.spec);
      entry.running = running;
      void running.ended.then((end) => this.#serial(() => this.#ended(entry, running, end)));
    } catch (cause) {
      const { id } = entry.spec;
      const why = cause instanceof Error ? cause.message : String(cause);
      throw refused("start", id, why, "ESTART", "look at the cause", cause);
    } finally {
      entry.starting = false;
    }
  }

  #start(spec: ChildSpec): Promise<NonNullable<Entry["running"]>> {
    if ("command" in spec) return startProgram(spec, this.#place);
    return "server" in spec ? startServer(spec, this.#place) : this.#startNested(spec);
  }

  async #startNested(
    { supervisor: options }: NestedSpec<SupervisorOptions>,
  ): Promise<NonNullable<Entry["running"]>> {
    const { log, signal } = this.#place;
    const nested = new Supervisor(secret, { log, ...options });
    const stop = () => void nested.stop().catch(() => {}); // what keeps it is told by its start
    signal.addEventListener("abort", stop);
    await nested.#begin(options).finally(() => signal.removeEventListener("abort", stop));
    const ended = nested.ended.then(
      () => ({ normal: true, reason: "shutdown" }),
      (reason) => ({ normal: false, reason }),
    );
    return { supervisor: nested, ended, stop: (how) => nested.#stopWithin(how) };
  }

  async #stopWithin(how: number | "brutalKill" | undefined): Promise<void> {
    if (how === "brutalKill") return await this.kill();
    const kill = () => void this.kill().catch(() => {}); // stop() below tells it
    const timer = how === undefined ? undefined : setTimeout(kill, how);
    await this.stop().finally(() => clearTimeout(timer));
  }

  /** Ends those that run, the last one first. */
  async #terminate(entries: readonly Entry[]): Promise<void> {
    const errors: unknown[] = [];
    for (const entry of [...entries].reverse()) {
      await entry.running?.stop(entry.spec.shutdown).catch((error) => errors.push(error));
      entry.running = null; // its end is no news any more
      if (entry.restart === "temporary") this.#remove(entry);
    }
    if (errors.length === 0) return;
    const others = errors.length === 1 ? "" : `; and ${errors.length - 1} more`;
    const why = `${inWords(errors[0])}${others}`;
    const cause = errors.length === 1 ? errors[0] : new AggregateError(errors, why);
    throw refused("end", "its children", why, "ESHUTDOWN", "look at the cause", cause);
  }

  async #shutDown(error: SupervisorError | null): Promise<void> {
    this.#abort.abort();
    const failed = await this.#serial(() => this.#terminate(this.#children)).catch((e) => e);
    await this.#place.owner[Symbol.asyncDispose]();
    const end = error ?? failed ?? null;
    if (this.#told) this.ended.catch(() => {});
    this.#end.resolve(end);
    if (failed !== undefined) throw failed;
  }

  // ---- restarts

  async #ended(entry: Entry, running: Running, { normal, reason }: End): Promise<void> {
    if (entry.running !== running || this.#abort.signal.aborted) return;
    entry.running = null;
    if (wantsRestart(entry.restart, normal)) return await this.#restart(entry, reason);
    if (entry.restart === "temporary") this.#remove(entry);
    this.#say(entry, normal ? "info" : "error", `ended (${inWords(reason)})`);
  }

  async #restart(first: Entry, reason: unknown): Promise<void> {
    for (let [failed, why] = [first, reason];;) {
      if (!this.#intensity.add(performance.now())) return this.#giveUp(failed, why);
      const nth = this.#intensity.count;
      const ms = backoffMs(this.#backoff, nth, Math.random());
      const later = ms === 0 ? "" : ` in ${ms} ms`;
      this.#say(failed, "error", `ended (${inWords(why)}), is restarted${later}`);
      if (ms > 0) await this.#pause(ms);
      if (this.#abort.signal.aborted) return;
      const group = affected(this.#strategy, this.#children, failed);
      try {
        await this.#terminate(group);
        await this.#startAll(group.filter((entry) => this.#children.includes(entry)));
        return;
      } catch (error) {
        if (this.#abort.signal.aborted) return;
        failed = this.#find((error as SupervisorError).subject) ?? failed;
        why = error;
      }
    }
  }

  /** Shorter where the supervisor is ending. */
  async #pause(ms: number): Promise<void> {
    const { signal } = this.#abort;
    const over = deferred<void>();
    const timer = setTimeout(over.resolve, ms);
    signal.addEventListener("abort", () => over.resolve(), { once: true });
    await over.promise;
    clearTimeout(timer);
  }

  /** Behind the restart that calls it. */
  #giveUp(entry: Entry, reason: unknown): void {
    this.#say(entry, "error", `ended (${inWords(reason)}), which is once too often`);
    const why = `it ended too often: ${inWords(reason)}`;
    const error = refused("keep", entry.spec.id, why, "EINTENSITY", "look at the cause", reason);
    // What could not be ended is told by those who ask for it; this is why it had to.
    (this.#stopping ??= this.#shutDown(error)).catch(() => {});
  }

  #say({ spec: { id } }: Entry, level: "info" | "error", text: string): void {
    const prefix = `[${id}] `;
    tellLog(this.#place.log, { id, stream: "supervisor", level, prefix, text, truncated: false });
  }
}

function entryOf(spec: ChildSpec): Entry {
  const kind = "command" in spec ? "program" : "server" in spec ? "server" : "supervisor";
  return { spec, kind, restart: spec.restart ?? "permanent", starting: false, running: null };
}

function childOf({ spec: { id }, kind, restart, starting, running }: Entry): Child {
  const state = running !== null ? "running" : starting ? "starting" : "stopped";
  const { port, server, supervisor } = running ?? {};
  return {
    ...{ id, kind, restart, state },
    ...(port === undefined ? {} : { port }),
    ...(server === undefined ? {} : { server }),
    ...(supervisor === undefined ? {} : { supervisor }),
  };
}

function refused(
  doing: string,
  id: string,
  why: string,
  code: string,
  mend: string,
  cause?: unknown,
): SupervisorError {
  const what = `Cannot ${doing} the child ${quote(id)}`;
  const lastOutput = cause instanceof SupervisorError ? cause.lastOutput : null;
  const fault = { what, why, code, mend, op: doing, subject: id, lastOutput };
  return new SupervisorError(cause === undefined ? fault : { ...fault, cause });
}

// ---- checks

const KNOWN = ["children", "strategy", "maxRestarts", "maxSeconds", "backoff", "log"];

/** Refuses what is no supervisor, before anything of it starts. */
function checkSupervisor(options: unknown): void {
  const what = "Cannot use a supervisor";
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    throw typeError(what, "its options are no object", "give { children }");
  }
  refuseUnknown(what, options, KNOWN);
  const { strategy, maxRestarts, maxSeconds, backoff, log, children = [] } =
    options as SupervisorOptions;
  if (strategy !== undefined && !STRATEGIES.includes(strategy)) {
    const mend = `give ${STRATEGIES.join(", ")}`;
    throw typeError(what, `its strategy is ${quote(String(strategy))}`, mend);
  }
  if (maxRestarts !== undefined && (!Number.isInteger(maxRestarts) || maxRestarts < 0)) {
    throw rangeError(what, `maxRestarts is ${maxRestarts}`, "give a whole number, 0 or more");
  }
  if (maxSeconds !== undefined && !(maxSeconds > 0)) {
    throw rangeError(what, `maxSeconds is ${maxSeconds}`, "give a number above 0");
  }
  if (log !== undefined && typeof log !== "function") {
    throw typeError(what, "log is no function", "give one that takes a line");
  }
  if (backoff !== undefined) checkBackoff(what, backoff);
  if (!Array.isArray(children)) throw typeError(what, "children is no array", "give an array");
  const ids = new Set<string>();
  for (const child of children as readonly ChildSpec[]) {
    checkNested(child);
    if (ids.has(child.id)) {
      throw typeError(what, `two children have the id ${quote(child.id)}`, "give each its own");
    }
    ids.add(child.id);
  }
}

function checkNested(spec: ChildSpec): void {
  if (checkChild(spec) !== "supervisor") return;
  checkSupervisor((spec as NestedSpec<SupervisorOptions>).supervisor);
}

function checkBackoff(what: string, backoff: Backoff): void {
  if (typeof backoff !== "object" || backoff === null) {
    throw typeError(what, "backoff is no object", "give { minMs }");
  }
  refuseUnknown(`${what}'s backoff`, backoff, ["minMs", "maxMs", "factor", "jitter"]);
  const { minMs, maxMs, factor = 1, jitter = 0 } = backoff;
  checkMs("minMs of backoff", minMs);
  if (maxMs !== undefined) checkMs("maxMs of backoff", maxMs);
  if (factor >= 1 && factor < Infinity && jitter >= 0 && jitter <= 1) return;
  const is = `its factor is ${factor}, its jitter ${jitter}`;
  throw rangeError(what, is, "give a factor of 1 or more, a jitter from 0 to 1");
}
