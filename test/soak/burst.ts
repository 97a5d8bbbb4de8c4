// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What a host does that opens ports in quick succession until it is killed. It
 * says `open N` before each, so that the test knows how far it has come.
 *
 * @module
 */

import { open, type OpenOptions } from "../../mod.ts";
import { hear, say } from "../fixtures/host.ts";
import { type Below, oneOf, random } from "../random.ts";

/** How much, and with which numbers. */
export interface Burst {
  seed: number;
  spawns: number;
  /** In the environment of every program. */
  mark: string;
  /** What ends a tree: one of them. */
  kill: ("auto" | "tree")[];
  probe: string;
}

const PROGRAMS = (probe: string): [command: string, ...args: string[]][] => [
  ["true"],
  ["cat"],
  ["sh", "-c", "sleep 1000 & setsid sleep 1000 & wait"],
  [probe, "double-fork", "2", "stay"],
  [probe, "double-fork", "2", "exit"],
  [probe, "ignore-sigterm"],
];

function options(below: Below, { mark, kill }: Burst): OpenOptions {
  return {
    env: { PROTON_TEST_MARK: mark },
    delayToSigkill: oneOf(below, [0, 20, 200]),
    onOwnerDeath: oneOf(below, ["graceful", "kill"]),
    containment: { kill: oneOf(below, kill) },
    stderr: oneOf(below, ["piped", "null"]),
  };
}

/** Never ends: it is to be killed. */
export async function burst(task: Burst): Promise<never> {
  const below = random(task.seed);
  const spawn = async () => {
    const [command, ...args] = oneOf(below, PROGRAMS(task.probe));
    const port = await open(command, args, options(below, task));
    if (below(3) === 0) await port.close();
  };
  say("up");
  await hear();
  const going: Promise<void>[] = [];
  for (let n = 1; n <= task.spawns; n++) {
    say("open", n);
    going.push(spawn());
    if (below(2) === 0) await Promise.all(going);
  }
  await Promise.all(going);
  say("opened all");
  // Where every program has ended nothing else keeps the host alive.
  return await new Promise(() => setInterval(() => {}, 60_000));
}
