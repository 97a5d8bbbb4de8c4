// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** What becomes of the trees when something unusual becomes of their runtime. */

import { assertEquals } from "@std/assert";
import {
  alive,
  assert,
  children,
  comm,
  gone,
  helpers,
  identities,
  identity,
  pause,
  ROOT,
  stat,
  statusField,
  until,
} from "../helpers.ts";
import type { Host } from "../host_process.ts";
import { matrixCase, type Run } from "../matrix.ts";
import { Cast } from "./three_trees.ts";

/** Opens three trees and then does `act`. */
const THEN = (act: string) => `
const ports = await Promise.all([0, 1, 2].map(() =>
  open(PROBE, ["double-fork", "2", "stay"], { delayToSigkill: 20 })
));
say("ready", ...(await Promise.all(ports.map(ready))).flat());
await hear();
${act}
`;

/** All trees end with the host, its helpers too. */
async function allEnd(run: Run, act: string, core: number | "unlimited"): Promise<void> {
  await using host = run.start(THEN(act), { under: ["prlimit", `--core=${core}`] });
  const all = await Cast.of(host);
  await host.tell("go\n");
  const { success } = await host.end();
  assertEquals(success, false);
  await gone([...all.trees.flat(), all.watchdog, all.guardian, ...all.keepers]);
  if (core === 0 || /^[|/]/.test(Deno.readTextFileSync("/proc/sys/kernel/core_pattern"))) return;
  const cores = [...Deno.readDirSync(host.folder)].filter(({ name }) => name.startsWith("core"));
  assertEquals(cores.length, 1, "its core");
}

matrixCase({
  number: "#5",
  title: "native code of the runtime writes to address 0",
  body: (run) =>
    allEnd(
      run,
      `Deno.dlopen("libc.so.6", { memset: { parameters: ["pointer", "i32", "usize"], result: "pointer" } })
        .symbols.memset(null, 0, 1);`,
      0,
    ),
});

matrixCase({
  number: "#6",
  title: "a runtime of 256 MiB aborts and writes its core",
  body: (run) =>
    allEnd(
      run,
      `globalThis.held = new Uint8Array(1 << 28).fill(1);
      Deno.dlopen("libc.so.6", { abort: { parameters: [], result: "void" } }).symbols.abort();`,
      "unlimited",
    ),
});

/** How long the runtime's threads have nothing to do: one of the fixed waits. */
const IDLE_MS = 15_000;

matrixCase({
  number: "#22",
  title: "the guardian's start was a Worker's, which is terminated; then 15 idle seconds",
  body: async (run) => {
    await using host = run.start(`
      if (self.name === "inner") {
        const port = await open(PROBE, ["ready"]);
        self.postMessage(await ready(port));
      } else {
        const worker = new Worker(import.meta.url, { type: "module", name: "inner" });
        const inner = await new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data));
        const port = await open(PROBE, ["double-fork", "2", "stay"]);
        say("ready", ...await ready(port));
        worker.terminate();
        while (left(inner).length > 0) await new Promise((resolve) => setTimeout(resolve, 5));
        say("terminated");
        await hear();
        say("again", (await (await open("true")).status).reason.kind, port.containment.guards);
        await hear();
      }
    `);
    const ids = identities(await host.numbers("ready"));
    await host.next("terminated");
    const before = helpers(host.pid);
    await pause(IDLE_MS);
    assertEquals(ids.filter((id) => !alive(id)), []);
    await host.tell("go\n");
    assertEquals(await host.next("again"), ["normal", "both"]);
    const { watchdog, guardian } = helpers(host.pid);
    assertEquals([watchdog, guardian], [before.watchdog, before.guardian]);
  },
});

matrixCase({
  number: "#23",
  title: "a forked copy of the runtime holds all of its descriptors; the runtime is killed",
  body: async (run) => {
    // The copy never comes back from fork(2): what libc calls there first is pause(2).
    await using host = run.start(THEN(`
      const libc = Deno.dlopen("libc.so.6", {
        dlsym: { parameters: ["pointer", "buffer"], result: "pointer" },
        __register_atfork: { parameters: ["pointer", "pointer", "pointer", "pointer"], result: "i32" },
        fork: { parameters: [], result: "i32", nonblocking: true },
      }).symbols;
      const pause = libc.dlsym(null, new TextEncoder().encode("pause\\0"));
      if (pause === null || libc.__register_atfork(null, null, pause, null) !== 0) throw new Error("atfork");
      say("copy", await libc.fork());
      await new Promise(() => {});
    `));
    const all = await Cast.of(host);
    await host.tell("go\n");
    const [copy] = identities(await host.numbers("copy"));
    assert(copy !== undefined);
    host.kill();
    await gone([...all.trees.flat(), all.guardian, ...all.keepers]);
    assert(alive(copy), "the copy and its descriptors are there all the while");
    Deno.kill(copy.pid, "SIGKILL");
  },
});

