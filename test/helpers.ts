// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What the tests stand on: the probe, processes by identity, conditions that
 * are awaited, and what a leak looks like. Waiting is done here and nowhere
 * else: a test names a condition, and the deadline is only a safety net.
 *
 * @module
 */

import { assert as stdAssert, assertEquals } from "@std/assert";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { open, type Port } from "../mod.ts";

export { left, ready, readyWords } from "./fixtures/host.ts";

/** `assert` of @std/assert, whose npm copy carries no types, so that it narrows what it is given. */
export function assert(condition: unknown, why?: string): asserts condition {
  stdAssert(condition, why);
}

export const CHECKOUT: string = fileURLToPath(new URL("..", import.meta.url));

/** The misbehaving program, built at the first use; its verbs are told by `probe help`. */
export const PROBE: string = await built();

async function built(): Promise<string> {
  const build = new Deno.Command(`${CHECKOUT}test/fixtures/build`, { stderr: "inherit" });
  const { success, stdout } = await build.output();
  if (!success) throw new Error("the probe was not built: see above");
  return new TextDecoder().decode(stdout).trim();
}

/** True where the tests run as root. */
export const ROOT: boolean = Deno.uid() === 0;

/**
 * How long a condition may take before the test is called broken. Where tests
 * are meant to turn red (scripts/sabotage.ts) nobody wants to wait that long;
 * where processors are emulated (scripts/vm) it takes longer.
 */
const DEADLINE_MS = Number(Deno.env.get("PROTON_TEST_DEADLINE_MS") ?? 30_000);

/** Longer than any test takes where nothing is stuck. */
const TEST_DEADLINE_MS = Math.max(120_000, 4 * DEADLINE_MS);

/** Registers a test that fails, instead of hanging, when what it waits for never comes. */
export function test(
  name: string,
  body: (t: Deno.TestContext) => Promise<void>,
  deadlineMs: number = TEST_DEADLINE_MS,
): void {
  Deno.test(name, (t) => within(body(t), { what: "its end", deadlineMs }));
}

/** Registers a test that only root can do; anybody else reads how to run it. */
export function asRoot(name: string, body: (t: Deno.TestContext) => Promise<void>): void {
  if (ROOT) return test(name, body);
  const cure = "skipped: run scripts/test as root, e.g. with sudo";
  Deno.test({ name: `${name} (${cure})`, ignore: true, fn: body });
}

/** Registers a test that takes what is not everywhere; with a `cure` it is skipped, which the gate says at its end. */
export function skippable(name: string, cure: string | null, body: () => Promise<void>): void {
  if (cure === null) return test(name, body);
  console.log(`SKIPPED: ${name}: ${cure}`);
  Deno.test({ name: `${name} (skipped: ${cure})`, ignore: true, fn: body });
}

// --- conditions --------------------------------------------------------------

export interface Wait {
  /** What is waited for, for the message when it does not come. */
  what: string | (() => string);
  deadlineMs?: number;
}

/** Waits until `condition` holds (is neither false nor null) and returns what it gave. */
export async function until<T>(
  condition: () => T | Promise<T>,
  { what, deadlineMs = DEADLINE_MS }: Wait,
): Promise<Exclude<T, false | null | undefined>> {
  const deadline = performance.now() + deadlineMs;
  while (true) {
    const value = await condition();
    if (value !== false && value !== null && value !== undefined) {
      return value as Exclude<T, false | null | undefined>;
    }
    if (performance.now() > deadline) {
      throw new Error(`not in ${deadlineMs} ms: ${typeof what === "string" ? what : what()}`);
    }
    await pause(5);
  }
}

/** `promise`, or an error that says what did not come in time. */
export async function within<T>(
  promise: Promise<T>,
  { what, deadlineMs = DEADLINE_MS }: Wait,
): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const text = () => `not in ${deadlineMs} ms: ${typeof what === "string" ? what : what()}`;
  const timer = setTimeout(() => reject(new Error(text())), deadlineMs);
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** For readers that are slow on purpose, and for nothing else. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

// --- processes ---------------------------------------------------------------

/** A process that no later one with the same pid can be taken for. */
export interface Identity {
  pid: number;
  /** Its start time in clock ticks since boot. */
  start: string;
}

