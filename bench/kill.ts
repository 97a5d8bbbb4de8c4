// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What is left when a runtime is `kill -9`ed, and when a fork bomb is ended,
 * and how long it takes until nothing is: ports in both modes beside what the
 * runtimes bring along. Whoever survives is counted, and then ended by pid.
 *
 * @module
 */

import { Cgroup, MOUNT } from "../test/cgroups.ts";
import {
  alive,
  CHECKOUT,
  type Identity,
  identity,
  pause,
  PROBE,
  statusField,
  until,
} from "../test/helpers.ts";

/** The ways that are compared, by their columns, and the runtime that each is run by. */
const DENO = [Deno.execPath(), "run", "--quiet", "--no-config", "--no-lock", "--allow-all"];
const WAYS: readonly { title: string; way: string; runtime: readonly string[] }[] = [
  { title: "port, tree", way: "port:tree", runtime: DENO },
  { title: "port, cgroup.kill", way: "port:auto", runtime: DENO },
  { title: "Deno.Command", way: "deno", runtime: DENO },
  { title: "Node child_process", way: "node", runtime: ["node"] },
  { title: "Bun.spawn", way: "bun", runtime: [`${CHECKOUT}scripts/bun`] },
];

const ROUNDS = 7;
const DAEMONS = 10;
/** Whoever is alive so long after is a survivor. */
const SURVIVAL_MS = 1_000;
const RESIDENT_MB = 200;
/** The bomb's own bound is 400, its first process among them. */
const FULL = 395;

/** What one round has shown: milliseconds until nothing was left, or how many survived. */
type Outcome = { ms: number } | { survivors: number; of: number };

/** A host of one way. */
class Host implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;

  constructor(
    { way, runtime }: { way: string; runtime: readonly string[] },
    program: readonly string[],
    cgroup?: Cgroup,
  ) {
    const script = new URL("host.mjs", import.meta.url).pathname;
    const [command = "", ...args] = [...inside(cgroup), ...runtime, script, way, ...program];
    this.#process = new Deno.Command(command, { args, stdin: "piped", stdout: "piped" }).spawn();
    this.#lines = this.#process.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** The words of its next line, of which it never says two at once. */
  async words(): Promise<string[]> {
    let line = "";
    while (!line.endsWith("\n")) {
      const { done, value } = await this.#lines.read();
      if (done) throw new Error(`a host ended after "${line}"`);
      line += value;
    }
    return line.trim().split(" ");
  }

  async go(): Promise<void> {
    const writer = this.#process.stdin.getWriter();
    await writer.write(new TextEncoder().encode("go\n"));
    writer.releaseLock();
  }

  kill(): void {
    this.#process.kill("SIGKILL");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.kill();
    } catch {
      // It was killed before.
    }
    await this.#process.status;
    await Promise.allSettled([this.#lines.cancel(), this.#process.stdin.abort()]);
  }
}

function inside(cgroup?: Cgroup): string[] {
  if (cgroup === undefined) return [];
  return ["bash", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', cgroup.path];
}

/** From `kill -9` of the host to the end of a child with daemons. */
async function killHost(way: typeof WAYS[number]): Promise<Outcome> {
  await using host = new Host(way, [PROBE, "double-fork", `${DAEMONS}`, "stay"]);
  const [, ...pids] = await host.words();
  const ids = pids.map((pid) => identity(Number(pid)));
  if (residentMb(host.pid) > RESIDENT_MB) throw new Error(`a host of ${residentMb(host.pid)} MB`);
  const begin = performance.now();
  host.kill();
  while (ids.some(alive)) {
    if (performance.now() - begin > SURVIVAL_MS) return end(ids);
    await pause(0);
  }
  return { ms: performance.now() - begin };
}

/** What the kernel takes away first: the time to the end of a larger runtime is the kernel's. */
function residentMb(pid: number): number {
  return Number(statusField(pid, "VmRSS").split(" ")[0]) / 1_000;
}

/** Ends the survivors by pid. */
function end(ids: readonly Identity[]): Outcome {
  const survivors = ids.filter(alive);
  for (const { pid } of survivors) Deno.kill(pid, "SIGKILL");
  return { survivors: survivors.length, of: ids.length };
}

/** A fork bomb of 400 processes of a user of its own, ended by its host once it is full. */
async function endBomb(way: typeof WAYS[number]): Promise<Outcome> {
  using cgroup = new Cgroup();
  const drop = ["setpriv", `--reuid=${300_000 + Deno.pid}`, "--regid=65534", "--clear-groups"];
  await using host = new Host(way, [...drop, PROBE, "bomb", "exponential"], cgroup);
  await host.words();
  const bombers = () => cgroup.pids().filter(isProbe);
  let of = 0;
  await until(() => (of = bombers().length) >= FULL, { what: "400 processes", deadlineMs: 8_000 });
  await host.go();
  const [, ms] = await host.words();
  const survivors = bombers().length;
  return survivors === 0 ? { ms: Number(ms) } : { survivors, of }; // the cgroup ends with its scope
}

function isProbe(pid: number): boolean {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/comm`).trim() === "probe";
  } catch {
    return false; // ended meanwhile
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[sorted.length >> 1] ?? NaN;
}

/** The median where nothing ever survived, else the worst that was left. */
function cell(outcomes: readonly Outcome[]): string {
  const left = outcomes.filter((outcome) => "survivors" in outcome);
  const [worst] = left.sort((one, other) => other.survivors - one.survivors);
  if (worst !== undefined) return `${worst.survivors} of ${worst.of} survive`;
  return `${median(times(outcomes)).toFixed(1)} ms`;
}

function times(outcomes: readonly Outcome[]): number[] {
  return outcomes.map((outcome) => "ms" in outcome ? outcome.ms : Infinity);
}

/** One row: each way in turn, ours in every round and the others, which never differ, in three. */
async function row(
  what: string,
  round: (way: typeof WAYS[number]) => Promise<Outcome>,
  most: { tree: number; cgroup: number },
): Promise<string> {
  const outcomes: Outcome[][] = WAYS.map(() => []);
  for (let n = 0; n < ROUNDS; n++) {
    for (const [at, way] of WAYS.entries()) {
      if (n < 3 || way.way.startsWith("port")) outcomes[at]?.push(await round(way));
    }
  }
  const [tree = NaN, cgroup = NaN] = outcomes.map(times).map(median);
  const target = `tree <= ${most.tree} ms, cgroup.kill <= ${most.cgroup} ms`;
  const verdict = tree <= most.tree && cgroup <= most.cgroup ? "met" : "missed";
  return `| ${[what, ...outcomes.map(cell), target, verdict].join(" | ")} |`;
}

/** The rows of this table, each as soon as it is there. */
export async function* killRows(): AsyncGenerator<string> {
  yield `| what is left | ${WAYS.map(({ title }) => title).join(" | ")} | target | |`;
  yield "|---|---|---|---|---|---|---|---|";
  const killed = `kill -9 of the runtime, a child and ${DAEMONS} daemons`;
  yield await row(killed, killHost, { tree: 50, cgroup: 50 });
  if (MOUNT === null) {
    yield "| end of a fork bomb | not run: run it as root where cgroup2 is mounted | | | | | | |";
  } else {
    yield await row("end of a fork bomb of 400", endBomb, { tree: 5_000, cgroup: 100 });
  }
}

if (import.meta.main) { for await (const row of killRows()) console.log(row); }
