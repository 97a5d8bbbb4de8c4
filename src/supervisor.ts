// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Supervisors: children that are started in order, restarted by a strategy,
 * and ended in the reverse order.
 *
 * @module
 */

import {
  type End,
  inWords,
  type Place,
  type Running,
  startProgram,
  startServer,
} from "./children.ts";
import { ClosedError, SupervisorError, SurvivorsError, typeError } from "./errors.ts";
import { type Entry, Family, refused } from "./family.ts";
import { Holder } from "./inbox.ts";
import { tellLog, toConsole } from "./logging.ts";
import { runUntilSignal } from "./native/signals.ts";
import type { Port } from "./port.ts";
import { affected, type Backoff, backoffMs, Intensity, type Restart } from "./restart.ts";
import { type Strategy, wantsRestart } from "./restart.ts";
import type { Server } from "./server.ts";
import { checkNested, checkSupervisor } from "./spec_checks.ts";
import type { ChildSpec, NestedSpec, SupervisorOptions } from "./specs.ts";
import { type Deferred, deferred } from "./streams.ts";
import { Waits } from "./waits.ts";

/** A child as it is now. */
export interface Child {
  /** Its name among its siblings. */
  id: string;
  /** What it is. */
  kind: "program" | "server" | "supervisor";
  /** When it is started again. */
  restart: Restart;
  /**
   * `restarting`: it has ended, and its restart waits for its time.
   * `stopped`: it has ended and is not to be restarted, or was terminated.
   */
  state: "starting" | "running" | "restarting" | "stopped";
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

type Run = Running & { supervisor?: Supervisor };
type Member = Entry<Run>;

/** A restart that was not done. */
interface Failed {
  /** Who has kept it from being done, and how. */
  failed: Member;
  why: unknown;
  /** With whom it is begun anew. */
  from: Member;
}

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
  /** Who has run for longer than so many milliseconds has recovered. */
  readonly #healthyMs: number;
  readonly #place: Place;
  readonly #abort = new AbortController();
  readonly #killed = new AbortController();
  readonly #waits: Waits<Member> = new Waits(
    (one, other) => affected(this.#strategy, this.#family.all, one).includes(other),
    (entry) => void this.#serial(() => this.#due(entry)),
  );
  readonly #family: Family<Run>;
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
    this.#healthyMs = (options.maxSeconds ?? 5) * 1_000;
    const [{ signal }, { signal: killed }] = [this.#abort, this.#killed];
    this.#place = { owner: new Holder(), log: options.log ?? toConsole, signal, killed };
    this.#family = new Family({
      place: this.#place,
      start: (spec, place) => this.#start(spec, place),
      ended: (...end) => void this.#serial(() => this.#ended(...end)),
    });
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
    for (const child of children) this.#family.add(child);
    try {
      await this.#serial(() => this.#family.startAll(this.#family.all));
    } catch (error) {
      const second = await this.stop().then(() => null, (second: Error) => second);
      if (second === null) throw error;
      const { message, subject } = error as SupervisorError;
      const why = `${message}; and ${second.message}`;
      const both = new AggregateError([error, second], why);
      throw refused("start", subject, why, "ESTART", "look at the causes", both);
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

  /** Ends all children at once, by SIGKILL, also where a `shutdown` is running or one is being started. */
  async kill(): Promise<void> {
    this.#told = true;
    this.#abort.abort();
    this.#killed.abort(); // for those that start
    await Promise.allSettled(this.#family.all.map(({ running }) => running?.stop("brutalKill")));
    await this.stop();
  }

  /** As {@link Supervisor.stop}; one that gave up has told whom it had to tell. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  // ---- children by name

  /** All children, in the order of their start. */
  whichChildren(): Child[] {
    return this.#family.all.map((entry) => this.#shown(entry));
  }

  /** The child of that id; null where there is none. */
  child(id: string): Child | null {
    const entry = this.#family.find(id);
    return entry === undefined ? null : this.#shown(entry);
  }

  /** How many there are. */
  countChildren(): ChildCounts {
    const count = (is: (entry: Member) => boolean) => this.#family.all.filter(is).length;
    const supervisors = count(({ kind }) => kind === "supervisor");
    const specs = this.#family.all.length;
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
      if (this.#family.find(spec.id) !== undefined) {
        throw refused("start", spec.id, "there is one of this id", "EEXIST", "give another id");
      }
      const entry = this.#family.add(spec);
      await this.#family.startOne(entry).catch((error) => {
        this.#family.remove(entry);
        throw error;
      });
      return this.#shown(entry);
    });
  }

  /**
   * Ends a child, its wait for a restart, or a start that is under way, which is given up after its `shutdown`. Its
   * end is no reason to restart it or another, and a temporary one is no child any more. A restart of its siblings
   * (`one_for_all`, `rest_for_one`) starts it again, as in OTP: {@link Supervisor.deleteChild} keeps it away.
   *
   * @throws {SupervisorError} where there is none (ENOENT), or it cannot be ended (ESHUTDOWN).
   */
  async terminateChild(id: string): Promise<void> {
    const starting = this.#family.find(id);
    const calledOff = starting?.starting ?? null;
    calledOff?.abort();
    await this.#live("terminate", async () => {
      // What startChild() could not start is no child.
      if (calledOff !== null && !this.#family.all.some((entry) => entry === starting)) return;
      const entry = this.#family.mustFind("terminate", id);
      entry.terminated = true;
      this.#waits.cancel(entry);
      await this.#family.terminate([entry]);
    });
  }

  /**
   * Starts a child that was terminated or has ended.
   *
   * @throws {SupervisorError} where there is none (ENOENT), it runs or is to be restarted (EBUSY), or does not
   * start (ESTART).
   */
  async restartChild(id: string): Promise<Child> {
    return await this.#live("restart", async () => {
      const entry = this.#stopped("restart", id);
      await this.#family.startOne(entry);
      return this.#shown(entry);
    });
  }

  /**
   * Forgets a child that was terminated or has ended, also where a restart of its siblings has tried to start it since.
   *
   * @throws {SupervisorError} where there is none (ENOENT), or it runs or is to be restarted (EBUSY).
   */
  async deleteChild(id: string): Promise<void> {
    await this.#live("delete", () => {
      const found = this.#family.find(id);
      const unwanted = found?.terminated === true && found.running === null;
      const entry = unwanted ? found : this.#stopped("delete", id);
      this.#family.remove(entry);
      this.#waits.cancel(entry);
      return Promise.resolve();
    });
  }

  #shown(entry: Member): Child {
    const { spec: { id }, kind, restart, starting, running } = entry;
    const { port, server, supervisor } = running ?? {};
    const waits = this.#waits.has(entry) ? "restarting" : "stopped";
    return {
      ...{ id, kind, restart },
      state: running !== null ? "running" : starting !== null ? "starting" : waits,
      ...(port === undefined ? {} : { port }),
      ...(server === undefined ? {} : { server }),
      ...(supervisor === undefined ? {} : { supervisor }),
    };
  }

  #stopped(doing: string, id: string): Member {
    const entry = this.#family.mustFind(doing, id);
    const waits = this.#waits.has(entry);
    if (entry.running === null && !waits) return entry;
    const why = waits ? "it is to be restarted" : "it runs";
    throw refused(doing, id, why, "EBUSY", "terminate it first");
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

  #start(spec: ChildSpec, place: Place): Promise<Run> {
    if ("command" in spec) return startProgram(spec, place);
    return "server" in spec ? startServer(spec, place) : this.#startNested(spec, place);
  }

  async #startNested(
    { supervisor: options, shutdown }: NestedSpec,
    { log, signal, killed }: Place,
  ): Promise<Run> {
    const nested = new Supervisor(secret, { ...options, log: options.log ?? log });
    // What keeps it from its end is told by its start.
    const stop = () => void nested.#stopWithin(shutdown).catch(() => {});
    const kill = () => void nested.kill().catch(() => {});
    signal.addEventListener("abort", stop);
    killed.addEventListener("abort", kill);
    await nested.#begin(options).finally(() => {
      signal.removeEventListener("abort", stop);
      killed.removeEventListener("abort", kill);
    });
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

  async #shutDown(error: SupervisorError | null): Promise<void> {
    this.#abort.abort();
    this.#waits.clear();
    const failed = await this.#serial(() => this.#family.terminate(this.#family.all)).catch((e) =>
      e
    );
    await this.#place.owner[Symbol.asyncDispose]();
    const end = error ?? failed ?? null;
    if (this.#told) this.ended.catch(() => {});
    this.#end.resolve(end);
    if (failed !== undefined) throw failed;
  }

  // ---- restarts

  async #ended(entry: Member, running: Running, { normal, reason }: End): Promise<void> {
    if (entry.running !== running || this.#abort.signal.aborted) return;
    entry.running = null;
    if (wantsRestart(entry.restart, normal)) {
      return await this.#restart({ failed: entry, why: reason, from: entry });
    }
    if (entry.restart === "temporary") this.#family.remove(entry);
    this.#say(entry, normal ? "info" : "error", `ended (${inWords(reason)})`);
  }

  /** At once, or when its time has come; until it is there, or it was tried too often. */
  async #restart({ failed, why, from }: Failed): Promise<void> {
    for (;;) {
      if (!this.#intensity.add(performance.now())) return this.#giveUp(failed, why);
      const ms = backoffMs(this.#backoff, this.#restartsOf(from), Math.random());
      const later = ms === 0 ? "" : ` in ${ms} ms`;
      this.#say(failed, "error", `ended (${inWords(why)}), is restarted${later}`);
      if (ms > 0) return this.#waits.begin(from, ms);
      const again = await this.#startAgain(from);
      if (again === null) return;
      ({ failed, why, from } = again);
    }
  }

  /** Counts one more; from the beginning where it has recovered in between. */
  #restartsOf(entry: Member): number {
    const recovered = entry.since !== null && performance.now() - entry.since > this.#healthyMs;
    entry.since = null;
    return entry.restarts = recovered ? 1 : entry.restarts + 1;
  }

  /** The time of one that waited has come; meanwhile it may be wanted no more, or brought along by another. */
  async #due(entry: Member): Promise<void> {
    if (!this.#waits.ready(entry) || this.#abort.signal.aborted) return;
    const again = await this.#startAgain(entry);
    if (again !== null) await this.#restart(again);
  }

  /** Ends and starts all that is restarted with it. Returns who kept that from being done. */
  async #startAgain(first: Member): Promise<Failed | null> {
    const group = affected(this.#strategy, this.#family.all, first);
    for (const entry of group) this.#waits.cancel(entry);
    const left = () => group.filter((entry) => this.#family.all.includes(entry));
    try {
      await this.#endSiblings(group);
      await this.#family.startAll(left());
      return null;
    } catch (why) {
      if (this.#abort.signal.aborted) return null;
      const failed = this.#family.find((why as SupervisorError).subject) ?? first;
      // The restart of the first that does not run is one of all others, unless it is wanted no more.
      const [from = first, ...others] = left().filter((entry) => entry.running === null);
      for (const entry of others) this.#waits.along(entry);
      return { failed, why, from };
    }
  }

  /** What goes wrong at the end of one that is gone all the same keeps nobody from being started. */
  async #endSiblings(group: readonly Member[]): Promise<void> {
    for (const { entry, error } of await this.#family.endAll(group)) {
      if (survived(error)) {
        const why = inWords(error);
        throw refused("end", entry.spec.id, why, "ESHUTDOWN", "look at the cause", error);
      }
      this.#say(entry, "error", `was ended for a restart, and failed at that (${inWords(error)})`);
    }
  }

  /** Behind the restart that calls it. */
  #giveUp(entry: Member, reason: unknown): void {
    this.#say(entry, "error", `ended (${inWords(reason)}), which is once too often`);
    const why = `it ended too often: ${inWords(reason)}`;
    const error = refused("keep", entry.spec.id, why, "EINTENSITY", "look at the cause", reason);
    // What could not be ended is told by those who ask for it; this is why it had to.
    (this.#stopping ??= this.#shutDown(error)).catch(() => {});
  }

  #say({ spec: { id } }: Member, level: "info" | "error", text: string): void {
    const prefix = `[${id}] `;
    tellLog(this.#place.log, { id, stream: "supervisor", level, prefix, text, truncated: false });
  }
}

/** Somebody is still there. */
function survived(error: unknown): boolean {
  if (error instanceof SurvivorsError) return true;
  if (error instanceof AggregateError) return error.errors.some(survived);
  return error instanceof Error && error.cause !== undefined && survived(error.cause);
}
