// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The options that say who the child is and what it may do.
 *
 * @module
 */

import { checkText, flag, type Given, kind, record, whole, wrong } from "./checks.ts";
import { nearest, quote, rangeError, typeError } from "./errors.ts";

/** A resource limit of getrlimit(2), without its `RLIMIT_`. */
export type RlimitName =
  | "cpu"
  | "fsize"
  | "data"
  | "stack"
  | "core"
  | "rss"
  | "nproc"
  | "nofile"
  | "memlock"
  | "as"
  | "locks"
  | "sigpending"
  | "msgqueue"
  | "nice"
  | "rtprio"
  | "rttime";

/** Linux's resource limits by their numbers (getrlimit(2)), RLIMIT_CPU first. */
const RLIMIT_NUMBERS: Readonly<Record<RlimitName, number>> = {
  cpu: 0,
  fsize: 1,
  data: 2,
  stack: 3,
  core: 4,
  rss: 5,
  nproc: 6,
  nofile: 7,
  memlock: 8,
  as: 9,
  locks: 10,
  sigpending: 11,
  msgqueue: 12,
  nice: 13,
  rtprio: 14,
  rttime: 15,
};

/** By their numbers. */
export const RLIMITS: readonly RlimitName[] = Object.keys(RLIMIT_NUMBERS) as RlimitName[];

/** In the unit of getrlimit(2): mostly bytes; seconds, microseconds or a count for some. */
export type RlimitValue = number | "unlimited";

/** One resource limit: soft and hard alike, or each by itself; what is not given is the runtime's. */
export type Rlimit = RlimitValue | { soft?: RlimitValue; hard?: RlimitValue };

/** A capability of capabilities(7). */
export type Capability =
  | "CAP_CHOWN"
  | "CAP_DAC_OVERRIDE"
  | "CAP_DAC_READ_SEARCH"
  | "CAP_FOWNER"
  | "CAP_FSETID"
  | "CAP_KILL"
  | "CAP_SETGID"
  | "CAP_SETUID"
  | "CAP_SETPCAP"
  | "CAP_LINUX_IMMUTABLE"
  | "CAP_NET_BIND_SERVICE"
  | "CAP_NET_BROADCAST"
  | "CAP_NET_ADMIN"
  | "CAP_NET_RAW"
  | "CAP_IPC_LOCK"
  | "CAP_IPC_OWNER"
  | "CAP_SYS_MODULE"
  | "CAP_SYS_RAWIO"
  | "CAP_SYS_CHROOT"
  | "CAP_SYS_PTRACE"
  | "CAP_SYS_PACCT"
  | "CAP_SYS_ADMIN"
  | "CAP_SYS_BOOT"
  | "CAP_SYS_NICE"
  | "CAP_SYS_RESOURCE"
  | "CAP_SYS_TIME"
  | "CAP_SYS_TTY_CONFIG"
  | "CAP_MKNOD"
  | "CAP_LEASE"
  | "CAP_AUDIT_WRITE"
  | "CAP_AUDIT_CONTROL"
  | "CAP_SETFCAP"
  | "CAP_MAC_OVERRIDE"
  | "CAP_MAC_ADMIN"
  | "CAP_SYSLOG"
  | "CAP_WAKE_ALARM"
  | "CAP_BLOCK_SUSPEND"
  | "CAP_AUDIT_READ"
  | "CAP_PERFMON"
  | "CAP_BPF"
  | "CAP_CHECKPOINT_RESTORE";

