// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What the kernel counts of a tree in its cgroups, in either version: which
 * files say it, and how they are read. (Kernel documentation:
 * admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/.)
 *
 * @module
 */

/** A version of cgroups; 0: none of them. */
export type CgroupVersion = 0 | 1 | 2;

/** What one file of one of a tree's cgroups says. */
export interface Figure {
  version: CgroupVersion;
  file: string;
  text: string;
}

/** How often something has happened to a tree's limits since its start. */
export interface Counters {
  /** Its memory went over `memoryHigh`, and it was slowed down. */
  memoryHigh: number;
  /** Its memory was about to go over `memory`. */
  memoryMax: number;
  /** Memory was out, and none could be had back. */
  oom: number;
  /** Processes that the kernel killed for want of memory. */
  oomKill: number;
  /** Processes or threads that were refused because of `pids`. */
  pidsMax: number;
}

/** Part of the last ten seconds, of 0 to 100, in which some of a tree, or all, waited for a resource. */
export interface Pressure {
  /** At least one of it waited. */
  some: number;
  /** All of it waited. */
  full: number;
}

/** What a tree uses, as far as its cgroups count it. */
export interface Stats {
  /** Bytes in use now, the most there ever were, and bytes in swap. */
  memory?: { bytes: number; peakBytes?: number; swapBytes?: number };
  /** Milliseconds of processor time, and of waiting because of `cpu`. */
  cpu?: { userMs: number; systemMs: number; throttledMs?: number };
  /** Processes and threads now, and the most there ever were. */
  pids?: { count: number; peak?: number };
  /** Bytes and operations of block devices. */
  io?: { readBytes: number; writtenBytes: number; reads: number; writes: number };
  /** How much of the time it waited, by resource (Linux 4.20, PSI). */
  pressure?: { memory?: Pressure; cpu?: Pressure; io?: Pressure };
  /** How often its limits were met. */
  counters: Counters;
}

/** What is read when a tree has ended, before its cgroups are removed. */
export const FINAL: readonly string[] = [
  "memory.peak",
  "memory.max_usage_in_bytes",
  "memory.events",
  "memory.oom_control",
  "memory.failcnt",
  "cpu.stat",
  "cpuacct.usage_user",
  "cpuacct.usage_sys",
  "pids.peak",
  "pids.events",
  "io.stat",
  "blkio.throttle.io_service_bytes_recursive",
  "blkio.throttle.io_serviced_recursive",
];

/** What is read while it runs. */
export const LIVE: readonly string[] = [
  ...FINAL,
  "memory.current",
  "memory.usage_in_bytes",
  "memory.swap.current",
  "memory.memsw.usage_in_bytes",
  "pids.current",
  "memory.pressure",
  "cpu.pressure",
  "io.pressure",
];

/** The files that {@link countersOf} reads. */
export const COUNTING: readonly string[] = [
  "memory.events",
  "memory.oom_control",
  "memory.failcnt",
  "pids.events",
];

type Files = ReadonlyMap<string, string>;

/** By file; where both versions have one of a name, v1's is the one with the limits. */
function byFile(figures: readonly Figure[]): Files {
  const v2first = [...figures].sort((one, other) => other.version - one.version);
  return new Map(v2first.map(({ file, text }) => [file, text]));
}

/** Lines of a name and a number. */
function pairs(text: string | undefined): ReadonlyMap<string, number> {
  const lines = (text ?? "").split("\n").map((line) => line.trim().split(/\s+/));
  return new Map(
    lines.flatMap(([name = "", value]) => {
      const number = Number(value);
      return value !== undefined && Number.isFinite(number) ? [[name, number] as const] : [];
    }),
  );
}

function number(files: Files, ...names: readonly string[]): number | undefined {
  for (const name of names) {
    const text = files.get(name)?.trim();
    if (text !== undefined && /^\d+$/.test(text)) return Number(text);
  }
  return undefined;
}

/** What has happened to a tree's limits. */
export function countersOf(figures: readonly Figure[]): Counters {
  const files = byFile(figures);
  const events = pairs(files.get("memory.events"));
  const kills = pairs(files.get("memory.oom_control")).get("oom_kill") ?? 0;
  return {
    memoryHigh: events.get("high") ?? 0,
    memoryMax: events.get("max") ?? number(files, "memory.failcnt") ?? 0,
    oom: events.get("oom") ?? kills,
    oomKill: events.get("oom_kill") ?? kills,
    pidsMax: pairs(files.get("pids.events")).get("max") ?? 0,
  };
}

