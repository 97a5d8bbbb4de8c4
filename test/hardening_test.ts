// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** What a child may do: exactly what was asked for, as the kernel shows it, and all else as the runtime has it. */

import { assertEquals, assertRejects } from "@std/assert";
import { type Capability, open, type OpenOptions, SpawnError } from "../mod.ts";
import { CAPABILITIES, type RlimitName, RLIMITS } from "../src/privileges.ts";
import { asRoot, leavesNothing, ROOT, Scratch, stat, statusField, test, until } from "./helpers.ts";
import { Host, USERS } from "./host_process.ts";

const UNPRIVILEGED = USERS.at(-1);

/** The soft and hard limits of a process, by the names of prlimit(2). */
function limits(pid: number): Record<string, [string, string]> {
  const lines = Deno.readTextFileSync(`/proc/${pid}/limits`).split("\n").slice(1, -1);
  return Object.fromEntries(lines.map((line) => {
    const [soft = "", hard = ""] = line.slice(26).trim().split(/\s+/);
    return [line.slice(0, 26).trim(), [soft, hard]];
  }));
}

/** /proc's names of the limits, in the order of {@link RLIMITS}. */
const SHOWN: Readonly<Record<RlimitName, string>> = {
  cpu: "Max cpu time",
  fsize: "Max file size",
  data: "Max data size",
  stack: "Max stack size",
  core: "Max core file size",
  rss: "Max resident set",
  nproc: "Max processes",
  nofile: "Max open files",
  memlock: "Max locked memory",
  as: "Max address space",
  locks: "Max file locks",
  sigpending: "Max pending signals",
  msgqueue: "Max msgqueue size",
  nice: "Max nice priority",
  rtprio: "Max realtime priority",
  rttime: "Max realtime timeout",
};

/** Lowered from what any host has, and still enough for `cat`. */
const LOWER: Readonly<Record<RlimitName, [soft: number, hard: number]>> = {
  cpu: [100, 200],
  fsize: [1_000, 2_000],
  data: [2 ** 29, 2 ** 30],
  stack: [2 ** 20, 2 ** 21],
  core: [0, 0],
  rss: [2 ** 28, 2 ** 29],
  nproc: [100, 200],
  nofile: [64, 128],
  memlock: [0, 4_096],
  as: [2 ** 32, 2 ** 33],
  locks: [10, 20],
  sigpending: [7, 9],
  msgqueue: [100, 200],
  nice: [0, 0],
  rtprio: [0, 0],
  rttime: [5_000, 6_000],
};

for (const name of RLIMITS) {
  test(`rlimits.${name}: soft and hard as asked for, every other limit as the runtime has it`, async () => {
    const [soft, hard] = LOWER[name];
    await using port = await open("cat", [], { rlimits: { [name]: { soft, hard } } });
    const expected = { ...limits(Deno.pid), [SHOWN[name]]: [`${soft}`, `${hard}`] };
    assertEquals(limits(port.pid), expected);
  });
}

test("rlimits: a number is both, one part leaves the other, soft gives way to a lower hard one", async () => {
  const [soft, hard] = limits(Deno.pid)["Max open files"] ?? [];
  const shown = async (nofile: NonNullable<OpenOptions["rlimits"]>["nofile"]) => {
    await using port = await open("cat", [], { rlimits: nofile === undefined ? {} : { nofile } });
    return limits(port.pid)["Max open files"];
  };
  assertEquals(await shown(undefined), [soft, hard] as unknown);
  assertEquals(await shown(50), ["50", "50"]);
  assertEquals(await shown({ soft: 51 }), ["51", hard] as unknown);
  assertEquals(await shown({ hard: 52 }), ["52", "52"]);
});

test("rlimits: a soft limit above the runtime's hard one is a SpawnError that says so", async () => {
  await using host = Host.start(
    `
    const said = await open("true", [], { rlimits: { nofile: { soft: 5000 } } }).catch((e) => e.message);
    say("said", said);
    `,
    { under: ["prlimit", "--nofile=1000:2000"] },
  );
  assertEquals(
    (await host.next("said")).join(" "),
    'Cannot start "true": a soft limit is above its hard one (EINVAL): give a hard limit, too, or a smaller soft one',
  );
});