/** Linux's capabilities by their numbers (capabilities(7)). */
const CAPABILITY_NUMBERS: Readonly<Record<Capability, number>> = {
  CAP_CHOWN: 0,
  CAP_DAC_OVERRIDE: 1,
  CAP_DAC_READ_SEARCH: 2,
  CAP_FOWNER: 3,
  CAP_FSETID: 4,
  CAP_KILL: 5,
  CAP_SETGID: 6,
  CAP_SETUID: 7,
  CAP_SETPCAP: 8,
  CAP_LINUX_IMMUTABLE: 9,
  CAP_NET_BIND_SERVICE: 10,
  CAP_NET_BROADCAST: 11,
  CAP_NET_ADMIN: 12,
  CAP_NET_RAW: 13,
  CAP_IPC_LOCK: 14,
  CAP_IPC_OWNER: 15,
  CAP_SYS_MODULE: 16,
  CAP_SYS_RAWIO: 17,
  CAP_SYS_CHROOT: 18,
  CAP_SYS_PTRACE: 19,
  CAP_SYS_PACCT: 20,
  CAP_SYS_ADMIN: 21,
  CAP_SYS_BOOT: 22,
  CAP_SYS_NICE: 23,
  CAP_SYS_RESOURCE: 24,
  CAP_SYS_TIME: 25,
  CAP_SYS_TTY_CONFIG: 26,
  CAP_MKNOD: 27,
  CAP_LEASE: 28,
  CAP_AUDIT_WRITE: 29,
  CAP_AUDIT_CONTROL: 30,
  CAP_SETFCAP: 31,
  CAP_MAC_OVERRIDE: 32,
  CAP_MAC_ADMIN: 33,
  CAP_SYSLOG: 34,
  CAP_WAKE_ALARM: 35,
  CAP_BLOCK_SUSPEND: 36,
  CAP_AUDIT_READ: 37,
  CAP_PERFMON: 38,
  CAP_BPF: 39,
  CAP_CHECKPOINT_RESTORE: 40,
};

/** By their numbers. */
export const CAPABILITIES: readonly Capability[] = Object.keys(CAPABILITY_NUMBERS) as Capability[];

/** What of the runtime's capabilities the child can have. */
export interface CapabilityOptions {
  /** All that the child and its descendants can ever have, by whatever they execute; default: the runtime's. */
  bounding?: readonly Capability[];
  /**
   * What the child has without being root, and hands on to what it executes;
   * the runtime must have it. Default: the runtime's, none where `uid` is given.
   */
  ambient?: readonly Capability[];
}

/** Who and what a child is to be, where that is not inherited. `null` and empty: inherited. */
export interface Privileges {
  readonly noNewPrivs: boolean;
  readonly umask: number | null;
  readonly nice: number | null;
  readonly oomScoreAdj: number | null;
  /** A bit for each capability. */
  readonly bounding: bigint | null;
  readonly ambient: bigint | null;
  readonly uid: number | null;
  readonly gid: number | null;
  /** `implied`: they came with a user's name. */
  readonly groups: { readonly implied: boolean; readonly ids: readonly number[] } | null;
  readonly rlimits: readonly Limit[];
}

/** A resource limit by number; null is the runtime's. */
export interface Limit {
  readonly number: number;
  readonly soft: bigint | null;
  readonly hard: bigint | null;
}

/** Who is to be looked up before a start. */
export interface Question {
  readonly user: string | number | null;
  readonly group: string | number | null;
  /** The names among the supplementary groups. */
  readonly groups: readonly string[];
}

/** What the user database says; null in place of what was not asked for. */
export interface Answer {
  readonly user: {
    readonly uid: number;
    readonly gid: number;
    readonly name: string;
    readonly home: string;
    /** By name: all of the user's groups. */
    readonly groups: readonly number[];
  } | null;
  readonly group: number | null;
  readonly groups: readonly number[];
}

/** Who the child is to be, as the caller has said it; null where nothing was said. */
export interface Identity {
  readonly uid: string | number | null;
  readonly gid: string | number | null;
  readonly groups: readonly (string | number)[] | null;
}

/** -1 means "leave it" to the calls that take an id. */
const LARGEST_ID = 2 ** 32 - 2;
/** NGROUPS_MAX. */
const GROUPS_MAX = 65_536;
const UNLIMITED = 2n ** 64n - 1n;