/** All that is known of a tree. */
export function statsOf(figures: readonly Figure[]): Stats {
  const files = byFile(figures);
  const parts = {
    memory: memory(files),
    cpu: cpu(figures, files),
    pids: pids(files),
    io: io(files),
    pressure: pressures(files),
  };
  const known = Object.entries(parts).filter(([, part]) => part !== undefined);
  return { ...Object.fromEntries(known), counters: countersOf(figures) };
}

function memory(files: Files): Stats["memory"] {
  const peakBytes = number(files, "memory.peak", "memory.max_usage_in_bytes");
  const bytes = number(files, "memory.current", "memory.usage_in_bytes");
  if (bytes === undefined && peakBytes === undefined) return undefined;
  const both = number(files, "memory.memsw.usage_in_bytes");
  const swapBytes = number(files, "memory.swap.current") ??
    (both === undefined || bytes === undefined ? undefined : Math.max(0, both - bytes));
  return {
    bytes: bytes ?? 0,
    ...(peakBytes === undefined ? {} : { peakBytes }),
    ...(swapBytes === undefined ? {} : { swapBytes }),
  };
}

/** v2 counts in microseconds, and the time of any cgroup; v1 in nanoseconds, in a file of each controller. */
function cpu(figures: readonly Figure[], files: Files): Stats["cpu"] {
  const stat = (version: CgroupVersion) => {
    const found = figures.find((one) => one.file === "cpu.stat" && one.version === version);
    return found === undefined ? undefined : pairs(found.text);
  };
  const [v1, v2] = [stat(1), stat(2)];
  const [user, system] = [number(files, "cpuacct.usage_user"), number(files, "cpuacct.usage_sys")];
  const [throttled1, throttled2] = [v1?.get("throttled_time"), v2?.get("throttled_usec")];
  const throttledMs = throttled1 !== undefined
    ? throttled1 / 1e6
    : throttled2 === undefined
    ? undefined
    : throttled2 / 1e3;
  const throttled = throttledMs === undefined ? {} : { throttledMs };
  const [user2, system2] = [v2?.get("user_usec"), v2?.get("system_usec")];
  if (user2 !== undefined && system2 !== undefined) {
    return { userMs: user2 / 1e3, systemMs: system2 / 1e3, ...throttled };
  }
  if (user === undefined || system === undefined) return undefined;
  return { userMs: user / 1e6, systemMs: system / 1e6, ...throttled };
}

function pids(files: Files): Stats["pids"] {
  const [count, peak] = [number(files, "pids.current"), number(files, "pids.peak")];
  if (count === undefined && peak === undefined) return undefined;
  return { count: count ?? 0, ...(peak === undefined ? {} : { peak }) };
}

function io(files: Files): Stats["io"] {
  const v2 = files.get("io.stat");
  const sum = (text: string, pattern: RegExp) =>
    [...text.matchAll(pattern)].reduce((all, [, amount]) => all + Number(amount), 0);
  if (v2 !== undefined) {
    return {
      readBytes: sum(v2, /\brbytes=(\d+)/g),
      writtenBytes: sum(v2, /\bwbytes=(\d+)/g),
      reads: sum(v2, /\brios=(\d+)/g),
      writes: sum(v2, /\bwios=(\d+)/g),
    };
  }
  const bytes = files.get("blkio.throttle.io_service_bytes_recursive");
  const times = files.get("blkio.throttle.io_serviced_recursive");
  if (bytes === undefined || times === undefined) return undefined;
  return {
    readBytes: sum(bytes, /^\d+:\d+ Read (\d+)$/gm),
    writtenBytes: sum(bytes, /^\d+:\d+ Write (\d+)$/gm),
    reads: sum(times, /^\d+:\d+ Read (\d+)$/gm),
    writes: sum(times, /^\d+:\d+ Write (\d+)$/gm),
  };
}

function pressures(files: Files): Stats["pressure"] {
  const of = (name: string) => {
    const text = files.get(`${name}.pressure`);
    if (text === undefined || text === "") return [];
    const last = (which: string) =>
      Number(new RegExp(`^${which} avg10=([\\d.]+)`, "m").exec(text)?.[1] ?? 0);
    return [[name, { some: last("some"), full: last("full") }] as const];
  };
  const all = ["memory", "cpu", "io"].flatMap(of);
  return all.length === 0 ? undefined : Object.fromEntries(all);
}
