// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What a host does whose keepers are killed while they start their children:
 * each start either fails as such or makes a port that ends like any other.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { open, SpawnError } from "../../mod.ts";
import { hear, say } from "../fixtures/host.ts";
import { type Below, oneOf, random } from "../random.ts";
import type { Task } from "./terminated.ts";

const AT_ONCE = 20;

function words(path: string): string[] {
  try {
    return Deno.readTextFileSync(path).trim().split(/\s+/).filter((word) => word !== "");
  } catch {
    return []; // it has just ended
  }
}

function children(pid: number | string): string[] {
  const tasks = existsSync(`/proc/${pid}/task`) ? [...Deno.readDirSync(`/proc/${pid}/task`)] : [];
  return tasks.flatMap(({ name }) => words(`/proc/${pid}/task/${name}/children`));
}

/** The keepers of this process, the spare one among them. */
function keepers(): number[] {
  const watchdogs = children(Deno.pid).filter((pid) =>
    words(`/proc/${pid}/comm`)[0] === "proton-watchdog"
  );
  return watchdogs.flatMap(children).flatMap(children).map(Number);
}

/** Kills one keeper after some turns of the event loop, as soon as there is one. */
async function killOne(below: Below): Promise<void> {
  for (let turns = below(12); turns > 0; turns--) {
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
  const there = keepers();
  if (there.length > 0) Deno.kill(oneOf(below, there), "SIGKILL");
}

async function start(below: Below, { mark, probe }: Task): Promise<"failed" | "lost" | "ended"> {
  const options = { env: { PROTON_TEST_MARK: mark }, delayToSigkill: 0 };
  try {
    const [port] = await Promise.all([
      open(probe, ["double-fork", "2", "stay"], options),
      killOne(below),
    ]);
    await port.close();
    return (await port.status).reason.kind === "lost" ? "lost" : "ended";
  } catch (error) {
    if (error instanceof SpawnError) return "failed";
    throw error;
  }
}

/** Kills as many keepers as there are to be Workers; the test looks for what is left after each batch. */
export async function killKeepers(task: Task): Promise<void> {
  const below = random(task.seed);
  await (await open("true")).status;
  say("up");
  for (let done = 0; done < task.workers && await hear() !== null; done += AT_ONCE) {
    const how = { failed: 0, lost: 0, ended: 0 };
    for (let n = 0; n < AT_ONCE; n++) how[await start(below, task)]++;
    say("killed", how.failed, how.lost, how.ended);
  }
}
