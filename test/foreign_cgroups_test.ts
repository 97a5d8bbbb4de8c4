// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Cgroups that are somebody else's: what the caller names is ours only once we have made it. */

import { assertEquals } from "@std/assert";
import { existsSync } from "node:fs";
import { Ground, versionOf } from "./cgroups.ts";
import {
  alive,
  asRoot,
  descendants,
  gone,
  helpers,
  identities,
  identity,
  until,
} from "./helpers.ts";
import { USERS } from "./host_process.ts";
import { sabotagedHost, STEPS } from "./sabotaged.ts";

const user = USERS.find(({ uid }) => uid !== null);
const UID = user?.uid ?? 0;

asRoot(
  "a cgroup of somebody else's at cgroupPath is nobody's of ours, whoever of us dies",
  async () => {
    if (versionOf("pids") === null) return; // a kernel without it has no cgroup of the kind
    using ground = new Ground(["pids"]);
    const theirs = `${ground.folders[0]}/theirs`;
    Deno.mkdirSync(theirs);
    const join = 'echo $$ > "$0/cgroup.procs" && exec sleep 1000';
    await using bystander = new Deno.Command("sh", { args: ["-c", join, theirs] }).spawn();
    const members = () => Deno.readTextFileSync(`${theirs}/cgroup.procs`).trim();
    await until(() => members() === String(bystander.pid), { what: "the bystander in its cgroup" });
    const id = identity(bystander.pid);
    // What is told to the others is told before this hang; a path that is there is refused before it is told.
    await using host = sabotagedHost(
      `
    const options = { cgroupControllers: ["pids"], cgroupPath: "${ground.path}/theirs" };
    const opening = open("true", [], options).then(() => "started", ({ code }) => code);
    say("asked");
    say("refused", await opening);
    await hear();
    `,
      { env: { [STEPS]: "hang-before-leaf" } },
    );
    await host.next("asked");
    assertEquals(await host.next("refused"), ["EEXIST"]);
    const helpers = identities(descendants(host.pid));
    host.kill();
    await gone(helpers);
    assertEquals([alive(id), members()], [true, String(bystander.pid)]);
    bystander.kill("SIGKILL");
    await bystander.status;
    await until(() => {
      try {
        Deno.removeSync(theirs);
        return true;
      } catch {
        return false; // busy for a moment
      }
    }, { what: "the end of the test's own cgroup" });
  },
);

asRoot(
  "a cgroup in which somebody else sits after a start that failed goes with that one",
  async () => {
    if (versionOf("pids") !== 1) return; // cgroup.kill of v2 asks for no right over who is in it
    using ground = new Ground(["pids"], UID);
    // Its child hangs before its exec, and does not get there.
    await using host = sabotagedHost(
      `
    const options = { cgroupControllers: ["pids"], cgroupPath: "${ground.path}/ours" };
    const opening = open("true", [], options).then(() => "started", ({ code }) => code);
    say("asked");
    say("refused", await opening);
    await hear();
    `,
      { env: { [STEPS]: "hang-before-exec" }, ...(user === undefined ? {} : { user }) },
    );
    await host.next("asked");
    const procs = `${ground.folders[0]}/ours/cgroup.procs`;
    const members = () => existsSync(procs) ? Deno.readTextFileSync(procs).split("\n") : [];
    const child = await until(() => Number(members()[0] ?? 0) || null, { what: "a child" });
    // Root's, whom no helper of that user can kill.
    const join = 'echo $$ > "$0" && exec sleep 1000';
    await using bystander = new Deno.Command("sh", { args: ["-c", join, procs] }).spawn();
    await until(() => members().includes(String(bystander.pid)), { what: "the bystander in it" });
    Deno.kill(child, "SIGKILL");
    assertEquals(await host.next("refused"), ["ECHILD"]);
    const keepers = () => helpers(host.pid).keepers;
    await until(() => keepers().length === 0, { what: () => `no keeper: ${keepers()}` });
    const folder = `${ground.folders[0]}/ours`;
    assertEquals(existsSync(folder), true, "somebody is in it");
    bystander.kill("SIGKILL");
    await bystander.status;
    await until(() => !existsSync(folder), { what: "its end: the guardian goes on with it" });
  },
);
