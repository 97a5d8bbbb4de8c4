// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Trees of every shape end with their port, and with their child. */

import { assertEquals } from "@std/assert";
import { alive, assert, gone, identities, Scratch } from "../helpers.ts";
import { matrixCase } from "../matrix.ts";

matrixCase({
  number: "#1",
  title: "a shell and its background jobs; close() resolves once they are gone",
  body: async (run) => {
    await using host = run.start(`
      const port = await open("sh", ["-c", "sleep 1000 & echo ready $$ $!; sleep 1000 & wait"]);
      const pids = await ready(port);
      say("ready", ...pids);
      await hear();
      await port.close();
      say("left", ...left(pids));
      await hear();
    `);
    const ids = identities(await host.numbers("ready"));
    await host.tell("go\n");
    assertEquals(await host.next("left"), []);
    await gone(ids);
  },
});

/** The program ends and leaves daemons; \`port.status\` comes when those are gone, too. */
const DAEMONS_LEFT = `
const [first, second, third] = await Promise.all(["exit", "stay", "stay"].map((then) =>
  open(PROBE, ["double-fork", "2", then], { delayToSigkill: 20, flushMs: 20 })
));
const pids = await ready(first);
const others = [...await ready(second), ...await ready(third)];
say("others", ...others);
const { code, cause, survivors } = await first.status;
say("ended", code, cause, survivors.length, left(pids).length, left(others).length);
await hear();
`;

matrixCase({
  number: "#2",
  title: "the child leaves setsid daemons and exits: they end, its code is told",
  body: async (run) => {
    await using host = run.start(DAEMONS_LEFT);
    assertEquals(await host.next("ended"), ["0", "exit", "0", "0", "6"]);
  },
});

matrixCase({
  number: "#3",
  title: "as #2 with two other trees: they go on with the same processes",
  body: async (run) => {
    await using host = run.start(DAEMONS_LEFT);
    const others = identities(await host.numbers("others"));
    await host.next("ended");
    assertEquals(others.filter((id) => !alive(id)), []);
  },
});

matrixCase({
  number: "#17",
  title: "a child that outlives every signal and one that blocks all: SIGTERM, then SIGKILL",
  body: async (run) => {
    using scratch = new Scratch().open();
    await using host = run.start(`
      const port = await open(PROBE, ["ignore-all", ${JSON.stringify(scratch.file("notes"))}]);
      const pids = await ready(port);
      await port.close({ graceMs: 200 });
      const { signal, killed } = await port.status;
      say("ended", signal, killed, left(pids).length);
    `);
    assertEquals(await host.next("ended"), ["SIGKILL", "2", "0"]);
    // The other is the SIGCONT behind it, whose handler may well run first.
    assertEquals(scratch.lines("notes").sort(), ["?", "TERM"]);
  },
});

matrixCase({
  number: "#18",
  title: "a child that has stopped itself and its children",
  body: async (run) => {
    await using host = run.start(`
      const ended = [];
      for (const graceMs of [0, 50]) {
        const port = await open(PROBE, ["stop-self", "3"]);
        const pids = await ready(port);
        await port.close({ graceMs });
        ended.push((await port.status).signal, left(pids).length);
      }
      say("ended", ...ended);
    `);
    // Without a grace they die stopped; with one they are woken to hear SIGTERM.
    assertEquals(await host.next("ended"), ["SIGKILL", "0", "SIGTERM", "0"]);
  },
});

matrixCase({
  number: "#40",
  title: "a daemon holds stdout and stderr: the reader gets its EOF when the child has exited",
  body: async (run) => {
    await using host = run.start(`
      const port = await open(PROBE, ["hold-pipe"], { flushMs: 50 });
      const text = await port.text();
      const { reason, killed, survivors } = await port.status;
      const pids = text.trim().split(" ").slice(1).map(Number);
      say("ended", pids.length, reason.kind, killed, survivors.length, left(pids).length);
    `);
    const [held, kind, , survivors, remaining] = await host.next("ended");
    assertEquals([held, kind, survivors, remaining], ["2", "normal", "0", "0"]);
  },
});

const TREE_ONLY = { "tree, root": "needs a leaf", "tree, unprivileged": "needs a leaf" } as const;

matrixCase({
  number: "#19",
  title: "the child makes cgroups below its own and moves its children there",
  not: TREE_ONLY,
  body: async (run) => {
    await using host = run.start(`
      const port = await open(PROBE, ["nested-cgroup"], { delayToSigkill: 20 });
      const pids = await ready(port);
      say("ready", ...pids);
      await hear();
      await port.close();
      say("left", ...left(pids));
      await hear();
    `);
    await host.numbers("ready");
    assert(run.cgroup !== null);
    const inner = run.cgroup.below().filter((folder) => /\/inner(most)?$/.test(folder));
    assertEquals(inner.length, 2, "cgroups of the child's making");
    await host.tell("go\n");
    assertEquals(await host.next("left"), []);
    assertEquals(inner.filter((folder) => run.cgroup?.below().includes(folder)), []);
  },
});

matrixCase({
  number: "#20",
  title: "the leaf is frozen: close() ends what is in it all the same",
  not: TREE_ONLY,
  body: async (run) => {
    await using host = run.start(`
      const port = await open(PROBE, ["fork-tree", "1", "3"], { delayToSigkill: 20 });
      const pids = await ready(port);
      say("ready", ...pids);
      await hear();
      await port.close();
      say("left", ...left(pids));
      await hear();
    `);
    const [child] = await host.numbers("ready");
    const own = Deno.readTextFileSync(`/proc/${child}/cgroup`).match(/^0::(.*)$/m)?.[1] ?? "";
    const leaf = run.cgroup?.below().find((folder) => folder.endsWith(own));
    assert(leaf !== undefined, `${own} is none of ${run.cgroup?.below()}`);
    Deno.writeTextFileSync(`${leaf}/cgroup.freeze`, "1");
    await host.tell("go\n");
    assertEquals(await host.next("left"), []);
  },
});
