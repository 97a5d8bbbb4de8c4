// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** A /proc that hides what the tree loop looks for. */

import { assertEquals } from "@std/assert";
import { gone, identities, output } from "../helpers.ts";
import { matrixCase } from "../matrix.ts";

/** Closes a tree of its own and one of processes that hide from their own user. */
const TWO_TREES = `
const open_ = (verb, ...args) => open(PROBE, [verb, ...args], { delayToSigkill: 20 });
const ports = [await open_("double-fork", "2", "stay"), await open_("not-dumpable")];
const pids = (await Promise.all(ports.map(ready))).flat();
say("ready", ...pids);
await hear();
const results = await Promise.allSettled(ports.map((port) => port.close({ deadlineMs: 3_000 })));
say("closed", ...results.map(({ status, reason }) => reason?.name ?? status));
await hear();
`;

matrixCase({
  number: "#34",
  title: "/proc is mounted with hidepid=2, and a child hides from its own user",
  needsRoot: true,
  body: async (run) => {
    const mount = `mount -t proc -o hidepid=2 proc /proc; exec "$@"`;
    const above = ["unshare", "--mount", "sh", "-c", mount, "sh"];
    await using host = run.start(TWO_TREES, { above });
    const ids = identities(await host.numbers("ready"));
    await host.tell("go\n");
    assertEquals(await host.next("closed"), ["fulfilled", "fulfilled"]);
    await gone(ids);
  },
});

matrixCase({
  number: "#34",
  title: "/proc is not there: open() is refused with a clear error",
  needsRoot: true,
  body: async (run) => {
    await using host = run.start(
      `
      say("begun");
      await hear();
      const error = await proton.open("/bin/true").catch((error) => error);
      say("refused", error.name, error.code);
      `,
      { above: ["unshare", "--mount"] },
    );
    await host.next("begun");
    await coverProc(host.pid);
    await host.tell("go\n");
    assertEquals(await host.next("refused"), ["SpawnError", "ENOENT"]);
  },
});

matrixCase({
  number: "#34",
  title: "/proc is covered while trees run: their cgroups end them",
  not: {
    "tree, root": "tree mode finds descendants in /proc and nowhere else: the next case",
    "tree, unprivileged": "tree mode finds descendants in /proc and nowhere else: the next case",
  },
  needsRoot: true,
  body: async (run) => {
    await using host = run.start(TWO_TREES, { above: ["unshare", "--mount"] });
    const ids = identities(await host.numbers("ready"));
    await coverProc(host.pid);
    await host.tell("go\n");
    assertEquals(await host.next("closed"), ["fulfilled", "fulfilled"]);
    await gone(ids);
  },
});

matrixCase({
  number: "#34",
  title: "/proc is covered while trees run: nobody is said to be gone, and all end once it is back",
  not: {
    "cgroup2, root": "their cgroups end them: the case before",
    "cgroup2, unprivileged": "their cgroups end them: the case before",
  },
  needsRoot: true,
  body: async (run) => {
    await using host = run.start(TWO_TREES, { above: ["unshare", "--mount"] });
    const ids = identities(await host.numbers("ready"));
    await coverProc(host.pid);
    await host.tell("go\n");
    assertEquals(await host.next("closed"), ["SurvivorsError", "SurvivorsError"]);
    await output("nsenter", "--mount", "--target", `${host.pid}`, "umount", "/proc");
    await gone(ids);
  },
});

/** Where a host has a mount namespace of its own: puts an empty folder over its /proc. */
async function coverProc(pid: number): Promise<void> {
  await output("nsenter", "--mount", "--target", `${pid}`, "mount", "-t", "tmpfs", "none", "/proc");
}