matrixCase({
  number: "#25",
  title: "a child with a uid of its own: groups, capabilities, no way back",
  not: {
    "tree, unprivileged": "has no other user to give",
    "cgroup2, unprivileged": "has no other user to give",
  },
  body: async (run) => {
    await using host = run.start(`
      const libc = Deno.dlopen("libc.so.6", {
        setgroups: { parameters: ["usize", "buffer"], result: "i32" },
      });
      if (libc.symbols.setgroups(3n, new Uint32Array([0, 4, 27])) !== 0) throw new Error("setgroups");
      const script = "grep -E '^(Uid|Gid|Groups|Cap(Prm|Eff|Inh|Amb)):' /proc/self/status;" +
        "if setpriv --reuid=0 true 2>/dev/null; then echo back; else echo stays; fi;" +
        "(setsid sleep 1000 >/dev/null 2>&1 & echo $!); exec sleep 1000";
      const options = { uid: 54321, gid: 54322, groups: [54323, 54324], cwd: "/" };
      const port = await open("sh", ["-c", script], options);
      const lines = port.lines().getReader();
      for (let n = 0; n < 7; n++) {
        const [name, ...values] = (await lines.read()).value.split(/[:\\s]+/);
        say(name, ...values.filter((value) => value !== ""));
      }
      say("way", (await lines.read()).value);
      say("ready", port.pid, (await lines.read()).value);
      await hear();
      await port.close({ graceMs: 0 });
      say("closed");
    `);
    assertEquals(await host.next("Uid"), new Array(4).fill("54321"));
    assertEquals(await host.next("Gid"), new Array(4).fill("54322"));
    assertEquals(await host.next("Groups"), ["54323", "54324"]);
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb"]) {
      assertEquals(await host.next(set), ["0".repeat(16)], set);
    }
    assertEquals(await host.next("way"), ["stays"]);
    const ids = identities(await host.numbers("ready"));
    await host.tell("go\n");
    await host.next("closed");
    await gone(ids);
  },
});

matrixCase({
  number: "#24",
  title: "the runtime execs another program in its place: its trees end",
  body: async (run) => {
    await using host = run.start(THEN(`
      const text = (text) => new TextEncoder().encode(text + "\\0");
      Deno.dlopen("libc.so.6", {
        execl: { parameters: ["buffer", "buffer", "buffer", "pointer"], result: "i32" },
      }).symbols.execl(text("/bin/sleep"), text("sleep"), text("1000"), null);
    `));
    const all = await Cast.of(host);
    await host.tell("go\n");
    await gone([...all.trees.flat(), all.guardian, ...all.keepers]);
    assertEquals([identity(host.pid), comm(host.pid)], [host.id, "sleep"]);
    // The watchdog is the new program's child now, which does not know of it.
    await until(() => stat(all.watchdog.pid)?.[0] === "Z", { what: "the end of the watchdog" });
  },
});

matrixCase({
  number: "#43",
  title: "the runtime gives up its uid after the first spawn: the next child has the new one",
  not: {
    "tree, unprivileged": "has no other uid to take on",
    "cgroup2, unprivileged": "has no other uid to take on",
    "cgroup2, root": "the new user may not write where the cgroups of root's are",
  },
  body: async (run) => {
    const uid = 400_000 + Deno.pid;
    await using host = run.start(`
      await (await open("true")).status;
      const libc = Deno.dlopen("libc.so.6", {
        setgroups: { parameters: ["usize", "pointer"], result: "i32" },
        setresgid: { parameters: ["u32", "u32", "u32"], result: "i32" },
        setresuid: { parameters: ["u32", "u32", "u32"], result: "i32" },
      }).symbols;
      const failed = libc.setgroups(0n, null) || libc.setresgid(${uid}, ${uid}, ${uid}) ||
        libc.setresuid(${uid}, ${uid}, ${uid});
      const port = await open("sleep", ["1000"], { cwd: "/" });
      say("ready", port.pid, failed);
      await hear();
      await port.close();
      say("closed");
      await hear();
    `);
    const [pid = 0, failed] = await host.numbers("ready");
    assertEquals(failed, 0);
    assertEquals(statusField(pid, "Uid"), Array(4).fill(`${uid}`).join("\t"));
    assertEquals(statusField(pid, "Gid"), Array(4).fill(`${uid}`).join("\t"));
    assertEquals(statusField(pid, "Groups"), "");
    await host.tell("go\n");
    await host.next("closed");
  },
});

const CONCURRENT = 200;
const TOTAL = 1_000;

