// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Limits in hosts of their own: that die, that have only v1, that have no rights, that are moved. */

import { assertEquals } from "@std/assert";
import { Cgroup, Ground, MOUNT, versionOf } from "../cgroups.ts";
import { alive, asRoot, assert, gone, identities, identity, stat, until } from "../helpers.ts";
import { Host, USERS } from "../host_process.ts";
import { dieTogether } from "./three_trees.ts";

const BELOW = (ground: Ground) => `cgroupBase: ${JSON.stringify(ground.path)}`;

/** Starts a tree with a daemon in cgroups with limits, and says who they are. */
const LIMITED = (options: string) => `
const port = await open(PROBE, ["double-fork", "2", "stay"], { ${options}, delayToSigkill: 100 });
say("contained", port.containment.kill, port.containment.limits);
say("ready", ...await ready(port));
for (let line = await hear(); line !== null; line = await hear()) {
  if (line === "freeze") await port.freeze();
  if (line === "close") await port.close();
  say("done", line);
}
await new Promise(() => {});
`;

/** All helpers of a host, from the watchdog down. */
function helpersOf(host: Host): number[] {
  const below = (pid: number): number[] => {
    const tasks = Deno.readTextFileSync(`/proc/${pid}/task/${pid}/children`).trim();
    return tasks === "" ? [] : tasks.split(" ").map(Number);
  };
  const name = (pid: number) => Deno.readTextFileSync(`/proc/${pid}/comm`).trim();
  const ours = (pid: number): number[] =>
    name(pid).startsWith("proton-") ? [pid, ...below(pid).flatMap(ours)] : [];
  // Children of any of its threads.
  const all = [...Deno.readDirSync(`/proc/${host.pid}/task`)].flatMap(({ name: task }) => {
    const list = Deno.readTextFileSync(`/proc/${host.pid}/task/${task}/children`).trim();
    return list === "" ? [] : list.split(" ").map(Number);
  });
  return all.flatMap(ours);
}

/** Everything of a host but its trees dies at one instant: nobody is left to end them. */
async function everythingDies(host: Host): Promise<void> {
  const all = [host.id, ...helpersOf(host).map(identity)];
  await dieTogether(all);
  await gone(all);
}

const NEEDED = ["memory", "pids"];
const there = NEEDED.every((name) => versionOf(name) !== null);

/** As `asRoot`, where there are controllers for it. */
function limitTest(name: string, body: () => Promise<void>, needs: boolean = there): void {
  if (needs) return asRoot(name, body);
  const cure = "skipped: it takes controllers that are not here; see scripts/vm";
  Deno.test({ name: `${name} (${cure})`, ignore: true, fn: () => {} });
}

limitTest("the runtime is killed: tree and cgroups go, with every limit", async () => {
  using ground = new Ground(NEEDED);
  await using host = Host.start(
    LIMITED(`${BELOW(ground)}, limits: { memory: "64MiB", pids: 32 }`),
  );
  await host.next("contained");
  const ids = identities(await host.numbers("ready"));
  assertEquals(ground.leaves().length > 0, true);
  host.kill();
  await host.end();
  await gone(ids);
  await ground.empty();
});

limitTest("keeper and guardian are killed: the watchdog ends what is in the cgroups", async () => {
  using ground = new Ground(NEEDED);
  await using host = Host.start(
    LIMITED(`${BELOW(ground)}, limits: { memory: "64MiB", pids: 32 }`),
  );
  await host.next("contained");
  const ids = identities(await host.numbers("ready"));
  const [, ...lower] = helpersOf(host);
  await dieTogether(lower.map(identity));
  await gone(ids);
  await ground.empty();
});

limitTest("all helpers are killed, the runtime lives: it ends what is in the cgroups", async () => {
  using ground = new Ground(NEEDED);
  await using host = Host.start(
    LIMITED(`${BELOW(ground)}, limits: { memory: "64MiB", pids: 32 }`),
  );
  await host.next("contained");
  const ids = identities(await host.numbers("ready"));
  await dieTogether(helpersOf(host).map(identity));
  await gone(ids);
  await ground.empty();
});

