// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * THE table of resource limits: each limit, its file in cgroup v2 and in v1,
 * how a value is written there, its unit and its range. Nothing else knows what
 * such a file is called. (Kernel documentation: admin-guide/cgroup-v2.rst and
 * admin-guide/cgroup-v1/.)
 *
 * @module
 */

import { kind, record, refuseUnknown } from "./checks.ts";
import { quote, rangeError, typeError } from "./errors.ts";

/** Bytes as a number, or with a unit: `"256MiB"`, `"1.5GB"`; `"max"` is no limit. */
export type Size = number | string;

/** Most bytes or operations a second, each way, of one block device; `"max"` is no limit. */
export interface DeviceLimits {
  /** Bytes a second. */
  readBps?: Size;
  /** Bytes a second. */
  writeBps?: Size;
  /** Operations a second. */
  readIops?: number | "max";
  /** Operations a second. */
  writeIops?: number | "max";
}

/** What the whole tree of a port may use at most; the kernel holds it. */
export interface Limits {
  /** Bytes of memory, 4,096 or more: beyond it the kernel kills (`cause: "oom"`). */
  memory?: Size;
  /** Bytes of memory from which on the tree is slowed down and reclaimed from. v2 only. */
  memoryHigh?: Size;
  /** Bytes of memory that are reclaimed last. v2 only. */
  memoryLow?: Size;
  /** Bytes of memory that are never reclaimed. v2 only. */
  memoryMin?: Size;
  /** Bytes of swap; in v1 only together with `memory`. */
  swap?: Size;
  /** Whether all of the tree ends where one of it is killed for want of memory; default true where `memory` is given. */
  oomGroup?: boolean;
  /** Processors: 0.5 is half of one; 0.01 to 1,024. */
  cpu?: number | "max";
  /** Share of the processors where there are too few, 1 to 10,000; the kernel's default is 100. */
  cpuWeight?: number;
  /** The processors that may be used: `"0-2,7"`. */
  cpuset?: string;
  /** Processes and threads, 1 to 4,194,304. */
  pids?: number | "max";
  /** Block devices: their weight, 1 to 10,000, and limits by `"MAJOR:MINOR"`. */
  io?: { weight?: number; devices?: Readonly<Record<string, DeviceLimits>> };
  /** Bytes of huge pages by page size: `{ "2MB": "64MiB" }`. */
  hugetlb?: Readonly<Record<string, Size>>;
}

/** How what is read back is compared: not at all, as text, as a number to the page, as a set, as one line of many. */
export type Check = "none" | "exact" | "bytes" | "set" | "line";

/** One file of a cgroup and what is written to it. */
export interface Write {
  readonly file: string;
  readonly value: string;
  readonly check: Check;
}

/** What one version of cgroups needs for a setting. */
export interface Side {
  readonly controller: string;
  readonly writes: readonly Write[];
}

/** One thing to be set, in both versions; null: that version has nothing like it. */
export interface Setting {
  /** How the caller calls it. */
  readonly name: string;
  /** Left out without a word where the host has no such file. */
  readonly optional: boolean;
  readonly v2: Side | null;
  readonly v1: Side | null;
}

type Amount = number | "max";

/** A kind of value: how a caller gives it, and how each version writes and reads it. */
interface Codec<T> {
  parse(name: string, value: unknown): T;
  v2(value: T): string;
  v1(value: T): string;
  /** From the text of a file; null where it says nothing of this kind. */
  decode(text: string, version: 1 | 2): T | null;
  readonly check: Check;
}

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
};
/** v1 says "no limit" by the largest number of pages. */
const V1_UNLIMITED = 2 ** 62;
const SIZE_MEND = 'give bytes as a number, or with a unit, such as "256MiB"';

/** Bytes of `value`, or `"max"`. */
function sizeOf(name: string, value: unknown, least: number): Amount {
  if (value === "max") return value;
  const parts = typeof value === "string" ? /^(\d+(?:\.\d+)?) *([a-z]*)$/i.exec(value) : null;
  const unit = parts === null ? undefined : UNITS[(parts[2] ?? "").toUpperCase()];
  if (typeof value !== "number" && unit === undefined) {
    throw wrong(name, typeof value === "string" ? quote(value) : kind(value), SIZE_MEND);
  }
  const bytes = typeof value === "number" ? value : Math.round(Number(parts?.[1]) * (unit ?? 1));
  return inRange(name, bytes, [least, Number.MAX_SAFE_INTEGER], SIZE_MEND);
}

