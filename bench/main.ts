// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Compares ports with `Deno.Command`, A B A B in one run, and measures the
 * helper processes. Prints one Markdown table; a target counts as met or
 * missed only outside the spread of the same against itself.
 *
 * @module
 */

import { open } from "../mod.ts";
import { killRows } from "./kill.ts";
import { limitRows } from "./limits.ts";

const ROUNDS = 6;
const SPAWNS = 60;
const GIB = 2 ** 30;

type Work = () => Promise<number>;

// The work

/** Milliseconds per start and end of `true` through a port, three pipes. */
async function portSpawns(kill: "auto" | "tree"): Promise<number> {
  const begin = performance.now();
  for (let n = 0; n < SPAWNS; n++) {
    const port = await open("true", [], { containment: { kill } });
    const { success } = await port.status;
    if (!success) throw new Error("true failed");
  }
  return (performance.now() - begin) / SPAWNS;
}

/** The same through `Deno.Command`. */
async function commandSpawns(): Promise<number> {
  const begin = performance.now();
  for (let n = 0; n < SPAWNS; n++) {
    const child = new Deno.Command("true", {
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const { success } = await child.status;
    if (!success) throw new Error("true failed");
    await Promise.all([child.stdin.close(), child.stdout.cancel(), child.stderr.cancel()]);
  }
  return (performance.now() - begin) / SPAWNS;
}

/** Reads a stream to its end and returns the milliseconds; it must hold 1 GiB. */
async function timedRead(stream: ReadableStream<Uint8Array>): Promise<number> {
  const begin = performance.now();
  let bytes = 0;
  for await (const chunk of stream) bytes += chunk.length;
  if (bytes !== GIB) throw new Error(`${bytes} bytes instead of ${GIB}`);
  return performance.now() - begin;
}

/** The same, every read into the same buffer of 256 KiB. */
async function timedFill(stream: ReadableStream<Uint8Array>): Promise<number> {
  const begin = performance.now();
  const reader = stream.getReader({ mode: "byob" });
  let bytes = 0;
  for (let buffer = new ArrayBuffer(256 * 1024);;) {
    const { value, done } = await reader.read(new Uint8Array(buffer));
    if (done) break;
    bytes += value.length;
    buffer = value.buffer;
  }
  if (bytes !== GIB) throw new Error(`${bytes} bytes instead of ${GIB}`);
  return performance.now() - begin;
}

type Read = typeof timedRead;

async function portRead(writer: string, read: Read): Promise<number> {
  await using port = await open(writer, [], { stdin: "null", stderr: "null" });
  return await read(port.stdout);
}

async function commandRead(writer: string, read: Read): Promise<number> {
  const child = new Deno.Command(writer, { stdin: "null", stdout: "piped", stderr: "null" })
    .spawn();
  const ms = await read(child.stdout);
  await child.status;
  return ms;
}

/** What a plain reader in C takes for it. */
async function limitRead(writer: string, reader: string): Promise<number> {
  const { stdout } = await new Deno.Command(reader, { args: [writer] }).output();
  const ms = Number(new TextDecoder().decode(stdout));
  if (!(ms > 0)) throw new Error("bench/reader.c failed");
  return ms;
}

// The comparison

function median(values: readonly number[]): number {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length >> 1;
  const [low = NaN, high = NaN] = [sorted[middle - 1], sorted[middle]];
  return sorted.length % 2 === 0 ? (low + high) / 2 : high;
}

/** How far the two halves of one series lie apart, as a ratio of at least 1. */
function spread(values: readonly number[]): number {
  const even = median(values.filter((_, at) => at % 2 === 0));
  const odd = median(values.filter((_, at) => at % 2 === 1));
  return Math.max(even / odd, odd / even);
}

export interface Row {
  name: string;
  ours: Work;
  theirs: Work;
  /** What C takes, where there is a program for it. */
  limit?: Work;
  /** How many times `theirs`, or `limit`, ours may take; null where nothing was promised. */
  most: number | null;
  of?: "theirs" | "limit";
  /** Whose `theirs` is; default Deno.Command's. */
  beside?: string;
}

/** Runs all of a row in turn, once unmeasured, and returns its line. */
async function compare(row: Row): Promise<string> {
  const { name, ours, theirs, limit, most, of = "theirs", beside = "Deno.Command" } = row;
  const works = { ours, theirs, ...(limit === undefined ? {} : { limit }) };
  const taken = { ours: [] as number[], theirs: [] as number[], limit: [] as number[] };
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [who, work] of Object.entries(works) as [keyof typeof taken, Work][]) {
      const ms = await work();
      if (round > 0) taken[who].push(ms);
    }
  }
  const ratio = (to: keyof typeof taken) => median(taken.ours) / median(taken[to]);
  const noise = Math.max(spread(taken.ours), spread(taken[of]));
  const ms = (who: keyof typeof taken) =>
    taken[who].length > 0 ? `${median(taken[who]).toFixed(2)} ms` : "-";
  const cells = [
    name,
    ms("limit"),
    ms("ours"),
    ms("theirs"),
    `${ratio("theirs").toFixed(2)}x`,
    limit === undefined ? "-" : `${ratio("limit").toFixed(2)}x`,
    `${((noise - 1) * 100).toFixed(0)} %`,
    most === null ? `beside ${beside}` : `<= ${most.toFixed(2)}x ${of === "theirs" ? beside : "C"}`,
    most === null ? "-" : verdict(ratio(of), most, noise),
  ];
  return `| ${cells.join(" | ")} |`;
}