limitTest(
  "everything is killed: the next start removes what is left, and nothing of others",
  async () => {
    using ground = new Ground(NEEDED);
    const options = `${BELOW(ground)}, limits: { memory: "64MiB", pids: 32 }`;
    await using living = Host.start(LIMITED(options));
    await living.next("contained");
    const lives = identities(await living.numbers("ready"));
    const ofLiving = ground.leaves();
    await using host = Host.start(LIMITED(options));
    await host.next("contained");
    const left = identities(await host.numbers("ready"));
    await everythingDies(host);
    // Of another PID namespace an owner looks dead from here, and need not be.
    const [stale = ""] = ground.leaves().filter((leaf) => !ofLiving.includes(leaf));
    const foreign = stale.replace(/-\d+\.(\d+\.\d+)$/, "-1.$1");
    assert(foreign !== stale, stale);
    Deno.mkdirSync(foreign);
    await using next = Host.start(LIMITED(options));
    await next.next("contained");
    await gone(left);
    await until(() => !ground.leaves().some((leaf) => leaf === stale), { what: `no ${stale}` });
    assertEquals(lives.filter((id) => !alive(id)), [], "the living are untouched");
    assertEquals(ofLiving.filter((leaf) => !ground.leaves().includes(leaf)), []);
    assert(ground.leaves().includes(foreign), "another PID namespace's is left alone");
    Deno.removeSync(foreign);
  },
);

limitTest(
  "in the runtime's own cgroups, where no base is given: the next start clears them, too",
  async () => {
    const options = `limits: { pids: 32 }`;
    const script = LIMITED(options);
    await using host = Host.start(script);
    await host.next("contained");
    const [first = 0, ...daemons] = await host.numbers("ready");
    const left = identities([first, ...daemons]);
    const own = Deno.readTextFileSync(`/proc/${first}/cgroup`).match(/:pids:(.*)$/m)?.[1] ?? "";
    assert(/\/proton-[^/]+$/.test(own), own);
    await everythingDies(host);
    await using next = Host.start(
      `await (await open("true")).status; say("started"); await hear();`,
    );
    await next.next("started");
    await gone(left);
    const mount = Deno.readTextFileSync("/proc/self/mountinfo").split("\n")
      .find((line) => / - cgroup .*\bpids\b/.test(line))?.split(" ")[4];
    await until(() => stat(first) === null && !exists(`${mount}${own}`), { what: `no ${own}` });
  },
  versionOf("pids") === 1,
);

limitTest(
  "at cgroupPath: the next start there ends what a dead runtime has made, and nothing else",
  async () => {
    using ground = new Ground(["pids"]);
    const at = (name: string) =>
      LIMITED(`cgroupPath: "${ground.path}/${name}", limits: { pids: 32 }`);
    const refused = (name: string) => `
      const options = { cgroupPath: "${ground.path}/${name}", limits: { pids: 32 } };
      say("code", await open("true", [], options).then(() => "started", ({ code }) => code));
      await hear();
    `;
    await using host = Host.start(at("mine"));
    await host.next("contained");
    const lives = identities(await host.numbers("ready"));
    await using early = Host.start(refused("mine"));
    assertEquals(await early.next("code"), ["EEXIST"], "it is in use");
    assertEquals(lives.filter((id) => !alive(id)), []);
    // Below somebody's own cgroup a dead runtime has left one: that one may be ended, the one above is not ours.
    for (const folder of ground.folders) Deno.mkdirSync(`${folder}/theirs`);
    await using lodger = Host.start(
      LIMITED(`cgroupBase: "${ground.path}/theirs", limits: { pids: 32 }`),
    );
    await lodger.next("contained");
    const lodgers = identities(await lodger.numbers("ready"));
    await everythingDies(host);
    await everythingDies(lodger);
    await using next = Host.start(at("mine"));
    await next.next("contained");
    const tree = identities(await next.numbers("ready"));
    await gone(lives);
    await using late = Host.start(refused("theirs"));
    assertEquals(
      await late.next("code"),
      ["EEXIST"],
      "it holds what a dead runtime left, and is not its",
    );
    assertEquals(tree.filter((id) => !alive(id)), []);
    assertEquals(lodgers.length > 0, true);
    await next.tell("close\n");
    await next.next("done");
    for (const { pid } of lodgers.filter(alive)) Deno.kill(pid, "SIGKILL");
    await gone(lodgers);
  },
  versionOf("pids") !== null,
);

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}