function inRange(
  name: string,
  value: number,
  [least, most]: readonly [number, number],
  mend: string,
): number {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return value;
  const why = Number.isSafeInteger(value)
    ? `it is ${value}, ${value < least ? "less" : "more"} than allowed (${least} to ${most})`
    : `it is ${value}, not a whole number`;
  throw rangeError(`Cannot use limit ${quote(name)}`, why, mend);
}

function wrong(name: string, is: string, mend: string): TypeError {
  return typeError(`Cannot use limit ${quote(name)}`, `it is ${is}`, mend);
}

function whole(name: string, value: unknown, range: readonly [number, number]): number {
  const mend = `give a whole number, ${range[0]} to ${range[1]}`;
  if (typeof value !== "number") throw wrong(name, kind(value), mend);
  return inRange(name, value, range, mend);
}

function amountOf(text: string): Amount | null {
  const word = text.trim();
  if (word === "max" || word === "-1") return "max";
  if (!/^\d+$/.test(word)) return null;
  return Number(word) >= V1_UNLIMITED ? "max" : Number(word);
}

const bytes = (least: number): Codec<Amount> => ({
  parse: (name, value) => sizeOf(name, value, least),
  v2: String,
  v1: (value) => value === "max" ? "-1" : String(value),
  decode: amountOf,
  check: "bytes",
});

const count = (range: readonly [number, number]): Codec<Amount> => ({
  parse: (name, value) => value === "max" ? value : whole(name, value, range),
  v2: String,
  v1: String,
  decode: amountOf,
  check: "exact",
});

const WEIGHT: Codec<number> = {
  parse: (name, value) => whole(name, value, [1, 10_000]),
  v2: String,
  // 100 there is 1,024 here.
  v1: (value) => String(Math.max(2, Math.round(value * 1024 / 100))),
  decode: (text, version) => {
    const number = amountOf(text);
    if (number === null || number === "max") return null;
    return version === 2 ? number : Math.min(10_000, Math.max(1, Math.round(number * 100 / 1024)));
  },
  check: "exact",
};

const CPUS: Codec<string> = {
  parse(name, value) {
    const mend = 'give numbers and ranges of processors, such as "0-2,7"';
    if (typeof value !== "string") throw wrong(name, kind(value), mend);
    const ranges = value.split(",").map((part) => /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(part));
    const rising = (range: RegExpExecArray | null) =>
      range !== null && Number(range[2] ?? range[1]) >= Number(range[1]);
    if (!ranges.every(rising)) throw wrong(name, quote(value), mend);
    return value;
  },
  v2: String,
  v1: String,
  decode: (text) => /^[\d,-]+$/.test(text.trim()) ? text.trim() : null,
  check: "set",
};

const FLAG: Codec<boolean> = {
  parse(name, value) {
    if (typeof value === "boolean") return value;
    throw wrong(name, kind(value), "give true or false");
  },
  v2: (value) => value ? "1" : "0",
  v1: () => "",
  decode: (text) => text.trim() === "1" ? true : text.trim() === "0" ? false : null,
  check: "exact",
};

/** A limit that is one number, or one word, in one file. */
interface Row<T> {
  readonly controller: string;
  readonly codec: Codec<T>;
  readonly v2: string;
  /** null: v1 has nothing like it. */
  readonly v1: string | null;
}

const row = <T>(v2: string, v1: string | null, codec: Codec<T>): Row<unknown> => ({
  controller: v2.split(".", 1)[0] ?? "",
  codec: codec as Codec<unknown>,
  v2,
  v1,
});