function verdict(value: number, most: number, noise: number): string {
  if (value * noise <= most) return "met";
  return value / noise > most ? "missed" : "within the spread";
}

// The helpers' memory

interface Process {
  pid: number;
  parent: number;
  name: string;
}

/** Every process, its name being the first word of its command line. */
function processes(): Process[] {
  return [...Deno.readDirSync("/proc")].map(({ name }) => Number(name)).filter((pid) => pid)
    .flatMap((pid) => {
      try {
        const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
        const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
        const name = Deno.readTextFileSync(`/proc/${pid}/cmdline`).split("\0")[0] ?? "";
        return [{ pid, parent, name }];
      } catch {
        return []; // gone since the folder was listed
      }
    });
}

/** The helpers below this process whose name begins with `name`. */
function helpers(name: string): Process[] {
  const all = processes();
  const below = new Set([Deno.pid]);
  for (let before = 0; before !== below.size;) {
    before = below.size;
    for (const { pid, parent } of all) if (below.has(parent)) below.add(pid);
  }
  return all.filter((one) => below.has(one.pid) && one.name.startsWith(name));
}

/** Sum of the named lines of a process's memory, in KiB. */
function memory(pid: number, lines: RegExp): number {
  const text = Deno.readTextFileSync(`/proc/${pid}/smaps_rollup`);
  return [...text.matchAll(lines)].reduce((sum, [, kib]) => sum + Number(kib), 0);
}

async function memoryRows(): Promise<string[]> {
  await using port = await open("cat");
  const pair = [...helpers("proton-watchdog"), ...helpers("proton-guardian")];
  const keepers = helpers("proton-keeper");
  if (pair.length !== 2 || keepers.length !== 1) {
    throw new Error(`found ${pair.length} + ${keepers.length} helpers of ${port.pid}, not 2 + 1`);
  }
  const pss = pair.reduce((sum, { pid }) => sum + memory(pid, /^Pss:\s+(\d+)/gm), 0);
  const alone = memory(keepers[0]?.pid ?? 0, /^Private_\w+:\s+(\d+)/gm);
  return [
    memoryRow("watchdog + guardian, PSS", pss, 1536),
    memoryRow("a keeper, private", alone, 64),
  ];
}

function memoryRow(name: string, kib: number, most: number): string {
  const met = kib <= most ? "met" : "missed";
  return `| ${name} | - | ${kib} KiB | - | - | - | - | <= ${most} KiB | ${met} |`;
}

// The run

/** Compiles one of the programs that stand beside this file. */
async function build(folder: string, name: string): Promise<string> {
  const program = `${folder}/${name}`;
  const source = new URL(`./${name}.c`, import.meta.url).pathname;
  const { success } = await new Deno.Command("cc", { args: ["-O2", "-o", program, source] })
    .spawn().status;
  if (!success) throw new Error(`cc failed on bench/${name}.c`);
  return program;
}

const folder = await Deno.makeTempDir({ prefix: "proton-bench-" });
try {
  const [writer, reader] = [await build(folder, "writer"), await build(folder, "reader")];
  const limit = () => limitRead(writer, reader);
  console.log(
    `Linux ${Deno.osRelease()}, ${navigator.hardwareConcurrency} cores, Deno ${Deno.version.deno}; ` +
      `medians of ${ROUNDS}, A B A B; times, so less is better\n`,
  );
  console.log(
    "| work | C limit | port | Deno.Command | to Deno.Command | to C | spread | target | |",
  );
  console.log("|---|---|---|---|---|---|---|---|---|");
  const rows: Row[] = [
    {
      name: "spawn + exit of true, three pipes",
      ours: () => portSpawns("tree"),
      theirs: commandSpawns,
      most: 1.2,
    },
    {
      name: "the same in a cgroup of its own, beside a port without",
      ours: () => portSpawns("auto"),
      theirs: () => portSpawns("tree"),
      beside: "without",
      most: 1.25,
    },
    {
      name: "1 GiB of stdout, 128 KiB writes, default reader",
      ours: () => portRead(writer, timedRead),
      theirs: () => commandRead(writer, timedRead),
      limit,
      most: 0.5,
    },
    {
      name: "1 GiB of stdout, 128 KiB writes, BYOB reader",
      ours: () => portRead(writer, timedFill),
      theirs: () => commandRead(writer, timedFill),
      limit,
      most: 1 / 0.95,
      of: "limit",
    },
  ];
  for (const row of rows) console.log(await compare(row));
  for await (const row of limitRows(compare)) console.log(row);
  for (const row of await memoryRows()) console.log(row);
  console.log();
  for await (const row of killRows()) console.log(row);
} finally {
  await Deno.remove(folder, { recursive: true });
}
