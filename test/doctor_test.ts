// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** What the doctor finds is what is there, and each lack has its mend. */

import { assertEquals, assertMatch } from "@std/assert";
import { doctor } from "../mod.ts";
import { versionOf } from "./cgroups.ts";
import { asRoot, assert, test } from "./helpers.ts";
import { Host } from "./host_process.ts";

test("doctor: each controller is where it is, and what cannot be had has a mend", async () => {
  const { containment, controllers, lacks, toString } = await doctor();
  assertEquals(containment.guards, "both");
  for (const { name, version, usable } of controllers) {
    if (version !== 0) assertEquals(version, versionOf(name), name);
    assertEquals(lacks.some(({ what }) => what === `limits of ${name}`), !usable, name);
  }
  for (const lack of lacks) {
    assert(lack.mend !== "", JSON.stringify(lack));
    assert(toString().includes(lack.mend), "it is printed, too");
  }
  assertMatch(toString(), new RegExp(`^A tree is held by: ${containment.kill} `));
});

/** Says what the doctor finds in a host whose mounts were changed by `how`. */
async function elsewhere(how: string): Promise<string[]> {
  await using host = Host.start(
    `const { containment, lacks } = await proton.doctor();
     say("found", containment.kill, JSON.stringify(lacks).replaceAll(" ", "_"));`,
    { above: ["unshare", "--mount", "sh", "-c", `${how}; exec "$@"`, "sh"] },
  );
  return await host.next("found");
}

const each = (kind: string, act: string) =>
  `for at in $(awk '/ - ${kind} / { print $5 }' /proc/self/mountinfo); do ${act} "$at"; done`;

asRoot("doctor: without a mounted v2 it says how to mount one", async () => {
  const [kill, lacks = ""] = await elsewhere(each("cgroup2", "umount"));
  assertEquals(kill, "tree");
  assertMatch(lacks, /sudo_mount_-t_cgroup2_none/);
});

asRoot("doctor: a read-only v2 is to be mounted writable", async () => {
  const [kill, lacks = ""] = await elsewhere(each("cgroup2", "mount -o remount,bind,ro"));
  assertEquals(kill, "tree");
  assertMatch(lacks, /sudo_mount_-o_remount,rw_\//);
  assertMatch(lacks, /EROFS/);
});
