// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Guards that are stopped hide nothing, signals other than SIGKILL change nothing, and one acts for the other. */

import { assertEquals } from "@std/assert";
import { alive, gone, identities, stat, until } from "../helpers.ts";
import { matrixCase } from "../matrix.ts";
import { Cast, THREE_TREES } from "./three_trees.ts";

async function stop(pid: number): Promise<void> {
  Deno.kill(pid, "SIGSTOP");
  await until(() => stat(pid)?.[0] === "T", { what: `${pid} stopped` });
}

matrixCase({
  number: "#13",
  title: "the guardian is stopped, the runtime is killed: the keepers see it themselves",
  body: async (run) => {
    await using host = run.start(THREE_TREES);
    const all = await Cast.of(host);
    await stop(all.guardian.pid);
    host.kill();
    await gone(all.trees.flat());
    await gone([all.watchdog, all.guardian, ...all.keepers]);
  },
});

/** Its keeper hears nothing; the runtime's clock and the guardian's hand take over. */
const CLOSE_WITH_STOPPED_KEEPER = `
const port = await open(PROBE, ["double-fork", "2", "stay"]);
const other = await open("cat");
const pids = await ready(port);
say("ready", ...pids, other.pid);
await hear();
const error = await port.close({ graceMs: 20, deadlineMs: 100 }).then(() => null, (error) => error);
const { cause, reason, survivors } = await port.status;
say("ended", error?.name ?? "closed", cause, reason.kind, survivors.length, left(pids).length, left([other.pid]).length);
await hear();
`;

matrixCase({
  number: "#14",
  title: "a keeper is stopped, its port is closed: the guardian ends keeper and tree",
  body: async (run) => {
    await using host = run.start(CLOSE_WITH_STOPPED_KEEPER);
    const [child] = identities(await host.numbers("ready"));
    await stop(Number(stat(child?.pid ?? 0)?.[1]));
    await host.tell("go\n");
    assertEquals(await host.next("ended"), ["closed", "close", "lost", "0", "0", "1"]);
  },
});

matrixCase({
  number: "+",
  title: "keeper and guardian are stopped, the runtime is killed: the watchdog ends all",
  body: async (run) => {
    await using host = run.start(THREE_TREES);
    const all = await Cast.of(host);
    await stop(all.keeper.pid);
    await stop(all.guardian.pid);
    host.kill();
    await gone(all.trees.flat());
  },
});

const SIGNALS = [
  "SIGTERM",
  "SIGHUP",
  "SIGINT",
  "SIGQUIT",
  "SIGUSR1",
  "SIGUSR2",
  "SIGPIPE",
] as const;

matrixCase({
  number: "+",
  title: "SIGTERM, SIGHUP, SIGINT and others to every helper change nothing",
  body: async (run) => {
    await using host = run.start(THREE_TREES);
    const all = await Cast.of(host);
    const helpers = [all.watchdog, all.guardian, ...all.keepers];
    for (const signal of SIGNALS) {
      for (const { pid } of helpers) Deno.kill(pid, signal);
      await host.tell(`${signal}\n`);
      assertEquals(await host.next("echo"), [signal, "both"]);
      assertEquals([...helpers, ...all.trees.flat()].filter((id) => !alive(id)), []);
    }
  },
});

matrixCase({
  number: "#42",
  title: "a hostile child of the same user kills its guardian and its keeper: the watchdog ends it",
  body: async (run) => {
    await using host = run.start(`
      const port = await open(PROBE, ["kill-helpers"], { delayToSigkill: 50 });
      const pids = await ready(port);
      say("ready", ...pids);
      await hear();
      await port.command("now\\n");
      const { cause, reason } = await port.status;
      const again = await open("true").then((port) => port.status);
      say("ended", cause, reason.kind, again.reason.kind);
      await hear();
    `);
    const ids = identities(await host.numbers("ready"));
    await host.tell("go\n");
    assertEquals(await host.next("ended"), ["guardian", "lost", "normal"]);
    await gone(ids);
  },
});