test("rlimits, nice, oomScoreAdj: more than an unprivileged runtime has is refused with the mend", async () => {
  await using host = Host.start(
    `
    for (const options of [
      { rlimits: { nofile: 5000 } },
      { nice: -5 },
      { oomScoreAdj: -500 },
    ]) {
      const { name, stage, code, message } = await open("true", [], options).catch((error) => error);
      say("said", name, stage, code, message.includes("CAP_SYS_"));
    }
    // What is no more than it has is taken.
    const port = await open("cat", [], { rlimits: { nofile: 100 }, nice: 19, oomScoreAdj: 900 });
    say("ready", port.pid);
    await hear();
    `,
    {
      user: UNPRIVILEGED ?? { name: "", uid: null },
      above: ROOT ? ["prlimit", "--nofile=1000:2000", "--nice=0"] : [],
      under: ROOT ? [] : ["prlimit", "--nofile=1000:2000", "--nice=0"],
    },
  );
  assertEquals(await host.next("said"), ["SpawnError", "rlimit", "EPERM", "true"]);
  assertEquals(await host.next("said"), ["SpawnError", "nice", "EACCES", "true"]);
  assertEquals(await host.next("said"), ["SpawnError", "oom_score_adj", "EACCES", "true"]);
  const [pid = 0] = await host.numbers("ready");
  assertEquals([limits(pid)["Max open files"], stat(pid)?.[16]], [["100", "100"], "19"] as unknown);
  assertEquals(oomScoreAdj(pid), "900");
});

function oomScoreAdj(pid: number): string {
  return Deno.readTextFileSync(`/proc/${pid}/oom_score_adj`).trim();
}

test("umask: what was asked for, else the runtime's", async () => {
  const shown = async (options: OpenOptions) => {
    await using port = await open("cat", [], options);
    return parseInt(statusField(port.pid, "Umask"), 8);
  };
  const own = parseInt(statusField(Deno.pid, "Umask"), 8);
  assertEquals([await shown({}), await shown({ umask: 0 }), await shown({ umask: 0o177 })], [
    own,
    0,
    0o177,
  ]);
});

test("nice: what was asked for, else the runtime's", async () => {
  const own = Number(stat(Deno.pid)?.[16]);
  for (const [options, nice] of [[{}, own], [{ nice: 19 }, 19], [{ nice: own }, own]] as const) {
    await using port = await open("cat", [], options);
    assertEquals(Number(stat(port.pid)?.[16]), nice);
  }
});

test("oomScoreAdj: the child's alone; its keeper has its own back, and the next child the runtime's", async () => {
  await using port = await open("cat", [], { oomScoreAdj: 999 });
  assertEquals(oomScoreAdj(port.pid), "999");
  const keeper = Number(stat(port.pid)?.[1]);
  await until(() => oomScoreAdj(keeper) !== "999", { what: "the keeper's own" });
  await using next = await open("cat");
  assertEquals(oomScoreAdj(next.pid), oomScoreAdj(Deno.pid));
});

test("noNewPrivs: set where it was asked for, else as the runtime has it", async () => {
  const own = statusField(Deno.pid, "NoNewPrivs");
  await using port = await open("cat", [], { noNewPrivs: true });
  await using other = await open("cat", [], { noNewPrivs: false });
  assertEquals([port, other].map(({ pid }) => statusField(pid, "NoNewPrivs")), ["1", own]);
});

type Sets = Record<"Inh" | "Prm" | "Eff" | "Bnd" | "Amb", bigint>;

/** As the status of a process tells them. */
function sets(status: string): Sets {
  const set = (name: string) => BigInt(`0x${status.match(`Cap${name}:\\s*(\\S+)`)?.[1] ?? ""}`);
  return { Inh: set("Inh"), Prm: set("Prm"), Eff: set("Eff"), Bnd: set("Bnd"), Amb: set("Amb") };
}

const OURS = sets(Deno.readTextFileSync("/proc/self/status"));

function setOf(...names: Capability[]): bigint {
  return names.reduce((set, name) => set | 1n << BigInt(CAPABILITIES.indexOf(name)), 0n);
}

/**
 * Of a program by its own word: who is asked about it from outside may see it in the middle of its exec, with what
 * it had before.
 */
async function childs(options: OpenOptions, ...wrapped: string[]): Promise<Sets> {
  const [command = "", ...args] = [...wrapped, "grep", "^Cap", "/proc/self/status"];
  await using port = await open(command, args, options);
  return sets(await port.text());
}

asRoot("capabilities.bounding: root's child has those and can never have another", async () => {
  const bounding: Capability[] = ["CAP_KILL", "CAP_NET_BIND_SERVICE"];
  const kept = setOf(...bounding);
  const got = await childs({ capabilities: { bounding } });
  assertEquals([got.Bnd, got.Prm, got.Eff, got.Inh & ~kept], [kept, kept, kept, 0n]);
  const nothing = await childs({ capabilities: { bounding: [] } });
  assertEquals(Object.values(nothing), [0n, 0n, 0n, 0n, 0n]);
  assertEquals((await childs({})).Bnd, OURS.Bnd, "the next has all again");
});

