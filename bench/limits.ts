// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Starts with a limit, beside the original's way to one: a process of its own
 * makes the cgroup, writes its pid to `tasks` and becomes the program.
 *
 * @module
 */

import { open } from "../mod.ts";
import { nativeCore } from "../src/native/load.ts";
import type { Row } from "./table.ts";

const STARTS = 50;

/** A cgroup for these starts, where there is a controller of processes and the right to use it. */
function ground(): { version: number; path: string; folder: string } | null {
  const all = nativeCore().hierarchies().filter(({ controllers }) => controllers.includes("pids"));
  const { version, mount } = all.find(({ version }) => version === 1) ?? all[0] ?? {};
  if (version === undefined || mount === undefined) return null;
  const path = `proton_test_bench_${Deno.pid}`;
  try {
    if (version === 2) Deno.writeTextFileSync(`${mount}/cgroup.subtree_control`, "+pids");
    Deno.mkdirSync(`${mount}/${path}`);
    if (version === 2) Deno.writeTextFileSync(`${mount}/${path}/cgroup.subtree_control`, "+pids");
    return { version, path, folder: `${mount}/${path}` };
  } catch {
    return null; // not ours
  }
}

async function ports(cgroupBase: string): Promise<number> {
  const begin = performance.now();
  for (let n = 0; n < STARTS; n++) {
    await using port = await open("true", [], { cgroupBase, limits: { pids: 32 } });
    if (!(await port.status).success) throw new Error("true failed");
  }
  return (performance.now() - begin) / STARTS;
}

async function byHand(folder: string, file: string): Promise<number> {
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

/** None where no limit can be had. */
export function limitRows(): Row[] {
  const found = ground();
  if (found === null) return [];
  const { version, path, folder } = found;
  globalThis.addEventListener("unload", () => Deno.removeSync(folder));
  const file = version === 1 ? "tasks" : "cgroup.procs";
  return [{
    id: "limit",
    work:
      `start and end of true with a limit of cgroup v${version} (left: sh that writes to ${file})`,
    unit: "µs",
    cells: {
      command: async () => await byHand(folder, file) * 1000,
      ours: async () => await ports(path) * 1000,
    },
  }];
}
