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

const ROUNDS = 6;
const SPAWNS = 60;
const GIB = 2 ** 30;

type Work = () => Promise<number>;

// The work

/** Milliseconds per start and end of `true` through a port, three pipes. */
async function portSpawns(): Promise<number> {
  const begin = performance.now();
  for (let n = 0; n < SPAWNS; n++) {
    const port = await open("true");
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

async function portRead(writer: string): Promise<number> {
  await using port = await open(writer, [], { stdin: "null", stderr: "null" });
  return await timedRead(port.stdout);
}

async function commandRead(writer: string): Promise<number> {
  const child = new Deno.Command(writer, { stdin: "null", stdout: "piped", stderr: "null" })
    .spawn();
  const ms = await timedRead(child.stdout);
  await child.status;
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

/** Runs the two in turn, once unmeasured, and returns one row. */
async function compare(name: string, ours: Work, theirs: Work, most: number): Promise<string> {
  const [a, b]: [number[], number[]] = [[], []];
  await ours();
  await theirs();
  for (let round = 0; round < ROUNDS; round++) {
    a.push(await ours());
    b.push(await theirs());
  }
  const ratio = median(a) / median(b);
  const noise = Math.max(spread(a), spread(b));
  const cells = [
    name,
    `${median(a).toFixed(2)} ms`,
    `${median(b).toFixed(2)} ms`,
    `${ratio.toFixed(2)}x the time`,
    `${((noise - 1) * 100).toFixed(0)} %`,
    `<= ${most.toFixed(2)}x`,
    verdict(ratio, most, noise),
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
  return `| ${name} | ${kib} KiB | - | - | - | <= ${most} KiB | ${met} |`;
}

// The run

/** Compiles the program that writes 1 GiB. */
async function buildWriter(folder: string): Promise<string> {
  const writer = `${folder}/writer`;
  const source = new URL("./writer.c", import.meta.url).pathname;
  const { success } = await new Deno.Command("cc", { args: ["-O2", "-o", writer, source] })
    .spawn().status;
  if (!success) throw new Error("cc failed on bench/writer.c");
  return writer;
}

const folder = await Deno.makeTempDir({ prefix: "proton-bench-" });
try {
  const writer = await buildWriter(folder);
  console.log(
    `Linux ${Deno.osRelease()}, ${navigator.hardwareConcurrency} cores, Deno ${Deno.version.deno}; ` +
      `medians of ${ROUNDS}, A B A B\n`,
  );
  console.log("| work | port | Deno.Command | ratio | spread | target | |");
  console.log("|---|---|---|---|---|---|---|");
  console.log(
    await compare("spawn + exit of true, three pipes", portSpawns, commandSpawns, 1.2),
  );
  const read = () => portRead(writer);
  const theirRead = () => commandRead(writer);
  console.log(await compare("1 GiB of stdout, 128 KiB writes", read, theirRead, 0.5));
  for (const row of await memoryRows()) console.log(row);
} finally {
  await Deno.remove(folder, { recursive: true });
}
