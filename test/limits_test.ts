// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// The table of limits: what is written for each in both versions, and what is refused before anything starts.

import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { rawSettings, type Setting, settingsOf } from "../src/limits.ts";
import { planOf } from "../src/plan.ts";

/** What is written in one version, as `file = value`; null where it has nothing like it. */
function written(settings: readonly Setting[], version: "v1" | "v2"): (string | null)[] {
  return settings.flatMap((setting) => {
    const side = setting[version];
    if (side === null) return [null];
    return side.writes.map(({ file, value }) => `${file} = ${value}`);
  });
}

/** Both versions of what `limits` come to. */
function both(limits: unknown): { v2: (string | null)[]; v1: (string | null)[] } {
  const settings = settingsOf(limits);
  return { v2: written(settings, "v2"), v1: written(settings, "v1") };
}

const MIB = 2 ** 20;

Deno.test("limits: memory, and the whole tree with it", () => {
  assertEquals(both({ memory: "64MiB" }), {
    v2: [`memory.max = ${64 * MIB}`, "memory.oom.group = 1"],
    v1: [`memory.limit_in_bytes = ${64 * MIB}`],
  });
  const [, group] = settingsOf({ memory: "max" });
  assertEquals(
    [group?.name, group?.optional],
    ["oomGroup", true],
    "an old kernel need not have it",
  );
  assertEquals(both({ memory: "max", oomGroup: false }), {
    v2: ["memory.max = max", "memory.oom.group = 0"],
    v1: ["memory.limit_in_bytes = -1"],
  });
});

Deno.test("limits: a size is a number of bytes, or has a unit", () => {
  const sizes: [number | string, string][] = [
    [4096, "4096"],
    ["4096", "4096"],
    ["8192B", "8192"],
    ["64KiB", "65536"],
    ["64kb", "64000"],
    ["1.5 MiB", String(1.5 * MIB)],
    ["2GB", "2000000000"],
    ["1TiB", String(2 ** 40)],
    ["max", "max"],
  ];
  for (const [size, bytes] of sizes) {
    assertEquals(written(settingsOf({ memoryHigh: size }), "v2"), [`memory.high = ${bytes}`]);
  }
});

Deno.test("limits: what v1 has no word for is not there, and is not taken for something else", () => {
  for (const name of ["memoryHigh", "memoryLow", "memoryMin"]) {
    assertEquals(both({ [name]: 8192 }).v1, [null], name);
  }
  assertEquals(both({ swap: 0 }), { v2: ["memory.swap.max = 0"], v1: [null] });
});

Deno.test("limits: v1 counts swap with memory", () => {
  assertEquals(both({ memory: 8192, swap: 4096, oomGroup: true }).v1, [
    "memory.limit_in_bytes = 8192",
    "memory.memsw.limit_in_bytes = 12288",
  ]);
  assertEquals(both({ memory: 8192, swap: "max" }).v1[1], "memory.memsw.limit_in_bytes = -1");
});

Deno.test("limits: processors, their weight and their numbers", () => {
  assertEquals(both({ cpu: 0.25, cpuWeight: 50, cpuset: "0-1,3" }), {
    v2: ["cpu.weight = 50", "cpuset.cpus = 0-1,3", "cpu.max = 25000 100000"],
    v1: [
      "cpu.shares = 512",
      "cpuset.cpus = 0-1,3",
      "cpu.cfs_period_us = 100000",
      "cpu.cfs_quota_us = 25000",
    ],
  });
  assertEquals(both({ cpu: "max" }), {
    v2: ["cpu.max = max 100000"],
    v1: ["cpu.cfs_period_us = 100000", "cpu.cfs_quota_us = -1"],
  });
  assertEquals(both({ cpu: 2 }).v2, ["cpu.max = 200000 100000"]);
  assertEquals(both({ cpuWeight: 1 }).v1, ["cpu.shares = 10"]);
});

