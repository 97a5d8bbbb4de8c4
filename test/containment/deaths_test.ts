// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Runtime, watchdog, guardian and keeper die: alone, in pairs, in threes and all four at one instant. */

import { assertEquals } from "@std/assert";
import {
  alive,
  assert,
  children,
  comm,
  gone,
  helpers,
  identities,
  type Identity,
  stat,
  until,
} from "../helpers.ts";
import { matrixCase, type Run } from "../matrix.ts";
import { Cast, dieTogether, THREE_TREES } from "./three_trees.ts";

type Who = "runtime" | "watchdog" | "guardian" | "keeper" | "all keepers";

/** The processes that `who` names. */
function cast(cast: Cast, who: readonly Who[]): Identity[] {
  return who.flatMap((one) => {
    if (one === "runtime") return cast.host.id;
    if (one === "watchdog") return cast.watchdog;
    if (one === "guardian") return cast.guardian;
    return one === "keeper" ? cast.keeper : cast.keepers;
  });
}

/** The trees that end with those. */
function doomed(who: readonly Who[]): number[] {
  if (who.some((one) => one === "runtime" || one === "guardian" || one === "all keepers")) {
    return [0, 1, 2];
  }
  return who.includes("keeper") ? [0] : [];
}

/** The runtime lives: it is told of each end, the other trees go on, and so does it. */
async function survivedBy({ host, trees }: Cast, who: readonly Who[]): Promise<void> {
  const ends = doomed(who);
  const told = [];
  for (const _ of ends) told.push(await host.next("tree"));
  assertEquals(told.map(([at]) => Number(at)).sort(), ends);
  for (const [, , cause, survivors, left] of told) {
    assertEquals([cause, survivors, left], ["guardian", "0", "0"]);
  }
  const others = trees.filter((_, at) => !ends.includes(at)).flat();
  assertEquals(others.filter((id) => !alive(id)), [], "the others' processes are the same");
  await until(async () => {
    await host.tell("again\n");
    return (await host.next("echo")).join(" ") === "again both";
  }, { what: "an open that has both guards" });
  assertEquals(others.filter((id) => !alive(id)), [], "and stay so");
}

/** With the runtime and both guards gone nobody removes the directory of their cgroups but the next who starts. */
async function nextStart(run: Run): Promise<void> {
  await using host = run.start(`await (await open("true")).status; say("swept"); await hear();`);
  await host.next("swept");
  await pairs(1, run);
}

/** Waits until as many pairs of guards have a directory for the cgroups of their trees, and no more. */
async function pairs(count: number, { cgroup }: Run): Promise<void> {
  if (cgroup === null) return;
  const all = () => cgroup.below().filter((folder) => /\/proton-[^/]+$/.test(folder));
  await until(() => all().length <= count, {
    what: () => `the end of all but ${count} of ${all()}`,
  });
}

function bothGuards(who: readonly Who[]): boolean {
  return who.includes("watchdog") && who.includes("guardian");
}

function deaths(number: string, title: string, who: readonly Who[]): void {
  matrixCase({
    number,
    title,
    body: async (run) => {
      await using host = run.start(THREE_TREES);
      const all = await Cast.of(host);
      await dieTogether(cast(all, who));
      await gone(doomed(who).flatMap((at) => all.tree(at)));
      if (!who.includes("runtime")) {
        await survivedBy(all, who);
        if (bothGuards(who)) await pairs(1, run); // the old pair's was the runtime's to remove
        return;
      }
      await host.end();
      await gone([all.watchdog, all.guardian, ...all.keepers]);
      if (bothGuards(who)) await nextStart(run);
    },
  });
}