/** The limits of one file each. */
const ROWS = {
  memory: row("memory.max", "memory.limit_in_bytes", bytes(4096)),
  memoryHigh: row("memory.high", null, bytes(4096)),
  memoryLow: row("memory.low", null, bytes(0)),
  memoryMin: row("memory.min", null, bytes(0)),
  swap: row("memory.swap.max", null, bytes(0)),
  // In v1 a port's keeper sees to it.
  oomGroup: row("memory.oom.group", "", FLAG),
  cpuWeight: row("cpu.weight", "cpu.shares", WEIGHT),
  cpuset: row("cpuset.cpus", "cpuset.cpus", CPUS),
  pids: row("pids.max", "pids.max", count([1, 4_194_304])),
} as const satisfies Partial<Record<keyof Limits, Row<unknown>>>;

const KNOWN: Readonly<Record<keyof Limits, true>> = {
  memory: true,
  memoryHigh: true,
  memoryLow: true,
  memoryMin: true,
  swap: true,
  oomGroup: true,
  cpu: true,
  cpuWeight: true,
  cpuset: true,
  pids: true,
  io: true,
  hugetlb: true,
};

type Given = Readonly<Partial<Record<keyof Limits, unknown>>>;

/**
 * What has to be set for `limits`, in the order in which it has to be.
 *
 * @throws {TypeError} for an unknown limit, or a value of the wrong kind or in an unknown unit.
 * @throws {RangeError} for a value outside its range.
 */
export function settingsOf(limits: unknown): Setting[] {
  const mend = 'give an object such as { memory: "256MiB" }';
  const given: Given | undefined = record({ limits }, "limits", mend, null);
  if (given === undefined) return [];
  refuseUnknown("limit", given, Object.keys(KNOWN));
  const rows = Object.entries(ROWS).flatMap(([name, one]) => {
    const value = given[name as keyof Limits];
    if (value === undefined) return [];
    const parsed = one.codec.parse(name, value);
    return name === "swap" ? [swap(parsed as Amount, given)] : [setting(name, one, parsed)];
  });
  // Every one of a tree ends with the first that is killed, unless that is asked not to be.
  const whole = given.memory !== undefined && given.oomGroup === undefined;
  const group = whole ? [{ ...setting("oomGroup", ROWS.oomGroup, true), optional: true }] : [];
  return [...rows, ...group, ...cpu(given.cpu), ...io(given.io), ...hugetlb(given.hugetlb)];
}

function setting(
  name: string,
  { controller, codec, v2, v1 }: Row<unknown>,
  value: unknown,
): Setting {
  const { check } = codec;
  const old = v1 === null || v1 === "" ? [] : [{ file: v1, value: codec.v1(value), check }];
  return {
    name,
    optional: false,
    v2: { controller, writes: [{ file: v2, value: codec.v2(value), check }] },
    v1: v1 === null ? null : { controller, writes: old },
  };
}

/** v1 counts swap and memory together. */
function swap(value: Amount, given: Given): Setting {
  const one = setting("swap", ROWS.swap, value);
  if (given.memory === undefined) return one;
  const memory = ROWS.memory.codec.parse("memory", given.memory) as Amount;
  const both = value === "max" || memory === "max" ? "-1" : String(memory + value);
  const write = { file: "memory.memsw.limit_in_bytes", value: both, check: "bytes" as const };
  return { ...one, v1: { controller: "memory", writes: [write] } };
}

/** The kernel's default; quota and period are in microseconds. */
const PERIOD_US = 100_000;

function cpu(value: unknown): Setting[] {
  if (value === undefined) return [];
  const mend = "give processors, 0.01 to 1024, such as 0.5";
  if (value !== "max" && typeof value !== "number") throw wrong("cpu", kind(value), mend);
  if (value === "max") return [cpuSetting("cpu", "max", PERIOD_US)];
  if (value >= 0.01 && value <= 1024) {
    return [cpuSetting("cpu", Math.round(value * PERIOD_US), PERIOD_US)];
  }
  throw rangeError('Cannot use limit "cpu"', `it is ${value}, out of its range`, mend);
}

function cpuSetting(name: string, quota: Amount, period: number): Setting {
  const exact = (file: string, value: string): Write => ({ file, value, check: "exact" });
  return {
    name,
    optional: false,
    v2: { controller: "cpu", writes: [exact("cpu.max", `${quota} ${period}`)] },
    v1: {
      controller: "cpu",
      writes: [
        exact("cpu.cfs_period_us", String(period)),
        exact("cpu.cfs_quota_us", quota === "max" ? "-1" : String(quota)),
      ],
    },
  };
}

