// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * A child that hangs between clone and exec, where it still runs our code on
 * its keeper's memory (#30): it hides from nobody, and outlives nobody.
 */

import { assertEquals } from "@std/assert";
import { children, comm, gone, identities, type Identity, stat, test, until } from "./helpers.ts";
import { type Host, USERS } from "./host_process.ts";
import { sabotagedHost, STEPS } from "./sabotaged.ts";

/** Before and after the child has bound itself to its keeper. */
const PLACES = ["hang-before-pdeathsig", "hang-before-exec"] as const;

/**
 * A host with a tree, started before anything hangs, and a child that hangs in
 * `open` from then on, each time it is told to. Then `act` may happen to it.
 */
const HANGING = (place: string, act: string) => `
const tree = await open(PROBE, ["double-fork", "1", "stay"], { delayToSigkill: 50 });
say("ready", ...await ready(tree));
Deno.env.set("${STEPS}", "${place}");
proton.resetGuardian();
for (let line = await hear(); line !== null; line = await hear()) {
  const controller = new AbortController();
  const options = { signal: controller.signal, delayToSigkill: 50 };
  const opened = open("true", [], options).then(() => "started", (error) => error.name + " " + error.code);
  say("opening");
  ${act}
  say("opened", await opened, left([tree.pid]).length);
}
`;

/** The child that hangs, and its keeper. */
async function hanging(host: Host): Promise<{ keeper: Identity; child: Identity }> {
  await host.next("opening");
  const [pair] = await until(() => {
    // A child may be there before its keeper has read what to start.
    const keepers = guardians(host).flatMap(children).filter((pid) =>
      comm(pid) === "proton-keeper"
    );
    const found = keepers.flatMap((keeper) =>
      children(keeper).filter(isHanging).map((child) => [keeper, child])
    );
    return found.length === 1 && found;
  }, { what: "one child that hangs" });
  const [keeper, child] = identities(pair ?? []);
  if (keeper === undefined || child === undefined) throw new Error("it is gone again");
  return { keeper, child };
}

/** Those of the first pair and of the second. */
function guardians(host: Host): number[] {
  return children(host.pid).flatMap(children);
}

/** It waits in the kernel with a keeper's name, which only a program of its own would change. */
function isHanging(pid: number): boolean {
  try {
    const name = Deno.readTextFileSync(`/proc/${pid}/comm`).trim();
    return name === "proton-keeper" && stat(pid)?.[0] === "S";
  } catch {
    return false; // ended meanwhile
  }
}

for (const user of USERS) {
  for (const place of PLACES) {
    const where = `#30 as ${user.name}, ${place}`;

    test(`${where}: an abort ends the child, though it hangs or is stopped`, async () => {
      const script = HANGING(place, "await hear(); controller.abort();");
      await using host = sabotagedHost(script, { user });
      await host.numbers("ready");
      for (const stopped of [false, true]) {
        await host.tell("open\n");
        const { child } = await hanging(host);
        if (stopped) {
          Deno.kill(child.pid, "SIGSTOP");
          await until(() => stat(child.pid)?.[0] === "T", { what: "the child stopped" });
        }
        await host.tell("abort\n");
        const [error, , trees] = await host.next("opened");
        assertEquals([error, trees], ["AbortError", "1"]);
        await gone([child]);
      }
    });

    test(`${where}: with its keeper it ends, 50 times over, and the caller is told`, async () => {
      await using host = sabotagedHost(HANGING(place, ""), { user });
      await host.numbers("ready");
      for (let i = 0; i < 50; i++) {
        await host.tell("open\n");
        const { keeper, child } = await hanging(host);
        Deno.kill(keeper.pid, "SIGKILL");
        assertEquals(await host.next("opened"), ["SpawnError", "ECHILD", "1"]);
        await gone([keeper, child]);
      }
    });

    test(`${where}: with the runtime it ends, and with the guardian`, async () => {
      await using host = sabotagedHost(HANGING(place, ""), { user });
      const ids = identities(await host.numbers("ready"));
      await host.tell("open\n");
      const first = await hanging(host);
      const guardian = Number(stat(first.keeper.pid)?.[1]);
      Deno.kill(guardian, "SIGKILL");
      assertEquals(await host.next("opened"), ["SpawnError", "ECHILD", "1"]);
      await gone([first.keeper, first.child]);
      await host.tell("open\n");
      const second = await hanging(host);
      host.kill();
      await gone([second.keeper, second.child, ...ids]);
    });
  }
}
