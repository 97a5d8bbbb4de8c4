// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Limits by cgroups, of whichever version this host has for each: that they hold, and that nothing of them stays. */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import {
  Cgroups,
  type ChildSpec,
  ContainmentError,
  type LimitEvent,
  type Limits,
  type LogLine,
  open,
  type OpenOptions,
  type Port,
  Supervisor,
} from "../../mod.ts";
import { Ground, versionOf } from "../cgroups.ts";
import {
  alive,
  asRoot,
  assert,
  descendants,
  gone,
  identities,
  output,
  pause,
  PROBE,
  ready,
  Scratch,
  test,
  until,
  within,
} from "../helpers.ts";
import { CONTROLLERS, limitedPorts } from "../soak/limits.ts";

const MIB = 2 ** 20;

/** Registers a test that needs these controllers, in either version. */
function limitTest(
  name: string,
  controllers: readonly string[],
  body: (ground: Ground) => Promise<void>,
): void {
  const missing = controllers.filter((one) => versionOf(one) === null);
  if (missing.length === 0) {
    asRoot(name, async () => {
      using ground = new Ground(controllers);
      await body(ground);
      await ground.empty();
    });
  } else {
    const cure = `skipped: this kernel has no ${
      missing.join(", ")
    }; boot one that has (scripts/vm)`;
    Deno.test({ name: `${name} (${cure})`, ignore: true, fn: () => {} });
  }
}

/** Where the tests' limits stand. */
const below = (ground: Ground): OpenOptions => ({ cgroupBase: ground.path });

/** Eats memory in a grandchild, which is not what the port itself waits for. */
const EATS_BELOW = ["-c", '("$0" eat-memory "$1" & wait); sleep 1000', PROBE];

limitTest(
  "memory: a grandchild that eats too much ends the tree, with cause oom and the peak",
  ["memory"],
  async (ground) => {
    const limits = { memory: "64MiB", swap: 0 };
    const plain = versionOf("memory") === 1 ? { memory: "64MiB" } : limits;
    await using port = await open("sh", [...EATS_BELOW, String(200 * MIB)], {
      ...below(ground),
      limits: plain,
    });
    const ids = identities([port.pid]);
    const { cause, oomKilled, usage } = await within(port.status, { what: "the end of the tree" });
    assertEquals([cause, oomKilled], ["oom", true]);
    assert((usage.peakMemoryBytes ?? 0) > 48 * MIB, `a peak of ${usage.peakMemoryBytes}`);
    assert((usage.peakMemoryBytes ?? 0) <= 64 * MIB, `a peak of ${usage.peakMemoryBytes}`);
    await gone(ids);
    await using next = await open("true");
    assertEquals((await next.status).success, true, "guardian and host are alive");
  },
);

limitTest(
  "memory: a supervised child that has none left is restarted, one that is temporary is not",
  ["memory"],
  async (ground) => {
    using scratch = new Scratch();
    const child = (id: string): ChildSpec => ({
      id,
      command: "sh",
      // Too much at its first start, and well behaved from then on.
      args: ["-c", `echo >>"$0"; [ "$(wc -l <"$0")" -gt 1 ] || exec "$@"; exec sleep 1000`]
        .concat(scratch.file(id), PROBE, "eat-memory", String(200 * MIB)),
      options: { ...below(ground), limits: { memory: "64MiB" } },
    });
    const told: string[] = [];
    const log = ({ id, text }: LogLine): void => void told.push(`${id}: ${text}`);
    await using supervisor = await Supervisor.start({
      children: [child("permanent"), { ...child("temporary"), restart: "temporary" }],
      log,
    });
    await until(() => supervisor.child("temporary") === null, { what: "the end of the temporary" });
    const next = await until(() => {
      const { port } = supervisor.child("permanent") ?? {};
      return scratch.lines("permanent").length === 2 && port;
    }, { what: "the next of the permanent" });
    assertEquals(told.toSorted(), [
      "permanent: ended (SIGKILL, out of memory), is restarted",
      "temporary: ended (SIGKILL, out of memory)",
    ]);
    assert(alive(identities([next.pid])[0] ?? { pid: 0, start: "" }));
    assertEquals([scratch.lines("permanent").length, scratch.lines("temporary").length], [2, 1]);
    assertEquals(supervisor.whichChildren().map(({ id }) => id), ["permanent"]);
  },
);

