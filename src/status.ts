// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * How a process ended, as one union that never folds a signal into a number,
 * and the names of Linux's signals.
 *
 * @module
 */

import { errnoName, nearest, quote, rangeError, type Survivor, typeError } from "./errors.ts";
import { type CgroupVersion, type Figure, type Stats, statsOf } from "./figures.ts";

export type { Survivor };

/** How the child itself ended. `"lost"`: its wait status died with its keeper. */
export type ExitReason =
  | { kind: "normal" }
  | { kind: "exitStatus"; code: number }
  | { kind: "signal"; signal: SignalName; number: number }
  | { kind: "lost" };

/**
 * What ended the tree; the first reason wins.
 *
 * `exit` the child ended by itself · `close` its owner closed it · `timeout`
 * `timeoutMs` was over · `abort` the signal aborted · `owner` its owner ended ·
 * `oom` the kernel ran out of memory for it · `limit` a limit on its output
 * was reached, or the child died of SIGXCPU or SIGXFSZ and its caller had set
 * that limit in `rlimits` (at its hard limit of `cpu` the kernel sends SIGKILL,
 * which says nothing: give `{ soft, hard }`, see setrlimit(2)) · `guardian` its
 * helpers were killed.
 */
export type Cause =
  | "exit"
  | "close"
  | "timeout"
  | "abort"
  | "owner"
  | "oom"
  | "limit"
  | "guardian";

/** Who still guards a port: watchdog and guardian, only the guardian, or only its own keeper. */
export type Guards = "both" | "guardian" | "none";

/**
 * Why a tree has no cgroup of its own: it has one (`nothing`), none was wanted,
 * no v2 hierarchy is mounted, the runtime's own cgroup is outside of what is
 * mounted or is the root that systemd rules, none can be made, entered, or
 * killed by one write; or none can be made and the user's service manager,
 * asked over the user's bus, gave no scope to make it in.
 */
export type Lack =
  | "nothing"
  | "unwanted"
  | "unmounted"
  | "outside"
  | "reserved"
  | "make"
  | "enter"
  | "kill"
  | "scope";

/** What is known of a tree's cgroup: what it lacks, and the error that said so (0: none did). */
export interface CgroupState {
  lack: Lack;
  errno: number;
}

/** What the whole tree used, from the launch to its end. */
export interface Usage {
  /** Time that passed, in milliseconds. */
  wallMs: number;
  /** Processor time in the programs, in milliseconds. */
  userMs: number;
  /** Processor time in the kernel on their behalf, in milliseconds. */
  systemMs: number;
  /** Largest resident memory of a single process, in bytes. */
  maxRssBytes: number;
  /** Most memory that the whole tree ever used, in bytes; where its memory was limited. */
  peakMemoryBytes?: number;
  /** Time that it waited because of its limit of processors, in milliseconds; where that was limited. */
  throttledMs?: number;
  /** Most processes and threads that there ever were; where they were limited. */
  peakPids?: number;
  /** Bytes read from block devices; where they were limited. */
  readBytes?: number;
  /** Bytes written to block devices; where they were limited. */
  writtenBytes?: number;
}

/** What holds a tree together, as facts. */
export interface Containment {
  /**
   * How the tree is ended: `"tree"`, by following every descendant;
   * `"cgroup2"`, by `cgroup.kill` as well, which no descendant can leave
   * without the right to write into other cgroups; `"cgroup1"`, by the v1
   * freezer and a signal to each member as well.
   */
  kill: "cgroup2" | "cgroup1" | "tree";
  /** What enforces resource limits, where there are any; of both, the weaker. */
  limits: "cgroup2" | "cgroup1" | "none";
  /** Which of the helper processes live that end the tree. */
  guards: Guards;
  /** What it rests on, in a sentence. */
  why: string;
}

/**
 * How a process and its tree ended.
 *
 * ```ts
 * import { open } from "@proton-stream/port";
 * import { assertEquals } from "@std/assert";
 *
 * await using port = await open("sh", ["-c", "exit 3"]);
 * const { reason, success } = await port.status;
 * assertEquals([reason, success], [{ kind: "exitStatus", code: 3 }, false]);
 * ```
 */
export interface ExitStatus {
  /** How the child itself ended. */
  reason: ExitReason;
  /** The exit code; null where a signal ended it or nobody knows. */
  code: number | null;
  /** The signal that ended it; null where it ended by itself or nobody knows. */
  signal: SignalName | null;
  /** True for exit code 0 only. */
  success: boolean;
  /** What ended the tree: the first reason counts. */
  cause: Cause;
  /** What the tree has used. */
  usage: Usage;
  /** True where the kernel ended it for want of memory. */
  oomKilled: boolean;
  /** How many processes of the tree got SIGKILL. */
  killed: number;
  /** What could not be ended; empty unless a deadline passed. */
  survivors: readonly Survivor[];
  /** What held the tree. */
  containment: Containment;
}

