// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** One step of the helpers each: what is there to see of it, where a second one would do the same work. */

import { assertEquals, assertRejects } from "@std/assert";
import { open, SpawnError } from "../mod.ts";
import {
  asRoot,
  assert,
  children,
  descriptors,
  gone,
  helpers,
  identities,
  identity,
  Scratch,
  stat,
  test,
  until,
} from "./helpers.ts";
import { Host, type HostOptions } from "./host_process.ts";
import { sabotagedHost, STEPS } from "./sabotaged.ts";

/** A tree that is ended by walking it. */
const TREE = `
const port = await open(PROBE, ["double-fork", "2", "stay"], {
  delayToSigkill: 50,
  containment: { kill: "tree" },
});
say("ready", ...await ready(port));
`;

test("a runtime that has leaked its sockets to a process that lives on is seen to end all the same", async () => {
  await using host = Host.start(`
    ${TREE}
    const libc = Deno.dlopen("libc.so.6", {
      fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
    });
    const [F_SETFD, inherited] = [2, 0];
    const sockets = [];
    for (const { name } of [...Deno.readDirSync("/proc/self/fd")]) {
      if (libc.symbols.fcntl(Number(name), F_SETFD, inherited) < 0) continue; // the one that lists
      const target = Deno.readLinkSync("/proc/self/fd/" + name);
      if (target.startsWith("socket:")) sockets.push(target);
    }
    say("sockets", ...sockets);
    const holder = new Deno.Command("sleep", { args: ["1000"], stdout: "null", stderr: "null" }).spawn();
    say("holder", holder.pid);
    await hear();
  `);
  const ids = identities(await host.numbers("ready"));
  const { watchdog, guardian, keepers } = helpers(host.pid);
  const ours = identities([watchdog, guardian, ...keepers]);
  const sockets = await host.next("sockets");
  const [holder] = identities(await host.numbers("holder"));
  try {
    const held = descriptors(holder?.pid ?? 0)?.map((fd) => fd.replace(/^\d+ -> /, "")) ?? [];
    assert(sockets.length >= 3, "to the watchdog, the guardian and the keeper");
    assertEquals(sockets.filter((socket) => !held.includes(socket)), [], "all are held");
    host.kill();
    // The end of its output cannot be waited for: that is held, too.
    await gone([...ids, ...ours]);
  } finally {
    Deno.kill(holder?.pid ?? 0, "SIGKILL");
  }
});

test("a runtime that becomes another program by execve has ended: its trees go", async () => {
  await using host = Host.start(`
    ${TREE}
    const libc = Deno.dlopen("libc.so.6", {
      execv: { parameters: ["buffer", "buffer"], result: "i32" },
    });
    const texts = ["/bin/sleep", "1000"].map((text) => new TextEncoder().encode(text + "\\0"));
    const addresses = texts.map((text) => BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(text))));
    await hear();
    libc.symbols.execv(texts[0], new Uint8Array(new BigUint64Array([...addresses, 0n]).buffer));
  `);
  const ids = identities(await host.numbers("ready"));
  const { watchdog, guardian, keepers } = helpers(host.pid);
  const ours = identities([guardian, ...keepers]);
  await host.tell("go\n");
  await until(() => Deno.readTextFileSync(`/proc/${host.pid}/comm`) === "sleep\n", {
    what: "another program in the runtime's place",
  });
  await gone([...ids, ...ours]);
  // Its zombie stays: the new program does not know that it has children.
  await until(() => stat(watchdog)?.[0] === "Z", { what: "the end of the watchdog" });
});

test("daemons that do not hold the output are ended at once, however long flushMs is", async () => {
  await using host = Host.start(`
    const options = { flushMs: 2_000_000_000, delayToSigkill: 50 };
    const port = await open(PROBE, ["double-fork", "2", "exit"], options);
    const pids = await ready(port);
    const { cause, killed } = await port.status;
    say("ended", cause, killed, left(pids).length);
  `);
  assertEquals(await host.next("ended"), ["exit", "1", "0"]);
});