deaths("#4", "three trees with daemons; the runtime is killed", ["runtime"]);
deaths("#7", "the guardian is killed: all trees end, the next open works", ["guardian"]);
deaths("#8", "a keeper is killed: its tree ends, the others live", ["keeper"]);
matrixCase({
  number: "+",
  title: "a keeper is killed: whoever of its tree is killed for it is counted",
  body: async (run) => {
    await using host = run.start(`
      const port = await open("sh", ["-c", 'for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo ready $$; wait']);
      say("ready", ...await ready(port));
      const { killed, cause } = await port.status;
      say("ended", killed, cause);
      await hear();
    `);
    const [child = 0] = await host.numbers("ready");
    await until(() => children(child).length === 8, { what: "eight below the child" });
    Deno.kill(Number(stat(child)?.[1]), "SIGKILL");
    assertEquals(await host.next("ended"), ["9", "guardian"]);
  },
});

deaths("#9", "runtime and guardian are killed at one instant", ["runtime", "guardian"]);
deaths("#10", "runtime and a keeper are killed at one instant", ["runtime", "keeper"]);
deaths("#11", "guardian and all keepers are killed at one instant", ["guardian", "all keepers"]);
deaths("#12", "runtime, guardian and all keepers are killed at one instant", [
  "runtime",
  "guardian",
  "all keepers",
]);
deaths("+", "guardian and one keeper are killed at one instant", ["guardian", "keeper"]);
deaths("+", "runtime, guardian and one keeper are killed at one instant", [
  "runtime",
  "guardian",
  "keeper",
]);
deaths("+", "the watchdog is killed: the trees live on", ["watchdog"]);
deaths("+", "runtime and watchdog are killed at one instant", ["runtime", "watchdog"]);
deaths("+", "watchdog and a keeper are killed at one instant", ["watchdog", "keeper"]);
deaths("+", "watchdog and all keepers are killed at one instant", ["watchdog", "all keepers"]);
deaths("+", "runtime and all keepers are killed at one instant", ["runtime", "all keepers"]);
deaths("+", "runtime, watchdog and all keepers are killed at one instant", [
  "runtime",
  "watchdog",
  "all keepers",
]);
deaths("+", "runtime, watchdog and a keeper are killed at one instant", [
  "runtime",
  "watchdog",
  "keeper",
]);
deaths("+", "watchdog and guardian are killed at one instant: every keeper ends its own tree", [
  "watchdog",
  "guardian",
]);
deaths("+", "runtime, watchdog and guardian are killed at one instant: every keeper ends its own", [
  "runtime",
  "watchdog",
  "guardian",
]);

/**
 * Nobody is left who could find the daemons of a tree whose keeper has died
 * with both guards: that much is not promised. What is: that the child itself
 * dies, and that the trees whose keepers live end.
 */
async function beyondReach(run: Run, who: readonly Who[]): Promise<void> {
  await using host = run.start(THREE_TREES);
  const all = await Cast.of(host);
  await dieTogether(cast(all, who));
  const [child, ...daemons] = all.tree(0);
  await gone([...all.trees.slice(1).flat(), ...child === undefined ? [] : [child]]);
  if (!who.includes("runtime")) {
    // What nobody can know is not told as gone: only a cgroup proves it.
    const told = [await host.next("tree"), await host.next("tree"), await host.next("tree")];
    const named = told.sort().map(([, , , survivors]) => survivors);
    assertEquals(named, [run.mode.kill === "tree" ? "1" : "0", "0", "0"]);
  }
  if (run.mode.kill === "cgroup2" && !who.includes("runtime")) await gone(daemons);
  for (const { pid } of daemons.filter(alive)) Deno.kill(pid, "SIGKILL");
  if (who.includes("runtime")) await nextStart(run);
  else await pairs(0, run);
}

matrixCase({
  number: "+",
  title: "watchdog, guardian and a keeper die at one instant: the trees of living keepers end",
  body: (run) => beyondReach(run, ["watchdog", "guardian", "keeper"]),
});

matrixCase({
  number: "+",
  title: "all four die at one instant: the trees of living keepers end",
  not: {
    "cgroup2, root": "#38: what is left is ended at the next start",
    "cgroup2, unprivileged": "#38: what is left is ended at the next start",
  },
  body: (run) => beyondReach(run, ["runtime", "watchdog", "guardian", "keeper"]),
});

