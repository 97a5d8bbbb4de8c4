// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What `open` takes: types, units, defaults, and the check that refuses a bad
 * request before anything starts.
 *
 * @module
 */

import {
  checkedBytes,
  checkText,
  delay,
  flag,
  type Given,
  isRecord,
  kind,
  oneOf,
  record,
  refuseUnknown,
  size,
  text,
  wrong,
} from "./checks.ts";
import {
  fdsOf,
  ptyOf,
  type PtyOptions,
  type PtySize,
  type Source,
  type Stdio,
  type Streams,
  streamsOf,
} from "./descriptors.ts";
import { quote, typeError } from "./errors.ts";
import type { Limits, RawSet } from "./limits.ts";
import { type CgroupPlan, planOf, type RequiredContainment } from "./plan.ts";
import {
  type Answer,
  type CapabilityOptions,
  type Identity,
  identityOf,
  isNothing,
  type Privileges,
  privilegesOf,
  type Question,
  questionOf,
  type Rlimit,
  type RlimitName,
  RUNTIMES_OWN,
  withIdentity,
} from "./privileges.ts";

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
  /** Variables laid over the environment, as text or as bytes that need not be UTF-8; `null` unsets one. */
  env?: Readonly<Record<string, string | Uint8Array | null>>;
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
  /** stderr goes where stdout goes, in the order in which the child writes; default false. */
  stderrToStdout?: boolean;
  /** stdout goes to /dev/null and stderr is piped; default false. */
  captureStderrOnly?: boolean;
  /**
   * The child's descriptors above 2, at most 12, by their numbers (3 to
   * 1,048,575): `"piped"` is a socket whose other end is `port.fd(number)`, a
   * number is a copy of that descriptor of the runtime's.
   */
  fds?: Readonly<Record<number, Source>>;
  /**
   * A terminal of the child's own (pty(7)) as its stdin, stdout and stderr: it
   * leads a session, and what it shows is `port.stdout`. Default: none.
   */
  pty?: PtyOptions;
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
   * Who gets the SIGTERM that comes before SIGKILL: everybody in the tree
   * (default), the child's process group (the whole tree, where the child
   * stands in the runtime's own), or the child alone. SIGKILL is for all.
   */
  closeScope?: "tree" | "group" | "child";
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
  /**
   * The user to run as, a name or a number (1 to 4,294,967,294; root cannot be
   * asked for). By name the child also gets the user's groups (initgroups(3); root's
   * among them, where the database says so), and HOME, USER and LOGNAME unless `env` says others. PATH is searched for
   * what that user may execute, by owner, group and mode; ACLs are not read.
   * The runtime needs CAP_SETUID, and to end it CAP_KILL or a cgroup v2 of
   * Linux 5.14; without them only its own user can be asked for.
   */
  uid?: string | number;
  /** The group to run as, a name or a number; default: that of the user in `uid`. Needs CAP_SETGID. */
  gid?: string | number;
  /** Supplementary groups; default: the user's own where `uid` is a name, else none with `uid` or `gid`. */
  groups?: readonly (string | number)[];
  /** No program that the tree executes gets more rights than it has, set-uid ones included (prctl(2)); default false. */
  noNewPrivs?: boolean;
  /** The bounding and the ambient set (capabilities(7)). */
  capabilities?: CapabilityOptions;
  /** Mode bits that new files do not get, 0 to 0o777; default: the runtime's. */
  umask?: number;
  /** The nice value, -20 to 19; less than the runtime's needs CAP_SYS_NICE. Default: the runtime's. */
  nice?: number;
  /**
   * Resource limits by name (getrlimit(2)); default: the runtime's. More than its hard ones needs CAP_SYS_RESOURCE.
   * A child that dies at a soft limit of `cpu` or `fsize` has the cause `"limit"`. A number is both limits, and at the
   * hard one of `cpu` the kernel sends SIGKILL, which has the cause `"exit"`: rather give `{ soft: 5, hard: 6 }`.
   */
  rlimits?: Readonly<Partial<Record<RlimitName, Rlimit>>>;
  /** How likely the child is to be killed when memory is short, -1,000 to 1,000 (proc(5)); default: the runtime's. */
  oomScoreAdj?: number;
  /** What the whole tree may use at most, held by the kernel through cgroups; an error where it cannot be. */
  limits?: Limits;
  /** Controllers whose cgroups the tree is to be in, such as `["memory", "cpu"]`. */
  cgroupControllers?: readonly string[];
  /**
   * An existing cgroup, from the root of its hierarchy on, below which the
   * tree's own is made; default: the runtime's own.
   */
  cgroupBase?: string;
  /**
   * The tree's own cgroup itself, which must not exist yet; excludes `cgroupBase`.
   * What a dead runtime has made there is ended and removed first.
   */
  cgroupPath?: string;
  /** Files of its cgroups and what is written to them: `[["memory", "memory.limit_in_bytes", "268435456"]]`. */
  cgroupSets?: readonly RawSet[];
  /**
   * Lets the runtime and its helpers be moved into a cgroup below their own,
   * where v2 gives no limits otherwise: it has no controllers for the children
   * of a cgroup that processes are in. Default false.
   */
  cgroupMoveSelf?: boolean;
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
  /** What it has to be at least: less is a `ContainmentError`, and nothing is started. */
  require?: RequiredContainment;
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
  readonly env: readonly (readonly [name: string, value: string | Uint8Array | null])[];
  readonly clearEnv: boolean;
  readonly stdio: Streams;
  /** Those above 2, by number. */
  readonly fds: readonly (readonly [number: number, source: Source])[];
  readonly pty: PtySize | null;
  readonly closeScope: "tree" | "group" | "child";
  /** null: everything is inherited. */
  readonly privileges: Privileges | null;
  /** Who is to be looked up before it can start. */
  readonly question: Question | null;
  readonly identity: Identity;
  readonly graceMs: number;
  readonly flushMs: number;
  readonly killOnOwnerDeath: boolean;
  /** No cgroup is to be made for it. */
  readonly treeOnly: boolean;
  /** What its cgroups have to hold; null where nothing was asked for. */
  readonly cgroup: CgroupPlan | null;
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
  stderrToStdout: true,
  captureStderrOnly: true,
  fds: true,
  pty: true,
  closeScope: true,
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
  uid: true,
  gid: true,
  groups: true,
  noNewPrivs: true,
  capabilities: true,
  umask: true,
  nice: true,
  rlimits: true,
  oomScoreAdj: true,
  limits: true,
  cgroupControllers: true,
  cgroupBase: true,
  cgroupPath: true,
  cgroupSets: true,
  cgroupMoveSelf: true,
  parallelism: true,
};

