// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** A scope of the user's service manager, where the runtime's own cgroup is somebody else's; by a fake bus. */

import { assertEquals } from "@std/assert";
import { existsSync } from "node:fs";
import { Cgroup, MOUNT, versionOf } from "../cgroups.ts";
import { FakeBus, type Manner } from "../fake_bus.ts";
import { alive, asRoot, gone, helpers, identities, identity, until } from "../helpers.ts";
import { Host, type HostOptions, USERS } from "../host_process.ts";
import { dieTogether } from "./three_trees.ts";

const user = USERS.find(({ uid }) => uid !== null);
const UID = user?.uid ?? 0;

/** v2 gives this host's scopes controllers only where v1 has not got them. */
const LIMITED = versionOf("pids") === 2;

const SCRIPT = `
const options = { delayToSigkill: 100${LIMITED ? ", limits: { pids: 32 }" : ""} };
const port = await open(PROBE, ["double-fork", "2", "stay"], options);
say("contained", port.containment.kill, port.containment.limits);
say("why", port.containment.why);
say("ready", ...await ready(port));
await hear();
await port.close();
say("closed");
await hear();
`;

const TREE_SCRIPT = `
const port = await open("true");
await port.status;
say("contained", port.containment.kill, port.containment.why);
`;

/** Runs it in a cgroup that is root's. */
function start(script: string, session: Cgroup, env: Record<string, string>): Host {
  const options: HostOptions = { cgroup: session, env, ...(user === undefined ? {} : { user }) };
  return Host.start(script, options);
}

/** Where a manager makes its scopes, with controllers where there are any. */
function slice(): Cgroup {
  const made = new Cgroup(UID);
  if (LIMITED) {
    Deno.writeTextFileSync(`${MOUNT}/cgroup.subtree_control`, "+pids");
    Deno.writeTextFileSync(`${made.path}/cgroup.subtree_control`, "+pids");
  }
  return made;
}

function cgroupOf(pid: number): string {
  return Deno.readTextFileSync(`/proc/${pid}/cgroup`).match(/^0::(.*)$/m)?.[1] ?? "";
}

async function started(host: Host): Promise<number[]> {
  assertEquals(await host.next("contained"), ["cgroup2", LIMITED ? "cgroup2" : "none"]);
  return await host.numbers("ready");
}

asRoot("a scope holds helpers and trees, and never the runtime", async () => {
  if (MOUNT === null) return; // nothing that a manager could give
  using session = new Cgroup();
  using apps = slice();
  using bus = new FakeBus("well", apps, UID);
  await using host = start(SCRIPT, session, { DBUS_SESSION_BUS_ADDRESS: bus.address });
  const tree = await started(host);
  const { watchdog, guardian, keepers } = helpers(host.pid);
  const place = cgroupOf(watchdog).replace(/\/helpers$/, "");
  assertEquals(place.endsWith(`.${watchdog}.scope`), true, place);
  for (const pid of [guardian, ...keepers]) assertEquals(cgroupOf(pid), `${place}/helpers`);
  for (const pid of tree) assertEquals(cgroupOf(pid).startsWith(`${place}/proton-`), true);
  assertEquals(MOUNT + cgroupOf(host.pid), session.path, "the runtime is where it was");
  const unit = place.split("/").pop();
  const names = bus.asked.map(({ member }) => member);
  assertEquals(names, ["Hello", "AddMatch", "Subscribe", "StartTransientUnit"]);
  assertEquals(bus.asked[3]?.arguments, [
    unit,
    "fail",
    [
      ["Description", "proton-stream helpers and what they run"],
      ["PIDs", [0]],
      ["Delegate", true],
    ],
    [],
  ]);
  const ids = identities(tree);
  await host.tell("close\n");
  await host.next("closed");
  assertEquals(ids.filter(alive), []);
  host.kill();
  await host.end();
  await apps.empty();
  const left = apps.below().map((path) => path.slice(apps.path.length + 1));
  assertEquals(left, [`${unit}/helpers`, unit], "a manager removes an empty scope itself");
});

asRoot("the runtime is killed: what lives in its scope ends", async () => {
  if (MOUNT === null) return; // as above
  using session = new Cgroup();
  using apps = slice();
  using bus = new FakeBus("well", apps, UID);
  await using host = start(SCRIPT, session, {
    DBUS_SESSION_BUS_ADDRESS: "",
    XDG_RUNTIME_DIR: bus.folder,
  });
  const ids = identities(await started(host));
  host.kill();
  await host.end();
  await gone(ids);
  await apps.empty();
  assertEquals(apps.below().filter((path) => /\/proton-[^/]*\.\d+$/.test(path)), []);
});

asRoot("all helpers die at once: the next start finds what is left in their scope", async () => {
  if (MOUNT === null) return; // as above
  using session = new Cgroup();
  using apps = slice();
  using bus = new FakeBus("well", apps, UID);
  const env = { DBUS_SESSION_BUS_ADDRESS: bus.address };
  await using living = start(SCRIPT, session, env);
  const lives = identities(await started(living));
  await using host = start(SCRIPT, session, env);
  const tree = identities(await started(host));
  const { watchdog, guardian, keepers } = helpers(host.pid);
  const all = [host.id, ...[watchdog, guardian, ...keepers].map(identity)];
  await dieTogether(all);
  await gone(all);
  const left = tree.filter(alive);
  assertEquals(left.length > 0, true, "nobody was left to end the daemon");
  const leaves = () =>
    apps.below().filter((path) => path.includes(`.${watchdog}.scope/proton-`)).filter(existsSync);
  assertEquals(leaves().length > 0, true);
  await using next = start(SCRIPT, session, env);
  await started(next);
  await gone(tree);
  await until(() => leaves().length === 0, { what: () => `no cgroup of the dead: ${leaves()}` });
  assertEquals(lives.filter((id) => !alive(id)), [], "the living are untouched");
});

const BAD: readonly [Manner, code: string][] = [
  ["an error", "EREMOTEIO"],
  ["no answer", "ETIMEDOUT"],
  ["garbage", "EPROTO"],
  ["the end of the connection", "EPIPE"],
  ["no to the user", "EACCES"],
  ["a job that failed", "EREMOTEIO"],
  ["done, and nothing was", "EREMOTEIO"],
  ["signals of others without end", "ETIMEDOUT"],
];

asRoot("a bus that gives no scope: the tree is followed, and why says so", async (t) => {
  if (MOUNT === null) return; // as above
  using session = new Cgroup();
  for (const [manner, code] of BAD) {
    await t.step(manner, async () => {
      using apps = slice();
      using bus = new FakeBus(manner, apps, UID);
      await using host = start(TREE_SCRIPT, session, { DBUS_SESSION_BUS_ADDRESS: bus.address });
      const [kill, ...why] = await host.next("contained");
      assertEquals(kill, "tree");
      assertEquals(
        why.join(" ").split("; ")[1],
        "no cgroup: none can be made below the runtime's own, and the user's service manager gave no scope " +
          `(${code})`,
      );
      assertEquals(apps.below(), []);
    });
  }
  await t.step("no bus at all", async () => {
    await using host = start(TREE_SCRIPT, session, {
      DBUS_SESSION_BUS_ADDRESS: "",
      XDG_RUNTIME_DIR: NO_BUS,
    });
    const why = (await host.next("contained")).join(" ").split("; ")[1];
    assertEquals(why, "no cgroup: none can be made below the runtime's own (EACCES)");
  });
});

/** A folder without a bus. */
const NO_BUS = "/proc/self/fdinfo";