asRoot("capabilities.ambient: another user's child has those and hands them on", async () => {
  const other: OpenOptions = { uid: 4711, gid: 4711 };
  const options: OpenOptions = { ...other, capabilities: { ambient: ["CAP_NET_BIND_SERVICE"] } };
  const one = setOf("CAP_NET_BIND_SERVICE");
  const own = await childs(options);
  assertEquals(own, { Inh: one, Prm: one, Eff: one, Bnd: OURS.Bnd, Amb: one });
  assertEquals(await childs(options, "sh", "-c", '"$@"; :', "sh"), own, "and its own child");
  const kill = setOf("CAP_KILL");
  const got = await childs({
    ...other,
    noNewPrivs: true,
    capabilities: { bounding: ["CAP_CHOWN", "CAP_KILL"], ambient: ["CAP_KILL"] },
  });
  assertEquals([got.Prm, got.Eff, got.Amb, got.Bnd], [kill, kill, kill, kill | setOf("CAP_CHOWN")]);
  const { Bnd: _, ...left } = await childs(other);
  assertEquals(Object.values(left), [0n, 0n, 0n, 0n], "none without being asked");
});

test("capabilities: more than an unprivileged runtime has is refused", async () => {
  const user = UNPRIVILEGED ?? { name: "", uid: null };
  await using host = Host.start(
    `
    for (const capabilities of [{ ambient: ["CAP_CHOWN"] }, { bounding: ["CAP_CHOWN"] }]) {
      const { name, stage, code } = await open("true", [], { capabilities }).catch((error) => error);
      say("said", name, stage, code);
    }
    const port = await open("true", [], { capabilities: { ambient: [] } });
    say("ended", (await port.status).code);
    `,
    { user },
  );
  assertEquals(await host.next("said"), ["SpawnError", "capabilities", "EPERM"]);
  assertEquals(await host.next("said"), ["SpawnError", "capabilities", "EPERM"]);
  assertEquals(await host.next("ended"), ["0"]);
});

asRoot(
  "capabilities: another user has none of a service's own, and cannot become root by them",
  async () => {
    const capabilities = ["setuid", "setgid", "kill"];
    await using host = Host.start(
      `
    const other = { uid: 4321, gid: 4321, cwd: "/" };
    const status = await open("cat", ["/proc/self/status"], other);
    const sets = (await status.text()).match(/^Cap(Inh|Prm|Eff|Amb):\\s*(\\S+)$/gm).map((line) => line.split("\\t")[1]);
    say("other", ...sets);
    const back = await open("setpriv", ["--reuid=0", "true"], other);
    say("back", (await back.status).success);
    const own = await open("grep", ["CapAmb", "/proc/self/status"]);
    say("own", (await own.text()).trim().split("\\t")[1]);
    `,
      { user: { name: "a service", uid: 1234 }, capabilities },
    );
    const none = "0".repeat(16);
    assertEquals(await host.next("other"), [none, none, none, none]);
    assertEquals(await host.next("back"), ["false"]);
    assertEquals(
      await host.next("own"),
      ["00000000000000e0"],
      "without a user it has the runtime's",
    );
  },
);

test("a start that is refused on its way leaves nothing", async () => {
  await leavesNothing(async () => {
    for (let round = 0; round < 3; round++) {
      await assertRejects(
        () => open("cat", [], { fds: { 9: "piped" }, rlimits: { nofile: 9 } }),
        SpawnError,
      );
      await assertRejects(() => open("cat", ["x".repeat(200_000)]), SpawnError);
    }
  });
});

/** A shell that its own limit ends, and how. */
async function reaches(script: string, options: OpenOptions): Promise<[string, string | null]> {
  await using port = await open("sh", ["-c", script], options);
  const { cause, signal } = await port.status;
  return [cause, signal];
}

const SPIN = "while :; do :; done";
const WRITE = 'i=0; while :; do echo "$i" >&7; i=$((i + 1)); done';

test("rlimits: who dies at a limit that the caller has set has the cause limit", async () => {
  const cpu = { soft: 1, hard: 60 };
  assertEquals(await reaches(SPIN, { rlimits: { cpu, core: 0 } }), ["limit", "SIGXCPU"]);
  using scratch = new Scratch();
  const write = `exec 7>"${scratch.file("out")}"; ${WRITE}`;
  assertEquals(await reaches(write, { rlimits: { fsize: 4_096, core: 0 } }), ["limit", "SIGXFSZ"]);
});

test("rlimits: the same signals from elsewhere, or for another limit, are the child's own end", async () => {
  const kill = (name: string) => `kill -${name} $$`;
  assertEquals(await reaches(kill("XCPU"), {}), ["exit", "SIGXCPU"]);
  assertEquals(await reaches(kill("XFSZ"), { rlimits: { cpu: 60 } }), ["exit", "SIGXFSZ"]);
  assertEquals(await reaches(kill("XCPU"), { rlimits: { cpu: "unlimited" } }), ["exit", "SIGXCPU"]);
  const late = { rlimits: { cpu: 60 }, delayToSigkill: 0, timeoutMs: 100 };
  assertEquals(await reaches("sleep 1000", late), ["timeout", "SIGKILL"]);
});