/** Whoever of its descendants loses its parent becomes the host's child. */
const SUBREAPER = `
const { symbols } = Deno.dlopen("libc.so.6", {
  prctl: { parameters: ["i32", "usize", "usize", "usize", "usize"], result: "i32" },
});
const PR_SET_CHILD_SUBREAPER = 36;
symbols.prctl(PR_SET_CHILD_SUBREAPER, 1n, 0n, 0n, 0n);
`;

matrixCase({
  number: "+",
  title: "watchdog and guardian die below a runtime that is a subreaper: it reaps the keepers, too",
  body: async (run) => {
    await using host = run.start(SUBREAPER + THREE_TREES);
    const all = await Cast.of(host);
    const ours = [all.watchdog, all.guardian, ...all.keepers];
    await dieTogether([all.watchdog, all.guardian]);
    await gone(all.trees.flat());
    await gone(ours); // no zombies of them are left either
    await host.tell("again\n");
    assertEquals(await host.next("echo"), ["again", "both"]);
  },
});

matrixCase({
  number: "+",
  title: "all helpers die below a runtime that is a subreaper: no zombie of its trees is left",
  body: async (run) => {
    await using host = run.start(SUBREAPER + THREE_TREES);
    const all = await Cast.of(host);
    await dieTogether([all.watchdog, all.guardian, ...all.keepers]);
    const daemons = all.trees.flatMap((tree) => tree.slice(1));
    await gone(all.trees.map(([child]) => child).filter((child) => child !== undefined));
    await gone([all.watchdog, all.guardian, ...all.keepers]);
    if (run.mode.kill === "cgroup2") await gone(daemons);
    for (const { pid } of daemons.filter(alive)) Deno.kill(pid, "SIGKILL"); // beyond reach
    await host.tell("again\n");
    assertEquals(await host.next("echo"), ["again", "both"]);
  },
});

matrixCase({
  number: "+",
  title:
    "the watchdog is stopped, the runtime is killed below a subreaper of its session: nobody is left",
  body: async (run) => {
    const kill = run.mode.kill === "tree" ? "tree" : "auto";
    const inner = `
      const { open } = await import(Deno.args[0] + "/mod.ts");
      const port = await open("sleep", ["1000"], { containment: { kill: "${kill}" } });
      console.log(port.pid);
    `;
    await using host = run.start(`
      ${SUBREAPER}
      Deno.writeTextFileSync("inner.ts", ${JSON.stringify(inner)});
      const args = ["run", "--quiet", "--no-config", "--no-lock", "--no-check", "--allow-all", "inner.ts", TREE];
      const inner = new Deno.Command(Deno.execPath(), { args, stdout: "piped" }).spawn();
      const { value } = await inner.stdout.getReader().read();
      say("ready", inner.pid, new TextDecoder().decode(value).trim());
      await inner.status;
      await hear();
    `);
    const [runtime = 0, child = 0] = await host.numbers("ready");
    const { watchdog, guardian } = helpers(runtime);
    Deno.kill(watchdog, "SIGSTOP");
    await until(() => stat(watchdog)?.[0] === "T", { what: "the watchdog is stopped" });
    Deno.kill(runtime, "SIGKILL");
    // Nobody reaps them there: as zombies they are over.
    await until(
      () => [watchdog, guardian, child].every((pid) => ["Z", undefined].includes(stat(pid)?.[0])),
      {
        what: "nobody of them runs",
      },
    );
    await pairs(0, run);
  },
});

matrixCase({
  number: "+",
  title: "the watchdog is stopped, guardian and keepers are killed: it goes on, and ends the trees",
  body: async (run) => {
    await using host = run.start(THREE_TREES);
    const all = await Cast.of(host);
    Deno.kill(all.watchdog.pid, "SIGSTOP");
    await until(() => stat(all.watchdog.pid)?.[0] === "T", { what: "the watchdog is stopped" });
    for (const { pid } of [...all.keepers, all.guardian]) Deno.kill(pid, "SIGKILL");
    await survivedBy(all, ["guardian", "all keepers"]);
    await gone(all.trees.flat());
  },
});