const CONTAINED = "nothing that is started here outlives its owner";
const SERVICE = 'have the service manager run it ("systemd-run --user"), or use Deno.Command';

/** What other launchers offer under these names, and what to use here. */
const ELSEWHERE: Readonly<Record<string, readonly [why: string, mend: string]>> = {
  detached: [CONTAINED, SERVICE],
  detach: [CONTAINED, SERVICE],
  daemon: [CONTAINED, SERVICE],
  daemonize: [CONTAINED, SERVICE],
  setsid: ["every child leads its own group, and a session where it has a terminal", "give pty"],
  chroot: [
    "it keeps nobody in who has root's rights, and nobody else can use it",
    'start the program under "bwrap" (bubblewrap)',
  ],
  shell: ["no shell is started unasked", 'start one: open("sh", ["-c", text])'],
  stdio: ["each stream has an option", "give stdin, stdout, stderr and fds"],
  timeout: ["times carry their unit in their name", "give timeoutMs"],
  killSignal: ["SIGTERM comes first, SIGKILL last", "give delayToSigkill and closeScope"],
  maxBuffer: ["it has another name", "give maxOutputBytes"],
  user: ["it has another name", "give uid"],
  group: ["it has another name", "give gid"],
};

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
  const pty = ptyOf(given);
  const [merged, stderrOnly] = [flag(given, "stderrToStdout"), flag(given, "captureStderrOnly")];
  const [privileges, identity] = [privilegesOf(given), identityOf(given)];
  const question = questionOf(identity);
  const known = question === null && identity !== RUNTIMES_OWN;
  const whole = known ? withIdentity(privileges, identity, null) : privileges;
  return Object.freeze({
    command,
    args: argumentsOf(args),
    arg0: text(given, "arg0", "may be empty") ?? command,
    cwd: directory(given),
    env: pty === null ? environment(given) : withDefaults(environment(given), { TERM: pty.term }),
    clearEnv: flag(given, "clearEnv"),
    stdio: streamsOf(given, merged, stderrOnly, pty !== null),
    fds: fdsOf(given),
    pty,
    closeScope: oneOf("closeScope", given.closeScope, ["tree", "group", "child"]) ?? "tree",
    privileges: question === null && isNothing(whole) ? null : whole,
    question,
    identity,
    graceMs,
    flushMs: delay(given, "flushMs", 0) ?? graceMs,
    killOnOwnerDeath: oneOf("onOwnerDeath", given.onOwnerDeath, ["graceful", "kill"]) === "kill",
    treeOnly: treeOnly(given),
    cgroup: planOf(given),
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

/**
 * The same once it is known who the child is to be: its ids, and HOME, USER
 * and LOGNAME of a user by name.
 *
 * @throws {RangeError} where a name turns out to be root's.
 */
export function answered(spec: Spec, answer: Answer): Spec {
  const privileges = withIdentity(spec.privileges ?? privilegesOf({}), spec.identity, answer);
  const { user } = answer;
  const named = typeof spec.identity.uid === "string" && user !== null;
  const own: Record<string, string> = named
    ? { HOME: user.home, USER: user.name, LOGNAME: user.name }
    : {};
  const env = withDefaults(spec.env, own);
  return Object.freeze({ ...spec, env, privileges, question: null });
}

/** Variables that are set unless the caller has said something of them. */
function withDefaults(env: Spec["env"], defaults: Readonly<Record<string, string>>): Spec["env"] {
  const unsaid = Object.entries(defaults).filter(([name]) =>
    !env.some(([given]) => given === name)
  );
  return unsaid.length === 0 ? env : Object.freeze([...env, ...unsaid]);
}

function optionsOf(options: unknown): Given {
  if (!isRecord(options)) {
    throw typeError("Cannot read the options", `they are ${kind(options)}`, "give an object");
  }
  const names = Object.keys(options);
  if (names.every((name) => Object.hasOwn(KNOWN, name))) return options as Given;
  // What is undefined was not given, whatever its name.
  const given = Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  );
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(ELSEWHERE, name)) continue;
    const [why, mend] = ELSEWHERE[name] ?? ["", ""];
    throw typeError(`Cannot use option ${quote(name)}`, why, mend);
  }
  refuseUnknown("option", given, Object.keys(KNOWN));
  return given;
}

