// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * A host that is starved of descriptors, processes or memory (#33), at each
 * step of a launch: the start fails with an error that says where and what to
 * do, other trees are not touched, and nothing is left behind.
 */

import { assertEquals } from "@std/assert";
import { MOUNT } from "./cgroups.ts";
import { existsSync } from "node:fs";
import {
  assert,
  comm,
  descendants,
  descriptors,
  helpers,
  output,
  ROOT,
  test,
  until,
} from "./helpers.ts";
import { Host, type HostOptions, USERS } from "./host_process.ts";
import { STAGES } from "../src/native/abi.ts";
import { FAULTS, sabotagedHost } from "./sabotaged.ts";

const [EAGAIN, ENFILE, EMFILE, ENOMEM, ECONNRESET] = [11, 23, 24, 12, 104];
const FDS = [EMFILE, ENFILE, ENOMEM];
const MEMORY = [ENOMEM];
const PROCESSES = [EAGAIN, ENOMEM];

/** A call on the way to a running child: where it stands in ffi/src, how it may fail, and what is told. */
interface Point {
  point: string;
  errnos: readonly number[];
  stage: string;
  /** What is told instead of the call's own error. */
  told?: number;
}

const IN_THE_RUNTIME: Point[] = [
  { point: "look", errnos: FDS, stage: "guardian" },
  { point: "null", errnos: FDS, stage: "guardian" },
  { point: "guardian-socket", errnos: FDS, stage: "guardian" },
  { point: "own-pidfd", errnos: FDS, stage: "guardian" },
  { point: "spawn", errnos: PROCESSES, stage: "guardian" },
  { point: "watchdog-pidfd", errnos: FDS, stage: "guardian" },
  { point: "watch-pair", errnos: MEMORY, stage: "guardian" },
  { point: "port-socket", errnos: FDS, stage: "stdio" },
  { point: "watch-port", errnos: MEMORY, stage: "stdio" },
  { point: "keep", errnos: MEMORY, stage: "guardian" },
  { point: "stdio", errnos: FDS, stage: "stdio" },
  { point: "record", errnos: MEMORY, stage: "keeper" },
];

const IN_THE_HELPERS: Point[] = [
  { point: "leash", errnos: FDS, stage: "keeper" },
  { point: "runtime-copy", errnos: FDS, stage: "keeper" },
  { point: "fork", errnos: PROCESSES, stage: "keeper" },
  // A keeper that has no socket of its own yet can tell nobody but its guardian, by its end.
  { point: "birth", errnos: FDS, stage: "keeper", told: ECONNRESET },
  { point: "oom-score", errnos: FDS, stage: "oom_score_adj" },
  { point: "outcome", errnos: FDS, stage: "clone" },
  { point: "stack", errnos: MEMORY, stage: "clone" },
  { point: "clone", errnos: PROCESSES, stage: "clone" },
];

/** Steps of the child itself, by their names in docs/abi.md. */
const IN_THE_CHILD = [
  "group",
  "rlimit",
  "umask",
  "nice",
  "affinity",
  "scheduler",
  "ioprio",
  "chdir",
  "pdeathsig",
  "fds",
  "signals",
  "exec",
].map((stage): Point => {
  const number = STAGES.indexOf(stage as typeof STAGES[number]);
  return { point: `child-${number}`, errnos: MEMORY, stage };
});