/** What the native side says of an end: the part of its report that {@link exitStatus} reads. */
export interface Ending {
  /** How the child itself ended; null while it runs, `"lost"` where the wait status died with its keeper. */
  wait: { code: number } | { signal: number } | "lost" | null;
  cause: Cause;
  /** Milliseconds from the launch to the end of the tree, and what the whole tree used. */
  wallMs: number;
  userMs: number;
  systemMs: number;
  maxRssBytes: number;
  /** How many processes got SIGKILL. */
  killed: number;
  survivors: Survivor[];
  guards: Guards;
  cgroup: CgroupState;
  /** By which version of cgroups it is ended as one, beside what `cgroup` says, and limited. */
  held: { kill: CgroupVersion; limits: CgroupVersion };
  /** What its cgroups have counted, where it had limits. */
  figures: readonly Figure[];
}

/** The record of an end. A child whose end nobody saw is `"lost"`; of `limits` is a signal that says that one was reached. */
export function exitStatus(ending: Ending, limits: readonly number[] = []): ExitStatus {
  const { killed, survivors, wallMs, userMs, systemMs, maxRssBytes } = ending;
  const reason = exitReason(ending.wait);
  // Without limits there is nothing to read, and this stands on the way of every end.
  const stats = ending.figures.length === 0 ? null : statsOf(ending.figures);
  const out = stats !== null && stats.counters.oomKill > 0;
  const usage: Usage = { wallMs, userMs, systemMs, maxRssBytes };
  if (stats !== null) Object.assign(usage, limitedUsage(stats));
  const cause = ending.cause === "exit" ? causeOf(ending.wait, out, limits) : ending.cause;
  return {
    reason,
    code: reason.kind === "normal" ? 0 : reason.kind === "exitStatus" ? reason.code : null,
    signal: reason.kind === "signal" ? reason.signal : null,
    success: reason.kind === "normal",
    cause,
    usage,
    oomKilled: out || cause === "oom",
    killed,
    survivors: [...survivors],
    containment: containment(ending),
  };
}

/** Of an end that nobody asked for: the kernel killed one of the tree, or the child for a limit, and so it ended. */
function causeOf(wait: Ending["wait"], out: boolean, limits: readonly number[]): Cause {
  if (out) return "oom";
  const signal = typeof wait === "object" && wait !== null && "signal" in wait ? wait.signal : 0;
  return limits.includes(signal) ? "limit" : "exit";
}

function limitedUsage({ memory, cpu, pids, io }: Stats): Partial<Usage> {
  const all = {
    peakMemoryBytes: memory?.peakBytes,
    throttledMs: cpu?.throttledMs,
    peakPids: pids?.peak,
    readBytes: io?.readBytes,
    writtenBytes: io?.writtenBytes,
  };
  return Object.fromEntries(Object.entries(all).filter(([, amount]) => amount !== undefined));
}

function exitReason(wait: Ending["wait"]): ExitReason {
  if (wait === null || wait === "lost") return { kind: "lost" };
  if ("signal" in wait) {
    return { kind: "signal", signal: signalName(wait.signal), number: wait.signal };
  }
  return wait.code === 0 ? { kind: "normal" } : { kind: "exitStatus", code: wait.code };
}

/** What holds a tree together while these guards stand. */
export function containment(
  { guards, cgroup, held }: Pick<Ending, "guards" | "cgroup" | "held">,
): Containment {
  const kill = cgroup.lack === "nothing" ? "cgroup2" : held.kill === 1 ? "cgroup1" : "tree";
  const limits = (["none", "cgroup1", "cgroup2"] as const)[held.limits];
  return { kill, limits, guards, why: `${WHY[kill][guards]}; ${because(cgroup)}` };
}

const WHY: Readonly<Record<Containment["kill"], Readonly<Record<Guards, string>>>> = {
  cgroup2: {
    both:
      "its cgroup is killed as a whole, also by a watchdog and a guardian once the runtime is gone",
    guardian:
      "the watchdog is gone: its cgroup is killed as a whole by the guardian or its own keeper",
    none:
      "watchdog and guardian are gone: its cgroup is killed as a whole by the runtime or its own keeper, or at the next start",
  },
  cgroup1: {
    both:
      "its cgroup of v1 is frozen and killed, also by a watchdog and a guardian once the runtime is gone",
    guardian:
      "the watchdog is gone: its cgroup of v1 is frozen and killed by the guardian or its own keeper",
    none:
      "watchdog and guardian are gone: its cgroup of v1 is frozen and killed by the runtime or its own keeper, or at the next start",
  },
  tree: {
    both:
      "every descendant is followed and ended, also by a watchdog and a guardian once the runtime is gone",
    guardian: "the watchdog is gone: the guardian and the port's own keeper end the tree",
    none: "watchdog and guardian are gone: only the port's own keeper ends the tree",
  },
};

function because({ lack, errno }: CgroupState): string {
  return errno === 0 ? LACKS[lack] : `${LACKS[lack]} (${errnoName(errno)})`;
}

