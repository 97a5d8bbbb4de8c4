// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What `open` takes: types, units, defaults, and the check that refuses a bad
 * request before anything starts.
 *
 * @module
 */

import { nearest, quote, rangeError, typeError } from "./errors.ts";

/** How one of the child's standard streams is joined: to us, to the runtime's own, or to /dev/null. */
export type Stdio = "piped" | "inherit" | "null";

/**
 * Every option of `open`. An option that is `undefined` counts as not given.
 *
 * ```ts
 * import { open } from "@proton-stream/port";
 * import { assertEquals } from "@std/assert";
 *
 * await using port = await open("sh", ["-c", "echo $GREETING"], {
 *   env: { GREETING: "hello" },
 *   stdin: "null",
 *   timeoutMs: 10_000,
 * });
 * assertEquals(await port.text(), "hello\n");
 * ```
 */
export interface OpenOptions {
  /** The working directory; default: the runtime's. A relative command is looked up from here. */
  cwd?: string;
  /** Another name of `cwd`; giving both is a `TypeError`. */
  cd?: string;
  /** Variables laid over the environment; `null` unsets one. */
  env?: Readonly<Record<string, string | null>>;
  /** Starts from an empty environment instead of the runtime's; default false. */
  clearEnv?: boolean;
  /** argv[0]; default: the command as given. */
  arg0?: string;
  /**
   * Bytes of stdout and stderr together that messages may hold before their
   * owner has consumed them, 16 or more; default 10,240.
   */
  stdioWindow?: number;
  /** Default `"piped"`. */
  stdin?: Stdio;
  /** Default `"piped"`. */
  stdout?: Stdio;
  /** Default `"piped"`. */
  stderr?: Stdio;
  /**
   * Milliseconds from SIGTERM to SIGKILL when the tree is ended, 0 (SIGKILL at
   * once) to 2,147,483,647; default 500.
   */
  delayToSigkill?: number;
  /**
   * Milliseconds that descendants which hold stdout or stderr may go on after
   * the child itself has exited, 0 to 2,147,483,647; default: `delayToSigkill`.
   */
  flushMs?: number;
  /**
   * How the tree is ended when its owner ends, the runtime's own death
   * included: as `close` does (`"graceful"`, the default) or by SIGKILL at once.
   */
  onOwnerDeath?: "graceful" | "kill";
  /**
   * Milliseconds that the end of an empty stdout or stderr is awaited after
   * the tree is gone, 0 to 2,147,483,647; default 5,000. Bytes that are in a
   * pipe are always delivered.
   */
  drainTimeoutMs?: number;
  /** Milliseconds after which the tree is ended, 1 to 2,147,483,647; default: never. */
  timeoutMs?: number;
  /** Ends the tree when it aborts. */
  signal?: AbortSignal;
  /** The `Mailbox` that receives the port's messages; default: one of its own. */
  owner?: object;
  /** Bytes that a claimed stream reads ahead of its reader and holds, 0 or more; default 0: what is not asked for stays in the pipe. */
  highWaterMark?: number;
  /** Most bytes that `text()` and `bytes()` take, 0 or more; default 67,108,864 (64 MiB). */
  maxOutputBytes?: number;
  /** Most bytes of one line of `lines()`, 1 or more; default 1,048,576 (1 MiB). */
  maxLineBytes?: number;
  /** How the tree is held together. */
  containment?: ContainmentOptions;
  /** Accepted because the Elixir original has it; without effect in JavaScript. */
  parallelism?: boolean;
}

/** How a tree is to be held together. */
export interface ContainmentOptions {
  /**
   * `"auto"`, the default: in a cgroup v2 directory of its own, below the
   * runtime's own cgroup, where one can be had without moving anybody.
   * `"tree"`: without one; every descendant is followed, as it is in any case.
   */
  kill?: "auto" | "tree";
}

/** A checked request with every default filled in; nothing in it can change any more. */
export interface Spec {
  readonly command: string;
  readonly arg0: string;
  /** The arguments after argv[0]. */
  readonly args: readonly Uint8Array[];
  /** null: the runtime's. */
  readonly cwd: string | null;
  /** null unsets. */
  readonly env: readonly (readonly [name: string, value: string | null])[];
  readonly clearEnv: boolean;
  readonly stdio: readonly [stdin: Stdio, stdout: Stdio, stderr: Stdio];
  readonly graceMs: number;
  readonly flushMs: number;
  readonly killOnOwnerDeath: boolean;
  /** No cgroup is to be made for it. */
  readonly treeOnly: boolean;
  readonly drainTimeoutMs: number;
  /** null: never. */
  readonly timeoutMs: number | null;
  readonly signal: AbortSignal | null;
  /** Whatever was given as owner; null where nothing was. */
  readonly owner: object | null;
  readonly windowBytes: number;
  readonly highWaterMark: number;
  readonly maxOutputBytes: number;
  readonly maxLineBytes: number;
}