matrixCase({
  number: "+",
  title: "programs are started at the moment the guardian is killed: each runs, or is told as lost",
  body: async (run) => {
    await using host = run.start(`
      while (await hear() !== null) {
        await (await open("true")).status;
        say("ready");
        await hear();
        // The reactor's thread has had some time, or none, to notice.
        for (const start = performance.now(); performance.now() - start < Math.random() * 2;);
        const opened = Array.from({ length: 8 }, () => open("true").then((port) => port.status));
        const ends = await Promise.allSettled(opened);
        say("ends", ...new Set(ends.map(({ value, reason }) => value?.cause ?? reason.name + "/" + reason.code)));
      }
    `);
    for (let i = 0; i < 30; i++) {
      await host.tell("go\n");
      await host.next("ready"); // there is a guardian now
      await until(() => children(host.pid).length === 1, { what: "the last watchdog has left" });
      const { guardian } = helpers(host.pid);
      await host.tell("go\n");
      Deno.kill(guardian, "SIGKILL");
      const ends = new Set(await host.next("ends"));
      assertEquals(ends.difference(new Set(["exit", "guardian"])), new Set(), `round ${i}`);
    }
  },
});

matrixCase({
  number: "+",
  title:
    "a keeper ends between two trees, and its guardian says so before it does: the next start has another",
  body: async (run) => {
    await using host = run.start(`
      const first = await open("sleep", ["1000"], { delayToSigkill: 10 });
      const second = await open("sh", ["-c", "read line; sleep 0.3"], { delayToSigkill: 10 });
      say("ready", first.pid, second.pid);
      await hear();
      await second.command("go\\n");
      Deno.kill(Deno.pid, "SIGSTOP");
      say("ended", (await first.status).cause, (await second.status).cause);
      for (let i = 0; i < 2; i++) {
        say("next", await open("true").then((port) => port.status).then(({ cause }) => cause, (error) => error.code));
      }
      await hear();
    `);
    const keepers = (await host.numbers("ready")).map((pid) => Number(stat(pid)?.[1]));
    const [first, second] = identities(keepers);
    assert(first !== undefined && second !== undefined);
    await host.tell("go\n");
    await until(() => stat(host.pid)?.[0] === "T", { what: "the runtime is stopped" });
    Deno.kill(first.pid, "SIGKILL");
    await gone([first]);
    // It has said its last word, and waits for another child.
    await until(() => comm(second.pid) === "proton-spare", { what: "the second keeper is free" });
    Deno.kill(second.pid, "SIGKILL");
    await gone([second]);
    await until(() => children(helpers(host.pid).guardian).length === 0, {
      what: "both are swept",
    });
    Deno.kill(host.pid, "SIGCONT");
    assertEquals(await host.next("ended"), ["exit", "guardian"].toReversed());
    assertEquals(await host.next("next"), ["exit"]);
    assertEquals(await host.next("next"), ["exit"]);
  },
});

matrixCase({
  number: "+",
  title: "the keeper that waits for the next start is killed, fifty times: each start works",
  body: async (run) => {
    await using host = run.start(`
      await (await open("true")).status;
      say("ready");
      while (await hear() !== null) {
        say("next", await open("true").then((port) => port.status).then(({ code }) => code, (error) => error.code));
      }
    `);
    await host.next("ready");
    for (let i = 0; i < 50; i++) {
      const { guardian } = helpers(host.pid);
      const spare = await until(() => children(guardian)[0], { what: "a keeper that waits" });
      Deno.kill(spare, "SIGKILL");
      await host.tell("go\n");
      assertEquals(await host.next("next"), ["0"], `start ${i}`);
    }
  },
});