/** For each way: its word in v2's file, its file in v1. */
const WAYS = {
  readBps: ["rbps", "blkio.throttle.read_bps_device"],
  writeBps: ["wbps", "blkio.throttle.write_bps_device"],
  readIops: ["riops", "blkio.throttle.read_iops_device"],
  writeIops: ["wiops", "blkio.throttle.write_iops_device"],
} as const satisfies Record<keyof DeviceLimits, readonly [string, string]>;

function io(given: unknown): Setting[] {
  if (given === undefined) return [];
  if (typeof given !== "object" || given === null) {
    throw wrong("io", kind(given), "give an object such as { weight: 50 }");
  }
  refuseUnknown("limit of io", given, ["weight", "devices"]);
  const { weight, devices = {} } = given as { weight?: unknown; devices?: unknown };
  if (typeof devices !== "object" || devices === null) {
    throw wrong(
      "io.devices",
      kind(devices),
      'give an object such as { "8:0": { readBps: "1MiB" } }',
    );
  }
  const all = Object.entries(devices).map(([device, limits]) => deviceSetting(device, limits));
  return weight === undefined
    ? all
    : [weightSetting(whole("io.weight", weight, [1, 10_000])), ...all];
}

function weightSetting(weight: number): Setting {
  const v1 = String(Math.min(1000, weight));
  return {
    name: "io.weight",
    optional: false,
    v2: {
      controller: "io",
      writes: [{ file: "io.weight", value: `default ${weight}`, check: "line" }],
    },
    v1: { controller: "blkio", writes: [{ file: "blkio.bfq.weight", value: v1, check: "exact" }] },
  };
}

function deviceSetting(device: string, limits: unknown): Setting {
  const name = `io.devices.${device}`;
  if (!/^\d{1,4}:\d{1,7}$/.test(device)) {
    throw wrong(name, "no device's number", 'name it by "MAJOR:MINOR", as lsblk shows it');
  }
  if (typeof limits !== "object" || limits === null) {
    throw wrong(name, kind(limits), 'give an object such as { readBps: "1MiB" }');
  }
  refuseUnknown("limit of a device", limits, Object.keys(WAYS));
  const ways = Object.entries(limits).filter(([, value]) => value !== undefined)
    .map(([way, value]) => {
      const full = `${name}.${way}`;
      const amount = way.endsWith("Bps")
        ? sizeOf(full, value, 1)
        : value === "max"
        ? value
        : whole(full, value, [1, 4_294_967_295]);
      return { words: WAYS[way as keyof DeviceLimits], amount };
    });
  const v2 = ways.map(({ words, amount }) => `${words[0]}=${amount}`).join(" ");
  const v1 = ways.map(({ words, amount }): Write => {
    // 0 takes a limit away, and with it its line.
    const value = `${device} ${amount === "max" ? 0 : amount}`;
    return { file: words[1], value, check: amount === "max" ? "none" : "line" };
  });
  const writes: Write[] = v2 === ""
    ? []
    : [{ file: "io.max", value: `${device} ${v2}`, check: "line" }];
  return {
    name,
    optional: false,
    v2: { controller: "io", writes },
    v1: { controller: "blkio", writes: v1 },
  };
}

function hugetlb(given: unknown): Setting[] {
  if (given === undefined) return [];
  if (typeof given !== "object" || given === null) {
    throw wrong("hugetlb", kind(given), 'give an object such as { "2MB": "64MiB" }');
  }
  return Object.entries(given).map(([page, value]) => {
    const name = `hugetlb.${page}`;
    const parts = /^(\d+)(KB|MB|GB)$/.exec(page);
    if (parts === null) throw wrong(name, "no size of a page", 'name it as in "2MB" or "1GB"');
    const each = Number(parts[1]) * (UNITS[`${parts[2]?.[0]}IB`] ?? 1);
    const amount = sizeOf(name, value, 0);
    if (amount !== "max" && amount % each !== 0) {
      throw rangeError(
        `Cannot use limit ${quote(name)}`,
        `${amount} is no whole number of its pages`,
        `give a multiple of ${each}`,
      );
    }
    const codec = { ...bytes(0), check: "exact" as const };
    const write = (v2: string, v1: string) => ({ ...row(v2, v1, codec), controller: "hugetlb" });
    return setting(name, write(`hugetlb.${page}.max`, `hugetlb.${page}.limit_in_bytes`), amount);
  });
}