/** One entry for each option: the compiler holds it against {@link OpenOptions}. */
const KNOWN: Readonly<Record<keyof OpenOptions, true>> = {
  cwd: true,
  cd: true,
  env: true,
  clearEnv: true,
  arg0: true,
  stdioWindow: true,
  stdin: true,
  stdout: true,
  stderr: true,
  delayToSigkill: true,
  flushMs: true,
  onOwnerDeath: true,
  drainTimeoutMs: true,
  timeoutMs: true,
  signal: true,
  owner: true,
  highWaterMark: true,
  maxOutputBytes: true,
  maxLineBytes: true,
  containment: true,
  parallelism: true,
};

const STDIO = ["piped", "inherit", "null"] as const;
/** The most that a timer takes, in JavaScript and in the kernel alike. */
const LONGEST_MS = 2 ** 31 - 1;

/**
 * Checks a request and fills in the defaults.
 *
 * @throws {TypeError} for an unknown option, a wrong type, a NUL byte, an empty
 * command, or `cwd` and `cd` together.
 * @throws {RangeError} for a number outside its range.
 */
export function validate(
  command: string,
  args: readonly (string | Uint8Array)[] = [],
  options: OpenOptions = {},
): Spec {
  checkText("start a program", "the command", command, "give the program's name or path");
  const given = optionsOf(options);
  flag(given, "parallelism"); // checked, and without effect
  const graceMs = delay(given, "delayToSigkill", 0) ?? 500;
  return Object.freeze({
    command,
    args: argumentsOf(args),
    arg0: text(given, "arg0", "may be empty") ?? command,
    cwd: directory(given),
    env: environment(given.env),
    clearEnv: flag(given, "clearEnv"),
    stdio: stdioOf(given),
    graceMs,
    flushMs: delay(given, "flushMs", 0) ?? graceMs,
    killOnOwnerDeath: choice(given, "onOwnerDeath", ["graceful", "kill"]) === "kill",
    treeOnly: treeOnly(given),
    drainTimeoutMs: delay(given, "drainTimeoutMs", 0) ?? 5_000,
    timeoutMs: delay(given, "timeoutMs", 1) ?? null,
    signal: abortSignal(given),
    owner: owner(given),
    windowBytes: size(given, "stdioWindow", 16) ?? 10_240,
    highWaterMark: size(given, "highWaterMark", 0) ?? 0,
    maxOutputBytes: size(given, "maxOutputBytes", 0) ?? 64 * 2 ** 20,
    maxLineBytes: size(given, "maxLineBytes", 1) ?? 2 ** 20,
  });
}

type Given = Readonly<Partial<Record<keyof OpenOptions, unknown>>>;

function optionsOf(options: unknown): Given {
  if (typeof options !== "object" || options === null) {
    throw typeError("Cannot read the options", `they are ${kind(options)}`, "give an object");
  }
  refuseUnknown("option", options, Object.keys(KNOWN));
  return options;
}

/** Whether `containment` asks for no cgroup. */
function treeOnly(given: Given): boolean {
  const { containment } = given;
  if (containment === undefined) return false;
  if (typeof containment !== "object" || containment === null) {
    throw wrong("containment", kind(containment), 'give an object such as { kill: "tree" }');
  }
  refuseUnknown("containment option", containment, ["kill"]);
  const { kill: how } = containment as { kill?: unknown };
  return oneOf("containment.kill", how, ["auto", "tree"]) === "tree";
}

function refuseUnknown(what: string, given: object, known: readonly string[]): void {
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue;
    const meant = nearest(name, known);
    throw typeError(
      `Cannot use ${what} ${quote(name)}`,
      "there is none of this name",
      meant === null ? `the known ones are ${known.join(", ")}` : `did you mean ${quote(meant)}?`,
    );
  }
}

function argumentsOf(args: unknown): readonly Uint8Array[] {
  if (!Array.isArray(args)) {
    throw typeError("Cannot read the arguments (args)", `they are ${kind(args)}`, "give an array");
  }
  return Object.freeze(Array.from(args, argument));
}

/** A copy, so that what is checked here is what starts. */
function argument(value: unknown, index: number): Uint8Array {
  const [doing, name] = ["pass the arguments", `argument ${index}`];
  if (value instanceof Uint8Array) {
    if (!value.includes(0)) return value.slice();
    throw holdsNul(doing, name);
  }
  checkText(doing, name, value, "give a string or a Uint8Array", "may be empty");
  return new TextEncoder().encode(value);
}

function directory(given: Given): string | null {
  if (given.cwd !== undefined && given.cd !== undefined) {
    throw typeError(
      'Cannot use option "cd"',
      '"cwd" is given too and means the same',
      "give one of them",
    );
  }
  return text(given, "cwd") ?? text(given, "cd") ?? null;
}

function environment(env: unknown): Spec["env"] {
  if (env === undefined) return [];
  // A Map or an array has no own entries by name: it would be an empty environment without a word.
  if (typeof env !== "object" || env === null || Symbol.iterator in env) {
    throw wrong("env", kind(env), "give a plain object of names and values");
  }
  return Object.freeze(Object.entries(env).map(([name, value]) => variable(name, value)));
}