// Hosts with v1 alone

/** Hides v2 from a host. */
const V1_ALONE = [
  "unshare",
  "--mount",
  "sh",
  "-c",
  `for at in $(awk '/ - cgroup2 / { print $5 }' /proc/self/mountinfo); do umount "$at"; done; exec "$@"`,
  "sh",
];
const V1 = there && NEEDED.every((name) => versionOf(name) === 1) && versionOf("freezer") === 1;

limitTest(
  "v1 alone: frozen and killed by the freezer, also while it is frozen; nothing is left",
  async () => {
    using ground = new Ground([...NEEDED, "freezer", "cpuacct"]);
    await using host = Host.start(
      LIMITED(`${BELOW(ground)}, limits: { memory: "64MiB", pids: 32 }`),
      { above: V1_ALONE },
    );
    assertEquals(await host.next("contained"), ["cgroup1", "cgroup1"]);
    const ids = identities(await host.numbers("ready"));
    await host.tell("freeze\n");
    await host.next("done");
    const leaf = ground.leaves().find((path) => path.includes("/freezer/")) ?? "";
    assertEquals(Deno.readTextFileSync(`${leaf}/freezer.state`), "FROZEN\n");
    await host.tell("close\n");
    await host.next("done");
    assertEquals(ids.filter(alive), []);
    await ground.empty();
  },
  V1,
);

limitTest(
  "v1 alone: a tree that somebody else has frozen is ended when its runtime is killed",
  async () => {
    using ground = new Ground([...NEEDED, "freezer", "cpuacct"]);
    await using host = Host.start(
      LIMITED(`${BELOW(ground)}, limits: { memory: "64MiB", pids: 32 }`),
      { above: V1_ALONE },
    );
    await host.next("contained");
    const ids = identities(await host.numbers("ready"));
    const leaf = ground.leaves().find((path) => path.includes("/freezer/")) ?? "";
    Deno.writeTextFileSync(`${leaf}/freezer.state`, "FROZEN");
    await until(() => Deno.readTextFileSync(`${leaf}/freezer.state`) === "FROZEN\n", {
      what: "all frozen",
    });
    host.kill();
    await gone(ids);
    await ground.empty();
  },
  V1,
);

limitTest(
  "v1 alone: memory that runs out in a grandchild ends the tree with cause oom",
  async () => {
    using ground = new Ground([...NEEDED, "freezer", "cpuacct"]);
    await using host = Host.start(
      `
    const port = await open("sh", ["-c", '("$0" eat-memory 209715200 & wait); sleep 1000', PROBE], {
      ${BELOW(ground)}, limits: { memory: "64MiB" },
    });
    const { cause, oomKilled, usage } = await port.status;
    say("ended", cause, oomKilled, usage.peakMemoryBytes > 48 * 2 ** 20);
    `,
      { above: V1_ALONE },
    );
    assertEquals(await host.next("ended"), ["oom", "true", "true"]);
    await ground.empty();
  },
  V1,
);

// Rights

limitTest("a user without privileges, in cgroups that were given to it", async () => {
  const user = USERS.find(({ uid }) => uid !== null);
  assert(user?.uid, "there is a user without privileges");
  using ground = new Ground(NEEDED, user.uid);
  const options = `${BELOW(ground)}, limits: { memory: "64MiB", pids: 32 }`;
  await using host = Host.start(LIMITED(options), { user });
  const [, limits] = await host.next("contained");
  assertEquals(limits, `cgroup${versionOf("memory")}`);
  const ids = identities(await host.numbers("ready"));
  await host.tell("close\n");
  await host.next("done");
  assertEquals(ids.filter(alive), []);
  await ground.empty();
}, there && versionOf("memory") === 1);

const REFUSED = (options: string) => `
const error = await open("true", [], { ${options} }).catch((error) => error);
say("refused", error?.constructor?.name, error?.code, error?.message);
`;