/** Nothing is asked for. */
const INHERITED: Privileges = Object.freeze({
  noNewPrivs: false,
  umask: null,
  nice: null,
  oomScoreAdj: null,
  bounding: null,
  ambient: null,
  uid: null,
  gid: null,
  groups: null,
  rlimits: Object.freeze([]),
});

/** What is asked for but the identity. */
export function privilegesOf(given: Given): Privileges {
  // The way of almost every start.
  if (asksForNothing(given)) return INHERITED;
  const capabilities = record(
    given,
    "capabilities",
    'give an object such as { bounding: ["CAP_NET_BIND_SERVICE"] }',
    ["bounding", "ambient"],
  ) ?? {};
  const { bounding, ambient } = {
    bounding: capabilitySet("capabilities.bounding", capabilities.bounding),
    ambient: capabilitySet("capabilities.ambient", capabilities.ambient),
  };
  if (bounding !== null && ambient !== null && (ambient & ~bounding) !== 0n) {
    throw typeError(
      'Cannot use option "capabilities"',
      `ambient holds ${names(ambient & ~bounding)}, which bounding does not`,
      "give it in both, or in none",
    );
  }
  return Object.freeze({
    noNewPrivs: flag(given, "noNewPrivs"),
    umask: umaskOf(given.umask),
    nice: whole("nice", given.nice, "", -20, 19) ?? null,
    oomScoreAdj: whole("oomScoreAdj", given.oomScoreAdj, "", -1000, 1000) ?? null,
    bounding,
    ambient,
    uid: null,
    gid: null,
    groups: null,
    rlimits: rlimitsOf(given),
  });
}

function asksForNothing(given: Given): boolean {
  const { capabilities, noNewPrivs, umask, nice, oomScoreAdj, rlimits } = given;
  return capabilities === undefined && noNewPrivs === undefined && umask === undefined &&
    nice === undefined && oomScoreAdj === undefined && rlimits === undefined;
}

/** In the notation of modes: the decimal form of one says nothing to its reader. */
function umaskOf(value: unknown): number | null {
  if (typeof value !== "number" || !Number.isInteger(value) || (value >= 0 && value <= 0o777)) {
    return whole("umask", value, "", 0, 0o777) ?? null;
  }
  throw rangeError(
    'Cannot use option "umask"',
    `it is ${value < 0 ? value : `${value} (0o${value.toString(8)})`}, and a mode has nine bits`,
    "give 0 to 0o777; without its 0o a number is decimal",
  );
}

/** The signals by which the kernel ends who goes beyond a soft limit, by the number of that (getrlimit(2), setrlimit(2)). */
const [SIGXCPU, SIGXFSZ] = [24, 25];
const ENDING: ReadonlyMap<number, number> = new Map([
  [RLIMIT_NUMBERS.cpu, SIGXCPU],
  [RLIMIT_NUMBERS.fsize, SIGXFSZ],
  [RLIMIT_NUMBERS.rttime, SIGXCPU],
]);

/** The numbers of the signals that say that a limit was reached which the caller has set. */
export function limitSignals(all: Privileges | null): readonly number[] {
  if (all === null || all.rlimits.length === 0) return [];
  const limited = all.rlimits.filter(({ soft, hard }) => (soft ?? hard ?? UNLIMITED) !== UNLIMITED);
  return limited.flatMap(({ number }) => ENDING.get(number) ?? []);
}

/** Whether nothing is asked for. */
export function isNothing(all: Privileges): boolean {
  return all === INHERITED || !all.noNewPrivs && all.rlimits.length === 0 &&
      [all.umask, all.nice, all.oomScoreAdj, all.bounding, all.ambient].every((v) => v === null) &&
      [all.uid, all.gid, all.groups].every((value) => value === null);
}