/** The fields of /proc/PID/stat from the state on; null where there is no such process. */
export function stat(pid: number): string[] | null {
  try {
    const text = Deno.readTextFileSync(`/proc/${pid}/stat`);
    return text.slice(text.lastIndexOf(")") + 2).trim().split(" ");
  } catch {
    return null;
  }
}

export function identity(pid: number): Identity {
  const start = stat(pid)?.[19];
  if (start === undefined) throw new Error(`there is no process ${pid}`);
  return { pid, start };
}

/** Of processes that a test started: those that it then fails to end are killed when its file is done. */
export function identities(pids: readonly number[]): Identity[] {
  const ids = pids.map(identity);
  started.push(...ids);
  return ids;
}

const started: Identity[] = [];

globalThis.addEventListener("unload", () => {
  for (const { pid } of started.filter(alive)) Deno.kill(pid, "SIGKILL");
});

/** A zombie of process 1 is gone as well: in some containers it reaps nobody. */
export function alive({ pid, start }: Identity): boolean {
  const now = stat(pid);
  if (now === null || now[19] !== start) return false;
  return !(now[0] === "Z" && now[1] === "1");
}

/** Waits until none of `ids` is left. */
export async function gone(ids: readonly Identity[]): Promise<void> {
  const left = () => ids.filter(alive).map(({ pid }) => describe(pid));
  await until(() => left().length === 0, { what: () => `the end of ${left().join(", ")}` });
}

export function comm(pid: number): string {
  return read(`/proc/${pid}/comm`)?.trim() ?? "";
}

function describe(pid: number): string {
  return `${pid} (${comm(pid)} ${stat(pid)?.[0]})`;
}

function read(path: string): string | null {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return null;
  }
}

/** The pids of the children of all threads of a process. */
export function children(pid: number): number[] {
  const tasks = names(`/proc/${pid}/task`);
  const lists = tasks.map((task) => read(`/proc/${pid}/task/${task}/children`) ?? "");
  return lists.flatMap((list) => list.trim().split(" ").filter((word) => word !== "").map(Number));
}

export function descendants(pid: number): number[] {
  return children(pid).flatMap((child) => [child, ...descendants(child)]);
}

/** The helper processes between a host and the children of its ports, by what they are. */
export function helpers(host: number): { watchdog: number; guardian: number; keepers: number[] } {
  const named = (pids: number[], part: string) => pids.filter((pid) => comm(pid).includes(part));
  const watchdogs = named(children(host), "watchdog");
  assertEquals(watchdogs.length, 1, `watchdogs below ${host}: ${children(host).map(describe)}`);
  const [watchdog = 0] = watchdogs;
  const [guardian = 0] = named(children(watchdog), "guardian");
  assert(guardian > 0, `no guardian below the watchdog: ${children(watchdog).map(describe)}`);
  return { watchdog, guardian, keepers: named(children(guardian), "keeper") };
}

/** One field of /proc/PID/status. */
export function statusField(pid: number, field: string): string {
  const line = read(`/proc/${pid}/status`)?.split("\n").find((line) =>
    line.startsWith(`${field}:`)
  );
  assert(line !== undefined, `no ${field} in the status of ${pid}`);
  return line.slice(field.length + 1).trim();
}

/** What the open descriptors of a process lead to; null where they may not be read. */
export function descriptors(pid: number): string[] | null {
  try {
    const fds = [...Deno.readDirSync(`/proc/${pid}/fd`)].map(({ name }) => name);
    return fds.flatMap((fd) => {
      try {
        const target = Deno.readLinkSync(`/proc/${pid}/fd/${fd}`);
        return target === `/proc/${pid}/fd` ? [] : [`${fd} -> ${target}`];
      } catch {
        return []; // closed meanwhile: such as the one that read the directory
      }
    });
  } catch {
    return null;
  }
}

function names(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => name);
  } catch {
    return [];
  }
}

// --- leaks -------------------------------------------------------------------