const LACKS: Readonly<Record<Lack, string>> = {
  nothing: "it has a cgroup v2 directory of its own",
  unwanted: 'no cgroup: containment.kill is "tree"',
  unmounted: "no cgroup: no v2 hierarchy is mounted here",
  outside: "no cgroup: the mounted v2 hierarchy does not show the runtime's own",
  reserved: "no cgroup: the runtime is in the root cgroup, which is systemd's",
  make: "no cgroup: none can be made below the runtime's own",
  enter: "no cgroup: no process gets into one below the runtime's own",
  kill: "no cgroup: cgroup.kill does not end what is in it",
  scope:
    "no cgroup: none can be made below the runtime's own, and the user's service manager gave no scope",
};

/** A signal of signal(7) by name, other than the real-time ones. */
export type PlainSignal =
  | "SIGHUP"
  | "SIGINT"
  | "SIGQUIT"
  | "SIGILL"
  | "SIGTRAP"
  | "SIGABRT"
  | "SIGBUS"
  | "SIGFPE"
  | "SIGKILL"
  | "SIGUSR1"
  | "SIGSEGV"
  | "SIGUSR2"
  | "SIGPIPE"
  | "SIGALRM"
  | "SIGTERM"
  | "SIGSTKFLT"
  | "SIGCHLD"
  | "SIGCONT"
  | "SIGSTOP"
  | "SIGTSTP"
  | "SIGTTIN"
  | "SIGTTOU"
  | "SIGURG"
  | "SIGXCPU"
  | "SIGXFSZ"
  | "SIGVTALRM"
  | "SIGPROF"
  | "SIGWINCH"
  | "SIGIO"
  | "SIGPWR"
  | "SIGSYS";

/** Linux's signals on x86-64 and aarch64, without the real-time ones. */
export const SIGNALS: Readonly<Record<PlainSignal, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGILL: 4,
  SIGTRAP: 5,
  SIGABRT: 6,
  SIGBUS: 7,
  SIGFPE: 8,
  SIGKILL: 9,
  SIGUSR1: 10,
  SIGSEGV: 11,
  SIGUSR2: 12,
  SIGPIPE: 13,
  SIGALRM: 14,
  SIGTERM: 15,
  SIGSTKFLT: 16,
  SIGCHLD: 17,
  SIGCONT: 18,
  SIGSTOP: 19,
  SIGTSTP: 20,
  SIGTTIN: 21,
  SIGTTOU: 22,
  SIGURG: 23,
  SIGXCPU: 24,
  SIGXFSZ: 25,
  SIGVTALRM: 26,
  SIGPROF: 27,
  SIGWINCH: 28,
  SIGIO: 29,
  SIGPWR: 30,
  SIGSYS: 31,
};

/**
 * A signal by name. Real-time signals are counted from 34, where libc's
 * SIGRTMIN is: 34 is `"SIGRTMIN"`, 64 is `"SIGRTMIN+30"`; 32 and 33, which libc
 * keeps for itself, have only numbers, `"SIG32"`.
 */
export type SignalName =
  | PlainSignal
  | "SIGRTMIN"
  | `SIGRTMIN+${number}`
  | `SIG${number}`;

const RTMIN = 34;
const LAST = 64;
const BY_NUMBER: ReadonlyMap<number, SignalName> = new Map(
  Object.entries(SIGNALS).map(([name, number]) => [number, name as SignalName]),
);

/** The name of a signal's number: `15` is `"SIGTERM"`. */
export function signalName(number: number): SignalName {
  const name = BY_NUMBER.get(number);
  if (name !== undefined) return name;
  if (number === RTMIN) return "SIGRTMIN";
  return number > RTMIN && number <= LAST ? `SIGRTMIN+${number - RTMIN}` : `SIG${number}`;
}

/**
 * The number of a signal given by name or by number, 1 to 64.
 *
 * @throws {TypeError} for a name that no signal has.
 * @throws {RangeError} for a number outside 1 to 64.
 */
export function signalNumber(signal: SignalName | number): number {
  if (typeof signal === "number") {
    if (Number.isInteger(signal) && signal >= 1 && signal <= LAST) return signal;
    throw rangeError(`Cannot send signal ${signal}`, "there is none", "give a number from 1 to 64");
  }
  if (Object.hasOwn(SIGNALS, signal)) return SIGNALS[signal as PlainSignal];
  return otherSignal(signal);
}

/** `SIGRTMIN`, `SIGRTMIN+1` and `SIG32`, as {@link signalName} writes them. */
function otherSignal(signal: string): number {
  for (let number = 1; number <= LAST; number++) {
    if (signalName(number) === signal) return number;
  }
  const full = /^sig/i.test(signal) ? signal : `SIG${signal}`;
  const meant = nearest(full, Object.keys(SIGNALS));
  throw typeError(
    `Cannot send signal ${typeof signal === "string" ? quote(signal) : typeof signal}`,
    "no signal has this name",
    meant === null
      ? "give a name such as SIGTERM or a number from 1 to 64"
      : `did you mean ${quote(meant)}?`,
  );
}