/** A controller, a file of it, and what is to be written: as `cgroupSets` has it. */
export type RawSet = readonly [controller: string, file: string, value: string];

/**
 * What has to be set for raw file names. One that the table knows is written in
 * the other version's words as well, so that it holds on any host.
 */
export function rawSettings(sets: readonly RawSet[]): Setting[] {
  const inV1 = new Map(sets.map(([, file, value]) => [file, value]));
  return sets.map(([controller, file, value]) => {
    const name = `${file} = ${value}`;
    const known = fromFile(file, value) ?? fromQuota(file, inV1);
    const write: Write = { file, value, check: "none" };
    const own: Side = { controller, writes: [checked(write, known)] };
    if (known === null) return { name, optional: false, v1: own, v2: own };
    const isV1 = known.v1?.writes.some((one) => one.file === file) ?? false;
    const isV2 = known.v2?.writes.some((one) => one.file === file) ?? false;
    return {
      name,
      optional: false,
      v1: isV1 ? own : known.v1,
      v2: isV2 ? own : known.v2,
    };
  });
}

/** As the table writes this file, so is it looked at. */
function checked(write: Write, known: Setting | null): Write {
  const all = [...known?.v1?.writes ?? [], ...known?.v2?.writes ?? []];
  const same = all.find(({ file }) => file === write.file);
  return { ...write, check: same?.check ?? "none" };
}

function fromFile(file: string, value: string): Setting | null {
  for (const [name, one] of Object.entries(ROWS)) {
    const version = file === one.v2 ? 2 : file === one.v1 ? 1 : null;
    if (version === null) continue;
    const decoded = one.codec.decode(value, version);
    return decoded === null ? null : setting(name, one, decoded);
  }
  const [quota, period = String(PERIOD_US)] = value.trim().split(" ");
  if (file !== "cpu.max" || quota === undefined || !/^\d+$/.test(period)) return null;
  const amount = amountOf(quota);
  return amount === null ? null : cpuSetting("cpu", amount, Number(period));
}

/** Of v1's two files for the processors the quota speaks for both; the period alone says nothing. */
function fromQuota(file: string, sets: ReadonlyMap<string, string>): Setting | null {
  if (file !== "cpu.cfs_quota_us" && file !== "cpu.cfs_period_us") return null;
  const period = Number(sets.get("cpu.cfs_period_us") ?? PERIOD_US);
  const quota = amountOf(sets.get("cpu.cfs_quota_us") ?? "-1");
  if (!Number.isSafeInteger(period) || quota === null) return null;
  return cpuSetting("cpu", quota, period);
}

/** The controllers of both versions. */
export const CONTROLLERS: readonly string[] = [
  "cpu",
  "cpuacct",
  "cpuset",
  "memory",
  "pids",
  "io",
  "blkio",
  "hugetlb",
  "freezer",
  "devices",
  "net_cls",
  "net_prio",
  "perf_event",
  "rdma",
  "misc",
  "dmem",
];

/** A controller to be in, with nothing set: what it is called in each version. */
export function controllerSetting(name: string): Setting {
  const v2 = { blkio: "io", cpuacct: "cpu", freezer: "", devices: "" }[name] ?? name;
  const v1 = { io: "blkio" }[name] ?? name;
  return {
    name,
    optional: false,
    v2: { controller: v2, writes: [] },
    v1: { controller: v1, writes: [] },
  };
}

/** How a value written to this file is read back, where the table knows it. */
export function checkOf(controller: string, file: string, value: string): Check {
  const [one] = rawSettings([[controller, file, value]]);
  const writes = [...one?.v1?.writes ?? [], ...one?.v2?.writes ?? []];
  return writes.find((write) => write.file === file)?.check ?? "none";
}
