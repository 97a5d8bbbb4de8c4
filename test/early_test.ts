// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * A child is cloned while its launch record is being made. Where nothing comes
 * of that start it goes, and it goes with its keeper, whoever kills that.
 */

import { assertEquals } from "@std/assert";
import {
  alive,
  assert,
  children,
  gone,
  helpers,
  identities,
  type Identity,
  stat,
  test,
  until,
} from "./helpers.ts";
import { Host, USERS } from "./host_process.ts";

/** Starts what it is told to: `true` is not permitted. */
const REFUSED = `
await (await open("cat")).close();
say("ready");
for (let line = await hear(); line !== null; line = await hear()) {
  if (line === "start") {
    say("started", (await (await open("cat", ["/dev/null"])).status).code);
    continue;
  }
  const error = await open(line).then(() => null, (error) => error);
  say("refused", error?.name);
}
`;

/** A child that waits for a plan which it will not get, its keeper before it. It is there for a moment only. */
async function early(host: Host, program = "true"): Promise<Identity[]> {
  const { guardian } = helpers(host.pid);
  return await until(async () => {
    await host.tell(`${program}\n`);
    const name = program === "true" ? "PermissionError" : "SpawnError";
    assertEquals(await host.next("refused"), [name]);
    const pairs = children(guardian).map((keeper) => [keeper, ...children(keeper)]);
    const ids = identities(pairs.find((pair) => pair.length > 1) ?? []).filter(alive);
    return ids.length > 1 && ids;
  }, { what: "a child before its plan" });
}

for (const user of USERS) {
  const allow = ["--allow-read", "--allow-ffi", "--allow-env", "--allow-sys", "--allow-run=cat"];

  test(`as ${user.name}: a start that is refused leaves no child that was cloned for it`, async () => {
    await using host = Host.start(REFUSED, { user, allow });
    await host.next("ready");
    const [keeper, ...ids] = await early(host);
    await gone(ids);
    assert(keeper !== undefined && alive(keeper));
  });

  test(`as ${user.name}: where somebody kills it the start has another child`, async () => {
    await using host = Host.start(REFUSED, { user, allow });
    await host.next("ready");
    // It is kept for 50 ms: most of these starts find a dead one.
    for (let turn = 0; turn < 10; turn++) {
      const [, child] = await early(host, "no-such-program");
      Deno.kill(child?.pid ?? 0, "SIGKILL");
      await until(() => stat(child?.pid ?? 0)?.[0] === "Z", { what: "its end" });
      await host.tell("start\n");
      assertEquals(await host.next("started"), ["0"]);
    }
  });

  test(`as ${user.name}: it ends with its keeper, and with the runtime`, async () => {
    await using host = Host.start(REFUSED, { user, allow });
    await host.next("ready");
    const guardian = identities([helpers(host.pid).guardian]);
    const first = await early(host);
    Deno.kill(first[0]?.pid ?? 0, "SIGKILL");
    await gone(first);
    const second = await early(host);
    host.kill();
    await gone([...second, ...guardian]);
  });
}