function variable(name: string, value: unknown): readonly [string, string | null] {
  const doing = 'use option "env"';
  checkText(doing, `the name ${quote(name)}`, name, "give every variable a name");
  if (name.includes("=")) {
    throw typeError(`Cannot ${doing}`, `the name ${quote(name)} holds a "="`, "leave it out");
  }
  if (value === null) return [name, null];
  checkText(
    doing,
    `the value of ${quote(name)}`,
    value,
    "give a string, or null to unset it",
    "may be empty",
  );
  return [name, value];
}

function stdioOf(given: Given): Spec["stdio"] {
  const one = (name: "stdin" | "stdout" | "stderr") => choice(given, name, STDIO) ?? "piped";
  return Object.freeze([one("stdin"), one("stdout"), one("stderr")] as const);
}

function abortSignal({ signal }: Given): AbortSignal | null {
  if (signal === undefined) return null;
  // By its shape: a signal of another realm is no instance of this one's class.
  if (typeof signal === "object" && signal !== null && "aborted" in signal) {
    if (typeof (signal as AbortSignal).addEventListener === "function") {
      return signal as AbortSignal;
    }
  }
  throw wrong("signal", kind(signal), "give the signal of an AbortController");
}

function owner({ owner }: Given): object | null {
  if (owner === undefined) return null;
  if (typeof owner === "object" && owner !== null) return owner;
  throw wrong("owner", kind(owner), "give a Mailbox");
}

function text(given: Given, name: keyof OpenOptions, empty?: "may be empty"): string | undefined {
  const value = given[name];
  if (value === undefined) return undefined;
  checkText(`use option ${quote(name)}`, "it", value, "give a string", empty);
  return value;
}

/** What a C string can hold: no NUL, and no lone surrogate, which UTF-8 would silently replace. */
function checkText(
  doing: string,
  name: string,
  value: unknown,
  mend: string,
  empty?: "may be empty",
): asserts value is string {
  if (typeof value !== "string") {
    throw typeError(`Cannot ${doing}`, `${name} is ${kind(value)}`, mend);
  }
  if (value === "" && empty === undefined) {
    throw typeError(`Cannot ${doing}`, `${name} is empty`, mend);
  }
  if (value.includes("\0")) throw holdsNul(doing, name);
  if (!value.isWellFormed()) {
    throw typeError(
      `Cannot ${doing}`,
      `${name} holds half of a surrogate pair`,
      "mend the string, it has no UTF-8 form",
    );
  }
}

function holdsNul(doing: string, name: string): TypeError {
  return typeError(
    `Cannot ${doing}`,
    `${name} holds a NUL byte, which ends a string for the system`,
    "leave it out",
  );
}

function flag(given: Given, name: keyof OpenOptions): boolean {
  const value = given[name];
  if (value === undefined) return false;
  if (typeof value === "boolean") return value;
  throw wrong(name, kind(value), "give true or false");
}

function choice<T extends string>(
  given: Given,
  name: keyof OpenOptions,
  choices: readonly T[],
): T | undefined {
  return oneOf(name, given[name], choices);
}

function oneOf<T extends string>(
  name: string,
  value: unknown,
  choices: readonly T[],
): T | undefined {
  if (value === undefined) return undefined;
  const found = choices.find((choice) => choice === value);
  if (found !== undefined) return found;
  const is = typeof value === "string" ? quote(value) : kind(value);
  throw wrong(name, is, `give ${choices.map(quote).join(" or ")}`);
}

function delay(given: Given, name: keyof OpenOptions, least: number): number | undefined {
  return whole(name, given[name], "milliseconds", least, LONGEST_MS);
}

function size(given: Given, name: keyof OpenOptions, least: number): number | undefined {
  return whole(name, given[name], "bytes", least, Number.MAX_SAFE_INTEGER);
}

function whole(
  name: string,
  value: unknown,
  unit: string,
  least: number,
  most: number,
): number | undefined {
  if (value === undefined) return undefined;
  const range = most === Number.MAX_SAFE_INTEGER ? `${least} or more` : `${least} to ${most}`;
  const mend = `give a whole number of ${unit}, ${range}`;
  if (typeof value !== "number") throw wrong(name, kind(value), mend);
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  const why = Number.isInteger(value)
    ? `it is ${value}, ${value < least ? "less" : "more"} than allowed`
    : `it is ${value}, not a whole number`;
  throw rangeError(`Cannot use option ${quote(name)}`, why, mend);
}

function wrong(name: string, is: string, mend: string): TypeError {
  return typeError(`Cannot use option ${quote(name)}`, `it is ${is}`, mend);
}

/** What `value` is, for a reader: `null`, `a number`, `an array`. */
function kind(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return "an array";
  if (typeof value !== "object") return `a ${typeof value}`;
  const name = Object.getPrototypeOf(value)?.constructor?.name;
  return typeof name === "string" && name !== "Object" ? `a ${name}` : "an object";
}