limitTest("a user without privileges, in cgroups that were not", async () => {
  const user = USERS.find(({ uid }) => uid !== null);
  assert(user !== undefined);
  using ground = new Ground(NEEDED);
  await using host = Host.start(REFUSED(`${BELOW(ground)}, limits: { pids: 32 }`), { user });
  const [kind, code, ...message] = await host.next("refused");
  assertEquals([kind, code], ["ContainmentError", "EACCES"]);
  assert(message.join(" ").includes("sudo chown"), message.join(" "));
  await ground.empty();
});

limitTest("a cgroup file system that is read-only", async () => {
  using ground = new Ground(NEEDED);
  const readOnly = `for at in $(awk '/ - cgroup/ { print $5 }' /proc/self/mountinfo); do
    mount -o remount,bind,ro "$at"; done; exec "$@"`;
  await using host = Host.start(REFUSED(`${BELOW(ground)}, limits: { pids: 32 }`), {
    above: ["unshare", "--mount", "sh", "-c", readOnly, "sh"],
  });
  const [kind, code] = await host.next("refused");
  assertEquals([kind, code], ["ContainmentError", "EROFS"]);
});

limitTest("a cgroup that is frozen already: an error, and nobody hangs in it", async () => {
  const version = versionOf("freezer") === 1 ? 1 : 2;
  using ground = new Ground(version === 1 ? ["freezer"] : NEEDED);
  const [folder = ""] = ground.folders;
  const [file, on] = version === 1 ? ["freezer.state", "FROZEN"] : ["cgroup.freeze", "1"];
  Deno.writeTextFileSync(`${folder}/${file}`, on);
  const controllers = version === 1 ? `["freezer"]` : `["pids"]`;
  await using host = Host.start(REFUSED(`${BELOW(ground)}, cgroupControllers: ${controllers}`));
  const [kind, code, ...message] = await host.next("refused");
  assertEquals([kind, code], ["ContainmentError", "EBUSY"], message.join(" "));
  Deno.writeTextFileSync(`${folder}/${file}`, version === 1 ? "THAWED" : "0");
  await ground.empty();
});

// v2's rule that processes and controllers exclude each other: any controller of v2 shows it.

const IN_V2 = ["memory", "pids", "hugetlb"].find((name) => versionOf(name) === 2);
const SOMETHING = IN_V2 === "hugetlb"
  ? `cgroupControllers: ["hugetlb"]`
  : `limits: { ${IN_V2}: ${IN_V2 === "memory" ? `"64MiB"` : 32} }`;

limitTest("v2: the runtime's own cgroup gives no limits, and nobody is moved unasked", async () => {
  using cgroup = new Cgroup();
  switchOnFor(IN_V2 ?? "");
  await using host = Host.start(REFUSED(SOMETHING), { cgroup });
  const [kind, code, ...message] = await host.next("refused");
  assertEquals([kind, code], ["ContainmentError", "EBUSY"]);
  assert(message.join(" ").includes("DelegateSubgroup=main"), message.join(" "));
  await host.end();
  await cgroup.leftNothing();
}, IN_V2 !== undefined && MOUNT !== null);

limitTest("v2: cgroupMoveSelf makes room for limits, and nothing of it stays", async () => {
  using cgroup = new Cgroup();
  switchOnFor(IN_V2 ?? "");
  await using host = Host.start(LIMITED(`${SOMETHING}, cgroupMoveSelf: true`), { cgroup });
  assertEquals(await host.next("contained"), ["cgroup2", "cgroup2"]);
  const ids = identities(await host.numbers("ready"));
  const own = Deno.readTextFileSync(`/proc/${host.pid}/cgroup`).match(/^0::(.*)$/m)?.[1] ?? "";
  assert(/\/proton-[^/]+\.0$/.test(own), own);
  await host.tell("close\n");
  await host.next("done");
  assertEquals(ids.filter(alive), []);
  host.kill();
  await host.end();
  await cgroup.leftNothing();
}, IN_V2 !== undefined && MOUNT !== null);

/** Gives the controller to the cgroups at the root, as a delegating manager does. */
function switchOnFor(controller: string): void {
  Deno.writeTextFileSync(`${MOUNT}/cgroup.subtree_control`, `+${controller}`);
}