test("the zombie of a child keeps its pid for as long as something of its tree is left", async () => {
  await using host = Host.start(`
    const options = { flushMs: 0, delayToSigkill: 2_000_000_000 };
    const port = await open(PROBE, ["double-fork", "2", "exit"], options);
    say("ready", ...await ready(port));
    await hear();
    await port.close({ graceMs: 0 });
    say("code", (await port.status).code);
  `);
  const pids = await host.numbers("ready");
  const [child = 0, obeys = 0] = pids;
  // It has ended of the SIGTERM that followed upon the child's end.
  await until(() => stat(obeys) === null, { what: "the end of the daemon that obeys SIGTERM" });
  assertEquals(stat(child)?.[0], "Z");
  const [keeper] = helpers(host.pid).keepers;
  assertEquals(Number(stat(child)?.[1]), keeper);
  await host.tell("go\n");
  assertEquals(await host.next("code"), ["0"]);
});

test("a signal to the tree reaches what another thread than the first has started", async () => {
  using scratch = new Scratch();
  const file = scratch.file("notes");
  // A program of two threads, the second of which starts the probe; both outlive SIGHUP.
  await using host = Host.start(`
    const worker = \`
      new Deno.Command(\${JSON.stringify(PROBE)}, {
        args: ["ignore-sigterm", ${JSON.stringify(file)}],
        stdout: "inherit",
      }).spawn();
    \`;
    const program = \`
      Deno.addSignalListener("SIGHUP", () => {});
      new Worker("data:application/javascript," + \${JSON.stringify(encodeURIComponent(worker))}, {
        type: "module",
      });
      await new Promise(() => setInterval(() => {}, 1000));
    \`;
    const port = await open(Deno.execPath(), ["eval", program], { delayToSigkill: 50 });
    say("ready", port.pid, ...await ready(port));
    await hear();
    await port.kill("SIGHUP", { scope: "tree" });
    say("sent");
    await hear();
  `);
  const [program = 0, probe = 0] = await host.numbers("ready");
  const first = Deno.readTextFileSync(`/proc/${program}/task/${program}/children`);
  assertEquals([first, children(program)], ["", [probe]], "it is another thread's child");
  await host.tell("go\n");
  await host.next("sent");
  await until(() => scratch.lines("notes").length > 0, { what: "SIGHUP at the probe" });
  assertEquals(scratch.lines("notes"), ["HUP"]);
});

test("a watchdog that has been given up leaves no zombie behind", async () => {
  await using host = Host.start(`
    await (await open("true")).status;
    say("ready");
    await hear();
    proton.resetGuardian();
    await (await open("true")).status;
    say("again");
    await hear();
  `);
  await host.next("ready");
  const { watchdog, guardian } = helpers(host.pid);
  const old = [identity(watchdog), identity(guardian)];
  await host.tell("go\n");
  await host.next("again");
  await gone(old);
});

/** The walk over a tree, slowed down where `place` says; beside it what the environment leaves out. */
function slowHost(place: string, script: string, options: HostOptions = {}): Host {
  const steps = [place, Deno.env.get(STEPS) ?? ""].join(",");
  return sabotagedHost(script, { ...options, env: { [STEPS]: steps } });
}

test("a process is signalled before its children are read: what it forks meanwhile is found", async () => {
  using scratch = new Scratch();
  const file = scratch.file("notes");
  // More generations than walks: each is born of the signal, and is to be found by the same walk.
  await using host = slowHost(
    "slow-visit",
    `
    const options = { containment: { kill: "tree" }, delayToSigkill: 0 };
    const port = await open(PROBE, ["fork-at-hup", "6", ${JSON.stringify(file)}], options);
    await ready(port);
    await port.kill("SIGHUP", { scope: "tree" });
    say("sent");
    await hear();
  `,
  );
  await host.next("sent");
  assertEquals(scratch.lines("notes"), Array(6).fill("HUP"));
});

