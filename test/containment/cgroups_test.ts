// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Cgroups that are not to be had, that others have frozen or filled, and what dead runtimes have left in them. */

import { assertEquals } from "@std/assert";
import { delegate } from "../cgroups.ts";
import { alive, assert, gone, identities, until } from "../helpers.ts";
import { matrixCase, type ModeName } from "../matrix.ts";
import { Cast, dieTogether, THREE_TREES } from "./three_trees.ts";

const NEEDS_A_LEAF: Partial<Record<ModeName, string>> = {
  "tree, root": "has no leaf",
  "tree, unprivileged": "has no leaf",
};

matrixCase({
  number: "#38",
  title:
    "all helpers and the runtime die at one instant: the next start ends what is left, and nothing of the living",
  not: NEEDS_A_LEAF,
  body: async (run) => {
    await using other = run.start(THREE_TREES);
    const living = await Cast.of(other);
    await using host = run.start(THREE_TREES);
    const dead = await Cast.of(host);
    const all = [host.id, dead.watchdog, dead.guardian, ...dead.keepers];
    await dieTogether(all);
    await gone(all);
    const daemons = dead.trees.flatMap((tree) => tree.slice(1));
    assertEquals(daemons.filter((id) => !alive(id)), [], "nobody was left to end them");
    await using next = run.start(
      `await (await open("true")).status; say("started"); await hear();`,
    );
    await next.next("started");
    await gone(dead.trees.flat());
    const bases = () =>
      run.cgroup?.below().filter((folder) => /\/proton-[^/]+$/.test(folder)) ?? [];
    await until(() => bases().length === 2, {
      what: () => `two living runtimes' cgroups: ${bases()}`,
    });
    assertEquals(living.trees.flat().filter((id) => !alive(id)), [], "the living are untouched");
    await other.tell("again\n");
    assertEquals(await other.next("echo"), ["again", "both"]);
  },
});

matrixCase({
  number: "+",
  title: "a runtime that starts meanwhile lets the trees of a dead one have their grace",
  not: NEEDS_A_LEAF,
  body: async (run) => {
    await using host = run.start(`
      const port = await open(PROBE, ["ignore-sigterm"], { delayToSigkill: 600_000 });
      say("ready", ...await ready(port));
      await hear();
    `);
    const ids = identities(await host.numbers("ready"));
    host.kill();
    await host.end();
    await using next = run.start(
      `await (await open("true")).status; say("started"); await hear();`,
    );
    await next.next("started");
    // Its watchdog has looked for what is stale by the time that a second start is through.
    assertEquals(ids.filter((id) => !alive(id)), [], "its keeper still waits");
    for (const { pid } of ids) Deno.kill(pid, "SIGKILL"); // nobody waits for the rest of its time
    await gone(ids);
  },
});

matrixCase({
  number: "#37",
  title:
    "a storm of forks in the leaf while it is killed (Linux before 6.14 let some slip through)",
  not: NEEDS_A_LEAF,
  body: async (run) => {
    await using host = run.start(`
      for (let i = 0; i < 20; i++) {
        const ports = await Promise.all([0, 1, 2].map(() => open(PROBE, ["churn"], { delayToSigkill: 0 })));
        const pids = (await Promise.all(ports.map(ready))).flat();
        await Promise.all(ports.map((port) => port.close({ graceMs: 0 })));
        if (left(pids).length > 0) say("left", ...left(pids));
      }
      say("closed");
      await hear();
    `);
    await host.next("closed");
    const members = () =>
      run.cgroup?.pids().map((pid) => name(pid)).filter((one) => one === "probe");
    assertEquals(members(), []);
  },
});

function name(pid: number): string {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/comm`).trim();
  } catch {
    return ""; // it has ended
  }
}

/** Asks for a cgroup where none can be had, says what it got, and that this works. */
const DOWNGRADED = `
const port = await proton.open(PROBE, ["double-fork", "2", "stay"], { delayToSigkill: 20 });
const pids = await ready(port);
say("contained", port.containment.kill, port.containment.why);
say("ready", ...pids);
await hear();
await port.close();
say("left", ...left(pids));
await hear();
`;

const IN_TREE_MODE: Partial<Record<ModeName, string>> = {
  "tree, root": "is about how tree mode comes about",
  "tree, unprivileged": "is about how tree mode comes about",
};

matrixCase({
  number: "#36",
  title: "the cgroup file system is read-only: tree mode, and containment tells why",
  not: IN_TREE_MODE,
  needsRoot: true,
  body: async (run) => {
    const readOnly = `for at in $(awk '/ - cgroup2 / { print $5 }' /proc/self/mountinfo); do
      mount -o remount,bind,ro "$at"; done; exec "$@"`;
    const above = ["unshare", "--mount", "sh", "-c", readOnly, "sh"];
    await using host = run.start(DOWNGRADED, { above });
    const [kill, ...why] = await host.next("contained");
    assertEquals(kill, "tree");
    assert(
      why.join(" ").endsWith("none can be made below the runtime's own (EROFS)"),
      why.join(" "),
    );
    const ids = identities(await host.numbers("ready"));
    await host.tell("go\n");
    assertEquals(await host.next("left"), []);
    await gone(ids);
  },
});

matrixCase({
  number: "#36",
  title: "the runtime's cgroup is not delegated: tree mode, and containment tells why",
  not: { ...IN_TREE_MODE, "cgroup2, root": "root may write everywhere" },
  body: async (run) => {
    assert(run.cgroup !== null);
    Deno.chmodSync(run.cgroup.path, 0o555);
    await using host = run.start(DOWNGRADED);
    const [kill, ...why] = await host.next("contained");
    assertEquals(kill, "tree");
    assert(
      why.join(" ").endsWith("none can be made below the runtime's own (EACCES)"),
      why.join(" "),
    );
    await host.tell("go\n");
    assertEquals(await host.next("left"), []);
  },
});

matrixCase({
  number: "#36",
  title: "the runtime's cgroup is threaded: tree mode, and containment tells why",
  not: IN_TREE_MODE,
  body: async (run) => {
    assert(run.cgroup !== null);
    // One level down: the parent of a threaded cgroup may have no domain controllers for its children.
    const path = `${run.cgroup.path}/threaded`;
    Deno.mkdirSync(path);
    if (run.mode.user.uid !== null) delegate(path, run.mode.user.uid);
    Deno.writeTextFileSync(`${path}/cgroup.type`, "threaded");
    {
      await using host = run.start(DOWNGRADED, { cgroup: { path } });
      const [kill, ...why] = await host.next("contained");
      assertEquals(kill, "tree", why.join(" "));
      await host.tell("go\n");
      assertEquals(await host.next("left"), []);
    }
    await run.cgroup.empty();
    Deno.removeSync(path);
  },
});
