// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Starts with a limit, beside the original's way to one: a process of its own
 * makes the cgroup, writes its pid to `tasks` and becomes the program.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { open } from "../mod.ts";
import { nativeCore } from "../src/native/load.ts";
import type { Row } from "./table.ts";

const STARTS = 50;

/** What a process writes its pid to, by version. */
const TASKS: Readonly<Record<number, string>> = { 1: "tasks", 2: "cgroup.procs" };

const PREFIX = "proton_test_bench_";

/** A cgroup for these starts, gone with its scope; by the root of its hierarchy. */
class Ground implements Disposable {
  readonly path: string = `${PREFIX}${Deno.pid}`;
  readonly folder: string;

  constructor(readonly version: number, mount: string) {
    this.folder = `${mount}/${this.path}`;
    if (version === 2) Deno.writeTextFileSync(`${mount}/cgroup.subtree_control`, "+pids");
    clear(mount);
    Deno.mkdirSync(this.folder);
    if (version === 2) Deno.writeTextFileSync(`${this.folder}/cgroup.subtree_control`, "+pids");
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.folder);
  }
}

/** Removes what a bench that was killed has left there. */
function clear(mount: string): void {
  for (const { name } of Deno.readDirSync(mount)) {
    if (!name.startsWith(PREFIX) || existsSync(`/proc/${name.slice(PREFIX.length)}`)) continue;
    for (const { name: leaf, isDirectory } of Deno.readDirSync(`${mount}/${name}`)) {
      if (isDirectory) Deno.removeSync(`${mount}/${name}/${leaf}`);
    }
    Deno.removeSync(`${mount}/${name}`);
  }
}

/** Where there is a controller of processes, and the right to use it. */
function ground(): { version: number; mount: string } | null {
  const all = nativeCore().hierarchies().filter(({ controllers }) => controllers.includes("pids"));
  const { version, mount } = all.find(({ version }) => version === 1) ?? all[0] ?? {};
  if (version === undefined || mount === undefined) return null;
  try {
    new Ground(version, mount)[Symbol.dispose]();
    return { version, mount };
  } catch {
    return null; // not ours
  }
}

async function ports({ path: cgroupBase }: Ground): Promise<number> {
  const begin = performance.now();
  for (let n = 0; n < STARTS; n++) {
    await using port = await open("true", [], { cgroupBase, limits: { pids: 32 } });
    if (!(await port.status).success) throw new Error("true failed");
  }
  return (performance.now() - begin) / STARTS;
}

async function byHand({ folder, version }: Ground): Promise<number> {
  const file = TASKS[version];
  const script = `mkdir "$0" && echo 32 >"$0/pids.max" && echo $$ >"$0/${file}" && exec true`;
  const begin = performance.now();
  for (let n = 0; n < STARTS; n++) {
    const leaf = `${folder}/${n}`;
    const options = { stdin: "null", stdout: "piped", stderr: "piped" } as const;
    const { success } = await new Deno.Command("sh", { args: ["-c", script, leaf], ...options })
      .output();
    if (!success) throw new Error("the start by hand failed");
    Deno.removeSync(leaf);
  }
  return (performance.now() - begin) / STARTS;
}

/** In microseconds, in a cgroup of its own. */
async function measured(make: () => Ground, starts: (ground: Ground) => Promise<number>) {
  using ground = make();
  return await starts(ground) * 1000;
}

/** None where no limit can be had. */
export function limitRows(): Row[] {
  const found = ground();
  if (found === null) return [];
  const make = () => new Ground(found.version, found.mount);
  return [{
    id: "limit",
    work:
      `start and end of true with a limit of cgroup v${found.version} (left: sh that writes to ${
        TASKS[found.version]
      })`,
    unit: "µs",
    cells: {
      command: () => measured(make, byHand),
      ours: () => measured(make, ports),
    },
  }];
}
