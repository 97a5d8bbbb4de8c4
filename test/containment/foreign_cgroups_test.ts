// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Cgroups that are somebody else's: what the caller names is ours only once we have made it. */

import { assertEquals } from "@std/assert";
import { Ground, versionOf } from "../cgroups.ts";
import { alive, asRoot, descendants, gone, identities, identity, until } from "../helpers.ts";
import { sabotagedHost, STEPS } from "../sabotaged.ts";

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