/** Fails at one point after the other; after each the first port and a new one work. */
const FAILING = `
const GRAMMAR = /^Cannot start "true".*: .+ \\([A-Z0-9]+\\): .+$/;
const run = async (command, ...args) => {
  const { success } = await new Deno.Command(command, { args }).output();
  if (!success) throw new Error(command);
};
/** What the guardian has and the child is not to have, so that no step of a child's is left out. */
const differ = async (turn) => {
  const me = String(Deno.pid);
  await run("renice", "-n", String(turn), "-p", me);
  await run("taskset", "-p", turn % 2 === 0 ? "1" : "3", me);
  await run("chrt", "--other", "-p", "0", me); // a keeper has SCHED_BATCH
  await run("prlimit", "--pid", me, "--core=" + turn + ":");
  await run("ionice", "-c", "2", "-n", String(turn % 8), "-p", me);
};
const first = await open("cat");
const echo = async (port, line) => {
  await port.command(line);
  for await (const { data } of port) return new TextDecoder().decode(data);
};
say("ready");
let turn = 0;
for (let line = await hear(); line !== null; line = await hear()) {
  const [fault, late] = line.split(" ");
  turn++;
  Deno.env.set("${FAULTS}", fault);
  proton.resetGuardian();
  if (late === "late") {
    await open("true").catch(() => {}); // for its guardian, which is what the next one's child differs from
    await differ(turn);
  }
  const error = await open("true").then(() => null, (error) => error);
  Deno.env.delete("${FAULTS}");
  proton.resetGuardian();
  say("told", error?.name ?? "none", error?.stage, error?.errno, GRAMMAR.test(error?.message));
  await using port = await open("true");
  const { code } = await port.status;
  say("again", code, await echo(first, String(turn)));
}
`;

/** What runs below a host, and how many descriptors of our kinds all of that and the host have open. */
function holdings(host: Host): Holdings {
  const pids = [host.pid, ...descendants(host.pid)];
  const runtimes = streamSockets();
  // The runtime opens its caches when it likes.
  const kinds = / -> (socket|pipe|anon_inode|\/dev\/null)/;
  const fds = pids.flatMap((pid) => descriptors(pid) ?? []).filter((fd) => kinds.test(fd));
  // It copies its own stdio, too, when it first reads from it.
  const target = (fd: string) => fd.replace(/^\d+ -> /, "");
  const stdio = (descriptors(host.pid) ?? []).filter((fd) => /^[012] /.test(fd)).map(target);
  const own = fds.filter((fd) =>
    !runtimes.has(fd.match(/socket:\[(\d+)\]$/)?.[1] ?? "") && !stdio.includes(target(fd))
  );
  return { running: pids.map(comm).sort().join(), fds: own.length, leaves: leaves(host) };
}

/** Every descriptor of the host and of what runs below it, by whose it is. */
function descriptorsOf(host: Host): string[] {
  const streams = streamSockets();
  const kind = (fd: string) => {
    const inode = fd.match(/socket:\[(\d+)\]$/)?.[1];
    if (inode !== undefined) return streams.has(inode) ? "stream socket" : "socket";
    return fd.replace(/^.* -> /, "").replace(/\d+/g, "");
  };
  return [host.pid, ...descendants(host.pid)].flatMap((pid) =>
    (descriptors(pid) ?? []).map((fd) => `${comm(pid)}: ${kind(fd)}`)
  );
}

/** Those of `now` that are more than in `then`. */
function unlike(now: readonly string[], then: readonly string[]): string[] {
  const left = [...then];
  return now.filter((one) => !left.includes(one) || !left.splice(left.indexOf(one), 1));
}

interface Holdings {
  running: string;
  fds: number;
  /** Directories of trees in the host's own cgroup. */
  leaves: number;
}

function leaves(host: Host): number {
  const own = Deno.readTextFileSync(`/proc/${host.pid}/cgroup`).match(/^0::(.*)$/m)?.[1] ?? "";
  const below = (path: string) =>
    [...Deno.readDirSync(path)].filter((entry) => entry.isDirectory).map(({ name }) => name);
  if (MOUNT === null) return 0;
  const bases = below(MOUNT + own).filter((name) => name.startsWith(`proton-${host.pid}-`));
  return bases.flatMap((base) => below(`${MOUNT}${own}/${base}`)).length;
}

/** By inode: the runtime opens a pair of them for itself, sooner or later; ours are of another type. */
function streamSockets(): Set<string> {
  const SOCK_STREAM = "0001";
  const lines = Deno.readTextFileSync("/proc/net/unix").split("\n").map((line) =>
    line.split(/\s+/)
  );
  return new Set(lines.filter((words) => words[4] === SOCK_STREAM).map((words) => words[6] ?? ""));
}