function names(set: bigint): string {
  return CAPABILITIES.filter((_, bit) => (set >> BigInt(bit) & 1n) === 1n).join(" and ");
}

function capabilitySet(name: string, value: unknown): bigint | null {
  if (value === undefined) return null;
  const mend = 'give an array such as ["CAP_NET_BIND_SERVICE"]';
  if (!Array.isArray(value)) throw wrong(name, kind(value), mend);
  let set = 0n;
  for (const one of Array.from(value)) {
    if (typeof one !== "string") throw wrong(`${name}`, `with ${kind(one)} in it`, mend);
    const bit = (CAPABILITIES as readonly string[]).indexOf(one);
    if (bit < 0) {
      const meant = nearest(one.toUpperCase().replace(/^(CAP_)?/, "CAP_"), CAPABILITIES);
      throw typeError(
        `Cannot use option ${quote(name)}`,
        `there is no capability ${quote(one)}`,
        meant === null ? "give names of capabilities(7)" : `did you mean ${quote(meant)}?`,
      );
    }
    set |= 1n << BigInt(bit);
  }
  return set;
}

/** 0, 1 and 2: with a limit below there is no place for them. */
const LEAST_NOFILE = 3n;

function rlimitsOf(given: Given): readonly Limit[] {
  const all = record(given, "rlimits", "give an object such as { nofile: 1024 }", RLIMITS);
  if (all === undefined) return [];
  const limits = RLIMITS.flatMap((name, number) => {
    const limit = all[name];
    return limit === undefined ? [] : [rlimit(`rlimits.${name}`, number, limit)];
  });
  return Object.freeze(limits);
}

function rlimit(name: string, number: number, value: unknown): Limit {
  if (typeof value !== "object") {
    const both = rlimitValue(name, value);
    return checkedLimit(name, { number, soft: both, hard: both });
  }
  const mend = 'give a number, "unlimited", or { soft, hard }';
  const parts = record({ [name]: value }, name, mend, ["soft", "hard"]) ?? {};
  const [soft, hard] = [parts.soft, parts.hard].map((one, at) =>
    one === undefined ? null : rlimitValue(`${name}.${at === 0 ? "soft" : "hard"}`, one)
  );
  if ((soft ?? null) === null && (hard ?? null) === null) throw wrong(name, "empty", mend);
  if (typeof soft === "bigint" && typeof hard === "bigint" && soft > hard) {
    throw rangeError(
      `Cannot use option ${quote(name)}`,
      "the soft limit is above the hard one",
      "give a soft limit that is not",
    );
  }
  return checkedLimit(name, { number, soft: soft ?? null, hard: hard ?? null });
}

function checkedLimit(name: string, limit: Limit): Limit {
  const { soft, hard } = limit;
  const low = [soft, hard].find((one) => one !== null && one < LEAST_NOFILE);
  if (name !== "rlimits.nofile" || low === undefined) return Object.freeze(limit);
  throw rangeError(
    `Cannot use option ${quote(name)}`,
    `it is ${low}, and stdin, stdout and stderr are ${LEAST_NOFILE} descriptors already`,
    "give 3 or more; what is linked dynamically needs 4 to start",
  );
}

function rlimitValue(name: string, value: unknown): bigint {
  if (value === "unlimited") return UNLIMITED;
  if (typeof value === "number") {
    return BigInt(whole(name, value, "", 0, Number.MAX_SAFE_INTEGER) ?? 0);
  }
  const is = typeof value === "string" ? quote(value) : kind(value);
  throw wrong(name, is, 'give a whole number, 0 or more, or "unlimited"');
}

/** Nobody was named. */
export const RUNTIMES_OWN: Identity = Object.freeze({ uid: null, gid: null, groups: null });

/**
 * Who the child is to be.
 *
 * @throws {RangeError} for root, which is nobody to become.
 */
