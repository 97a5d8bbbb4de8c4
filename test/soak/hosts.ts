// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Case #31: hosts that spawn in bursts are killed at random points, several at
 * a time. Afterwards nothing of any of them is left.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { pause, Scratch, until } from "../helpers.ts";
import type { Host, HostOptions } from "../host_process.ts";
import { endMarked, leftOf, newMark } from "../marks.ts";
import { type Below, random } from "../random.ts";
import type { Burst } from "./burst.ts";

export interface Plan {
  seed: number;
  /** How many ports are to be opened, or begun to be, by all hosts together. */
  spawns: number;
  /** What ends a tree: one of them, drawn for each. */
  kill: Burst["kill"];
  start: (script: string, options: HostOptions) => Host;
  /** Told after each host's end. */
  progress?: (spawns: number) => void;
}

const PER_HOST = 10;
const HOSTS_AT_ONCE = 4;
/** How long after a line a host may live on: about as long as a start takes. */
const MOST_MS = 12;

/** Returns how many hosts were killed. */
export async function killHosts(plan: Plan): Promise<number> {
  const { seed, spawns, progress } = plan;
  const below = random(seed);
  let [done, hosts] = [0, 0];
  const lane = async () => {
    while (done < spawns) {
      done += await killOne(below, plan);
      hosts++;
      progress?.(done);
    }
  };
  await Promise.all(Array.from({ length: HOSTS_AT_ONCE }, lane));
  return hosts;
}

/** One host from start to end; returns how many ports it has begun to open. */
async function killOne(below: Below, { kill, start }: Plan): Promise<number> {
  const mark = newMark();
  using scratch = new Scratch().open();
  const task: Omit<Burst, "probe"> = { seed: 1 + below(2 ** 31), spawns: PER_HOST, mark, kill };
  await using host = start(
    `const { burst } = await import(TREE + "test/soak/burst.ts");
    await burst({ probe: PROBE, ...${JSON.stringify(task)} });`,
    { under: ["setsid"], env: { TMPDIR: scratch.path } },
  );
  try {
    await host.next("up");
    const goOn = 1 + below(PER_HOST);
    await host.tell("go\n");
    let opened = 0;
    while (opened < goOn) [opened = 0] = await host.numbers("open");
    await pause(below(MOST_MS)); // where in its burst it is killed is what is drawn
    const left = () => leftOf(host.id, mark);
    // At the least the host itself is found, by its session: unless it has ended of its own accord.
    if (left().length === 0) throw new Error(`a host ended: ${JSON.stringify(await host.end())}`);
    host.kill("SIGKILL");
    await host.end();
    for (const line of await host.rest()) {
      if (line.startsWith("open ")) opened++;
    }
    await until(() => left().length === 0, { what: () => `the end of ${left().join(", ")}` });
    assertEquals([...Deno.readDirSync(scratch.path)], [], "no file is left");
    return opened;
  } finally {
    endMarked(mark);
  }
}