limitTest("memory: what stays within it is not touched", ["memory"], async (ground) => {
  await using port = await open(PROBE, ["eat-memory", String(20 * MIB)], {
    ...below(ground),
    limits: { memory: "64MiB" },
  });
  await ready(port);
  const { memory } = await port.stats();
  assert((memory?.bytes ?? 0) > 20 * MIB, `${memory?.bytes} in use`);
  await port.close();
  const { cause, oomKilled, usage } = await port.status;
  assertEquals([cause, oomKilled], ["close", false]);
  assert((usage.peakMemoryBytes ?? 0) > 20 * MIB, `a peak of ${usage.peakMemoryBytes}`);
});

limitTest(
  "memory: with oomGroup false the others go on, and what was killed is told",
  ["memory"],
  async (ground) => {
    await using port = await open(
      "sh",
      ["-c", '"$0" eat-memory "$1"; echo survived $?; read _', PROBE, String(200 * MIB)],
      { ...below(ground), limits: { memory: "64MiB", oomGroup: false } },
    );
    const events = port.events();
    for await (const line of port.lines()) {
      assertEquals(line, "survived 137");
      break;
    }
    for await (const { type } of events) if (type === "oomKill") break; // while it lives
    await port.closeStdin();
    const { oomKilled, cause } = await within(port.status, { what: "its end" });
    assertEquals([oomKilled, cause], [true, "oom"]);
  },
);

limitTest("cpu: a quarter of a processor is a quarter", ["cpu"], async (ground) => {
  await using port = await open(PROBE, ["spin"], { ...below(ground), limits: { cpu: 0.25 } });
  await ready(port);
  const used = async () => {
    const earliest = performance.now();
    const { cpu } = await port.stats();
    assert(cpu !== undefined, "its time is not counted");
    return { earliest, latest: performance.now(), ms: cpu.userMs + cpu.systemMs };
  };
  // A machine that is busy may give it less, for a while; more it never gets.
  await until(async () => {
    const first = await used();
    await pause(2_000);
    const second = await used();
    const ms = second.ms - first.ms;
    const most = ms / (second.earliest - first.latest);
    assert(most <= 0.3, `${ms} ms in ${second.earliest - first.latest} ms`);
    return ms / (second.latest - first.earliest) >= 0.2;
  }, { what: "two seconds in which it gets at least a fifth of a processor" });
  await port.close();
  assert(((await port.status).usage.throttledMs ?? 0) > 0, "it has waited");
});

/** The probe where every user can run it. */
function forEverybody(scratch: Scratch): string {
  scratch.open();
  const path = scratch.file("probe");
  Deno.copyFileSync(PROBE, path);
  Deno.chmodSync(path, 0o755);
  return path;
}

limitTest(
  "pids: a bomb stays within it, and close leaves nothing of it",
  ["pids"],
  async (ground) => {
    using scratch = new Scratch();
    const drop = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    await using port = await open(
      "setpriv",
      [...drop, forEverybody(scratch), "bomb", "exponential"],
      { ...below(ground), limits: { pids: 32 } },
    );
    await ready(port);
    await until(async () => (await port.stats()).counters.pidsMax > 0, { what: "a refused fork" });
    const { pids } = await port.stats();
    assert((pids?.count ?? 99) <= 32, `${pids?.count} processes`);
    const ids = identities(descendants(port.pid)).concat(identities([port.pid]));
    await port.close({ graceMs: 0 });
    await gone(ids);
    assert(((await port.status).usage.peakPids ?? 32) <= 32);
  },
);