/** Tells the host to fail there, and returns what it was told then. */
async function failAt(host: Host, line: string, turn: number): Promise<string[]> {
  await host.tell(`${line}\n`);
  const told = await host.next("told");
  assertEquals(await host.next("again"), ["0", String(turn)], `after ${line}`);
  return told;
}

for (const user of USERS) {
  for (
    const [where, points] of Object.entries({
      "in the runtime": IN_THE_RUNTIME,
      "in a helper": IN_THE_HELPERS,
      "in the child": IN_THE_CHILD,
    })
  ) {
    test(`#33 as ${user.name}: each call of a launch ${where} fails in turn, and nothing else does`, async () => {
      await using host = sabotagedHost(FAILING, { user });
      await host.next("ready");
      const late = where === "in the child" ? " late" : "";
      let turn = 0;
      // What a first failure brings with it, such as the runtime's own, is there then.
      for (const warm of ["nowhere:1", `leash:${EMFILE}`, "nowhere:1", `leash:${EMFILE}`]) {
        const [name] = await failAt(host, warm + late, ++turn);
        assertEquals(name, warm.startsWith("nowhere") ? "none" : "SpawnError");
      }
      const [then, before] = await settled(host);
      for (const { point, errnos, stage, told } of points) {
        for (const errno of errnos) {
          const error = await failAt(host, `${point}:${errno}${late}`, ++turn);
          assertEquals(error, ["SpawnError", stage, String(told ?? errno), "true"], point);
          await until(() => {
            const now = holdings(host);
            return now.running === before.running && now.fds <= before.fds &&
              now.leaves <= before.leaves;
          }, {
            what: () =>
              `no more than before ${point}: ${JSON.stringify([before, holdings(host)])}; ` +
              `then, and not before: ${unlike(descriptorsOf(host), then)}`,
          });
        }
      }
    });
  }
}

/** What it holds once the helpers that were given up are gone: the first port's and the current ones. */
async function settled(host: Host): Promise<[string[], Holdings]> {
  const count = (name: string) => descendants(host.pid).filter((pid) => comm(pid) === name).length;
  const names = ["proton-watchdog", "proton-guardian", "proton-keeper", "proton-spare"];
  // The runtime's of the watchdogs, and of the guardians, whose own come with their first words.
  const pidfds = () => descriptors(host.pid)?.filter((fd) => fd.includes("pidfd")).length;
  const is = () => [...names.map(count), pidfds()].join();
  await until(() => is() === "2,2,1,1,4", {
    what: () => `two pairs, a keeper in use and one in spare, pidfds of the four: ${is()}`,
  });
  return [descriptorsOf(host), holdings(host)];
}

test("#33 a reactor that could not be started is started by the next call", async () => {
  await using host = sabotagedHost(
    `
    const error = await open("true").then(() => null, (error) => error);
    Deno.env.delete("${FAULTS}");
    say("told", error?.name, /EMFILE|Too many open files|os error 24/.test(error?.message));
    say("again", (await (await open("true")).status).code);
  `,
    { env: { [FAULTS]: `reactor:${EMFILE}` } },
  );
  assertEquals(await host.next("told"), ["NativeError", "true"]);
  assertEquals(await host.next("again"), ["0"]);
});

// --- limits of the system itself ---------------------------------------------

/** Opens ports until there can be no more; all that there are go on, and when they are closed there can be more. */
const UNTIL_FULL = `
const ports = [];
let error = null;
while (error === null && ports.length < 300) {
  error = await open("cat").then((port) => void ports.push(port) ?? null, (error) => error);
}
const GRAMMAR = /^Cannot start "cat".*: .+ \\([A-Z0-9]+\\): .+$/;
say("told", ports.length, error?.name, error?.code, GRAMMAR.test(error?.message), error?.stage);
let echoes = 0;
for (const port of ports) {
  await port.command("alive");
  for await (const { data } of port) {
    if (new TextDecoder().decode(data) === "alive") echoes++;
    break;
  }
}
say("alive", echoes);
await Promise.all(ports.map((port) => port.close()));
const again = await open("true").then((port) => port.status);
say("again", again.code);
await hear();
`;