/** What `pid` and everything below it hold, by kind: descriptors of each helper, and processes. */
function holdings(pid: number): Map<string, number> {
  const kinds = [pid, ...descendants(pid)].flatMap((one) => {
    const whose = one === pid ? "the host" : comm(one);
    const fds = descriptors(one) ?? [];
    return [`process ${whose}`, ...fds.map((fd) => `${whose}: ${kind(fd)}`)];
  });
  const counts = new Map<string, number>();
  for (const one of kinds) counts.set(one, (counts.get(one) ?? 0) + 1);
  return counts;
}

/** `5 -> socket:[1234]` is one of the sockets, `7 -> /dev/null` is what it says. */
function kind(fd: string): string {
  return fd.replace(/^\d+ -> /, "").replace(/\[\d+\]$/, "");
}

/**
 * Runs `body` and waits until this process and its helpers hold no more of any
 * kind than before. One spare keeper waits in each isolate that has opened
 * ports: another one than before, but never two.
 */
export async function leavesNothing(
  body: () => Promise<void>,
  /** What the runtime itself leaves behind. */
  known: Readonly<Record<string, number>> = {},
): Promise<void> {
  await warmUp();
  const names = () => descendants(Deno.pid).map(comm);
  await until(() => names().includes("proton-spare") && !names().includes("proton-keeper"), {
    what: "a spare keeper, and the end of those before",
  });
  const before = holdings(Deno.pid);
  await body();
  const allowed = (kind: string) => (before.get(kind) ?? 0) + (known[kind] ?? 0);
  const more = () => [...holdings(Deno.pid)].filter(([kind, count]) => count > allowed(kind));
  await until(() => more().length === 0, {
    what: () =>
      `what is left to go: ${
        more().map(([kind, count]) => `${kind} ${count}, not ${allowed(kind)}`).join("; ")
      }`,
  });
}

/** One port from start to end, so that the guardian and what the library holds for good are there. */
export async function warmUp(): Promise<void> {
  await using port = await open("true");
  await port.status;
  await port.drained;
}

// --- a port that answers -----------------------------------------------------

/** A `cat` whose answer proves that everything on the way to a child and back still runs. */
export class Echo implements AsyncDisposable {
  #count = 0;

  private constructor(readonly port: Port) {}

  static async start(): Promise<Echo> {
    return new Echo(await open("cat"));
  }

  /** Sends a line that was never sent before and waits until it is back. */
  async turn(): Promise<void> {
    const line = `${++this.#count}\n`;
    await this.port.command(line);
    let text = "";
    for await (const message of this.port) {
      assert(message.type === "data", `the echo answered with ${message.type}`);
      text += new TextDecoder().decode(message.data);
      if (text.length >= line.length) break;
    }
    assertEquals(text, line);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.port.close();
  }
}

// --- the probe's pattern -----------------------------------------------------

/** Checks that what arrives on a stream is the probe's pattern, byte for byte and in order. */
export class Pattern {
  /** Bytes checked so far. */
  bytes = 0;

  /** 1 for stdout, 2 for stderr. */
  constructor(readonly stream: 1 | 2) {}

  feed(chunk: Uint8Array): void {
    let word = 0;
    for (let i = 0; i < chunk.length; i++) {
      const at = this.bytes + i;
      if (i === 0 || at % 4 === 0) word = Math.imul(Math.floor(at / 4) + this.stream, 0x9E3779B1);
      const expected = (word >>> (8 * (at % 4))) & 0xff;
      if (chunk[i] !== expected) {
        throw new Error(`byte ${at} of stream ${this.stream} is ${chunk[i]}, not ${expected}`);
      }
    }
    this.bytes += chunk.length;
  }
}

export function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

export function textOf(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/** Output of a command that must succeed. */
export async function output(command: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(command, { args }).output();
  assert(success, `${command} ${args.join(" ")}: ${textOf(stderr)}`);
  return textOf(stdout).trim();
}

/** A directory of its own for a test, gone afterwards. */
export class Scratch implements Disposable {
  readonly path: string = Deno.makeTempDirSync({ prefix: "proton_test_" });

  file(name: string): string {
    return `${this.path}/${name}`;
  }

  /** Lets every user make files here. */
  open(): this {
    Deno.chmodSync(this.path, 0o777);
    return this;
  }

  lines(name: string): string[] {
    const path = this.file(name);
    return existsSync(path) ? Deno.readTextFileSync(path).split("\n").slice(0, -1) : [];
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}