limitTest(
  "several controllers at once, each where the host has it",
  ["memory", "cpu", "pids", "cpuset"],
  async (ground) => {
    const limits: Limits = { memory: "64MiB", cpu: 0.5, cpuWeight: 50, pids: 32, cpuset: "0" };
    await using port = await open(PROBE, ["ready"], { ...below(ground), limits });
    await ready(port);
    const of = (controller: string, v2: string, v1: string) => {
      const leaf = ground.leaves().find((path) =>
        versionOf(controller) === 2 ||
        path.split("/").some((step) => step.split(",").includes(controller))
      );
      assert(leaf !== undefined, `no cgroup of ${controller}`);
      return Deno.readTextFileSync(`${leaf}/${versionOf(controller) === 1 ? v1 : v2}`).trim();
    };
    assertEquals(of("memory", "memory.max", "memory.limit_in_bytes"), String(64 * MIB));
    assertEquals(of("pids", "pids.max", "pids.max"), "32");
    assertEquals(of("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    const quota = of("cpu", "cpu.max", "cpu.cfs_quota_us");
    assertMatch(quota, /^50000( 100000)?$/);
    const [shares, weight] = [512, 50];
    assertEquals(
      of("cpu", "cpu.weight", "cpu.shares"),
      String(versionOf("cpu") === 1 ? shares : weight),
    );
    for (const leaf of ground.leaves()) {
      assertEquals(Deno.readTextFileSync(`${leaf}/cgroup.procs`).trim(), String(port.pid), leaf);
    }
    assertEquals(port.containment.limits, `cgroup${versionOf("memory")}`);
  },
);

// What is refused

/** What `open` says to these options, which start nothing and leave nothing. */
async function refused(ground: Ground | null, options: OpenOptions): Promise<ContainmentError> {
  using scratch = new Scratch();
  const before = ground?.leaves() ?? [];
  const mark = scratch.file("started");
  const error = await assertRejects(
    () => open("sh", ["-c", 'echo here >"$0"', mark], options),
    ContainmentError,
  );
  assertEquals(scratch.lines("started"), [], "nothing was started");
  assertEquals(ground?.leaves() ?? [], before, "nothing is left");
  assertMatch(error.message, /^Cannot [^:]+: .+ \(E[A-Z0-9]+\): .+$/s, "what: why (CODE): mend");
  return error as ContainmentError;
}

limitTest(
  "a value that the kernel does not take is an error before the program runs",
  ["pids", "memory", "cpu"],
  async (ground) => {
    const error = await refused(ground, {
      ...below(ground),
      cgroupSets: [["memory", "memory.limit_in_bytes", "8192"], ["pids", "pids.max", "nonsense"]],
    });
    assertEquals([error.code, error.value, error.errno], ["EINVAL", "nonsense", 22]);
    assertMatch(error.file ?? "", /pids\.max$/);
    // The first half was written, and is gone again: see `refused`.
    const late = await refused(ground, {
      ...below(ground),
      cgroupSets: [["memory", "memory.no_such_file", "1"]],
    });
    assertEquals(late.code, "ENOENT");
  },
);

limitTest(
  "a limit that this version has not is an error, not a warning",
  ["memory"],
  async (ground) => {
    if (versionOf("memory") === 1) {
      const error = await refused(ground, { ...below(ground), limits: { memoryHigh: "64MiB" } });
      assertEquals(error.code, "EOPNOTSUPP");
      assertMatch(error.message, /limit|"memoryHigh"/);
    } else {
      await using port = await open("true", [], {
        ...below(ground),
        limits: { memoryHigh: "64MiB" },
      });
      assertEquals((await port.status).success, true);
    }
  },
);

limitTest("a controller that is nowhere is an error", ["pids"], async (ground) => {
  const nowhere = ["rdma", "perf_event", "net_cls"].find((name) => versionOf(name) === null) ?? "";
  const error = await refused(ground, { ...below(ground), cgroupControllers: [nowhere] });
  assertEquals(error.code, "ENOENT");
  assert(error.message.includes(`controller ${nowhere}`), error.message);
});

limitTest("a base that is not there, a path that is", ["pids"], async (ground) => {
  const options: OpenOptions = { cgroupControllers: ["pids"] };
  const missing = await refused(ground, { ...options, cgroupBase: `${ground.path}/nowhere` });
  assertEquals(missing.code, "ENOENT");
  assertMatch(missing.message, /mkdir/);
  const cgroupPath = `${ground.path}/mine`;
  await using port = await open(PROBE, ["ready"], { ...options, cgroupPath });
  await ready(port);
  assertEquals(ground.leaves().map((leaf) => leaf.endsWith("/mine")), [true]);
  const used = await refused(ground, { ...options, cgroupPath });
  assertEquals(used.code, "EEXIST");
  await port.close();
  assertEquals(ground.leaves(), [], "the path goes with its port");
});

limitTest("less than was required is an error", ["pids"], async (ground) => {
  const version = versionOf("pids");
  const limits = { pids: 32 };
  const kept = { require: { kill: "cgroup1", limits: "cgroup1" } } as const;
  await using port = await open("true", [], { ...below(ground), limits, containment: kept });
  assertEquals((await port.status).containment.limits, `cgroup${version}`);
  if (version === 2) return;
  const containment = { require: { limits: "cgroup2" } } as const;
  const error = await refused(ground, { ...below(ground), limits, containment });
  assertMatch(error.message, /containment\.require\.limits "cgroup2"/);
});

// Live

limitTest(
  "setLimits: a limit changes while it runs, and is read back",
  ["pids", "memory"],
  async (ground) => {
    await using port = await open(PROBE, ["eat-memory", String(20 * MIB)], {
      ...below(ground),
      limits: { pids: 32, memory: "64MiB" },
    });
    await ready(port);
    await port.setLimits({ pids: 7, memory: "128MiB" });
    const leaf = (part: string) => ground.leaves().find((path) => path.includes(part)) ?? "";
    const pidsLeaf = versionOf("pids") === 1 ? leaf("/pids/") : leaf("");
    assertEquals(Deno.readTextFileSync(`${pidsLeaf}/pids.max`), "7\n");
    await port.setLimits({ memory: "64MiB" });
    await assertRejects(() => port.setLimits({ cpuset: "0" }), ContainmentError, "cpuset");
    await assertRejects(() => port.setLimits({ pids: 0 }), RangeError);
    if (versionOf("memory") === 1) {
      const error = await assertRejects(() => port.setLimits({ memory: "1MiB" }), ContainmentError);
      assertEquals([(error as ContainmentError).code, (error as ContainmentError).value], [
        "EBUSY",
        String(MIB),
      ]);
    }
    await port.close();
    await assertRejects(() => port.setLimits({ pids: 8 }), Error, "ESRCH");
  },
);

limitTest(
  "events: what happens to the limits is told, summed up, to its end",
  ["pids"],
  async (ground) => {
    // A bash that may not fork waits a second and tries again.
    await using port = await open("bash", ["-c", "read _; (:); read _"], {
      ...below(ground),
      limits: { pids: 1 },
    });
    let ended = false;
    void port.status.then(() => ended = true);
    const events: LimitEvent[] = [];
    const all = (async () => {
      for await (const event of port.events()) events.push(event);
    })();
    await port.command("go\n");
    const refused = async () => (await port.stats()).counters.pidsMax;
    await until(async () => await refused() > 0, { what: "a refused fork" });
    // v1's from Linux 6.11 on says nothing before the end.
    if (versionOf("pids") === 2) {
      await until(() => events.length > 0 || ended, { what: "an event of a refused fork" });
      assertEquals(ended, false, "it is told while the tree lives");
    }
    await port.close({ graceMs: 0 });
    await within(all, { what: "the end of the events" });
    assertEquals(new Set(events.map(({ type }) => type)), new Set(["pidsMax"]));
    const told = events.reduce((sum, { count }) => sum + count, 0);
    assert(told > 0, "what was refused is told at the end at the latest");
  },
);

limitTest("events: nobody who listens late misses what was", ["memory"], async (ground) => {
  const port = await open("sh", [...EATS_BELOW, String(200 * MIB)], {
    ...below(ground),
    limits: versionOf("memory") === 1 ? { memory: "64MiB" } : { memory: "64MiB", swap: 0 },
  });
  const events = port.events();
  await port.status;
  const told = new Map<string, number>();
  for await (const { type, count } of events) told.set(type, (told.get(type) ?? 0) + count);
  assert((told.get("oomKill") ?? 0) >= 1, JSON.stringify([...told]));
});

// Frozen

limitTest(
  "freeze: the whole tree stands still, and close ends it all the same",
  ["pids"],
  async (ground) => {
    using scratch = new Scratch();
    const log = scratch.file("log");
    await using port = await open(PROBE, ["obey-sigterm", log], {
      ...below(ground),
      limits: { pids: 32 },
      delayToSigkill: 20_000,
    });
    const ids = identities(await ready(port));
    await port.freeze();
    await frozen(port);
    await port.thaw();
    await port.freeze();
    await port.close();
    await gone(ids);
    const { reason } = await port.status;
    assertEquals(reason, { kind: "exitStatus", code: 7 }, "it was thawed and could obey SIGTERM");
    assertEquals(scratch.lines("log").length, 1);
  },
);

/** Waits until the kernel says of each of a tree's cgroups that can be frozen that it is. */
async function frozen(port: Port): Promise<void> {
  const own = Deno.readTextFileSync(`/proc/${port.pid}/cgroup`).match(/^0::(.*)$/m)?.[1] ?? "";
  const mount = await output("awk", "/ - cgroup2 /{print $5; exit}", "/proc/self/mountinfo");
  const events = Deno.readTextFileSync(`${mount}${own}/cgroup.events`);
  assert(events.includes("frozen 1"), events);
}

test("freeze: without a cgroup each process is stopped, and let go on", async () => {
  await using port = await open("sh", ["-c", 'sleep 1000 & echo "ready $$ $!"; wait'], {
    containment: { kill: "tree" },
  });
  const pids = await ready(port);
  const state = (pid: number) => Deno.readTextFileSync(`/proc/${pid}/stat`).split(" ")[2];
  await port.freeze();
  await until(() => pids.every((pid) => state(pid) === "T"), { what: "all stopped" });
  await port.thaw();
  await until(() => pids.every((pid) => state(pid) !== "T"), { what: "all going on" });
  await port.freeze();
  const ids = identities(pids);
  await port.close();
  await gone(ids);
  await assertRejects(() => port.freeze(), Error, "ESRCH");
});

// Nothing stays

const MANY = "ports with limits, in a row and at once: no cgroup and no descriptor stays";
limitTest(MANY, CONTROLLERS, () => limitedPorts({ count: 20, crowd: 20 }));

limitTest(
  "nested cgroups that the child has made are removed with its own",
  ["pids"],
  async (ground) => {
    await using port = await open(PROBE, ["ready"], { ...below(ground), limits: { pids: 32 } });
    await ready(port);
    const [leaf = ""] = ground.leaves();
    const ids = identities([port.pid]);
    for (const name of ["a", "a/b", "c"]) Deno.mkdirSync(`${leaf}/${name}`);
    Deno.writeTextFileSync(`${leaf}/a/b/cgroup.procs`, String(port.pid));
    await port.close();
    await gone(ids);
    assertEquals(ids.filter(alive), []);
  },
);

// Beside ports

limitTest("Cgroups: files by controller and path, read and written", ["pids"], async (ground) => {
  assertEquals(Cgroups.enabled(), true);
  assert(Cgroups.controllers().includes("pids"));
  // As root the test may write here itself; so may whoever uses it.
  Deno.mkdirSync(`${ground.folders[0]}/one`);
  const path = `${ground.path}/one`;
  if (versionOf("pids") === 2) Cgroups.set("pids", ground.path, "cgroup.subtree_control", "+pids");
  Cgroups.set("pids", path, "pids.max", "9");
  assertEquals(Cgroups.get("pids", path, "pids.max"), "9");
  const thrown = (act: () => unknown) => {
    try {
      act();
    } catch (error) {
      return error as ContainmentError;
    }
    throw new Error("it was not refused");
  };
  const bad = thrown(() => Cgroups.set("pids", path, "pids.max", "many"));
  assertEquals([bad.code, bad.value], ["EINVAL", "many"]);
  assertEquals(thrown(() => Cgroups.get("pids", `${path}/x`, "pids.max")).code, "ENOENT");
  for (
    const [controller, at, file] of [
      ["pids", "../x", "pids.max"],
      ["pids", "/x", "pids.max"],
      ["pids", path, "memory.max"],
      ["pidz", path, "pidz.max"],
      ["pids", path, "pids.max/../x"],
    ] as const
  ) {
    assert(thrown(() => Cgroups.get(controller, at, file)) instanceof TypeError, `${at} ${file}`);
  }
  Deno.removeSync(`${ground.folders[0]}/one`);
  await ground.empty();
});