test("what has been killed is not reaped before a walk has found nobody new", async () => {
  await using host = slowHost(
    "late-visit",
    `
    const options = { containment: { kill: "tree" }, delayToSigkill: 0 };
    const port = await open(PROBE, ["double-fork", "2", "stay"], options);
    say("ready", ...await ready(port));
    await hear();
    await port.close({ deadlineMs: 60_000 });
    say("closed");
    await hear();
  `,
  );
  const [, ...daemons] = identities(await host.numbers("ready"));
  await host.tell("go\n");
  const states = () => daemons.map(({ pid }) => stat(pid)?.[0] ?? "reaped");
  const ended = (state: string) => state === "Z" || state === "reaped";
  await until(() => states().every(ended), { what: "the end of both daemons" });
  // The walk that will find nobody new takes its time, and a zombie keeps its place in every limit.
  assertEquals(states(), ["Z", "Z"]);
  await host.next("closed");
  assertEquals(states(), ["reaped", "reaped"]);
});

/**
 * In a PID namespace of its own, where nobody else takes a number: a process
 * of the tree ends after its parent's list was read, its parent does not wait
 * for it, and its number goes to a stranger, all while the keeper sleeps.
 */
const RECYCLED = `
const until = async (condition) => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
};
const read = (path) => {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return "";
  }
};
const shell = "sleep 1000 & exec env --ignore-signal=CHLD " + PROBE + " ignore-sigterm notes";
const port = await open("sh", ["-c", shell], { containment: { kill: "tree" } });
const [parent] = await ready(port);
const victim = Number(read("/proc/" + parent + "/task/" + parent + "/children"));
const keeper = read("/proc/" + parent + "/stat").split(") ")[1].split(" ")[1];
const sent = port.kill("SIGHUP", { scope: "tree" });
await until(() => read("notes") === "HUP\\n");
// The next sleep is the one before it looks at the victim, whose number it has read.
await until(() => read("/proc/" + keeper + "/stat").includes(") S "));
Deno.kill(victim, "SIGKILL");
await until(() => read("/proc/" + victim + "/stat") === "");
let stranger;
do {
  stranger?.kill("SIGKILL");
  Deno.writeTextFileSync("/proc/sys/kernel/ns_last_pid", String(victim - 1));
  const args = ["ignore-sigterm", "strangers-notes"];
  stranger = new Deno.Command(PROBE, { args, stdout: "null" }).spawn();
} while (stranger.pid !== victim);
await sent;
const state = read("/proc/" + victim + "/stat").split(") ")[1]?.[0];
say("stranger", state, JSON.stringify(read("strangers-notes")));
Deno.exit(0);
`;

asRoot(
  "no signal reaches a stranger that has got the number of a process of the tree",
  async () => {
    const under = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    await using host = slowHost("late-visit", RECYCLED, { under });
    assertEquals(await host.next("stranger"), ["S", '""']);
  },
);

test("a program that is open for writing at its first exec is tried again", async () => {
  await using host = sabotagedHost(`
    Deno.env.set("${STEPS}", "busy-once");
    proton.resetGuardian();
    const port = await open("echo", ["started"]);
    say("said", (await port.text()).trim());
  `);
  assertEquals(await host.next("said"), ["started"]);
});

test("a program that stays open for writing is a SpawnError in the end", async () => {
  using scratch = new Scratch();
  const program = scratch.file("busy");
  Deno.copyFileSync("/usr/bin/true", program);
  Deno.chmodSync(program, 0o755);
  const writer = Deno.openSync(program, { append: true });
  try {
    const error = await assertRejects(() => open(program), SpawnError);
    assertEquals([error.stage, error.code], ["exec", "ETXTBSY"]);
  } finally {
    writer.close();
  }
  await using port = await open(program);
  assertEquals((await port.status).code, 0);
});
