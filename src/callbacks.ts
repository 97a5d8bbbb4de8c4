// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What a server's module is made of: its callbacks, what they may answer, and
 * the check that refuses anything else.
 *
 * @module
 */

import { editDistance, quote, rangeError, typeError } from "./errors.ts";
import type { Port } from "./port.ts";
import type { ExitReason, ExitStatus } from "./status.ts";

/** A value, or what `await` would wait for. */
export type Awaitable<T> = T | PromiseLike<T>;

/** The server goes on with `state`. */
export interface Next<State> {
  /** What the next callback is given. */
  state: State;
  /**
   * Milliseconds without any message after which `handleInfo` is told
   * `{ type: "timeout" }`, 0 or more; default: never.
   */
  timeoutMs?: number;
  /** Handed to `handleContinue` before any other message. */
  continue?: unknown;
}

/** The server answers its caller and goes on with `state`. */
export interface Answer<State, Reply> extends Next<State> {
  /** What `call` resolves with. */
  reply: Reply;
}

/** The server ends, for the reason `stop`, after `terminate(stop, state)`. */
export interface Stop<State> {
  /** Why: `"normal"`, `"shutdown"` and `"handedOn"` are no errors. */
  stop: unknown;
  /** What `terminate` is given. */
  state: State;
}

/** What a module's `init` may answer. `ignore` and `stop` start nothing. */
export type Init<State> = Next<State> | { stop: unknown } | { ignore: true };

/** What `handleInfo` is told when `timeoutMs` have passed without a message. */
export interface Timeout {
  /** Always this. */
  type: "timeout";
}

/** The caller that waits for an answer. */
export interface From<Reply> {
  /** Answers now or later, once: for a `handleCall` that gives no `reply`. More answers have no effect. */
  reply(value: Reply): void;
}

/** A server as its own callbacks see it. */
export interface Self {
  /**
   * Its program. Once it is given to another owner (`connect`, `transfer`) the server stops, behind what it has
   * been told until then, for the reason `"handedOn"`.
   *
   * @throws {ClosedError} in a `terminate` after the program could not be started.
   */
  readonly port: Port;
  /** The name it is registered under; null where it has none. */
  readonly name: string | null;
  /** Puts a message for `handleInfo` behind all that wait. */
  send(message: unknown): void;
}

/**
 * A server's callbacks. All but `init` are optional; each may be sync or
 * async; they run one at a time, in the order in which things happened. What
 * the child says is acknowledged when its handler is done: a slow one holds
 * the child back.
 */
export interface Callbacks<State, Arg = undefined, Request = never, Reply = never, Cast = never> {
  /** The first state. The program starts afterwards. */
  init(arg: Arg): Awaitable<Init<State>>;
  /** A chunk of stdout, cut anywhere. Without it, stdout is read to nothing. */
  handleStdout?(
    data: Uint8Array<ArrayBuffer>,
    state: State,
    self: Self,
  ): Awaitable<Next<State> | Stop<State>>;
  /** A chunk of stderr. Without it, stderr is read to nothing. */
  handleStderr?(
    data: Uint8Array<ArrayBuffer>,
    state: State,
    self: Self,
  ): Awaitable<Next<State> | Stop<State>>;
  /** The program has ended, after all of its output. Without it, the server stops for that reason. */
  handleExit?(
    reason: ExitReason,
    state: State,
    self: Self,
    status: ExitStatus,
  ): Awaitable<Next<State> | Stop<State>>;
  /** A `call`. Without `reply` the caller waits for `from.reply()`. */
  handleCall?(
    request: Request,
    from: From<Reply>,
    state: State,
    self: Self,
  ): Awaitable<
    Answer<State, Reply> | Next<State> | Stop<State> | (Stop<State> & { reply: Reply })
  >;
  /** A `cast`. */
  handleCast?(request: Cast, state: State, self: Self): Awaitable<Next<State> | Stop<State>>;
  /** What was sent by `send`, and {@link Timeout}. */
  handleInfo?(message: unknown, state: State, self: Self): Awaitable<Next<State> | Stop<State>>;
  /** What a callback gave as `continue`, before any other message. */
  handleContinue?(value: unknown, state: State, self: Self): Awaitable<Next<State> | Stop<State>>;
  /** The last callback: before the program is ended where that still runs. What it throws is an error of the server. */
  terminate?(reason: unknown, state: State, self: Self): Awaitable<void>;
}

const OPTIONAL = [
  "handleStdout",
  "handleStderr",
  "handleExit",
  "handleCall",
  "handleCast",
  "handleInfo",
  "handleContinue",
  "terminate",
] as const;

/** The callback that is a letter or two away. What else a module has is its own business. */
function misspelt(name: string): string | null {
  const known: readonly string[] = OPTIONAL;
  if (known.includes(name)) return null;
  const near = (one: string) => editDistance(name.toLowerCase(), one.toLowerCase()) <= 2;
  return known.find(near) ?? null;
}

/**
 * Refuses what is no module.
 *
 * @throws {TypeError} without `init`, or where a callback is no function.
 */
