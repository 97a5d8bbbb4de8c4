// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** A child with an inherited terminal keeps it. The host runs on a real one, made by the probe. */

import { assertEquals } from "@std/assert";
import { alive, gone, identities, PROBE, Scratch, stat, test, until } from "./helpers.ts";
import { Host } from "./host_process.ts";

/** A host that survives Ctrl-C, with a child on its terminal. */
const ON_TERMINAL = (file: string) => `
Deno.addSignalListener("SIGINT", () => say("host-int"));
const port = await open(PROBE, ["count-sigint", ${JSON.stringify(file)}], {
  stdin: "inherit",
  stderr: "inherit",
});
say("ready", ...await readyWords(port));
const refused = await port.kill("SIGINT", { scope: "group" }).catch((error) => error.name);
say("group", refused);
await hear();
await port.close();
const { code, cause, killed } = await port.status;
say("ended", code, cause, killed);
`;

test("/dev/tty opens, and Ctrl-C reaches the child exactly once", async () => {
  using scratch = new Scratch();
  await using host = Host.start(ON_TERMINAL(scratch.file("notes")), { under: [PROBE, "pty"] });
  const [pid, terminal] = await host.next("ready");
  assertEquals(terminal, "tty");
  assertEquals(await host.next("group"), ["TypeError"], "its group is the host's own");
  await host.tell("\x03");
  await host.next("host-int");
  await until(() => scratch.lines("notes").length > 0, { what: "SIGINT at the child" });
  assertEquals(alive(identities([Number(pid)])[0] ?? { pid: 0, start: "" }), true);
  await host.tell("go\n");
  // By then every signal that was on its way has come: it ends at the SIGTERM behind them.
  assertEquals(await host.next("ended"), ["0", "close", "0"]);
  assertEquals(scratch.lines("notes"), ["INT"]);
  assertEquals((await host.end()).code, 0);
});

test("a child on the terminal's foreground dies of Ctrl-C as under a shell", async () => {
  await using host = Host.start(
    `
    Deno.addSignalListener("SIGINT", () => say("host-int"));
    const port = await open("cat", [], { stdin: "inherit", stdout: "inherit" });
    say("ready", port.pid);
    const { reason, killed } = await port.status;
    say("ended", reason.kind, reason.signal, killed);
    `,
    { under: [PROBE, "pty"] },
  );
  const ids = identities(await host.numbers("ready"));
  await host.tell("\x03");
  assertEquals(await host.next("ended"), ["signal", "SIGINT", "0"]);
  await gone(ids);
});

test("without a terminal every child leads a group of its own", async () => {
  await using host = Host.start(
    `
    const port = await open("cat");
    say("ready", port.pid);
    await hear();
    await port.kill("SIGTERM", { scope: "group" });
    say("ended", (await port.status).signal);
    `,
    { under: ["setsid"] },
  );
  const [pid = 0] = await host.numbers("ready");
  assertEquals(stat(pid)?.[2], `${pid}`, "its process group");
  await host.tell("go\n");
  assertEquals(await host.next("ended"), ["SIGTERM"]);
});

test("the terminal is closed: the host ends by SIGHUP and its tree with it", async () => {
  await using host = Host.start(
    `
    const port = await open(PROBE, ["double-fork", "2", "stay"], { delayToSigkill: 20 });
    say("ready", ...await ready(port));
    await hear();
    `,
    { under: [PROBE, "pty"] },
  );
  const ids = identities(await host.numbers("ready"));
  host.kill();
  await gone(ids);
});