matrixCase({
  number: "#44",
  title: "200 children at a time and 1,000 in all (5,000 in the soak), then the runtime is killed",
  body: async (run) => {
    await using host = run.start(`
      const ports = await Promise.all(Array.from({ length: ${CONCURRENT} }, () => open("cat")));
      for (let i = 0; i < ${TOTAL - CONCURRENT}; i += 20) {
        await Promise.all(Array.from({ length: 20 }, () => open("true").then((port) => port.status)));
      }
      say("ready", ...ports.map(({ pid }) => pid));
      await hear();
    `);
    const ids = identities(await host.numbers("ready"));
    const { watchdog, guardian, keepers } = helpers(host.pid);
    assertEquals(keepers.length, CONCURRENT);
    const zombies = [watchdog, guardian].flatMap(children).filter((pid) => stat(pid)?.[0] === "Z");
    assertEquals(zombies, []);
    if (ROOT) {
      const kib = [watchdog, guardian, ...keepers].map(privateKib).reduce((a, b) => a + b);
      assert(kib < 70 * CONCURRENT, `${kib} KiB of the helpers' own for ${CONCURRENT} children`);
    }
    host.kill();
    await gone([...ids, ...identities([watchdog])]);
  },
});

/** Memory that is a process's own; helpers show it to root only. */
function privateKib(pid: number): number {
  const text = Deno.readTextFileSync(`/proc/${pid}/smaps_rollup`);
  const fields = [...text.matchAll(/^Private_(?:Clean|Dirty):\s+(\d+) kB$/gm)];
  return fields.map(([, kib]) => Number(kib)).reduce((a, b) => a + b, 0);
}

/** In a host: says which children of its own are zombies. */
const SAY_ZOMBIES = `
say("zombies", ...[...Deno.readDirSync("/proc")].map(({ name }) => name).filter((name) => {
  try {
    const [state, parent] = Deno.readTextFileSync("/proc/" + name + "/stat").split(") ")[1].split(" ");
    return state === "Z" && Number(parent) === Deno.pid;
  } catch {
    return false;
  }
}));
`;

/**
 * With process 1 the kernel ends everything in its namespace, the watchdog
 * too. What that cannot do any more is to remove its directory, and nobody
 * outside can tell whether a process of another namespace lives.
 */
async function namespaceEnds(run: Run, host: Host): Promise<void> {
  for (const pid of children(host.pid)) Deno.kill(pid, "SIGKILL"); // the host is that of unshare(1)
  await run.cgroup?.empty();
  const left = run.cgroup?.below() ?? [];
  assert(left.length <= 1, `${left}`);
  left.forEach((folder) => Deno.removeSync(folder));
}

const PID_1 = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];

for (
  const [title, around] of [
    ["the runtime was started with SIGCHLD ignored", { under: ["env", "--ignore-signal=CHLD"] }],
    ["the runtime leads a session without a terminal", { under: ["setsid"] }],
    ["the runtime is process 1 of a PID namespace", {
      above: PID_1,
    }],
  ] as const
) {
  matrixCase({
    number: "+",
    needsRoot: "above" in around,
    title: `${title}: codes are told, trees end, no zombie is left`,
    body: async (run) => {
      await using host = run.start(
        `
        const port = await open(PROBE, ["double-fork", "2", "exit"], { delayToSigkill: 20, flushMs: 20 });
        const pids = await ready(port);
        const { code, survivors } = await port.status;
        const seven = await (await open("sh", ["-c", "exit 7"])).status;
        const tree = await open(PROBE, ["double-fork", "2", "stay"], { delayToSigkill: 20 });
        const others = await ready(tree);
        await tree.close();
        proton.resetGuardian();
        await (await open("true")).status;
        say("told", code, survivors.length, seven.code, left([...pids, ...others]).length);
        await hear();
        ${SAY_ZOMBIES}
        await hear();
        `,
        around,
      );
      assertEquals(await host.next("told"), ["0", "0", "7", "0"]);
      await host.tell("go\n");
      assertEquals(await host.next("zombies"), []);
      if ("above" in around) await namespaceEnds(run, host);
    },
  });
}

matrixCase({
  number: "+",
  needsRoot: true,
  title:
    "the runtime is process 1, its watchdog is killed: the guardian it inherits leaves no zombie",
  body: async (run) => {
    await using host = run.start(
      `
      const port = await open("cat");
      say("ready", port.pid);
      await hear();
      say("guards", port.containment.guards);
      await port.close();
      await (await open("true")).status; // by a new pair; the old one has nobody left to guard
      say("closed");
      while (await hear() !== null) {
        ${SAY_ZOMBIES}
      }
      `,
      { above: PID_1 },
    );
    await host.next("ready");
    const [runtime = 0] = children(host.pid);
    const { watchdog, guardian } = helpers(runtime);
    const [id] = identities([guardian]);
    assert(id !== undefined);
    Deno.kill(watchdog, "SIGKILL");
    await until(() => Number(stat(guardian)?.[1]) === runtime, {
      what: "the guardian is the runtime's child",
    });
    await host.tell("go\n");
    assertEquals(await host.next("guards"), ["guardian"]);
    await host.next("closed");
    await gone([id]);
    await host.tell("go\n");
    assertEquals(await host.next("zombies"), []);
    await namespaceEnds(run, host);
  },
});
