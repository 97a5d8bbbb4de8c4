// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The children of a supervisor, in the order of their start: each is found by
 * its id, started when the one before is ready, and ended before the one
 * before is.
 *
 * @module
 */

import { type End, inWords, type Place, type Running } from "./children.ts";
import { quote, SupervisorError } from "./errors.ts";
import type { Restart } from "./restart.ts";
import type { ChildSpec } from "./specs.ts";

/** A child; `Run` is what it is while it runs. */
export interface Entry<Run extends Running> {
  readonly spec: ChildSpec;
  readonly kind: "program" | "server" | "supervisor";
  readonly restart: Restart;
  /** By which its start is called off, while there is one. */
  starting: AbortController | null;
  /** Its last start was. */
  calledOff: boolean;
  running: Run | null;
  /** When it began to run (performance.now()), until its end has been dealt with. */
  since: number | null;
  /** How often in a row it was to be restarted. */
  restarts: number;
  /** It was terminated, and has not run since. */
  terminated: boolean;
}

/** What went wrong with whom. */
export interface Wrong<Run extends Running> {
  readonly entry: Entry<Run>;
  readonly error: unknown;
}

/** How children come to be and go. */
export interface Ways<Run extends Running> {
  readonly place: Place;
  start(spec: ChildSpec, place: Place): Promise<Run>;
  /** One has ended, by itself or not. */
  ended(entry: Entry<Run>, running: Run, end: End): void;
}

/** All children of one supervisor. */
export class Family<Run extends Running> {
  readonly #ways: Ways<Run>;
  #all: Entry<Run>[] = [];

  constructor(ways: Ways<Run>) {
    this.#ways = ways;
  }

  get all(): readonly Entry<Run>[] {
    return this.#all;
  }

  /** One more, behind all others; it is not started. */
  add(spec: ChildSpec): Entry<Run> {
    const kind = "command" in spec ? "program" : "server" in spec ? "server" : "supervisor";
    const restart = spec.restart ?? "permanent";
    const entry: Entry<Run> = {
      ...{ spec, kind, restart, starting: null, calledOff: false, running: null },
      ...{ since: null, restarts: 0, terminated: false },
    };
    this.#all.push(entry);
    return entry;
  }

  find(id: string): Entry<Run> | undefined {
    return this.#all.find(({ spec }) => spec.id === id);
  }

  /** @throws {SupervisorError} (ENOENT) where there is none. */
  mustFind(doing: string, id: string): Entry<Run> {
    const entry = this.find(id);
    if (entry !== undefined) return entry;
    throw refused(doing, id, "there is none of this id", "ENOENT", "look at whichChildren()");
  }

  remove(entry: Entry<Run>): void {
    this.#all = this.#all.filter((other) => other !== entry);
  }

  /** One whose start is called off keeps nobody from being started. */
  async startAll(entries: readonly Entry<Run>[]): Promise<void> {
    for (const entry of entries) {
      await this.startOne(entry).catch((error) => {
        if (!entry.calledOff) throw error;
      });
    }
  }

  async startOne(entry: Entry<Run>): Promise<void> {
    const { place } = this.#ways;
    const starting = entry.starting = new AbortController();
    try {
      if (place.signal.aborted) throw new Error("its supervisor is ending");
      const signal = AbortSignal.any([place.signal, starting.signal]);
      const running = await this.#ways.start(entry.spec, { ...place, signal });
      entry.running = running;
      (entry.since = performance.now(), entry.terminated = false);
      void running.ended.then((end) => this.#ways.ended(entry, running, end));
    } catch (cause) {
      const { id } = entry.spec;
      const why = cause instanceof Error ? cause.message : String(cause);
      throw refused("start", id, why, "ESTART", "look at the cause", cause);
    } finally {
      entry.starting = null;
      entry.calledOff = starting.signal.aborted;
    }
  }

  /** Ends those that run, the last one first. Returns what went wrong, and with whom. */
  async endAll(entries: readonly Entry<Run>[]): Promise<Wrong<Run>[]> {
    const wrong: Wrong<Run>[] = [];
    for (const entry of [...entries].reverse()) {
      const how = this.#ways.place.killed.aborted ? "brutalKill" : entry.spec.shutdown;
      await entry.running?.stop(how).catch((error) => wrong.push({ entry, error }));
      entry.running = null; // its end is no news any more
      if (entry.restart === "temporary") this.remove(entry);
    }
    return wrong;
  }

  /** @throws {SupervisorError} (ESHUTDOWN) naming the first that could not be ended well, once all are. */
  async terminate(entries: readonly Entry<Run>[]): Promise<void> {
    const wrong = await this.endAll(entries);
    const [first] = wrong;
    if (first === undefined) return;
    const others = wrong.length === 1 ? "" : `; and ${wrong.length - 1} more`;
    const why = `${inWords(first.error)}${others}`;
    const errors = wrong.map(({ error }) => error);
    const cause = wrong.length === 1 ? first.error : new AggregateError(errors, why);
    throw refused("end", first.entry.spec.id, why, "ESHUTDOWN", "look at the cause", cause);
  }
}

/** A call that a supervisor does not do, or a start or an end that failed. */
export function refused(
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