Deno.test("limits: processes, devices, huge pages", () => {
  assertEquals(both({ pids: 32 }), { v2: ["pids.max = 32"], v1: ["pids.max = 32"] });
  assertEquals(both({ pids: "max" }).v1, ["pids.max = max"]);
  const devices = { "8:0": { readBps: "1MiB", writeIops: 7 }, "254:16": { writeBps: "max" } };
  assertEquals(both({ io: { weight: 50, devices } }), {
    v2: [
      "io.weight = default 50",
      `io.max = 8:0 rbps=${MIB} wiops=7`,
      "io.max = 254:16 wbps=max",
    ],
    v1: [
      "blkio.bfq.weight = 50",
      `blkio.throttle.read_bps_device = 8:0 ${MIB}`,
      "blkio.throttle.write_iops_device = 8:0 7",
      "blkio.throttle.write_bps_device = 254:16 0",
    ],
  });
  assertEquals(both({ hugetlb: { "2MB": "64MiB", "1GB": 0 } }), {
    v2: [`hugetlb.2MB.max = ${64 * MIB}`, "hugetlb.1GB.max = 0"],
    v1: [`hugetlb.2MB.limit_in_bytes = ${64 * MIB}`, "hugetlb.1GB.limit_in_bytes = 0"],
  });
});

Deno.test("limits: a value that cannot be meant is refused, with what is wrong and what to give", () => {
  const wrong: [unknown, RegExp][] = [
    [7, /"limits": it is a number/],
    [[], /"limits": it is an array/],
    [{ memroy: 1 }, /limit "memroy".*did you mean "memory"/],
    [{ memory: "64MiBs" }, /"memory": it is "64MiBs"/],
    [{ memory: "-1" }, /"memory": it is "-1"/],
    [{ memory: true }, /"memory": it is a boolean/],
    [{ cpu: "2" }, /"cpu": it is a string/],
    [{ cpuset: "3-1" }, /"cpuset": it is "3-1"/],
    [{ cpuset: "0,,1" }, /"cpuset"/],
    [{ oomGroup: 1 }, /"oomGroup": it is a number/],
    [{ pids: "32" }, /"pids": it is a string/],
    [{ io: { wieght: 1 } }, /did you mean "weight"/],
    [{ io: { devices: { sda: {} } } }, /MAJOR:MINOR/],
    [{ io: { devices: { "8:0": { readbps: 1 } } } }, /did you mean "readBps"/],
    [{ hugetlb: { "2MiB": 0 } }, /"hugetlb.2MiB"/],
  ];
  for (const [limits, message] of wrong) {
    const error = assertThrows(() => settingsOf(limits), TypeError);
    assertMatch(error.message, message);
    assertMatch(error.message, /^Cannot [^:]+: .+: .+$/s, "what: why: mend");
  }
  const outside: [unknown, RegExp][] = [
    [{ memory: 4095 }, /4095, less than allowed/],
    [{ memory: 4096.5 }, /not a whole number/],
    [{ memory: "9000000TiB" }, /not a whole number|more than allowed/],
    [{ cpu: 0.001 }, /0.001, out of its range/],
    [{ cpu: NaN }, /out of its range/],
    [{ cpu: 2000 }, /out of its range/],
    [{ cpuWeight: 0 }, /0, less than allowed/],
    [{ cpuWeight: 10_001 }, /more than allowed/],
    [{ pids: 0 }, /less than allowed/],
    [{ hugetlb: { "2MB": 4096 } }, /no whole number of its pages/],
  ];
  for (const [limits, message] of outside) {
    const error = assertThrows(() => settingsOf(limits), RangeError);
    assertMatch(error.message, message);
  }
});

// Raw file names

Deno.test("cgroupSets: the names of v1 hold in v2 as well, and the other way round", () => {
  const sets = (...raw: [string, string, string][]) => {
    const settings = rawSettings(raw);
    return { v2: written(settings, "v2"), v1: written(settings, "v1") };
  };
  assertEquals(sets(["memory", "memory.limit_in_bytes", "268435456"]), {
    v2: ["memory.max = 268435456"],
    v1: ["memory.limit_in_bytes = 268435456"],
  });
  assertEquals(
    sets(["cpu", "cpu.cfs_period_us", "100000"], ["cpu", "cpu.cfs_quota_us", "50000"]),
    {
      v2: ["cpu.max = 50000 100000", "cpu.max = 50000 100000"],
      v1: ["cpu.cfs_period_us = 100000", "cpu.cfs_quota_us = 50000"],
    },
  );
  assertEquals(sets(["cpu", "cpu.max", "50000 200000"]), {
    v2: ["cpu.max = 50000 200000"],
    v1: ["cpu.cfs_period_us = 200000", "cpu.cfs_quota_us = 50000"],
  });
  assertEquals(sets(["cpu", "cpu.shares", "512"]).v2, ["cpu.weight = 50"]);
  assertEquals(sets(["memory", "memory.limit_in_bytes", "-1"]).v2, ["memory.max = max"]);
  const unknown = sets(["memory", "memory.swappiness", "10"]);
  assertEquals(unknown.v1, ["memory.swappiness = 10"], "as it is, where the table has no word");
});

