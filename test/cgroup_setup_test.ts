// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** The set-ups of docs/cgroups.md, by the scripts that stand there. */

import { assertEquals } from "@std/assert";
import { existsSync } from "node:fs";
import { MOUNT, versionOf } from "./cgroups.ts";
import { assert, CHECKOUT, gone, identities } from "./helpers.ts";
import type { HostOptions } from "./host_process.ts";
import { matrixCase, type Run } from "./matrix.ts";

const NEEDS_A_CGROUP = {
  "tree, root": "is about cgroups",
  "tree, unprivileged": "is about cgroups",
};

/** The script of the page that begins with `# NAME `, for the place where the hierarchy is mounted here. */
function script(name: string): string {
  const page = Deno.readTextFileSync(`${CHECKOUT}docs/cgroups.md`);
  const blocks = [...page.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, text = ""]) => text);
  const [text, ...others] = blocks.filter((block) => block.includes(`\n# ${name} `));
  assert(text !== undefined && others.length === 0, `one script ${name} in docs/cgroups.md`);
  return text.replaceAll("/sys/fs/cgroup", `${MOUNT}`);
}

const sh = (text: string): string[] => ["sh", "-c", text, "sh"];

/** A controller of v2 that a limit of the tests can do with. */
const IN_V2 = ["memory", "pids"].find((name) => versionOf(name) === 2);

const LIMITED = IN_V2 === undefined
  ? "{}"
  : `{ limits: { ${IN_V2}: ${IN_V2 === "memory" ? '"64MiB"' : 32} } }`;

/**
 * A host whose tree has a cgroup (Run.start sees to that), and limits where v2 has controllers here. Nobody lives in
 * `parent`, where that cgroup stands if it was given to the host's user, and everything ends.
 */
async function holds(
  run: Run,
  options: HostOptions,
  { parent, given }: { parent: string; given: boolean },
): Promise<void> {
  const limited = given && IN_V2 !== undefined;
  {
    await using host = run.start(
      `
      const options = { ...${limited ? LIMITED : "{}"}, delayToSigkill: 20 };
      const port = await open(PROBE, ["double-fork", "2", "stay"], options);
      say("limits", port.containment.limits);
      say("ready", ...await ready(port));
      await hear();
      await port.close();
      say("closed");
      await hear();
      `,
      options,
    );
    assertEquals(await host.next("limits"), [limited ? "cgroup2" : "none"]);
    const ids = identities(await host.numbers("ready"));
    assertEquals(Deno.readTextFileSync(`${parent}/cgroup.procs`), "");
    const ours = [...Deno.readDirSync(parent)].filter(({ name }) => name.startsWith("proton-"));
    assertEquals(
      ours.length,
      given ? 1 : 0,
      "beside the runtime's own, if what is above was given",
    );
    handsOn(parent);
    await host.tell("go\n");
    await host.next("closed");
    await gone(ids);
  }
  await run.cgroup?.empty();
}

/** What a limit needs: each controller that there is can be had for those below. */
function handsOn(path: string): void {
  const controllers = Deno.readTextFileSync(`${path}/cgroup.controllers`).trim();
  for (const controller of controllers.split(" ").filter((name) => name !== "")) {
    Deno.writeTextFileSync(`${path}/cgroup.subtree_control`, `+${controller}`);
  }
  assertEquals(Deno.readTextFileSync(`${path}/cgroup.subtree_control`).trim(), controllers);
}

/** What the scripts make is whoever's runs them to remove. */
function remove(...folders: string[]): void {
  for (const folder of folders) if (existsSync(folder)) Deno.removeSync(folder);
}

matrixCase({
  number: "+",
  title: "the runtime has gone one level down by itself (docs/cgroups.md)",
  not: NEEDS_A_CGROUP,
  body: async (run) => {
    const parent = run.cgroup?.path ?? "";
    // Nothing tells that root was given anything, where no systemd says so.
    const given = run.mode.user.uid !== null;
    await holds(run, { under: sh(script("in-subgroup")) }, { parent, given });
    remove(`${parent}/main`);
  },
});

matrixCase({
  number: "+",
  title: "a container that may write its hierarchy, with an entry point that goes one level down",
  not: NEEDS_A_CGROUP,
  needsRoot: true,
  body: async (run) => {
    const parent = run.cgroup?.path ?? "";
    const mount = `umount ${MOUNT} && mount -t cgroup2 cgroup2 ${MOUNT} && exec "$@"`;
    const above = ["unshare", "--cgroup", "--mount", ...sh(mount)];
    const given = run.mode.user.uid !== null || !existsSync("/run/systemd/system");
    await holds(run, { above, under: sh(script("in-subgroup")) }, { parent, given });
    remove(`${parent}/main`);
  },
});

matrixCase({
  number: "+",
  title: "root has made a subtree for the runtime's user (docs/cgroups.md)",
  not: { ...NEEDS_A_CGROUP, "cgroup2, root": "root needs none" },
  needsRoot: true,
  body: async (run) => {
    const path = run.cgroup?.path ?? "";
    Deno.chownSync(path, 0, 0);
    handsOn(path); // as the root of the hierarchy does: nobody may go in there, on the way
    const parent = `${path}/${run.mode.user.uid}`;
    const text = script("delegated").replace(`top=${MOUNT}/$1`, `top=${path}/$1`);
    const above = [...sh(text), `${run.mode.user.uid}`];
    await holds(run, { above, cgroup: null }, { parent, given: true });
    remove(`${parent}/main`, parent);
  },
});
