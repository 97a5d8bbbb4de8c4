// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Refuses what is no supervisor and what is no child, before anything starts.
 *
 * @module
 */

import { checkMs } from "./callbacks.ts";
import { kind as kindOf } from "./checks.ts";
import { nearest, quote, rangeError, typeError } from "./errors.ts";
import { type OpenOptions, validate } from "./options.ts";
import { checkWaitFor } from "./readiness.ts";
import type { Backoff } from "./restart.ts";
import type { ChildSpec, NestedSpec, SupervisorOptions } from "./specs.ts";

const STRATEGIES: readonly unknown[] = ["one_for_one", "one_for_all", "rest_for_one"];
const RESTARTS: readonly unknown[] = ["permanent", "transient", "temporary"];
const OUTPUTS: readonly unknown[] = ["log", "drop", "keep"];
const LEVELS: readonly unknown[] = ["debug", "info", "warn", "error"];
const KNOWN: Readonly<Record<"program" | "server" | "supervisor", readonly string[]>> = {
  program: ["command", "args", "options", "output", "prefix", "levels", "waitFor"],
  server: ["server", "waitFor"],
  supervisor: ["supervisor"],
};

/**
 * Refuses what is no child; a nested supervisor's own options are not looked at.
 *
 * @throws {TypeError} or {RangeError}.
 */
function checkChild(spec: unknown): "program" | "server" | "supervisor" {
  if (typeof spec !== "object" || spec === null) {
    throw typeError("Cannot use a child", "it is no object", "give { id, command }");
  }
  const given = spec as Record<string, unknown>;
  const { id, restart, shutdown, waitFor } = given;
  if (typeof id !== "string" || id === "") {
    throw typeError("Cannot use a child", "it has no id", "give each one a name of its own");
  }
  const what = `Cannot use the child ${quote(id)}`;
  const kinds = (["command", "server", "supervisor"] as const).filter((name) => name in given);
  const [first] = kinds;
  if (first === undefined || kinds.length > 1) {
    const has = kinds.length === 0 ? "nothing to start" : kinds.join(" and ");
    throw typeError(what, `it has ${has}`, "give one of command, server and supervisor");
  }
  const kind = first === "command" ? "program" : first;
  refuseUnknown(what, given, ["id", "restart", "shutdown", ...KNOWN[kind]]);
  oneOf(what, "restart", restart, RESTARTS);
  if (shutdown !== "brutalKill" && shutdown !== undefined) checkMs(`shutdown of ${id}`, shutdown);
  if (kind === "server" && typeof given.server !== "function") {
    throw typeError(what, "server is no function", "give one that calls startLink()");
  }
  if (kind === "program") checkProgram(what, given);
  if (waitFor !== undefined) checkWaitFor(waitFor, kind === "program" && given.output !== "keep");
  return kind;
}

function checkProgram(what: string, given: Record<string, unknown>): void {
  const { command, args, options, output, prefix } = given;
  oneOf(what, "output", output, OUTPUTS);
  checkLevels(what, given.levels);
  if (prefix !== undefined && typeof prefix !== "string") {
    throw typeError(what, `its prefix is ${kindOf(prefix)}`, "give a string");
  }
  validate(command as string, args as string[] | undefined, options as OpenOptions | undefined);
  if ((options as OpenOptions | undefined)?.owner === undefined) return;
  throw typeError(what, "its options name an owner", "leave it out: the supervisor is");
}

function checkLevels(what: string, levels: unknown): void {
  if (levels === undefined) return;
  if (typeof levels !== "object" || levels === null || Array.isArray(levels)) {
    throw typeError(what, `its levels are ${kindOf(levels)}`, "give { stdout, stderr }");
  }
  refuseUnknown(`${what} with levels`, levels, ["stdout", "stderr"]);
  for (const level of Object.values(levels)) oneOf(what, "level", level, LEVELS);
}

function oneOf(what: string, name: string, value: unknown, known: readonly unknown[]): void {
  if (value === undefined || known.includes(value)) return;
  const is = typeof value === "string" ? quote(value) : `a ${typeof value}`;
  throw typeError(what, `its ${name} is ${is}`, `give ${known.map(String).join(", ")}`);
}

const OPTIONS = ["children", "strategy", "maxRestarts", "maxSeconds", "backoff", "log"];

/** Refuses what is no supervisor, before anything of it starts. */
export function checkSupervisor(options: unknown): void {
  const what = "Cannot use a supervisor";
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    throw typeError(what, "its options are no object", "give { children }");
  }
  refuseUnknown(what, options, OPTIONS);
  const { strategy, maxRestarts, maxSeconds, backoff, log, children = [] } =
    options as SupervisorOptions;
  if (strategy !== undefined && !STRATEGIES.includes(strategy)) {
    const mend = `give ${STRATEGIES.join(", ")}`;
    throw typeError(
      what,
      `its strategy is ${typeof strategy === "string" ? quote(strategy) : kindOf(strategy)}`,
      mend,
    );
  }
  const isCount = (n: number) => Number.isInteger(n) && n >= 0;
  checkNumber(what, "maxRestarts", maxRestarts, isCount, "give a whole number, 0 or more");
  checkNumber(what, "maxSeconds", maxSeconds, (n) => n > 0, "give a number above 0");
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

/** Refuses what is no child, a nested supervisor's own children included. */
export function checkNested(spec: ChildSpec): void {
  if (checkChild(spec) !== "supervisor") return;
  checkSupervisor((spec as NestedSpec).supervisor);
}

function checkBackoff(what: string, backoff: Backoff): void {
  if (typeof backoff !== "object" || backoff === null) {
    throw typeError(what, "backoff is no object", "give { minMs }");
  }
  refuseUnknown(`${what}'s backoff`, backoff, ["minMs", "maxMs", "factor", "jitter"]);
  const { minMs, maxMs, factor, jitter } = backoff;
  checkMs("minMs of backoff", minMs);
  if (maxMs !== undefined) checkMs("maxMs of backoff", maxMs);
  const its = `${what}'s backoff`;
  checkNumber(its, "minMs", minMs, (n) => n >= 1, "give whole milliseconds, 1 or more");
  checkNumber(its, "maxMs", maxMs, (n) => n >= minMs, "give no less than minMs");
  checkNumber(its, "factor", factor, (n) => n >= 1 && n < Infinity, "give a number, 1 or more");
  checkNumber(its, "jitter", jitter, (n) => n >= 0 && n <= 1, "give a number from 0 to 1");
}

function checkNumber(
  what: string,
  name: string,
  value: unknown,
  fits: (value: number) => boolean,
  mend: string,
): void {
  if (value === undefined) return;
  if (typeof value !== "number") throw typeError(what, `its ${name} is ${kindOf(value)}`, mend);
  if (!fits(value)) throw rangeError(what, `its ${name} is ${value}`, mend);
}

function refuseUnknown(what: string, given: object, known: readonly string[]): void {
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue;
    const meant = nearest(name, known);
    const mend = meant === null
      ? `the known ones are ${known.join(", ")}`
      : `did you mean ${meant}?`;
    throw typeError(what, `nobody knows its ${quote(name)}`, mend);
  }
}