export function identityOf(given: Given): Identity {
  const { uid, gid, groups } = given;
  if (uid === undefined && gid === undefined && groups === undefined) return RUNTIMES_OWN;
  return Object.freeze({
    uid: idOf("uid", uid),
    gid: idOf("gid", gid),
    groups: groupsOf(groups),
  });
}

function idOf(name: string, value: unknown): string | number | null {
  if (value === undefined) return null;
  if (typeof value === "string") {
    checkText(`use option ${quote(name)}`, "it", value, "give a name or a number");
    return value;
  }
  if (typeof value !== "number") throw wrong(name, kind(value), "give a name or a number");
  if (value === 0) throw isRoot(name);
  return whole(name, value, "", 1, LARGEST_ID) ?? null;
}

function isRoot(name: string): RangeError {
  return rangeError(
    `Cannot use option ${quote(name)}`,
    "it is root's",
    "leave it out to keep what the runtime has, or name somebody else",
  );
}

/** (uid_t) -1 means to setresuid(2) that nothing is to change: whoever has it in a database would get the runtime's. */
function isNobodys(name: string, asked: string | number): RangeError {
  return rangeError(
    `Cannot use option ${quote(name)}`,
    `${typeof asked === "string" ? quote(asked) : asked} has the number ${
      LARGEST_ID + 1
    }, which is nobody's`,
    "mend its line in the user database, or name somebody else",
  );
}

function groupsOf(value: unknown): Identity["groups"] {
  if (value === undefined) return null;
  const mend = "give an array of names and numbers";
  if (!Array.isArray(value)) throw wrong("groups", kind(value), mend);
  if (value.length > GROUPS_MAX) {
    throw rangeError(
      'Cannot use option "groups"',
      `it holds ${value.length}, more than the ${GROUPS_MAX} that a process can have`,
      "give fewer",
    );
  }
  const one = (group: unknown, at: number) => {
    const id = idOf(`groups[${at}]`, group);
    if (id === null) throw wrong(`groups[${at}]`, "undefined", mend);
    return id;
  };
  return Object.freeze(Array.from(value, one));
}

/** What of it the user database has to say; null where nothing. */
export function questionOf(identity: Identity): Question | null {
  if (identity === RUNTIMES_OWN) return null;
  const { uid, gid, groups } = identity;
  const names = (groups ?? []).filter((group) => typeof group === "string");
  // A user by number has no groups but those that are given; one must be had in any case.
  const primary = typeof uid === "number" && gid === null;
  const user = typeof uid === "string" || primary ? uid : null;
  if (user === null && typeof gid !== "string" && names.length === 0) return null;
  return Object.freeze({ user, group: gid, groups: Object.freeze(names) });
}

/**
 * The same with the ids that `answer` gives.
 *
 * @throws {RangeError} where a name turns out to be root's.
 */
export function withIdentity(
  all: Privileges,
  { uid, gid, groups }: Identity,
  answer: Answer | null,
): Privileges {
  const found = (name: string, asked: string | number | null, id: number | null) => {
    if (asked !== null && id === 0) throw isRoot(name);
    if (asked !== null && id !== null && id > LARGEST_ID) throw isNobodys(name, asked);
    return id;
  };
  const named = [...answer?.groups ?? []];
  const ids = groups?.map((group, at) =>
    typeof group === "number" ? group : found(`groups[${at}]`, group, named.shift() ?? 0) ?? 0
  );
  const user = answer?.user ?? null;
  const own = typeof uid === "string" && user !== null
    ? { implied: true, ids: Object.freeze([...user.groups]) }
    : null;
  return Object.freeze({
    ...all,
    uid: found("uid", uid, typeof uid === "number" ? uid : user?.uid ?? null),
    gid: found(
      "gid",
      gid ?? uid,
      typeof gid === "number" ? gid : answer?.group ?? user?.gid ?? null,
    ),
    groups: ids === undefined ? own : { implied: false, ids: Object.freeze(ids) },
  });
}