export function checkModule(module: unknown): void {
  const what = "Cannot start a server";
  if ((typeof module !== "object" && typeof module !== "function") || module === null) {
    throw typeError(what, "its module is no object", "give an object with init() and callbacks");
  }
  const callbacks = module as Record<string, unknown>;
  if (typeof callbacks.init !== "function") {
    throw typeError(what, "its module has no init()", "give one that returns { state }");
  }
  for (const name of Object.keys(callbacks)) {
    const meant = misspelt(name);
    if (meant === null) continue;
    throw typeError(
      what,
      `its module has ${name}(), which nobody calls`,
      `did you mean ${meant}()?`,
    );
  }
  for (const name of OPTIONAL) {
    if (callbacks[name] === undefined || typeof callbacks[name] === "function") continue;
    throw typeError(what, `${name} is no function`, "give a function, or leave it out");
  }
}

/** What any callback may have answered, once it is known to be an answer. */
export interface Outcome<State> {
  state: State;
  stop?: unknown;
  reply?: unknown;
  timeoutMs?: number;
  continue?: unknown;
}

const NEXT = "return { state } or { stop, state }";

/**
 * Refuses what is no answer of a callback.
 *
 * @throws {TypeError} or {RangeError} that names the callback.
 */
export function checkOutcome<State>(callback: string, answer: unknown): Outcome<State> {
  if (typeof answer !== "object" || answer === null) {
    throw typeError(`Cannot go on after ${callback}()`, `it returned ${kind(answer)}`, NEXT);
  }
  for (const name in answer) {
    if (!isKnown(name, callback)) {
      throw typeError(
        `Cannot go on after ${callback}()`,
        `nobody knows what ${quote(name)} means in its answer`,
        NEXT,
      );
    }
  }
  if (!("state" in answer)) {
    throw typeError(`Cannot go on after ${callback}()`, "its answer has no state", NEXT);
  }
  const outcome = answer as Outcome<State>;
  if (outcome.timeoutMs !== undefined) checkMs(`timeoutMs of ${callback}()`, outcome.timeoutMs);
  return outcome;
}

function isKnown(name: string, callback: string): boolean {
  if (name === "state") return true;
  if (name === "reply") return callback === "handleCall";
  return name === "stop" || name === "timeoutMs" || name === "continue";
}

/**
 * Refuses an answer that asks for a callback which the module has not.
 *
 * @throws {TypeError} that names both.
 */
export function checkNext(
  callback: string,
  { timeoutMs, continue: value }: Outcome<unknown>,
  module: { handleInfo?: unknown; handleContinue?: unknown },
): void {
  if (timeoutMs !== undefined && module.handleInfo === undefined) {
    throw lacking(callback, "timeoutMs", "handleInfo");
  }
  if (value !== undefined && module.handleContinue === undefined) {
    throw lacking(callback, "continue", "handleContinue");
  }
}

function lacking(callback: string, name: string, other: string): TypeError {
  const why = `it gave ${name}, and the module has no ${other}()`;
  return typeError(`Cannot go on after ${callback}()`, why, "give it one");
}

/** As {@link checkOutcome}, for `init`, which may also refuse to start. */
export function checkInit<State>(
  answer: unknown,
): Outcome<State> | { stop: unknown } | { ignore: true } {
  if (typeof answer === "object" && answer !== null) {
    const names = Object.keys(answer);
    if (names.length === 1 && names[0] === "stop") return answer as { stop: unknown };
    if (names.length === 1 && (answer as { ignore?: unknown }).ignore === true) {
      return answer as { ignore: true };
    }
  }
  const outcome = checkOutcome<State>("init", answer);
  if (!("stop" in outcome)) return outcome;
  return { stop: outcome.stop };
}

/** The longest that a timer takes. */
const LONGEST_MS = 2 ** 31 - 1;

/**
 * Refuses what is no number of milliseconds. Infinity, where it is allowed, means never.
 *
 * @throws {RangeError} or {TypeError} that names the option.
 */
export function checkMs(name: string, value: unknown, never?: "or never"): void {
  if (never !== undefined && value === Infinity) return;
  if (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= LONGEST_MS) return;
  const error = typeof value === "number" ? rangeError : typeError;
  const is = typeof value === "number" ? `it is ${value}` : `it is ${kind(value)}`;
  throw error(`Cannot use ${name}`, is, `give whole milliseconds, 0 to ${LONGEST_MS}`);
}

function kind(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  return value === undefined ? "nothing" : `a ${typeof value}`;
}

/** Why a server or a child has ended whose program was given to another owner. */
export const HANDED_ON = "handedOn";

/** Whether a server or program that ends for this reason has done what it was to do. */
export function isNormal(reason: unknown): boolean {
  if (reason === "normal" || reason === "shutdown" || reason === HANDED_ON) return true;
  return typeof reason === "object" && reason !== null &&
    (reason as { kind?: unknown }).kind === "normal";
}

/** Whether `await` would wait for it: any object with a `then`. */
export function isAwaited(answer: unknown): answer is PromiseLike<unknown> {
  return (typeof answer === "object" || typeof answer === "function") && answer !== null &&
    typeof (answer as { then?: unknown }).then === "function";
}