async function fillsUp(options: HostOptions, codes: readonly string[]): Promise<void> {
  await using host = Host.start(UNTIL_FULL, options);
  const [count, name, code = "", grammar] = await host.next("told");
  assert(Number(count) > 3, `only ${count} ports before ${code}`);
  assertEquals([name, grammar], ["SpawnError", "true"]);
  assert(codes.includes(code), code);
  assertEquals(await host.next("alive"), [count]);
  assertEquals(await host.next("again"), ["0"]);
}

test("#33 no descriptors: a limit on those of the runtime, and of the helpers", async () => {
  await fillsUp({ under: ["prlimit", "--nofile=128:128"] }, ["EMFILE"]);
});

/** Nobody else runs anything under it. */
const SOMEBODY = { name: "somebody", uid: ROOT ? 400_000 + Deno.pid : null };

test("#33 no processes: a limit on those of the user", async () => {
  const before = ROOT
    ? 0
    : Number(await output("sh", "-c", `ps -L --no-headers -U ${Deno.uid()} | wc -l`));
  await fillsUp({ user: SOMEBODY, under: ["prlimit", `--nproc=${before + 90}`] }, ["EAGAIN"]);
});

/** The cgroup v1 or v2 folder under which processes can be counted; null where there is none. */
function pidsMount(): string | null {
  const mounts = Deno.readTextFileSync("/proc/self/mountinfo").split("\n");
  const v1 = mounts.find((line) => / - cgroup .*\bpids\b/.test(line))?.split(" ")[4];
  return v1 !== undefined && ROOT && existsSync(`${v1}/cgroup.procs`) ? v1 : null;
}

const PIDS = pidsMount();

Deno.test({
  name: "#33 no processes: pids.max of a cgroup" +
    (PIDS === null
      ? " (skipped: run scripts/test as root where the v1 hierarchy pids is mounted)"
      : ""),
  ignore: PIDS === null,
  async fn() {
    const folder = `${PIDS}/proton_test_${Deno.pid}_pids`;
    Deno.mkdirSync(folder);
    try {
      Deno.writeTextFileSync(`${folder}/pids.max`, "90");
      const under = ["sh", "-c", `echo $$ > ${folder}/cgroup.procs && exec "$@"`, "sh"];
      await fillsUp({ under }, ["EAGAIN"]);
    } finally {
      const empty = () => Deno.readTextFileSync(`${folder}/cgroup.procs`) === "";
      await until(empty, { what: "nobody in the cgroup" });
      Deno.removeSync(folder);
    }
  },
});

test("#33 a guardian that may have no more descriptors refuses, and keeps what it has", async () => {
  await using host = Host.start(`
    const first = await open("cat");
    say("ready");
    for (let line = await hear(); line !== null; line = await hear()) {
      const told = await open("true").then((port) => port.status.then(() => "started"), (error) =>
        error.name + " " + error.stage + " " + error.code);
      await first.command(line);
      for await (const { data } of first) {
        say("told", told, new TextDecoder().decode(data));
        break;
      }
    }
  `);
  await host.next("ready");
  const { guardian } = helpers(host.pid);
  const limit = async (n: string) => {
    await output("prlimit", "--pid", String(guardian), `--nofile=${n}:`);
  };
  const had = await output("sh", "-c", `awk '/open files/ { print $4 }' /proc/${guardian}/limits`);
  // The spare keeper that is there already serves the next start; from then on there is none.
  await limit("3");
  const seen = new Set<string>();
  for (let i = 0; i < 4; i++) {
    await host.tell(`${i}\n`);
    const words = await host.next("told");
    assertEquals(words.at(-1), String(i), "the first port goes on");
    seen.add(words.slice(0, -1).join(" "));
  }
  assert(seen.has("SpawnError keeper EMFILE"), [...seen].join(", "));
  await limit(had);
  await until(async () => {
    await host.tell("more\n");
    return (await host.next("told"))[0] === "started";
  }, { what: "a start with room again" });
  assertEquals(helpers(host.pid).guardian, guardian);
});