/** Whether `containment` asks for no cgroup. */
function treeOnly(given: Given): boolean {
  const mend = 'give an object such as { kill: "tree" }';
  const asked = record(given, "containment", mend, ["kill", "require"]);
  return oneOf("containment.kill", asked?.kill, ["auto", "tree"]) === "tree";
}

function argumentsOf(args: unknown): readonly Uint8Array[] {
  if (!Array.isArray(args)) {
    throw typeError("Cannot read the arguments (args)", `they are ${kind(args)}`, "give an array");
  }
  return Object.freeze(args.length === 0 ? [] : Array.from(args, argument));
}

const ENCODER = new TextEncoder();

function argument(value: unknown, index: number): Uint8Array {
  const [doing, name] = ["pass the arguments", `argument ${index}`];
  if (value instanceof Uint8Array) return checkedBytes(doing, name, value);
  checkText(doing, name, value, "give a string or a Uint8Array", "may be empty");
  return ENCODER.encode(value);
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

const UNCHANGED: Spec["env"] = Object.freeze([]);

function environment(given: Given): Spec["env"] {
  const env = record(given, "env", "give a plain object of names and values", null);
  if (env === undefined) return UNCHANGED;
  return Object.freeze(Object.entries(env).map(([name, value]) => variable(name, value)));
}

function variable(name: string, value: unknown): Spec["env"][number] {
  const doing = 'use option "env"';
  checkText(doing, `the name ${quote(name)}`, name, "give every variable a name");
  if (name.includes("=")) {
    throw typeError(`Cannot ${doing}`, `the name ${quote(name)} holds a "="`, "leave it out");
  }
  if (value === null) return [name, null];
  const what = `the value of ${quote(name)}`;
  if (value instanceof Uint8Array) return [name, checkedBytes(doing, what, value)];
  checkText(doing, what, value, "give a string, or null to unset it", "may be empty");
  return [name, value];
}

/** The signal among the options; null where none is given. */
export function abortSignal({ signal }: Given): AbortSignal | null {
  if (signal === undefined) return null;
  // By its shape: a signal of another realm is no instance of this one's class.
  if (typeof signal === "object" && signal !== null && "aborted" in signal) {
    const { addEventListener, throwIfAborted } = signal as AbortSignal;
    if (typeof addEventListener === "function" && typeof throwIfAborted === "function") {
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
