// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** A host whose trees the cases end in every way there is. */

import { assertEquals } from "@std/assert";
import {
  assert,
  children,
  comm,
  helpers,
  identities,
  type Identity,
  stat,
  until,
} from "../helpers.ts";
import type { Host } from "../host_process.ts";

/** Each a child and two double-forked daemons, one of which outlives SIGTERM. */
export const THREE_TREES = `
const options = { delayToSigkill: 50 };
const ports = await Promise.all([0, 1, 2].map(() => open(PROBE, ["double-fork", "2", "stay"], options)));
const trees = await Promise.all(ports.map(ready));
say("ready", ...trees.flat());
ports.forEach((port, i) => port.status.then(({ reason, cause, survivors }) =>
  say("tree", i, reason.kind, cause, survivors.length, left(trees[i]).length)
));
const turn = async (line) => {
  await using echo = await open("cat");
  await echo.command(line);
  for await (const { data } of echo) {
    return [new TextDecoder().decode(data), echo.containment.guards];
  }
};
for (let line = await hear(); line !== null; line = await hear()) {
  say("echo", ...await turn(line).catch((error) => [error.name, error.message]));
}
`;

/** A host of THREE_TREES and all of its processes, by what they are. */
export class Cast {
  private constructor(
    readonly host: Host,
    readonly watchdog: Identity,
    readonly guardian: Identity,
    /** The keepers, each that of the tree at its place. */
    readonly keepers: Identity[],
    /** Child and daemons of each tree. */
    readonly trees: Identity[][],
  ) {}

  static async of(host: Host): Promise<Cast> {
    const pids = identities(await host.numbers("ready"));
    assertEquals(pids.length, 9, "three trees of a child and two daemons");
    const { watchdog, guardian, keepers } = helpers(host.pid);
    const trees = [pids.slice(0, 3), pids.slice(3, 6), pids.slice(6)];
    const own = trees.map(([child]) =>
      keepers.find((keeper) => children(keeper).includes(child?.pid ?? 0))
    );
    assert(own.every((keeper) => keeper !== undefined), "a keeper for each tree");
    const [w, g, ...ks] = identities([watchdog, guardian, ...own.map((keeper) => keeper ?? 0)]);
    assert(w !== undefined && g !== undefined);
    return new Cast(host, w, g, ks, trees);
  }

  /** One tree's processes. */
  tree(at: number): Identity[] {
    const tree = this.trees[at];
    assert(tree !== undefined);
    return tree;
  }

  get keeper(): Identity {
    const [keeper] = this.keepers;
    assert(keeper !== undefined);
    return keeper;
  }
}

/**
 * At one instant: each is stopped before the first one dies, so that none acts for another in between. The last
 * named dies first, to be named from the runtime down: when the parent of the helpers' group dies, the kernel has
 * those in it that are stopped go on (SIGHUP and SIGCONT for an orphaned process group, setpgid(2)).
 */
export async function dieTogether(ids: readonly Identity[]): Promise<void> {
  const pids = ids.map(({ pid }) => pid);
  // Whoever stands above them would let them go on; each is stopped before those below it.
  const all = [...new Set([...pids.flatMap(helpersAbove), ...pids])];
  all.sort((a, b) => helpersAbove(a).length - helpersAbove(b).length);
  for (const pid of all) {
    Deno.kill(pid, "SIGSTOP");
    await until(() => stat(pid)?.[0] === "T", { what: `${pid} stopped` });
  }
  for (const pid of pids.toReversed()) Deno.kill(pid, "SIGKILL");
  for (const pid of all.filter((pid) => !pids.includes(pid))) Deno.kill(pid, "SIGCONT");
}

/** A process's watchdog and guardian, from the one to the other. */
function helpersAbove(pid: number): number[] {
  const parent = Number(stat(pid)?.[1] ?? 0);
  return comm(parent).startsWith("proton-") ? [...helpersAbove(parent), parent] : [];
}
