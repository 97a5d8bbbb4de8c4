// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Whether an open port keeps a script alive. */

import { assertEquals } from "@std/assert";
import { gone, identities, test } from "./helpers.ts";
import { Host } from "./host_process.ts";

/** A script whose last line is reached while its port is open; it says what happens to it then. */
const SCRIPT = (last: string) => `
globalThis.addEventListener("unload", () => say("unload"));
const port = await open(PROBE, ["double-fork", "1", "stay"], { delayToSigkill: 20 });
say("ready", ...await ready(port));
await hear();
port.status.then(({ signal }) => say("status", signal));
${last}
say("last");
`;

test("an idle open port does not keep a finished script alive once it is unref'ed", async () => {
  await using host = Host.start(SCRIPT("port.unref();"));
  const ids = identities(await host.numbers("ready"));
  await host.tell("go\n");
  await host.next("last");
  await host.next("unload");
  assertEquals((await host.end()).code, 0);
  await gone(ids);
});

test("without unref the script waits for its port", async () => {
  await using host = Host.start(SCRIPT(""));
  const [child, daemon] = identities(await host.numbers("ready"));
  await host.tell("go\n");
  await host.next("last");
  // Had it not waited, "unload" would come, and "status" never.
  Deno.kill(child?.pid ?? 0, "SIGINT");
  assertEquals(await host.next("status"), ["SIGINT"]);
  await host.next("unload");
  assertEquals((await host.end()).code, 0);
  await gone([child, daemon].flatMap((id) => id ?? []));
});

test("ref takes unref back, however often either was said", async () => {
  await using host = Host.start(SCRIPT("port.unref(); port.unref(); port.ref();"));
  const [child, daemon] = identities(await host.numbers("ready"));
  await host.tell("go\n");
  await host.next("last");
  Deno.kill(child?.pid ?? 0, "SIGINT");
  assertEquals(await host.next("status"), ["SIGINT"]);
  assertEquals((await host.end()).code, 0);
  await gone([child, daemon].flatMap((id) => id ?? []));
});

test("a script whose ports have all ended is not kept alive by the library", async () => {
  await using host = Host.start(`
    const port = await open("true");
    await port.status;
    say("last");
  `);
  await host.next("last");
  assertEquals((await host.end()).code, 0);
});