Deno.test("cgroupSets: what the table knows is read back as the table does", () => {
  const [known, unknown] = rawSettings([
    ["memory", "memory.limit_in_bytes", "1000001"],
    ["memory", "memory.swappiness", "10"],
  ]);
  assertEquals(known?.v1?.writes[0]?.check, "bytes");
  assertEquals(unknown?.v1?.writes[0]?.check, "none");
});

// Plans

Deno.test("plan: nothing asked for is no plan", () => {
  assertEquals(planOf({}), null);
  assertEquals(planOf({ limits: {} }), null);
  assertEquals(planOf({ containment: { kill: "auto", require: { kill: "tree" } } }), null);
});

Deno.test("plan: several controllers, a base, and a tree that ends with its memory", () => {
  const plan = planOf({
    cgroupControllers: ["memory", "cpu", "blkio"],
    cgroupBase: "mycgroup/part",
    cgroupSets: [["memory", "memory.limit_in_bytes", "268435456"]],
  });
  assertEquals([plan?.where, plan?.path, plan?.endOnOom], ["base", "mycgroup/part", true]);
  const controllers = plan?.settings.map(({ v1, v2 }) => [v1?.controller, v2?.controller]);
  assertEquals(controllers, [
    ["memory", "memory"],
    ["cpu", "cpu"],
    ["blkio", "io"],
    ["memory", "memory"],
  ]);
  assertEquals(planOf({ limits: { memory: 8192, oomGroup: false } })?.endOnOom, false);
});

Deno.test("plan: what excludes each other, or leads elsewhere, is refused", () => {
  const controllers = { cgroupControllers: ["memory"] };
  const wrong: [Record<string, unknown>, RegExp][] = [
    [{ ...controllers, cgroupBase: "a", cgroupPath: "b" }, /"cgroupBase" is given too/],
    [{ cgroupBase: "a" }, /no controller says in which hierarchy/],
    [{ ...controllers, cgroupBase: "../a" }, /holds an empty step, "." or ".."/],
    [{ ...controllers, cgroupPath: "a/../../b" }, /".."/],
    [{ ...controllers, cgroupPath: "a//b" }, /empty step/],
    [{ ...controllers, cgroupPath: "" }, /empty step/],
    [{ ...controllers, cgroupPath: "/sys/fs/cgroup/memory/a" }, /begins with a slash/],
    [{ ...controllers, cgroupBase: 7 }, /it is a number/],
    [{ cgroupControllers: "memory" }, /it is a string/],
    [{ cgroupControllers: ["memroy"] }, /did you mean "memory"/],
    [{ cgroupSets: [["memory", "cpu.max", "1"]] }, /"cpu.max" is no file of memory/],
    [{ cgroupSets: [["memory", "memory./../x", "1"]] }, /no file of memory/],
    [{ cgroupSets: [["memory", "memory.max", ""]] }, /the value is ""/],
    [{ cgroupSets: [["memory", "memory.max", "1\n2"]] }, /the value is/],
    [{ cgroupSets: [["memory", "memory.max"]] }, /give \[controller, file, value\]/],
    [{ cgroupMoveSelf: 1 }, /it is a number/],
    [{ containment: { require: { kill: "cgroup3" } } }, /it is "cgroup3"/],
    [{ containment: { require: { limit: "cgroup2" } } }, /did you mean "limits"/],
    [{ containment: { kill: "tree", require: { kill: "cgroup2" } } }, /leave one of them out/],
  ];
  for (const [options, message] of wrong) {
    const error = assertThrows(() => planOf(options), TypeError);
    assertMatch(error.message, message);
    assertMatch(error.message, /^Cannot [^:]+: .+: .+$/s, "what: why: mend");
  }
});
