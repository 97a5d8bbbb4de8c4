// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Guards that are stopped hide nothing, signals other than SIGKILL change nothing, and one acts for the other. */

import { assertEquals } from "@std/assert";
import { held } from "../held.ts";
import { alive, children, gone, helpers, identities, Scratch, stat, until } from "../helpers.ts";
import { matrixCase, type Run } from "../matrix.ts";
import { Cast, THREE_TREES } from "./three_trees.ts";

matrixCase({
  number: "+",
  title: "a guardian or a keeper that is stopped goes on at once: its parent sees to it",
  body: async (run) => {
    await using host = run.start(`
      const port = await open("sh", ["-c", "read line; exit 7"]);
      say("ready", port.pid);
      await hear();
      await port.command("go\\n");
      const { code, cause } = await port.status;
      const next = await open("true").then((port) => port.status);
      say("ended", code, cause, next.code);
      await hear();
    `);
    const [child = 0] = await host.numbers("ready");
    const keeper = Number(stat(child)?.[1]);
    const { guardian } = helpers(host.pid);
    for (const pid of [guardian, keeper]) Deno.kill(pid, "SIGSTOP");
    await host.tell("go\n");
    assertEquals(await host.next("ended"), ["7", "exit", "0"]);
    assertEquals(helpers(host.pid).guardian, guardian, "the same one");
  },
});

matrixCase({
  number: "#13",
  title: "the guardian is stopped, the runtime is killed: the keepers see it themselves",
  needsRoot: true,
  body: async (run) => {
    await using host = run.start(THREE_TREES);
    const all = await Cast.of(host);
    await using _ = await held(all.guardian.pid);
    host.kill();
    await gone(all.trees.flat());
    await gone([all.watchdog, all.guardian, ...all.keepers]);
  },
});

/** Some of the helpers hear nothing; the runtime's clock and the next one's hand take over. */
const CLOSE_BEHIND = `
const port = await open(PROBE, ["double-fork", "2", "stay"]);
const other = await open("cat");
const pids = await ready(port);
say("ready", ...pids, other.pid);
await hear();
const error = await port.close({ graceMs: 20, deadlineMs: 100 }).then(() => null, (error) => error);
const { cause, reason, survivors } = await port.status;
say("ended", error?.name ?? "closed", cause, reason.kind, survivors.length);
await hear();
say("next", left([other.pid]).length, (await (await open("true")).status).reason.kind);
await hear();
`;

type Helper = "watchdog" | "guardian" | "keeper";

/** What a close comes to behind those of the helpers; how many of the tree's three run then; what is with others. */
async function closeBehind(run: Run, ...who: Helper[]): Promise<[string[], number, string[]]> {
  await using host = run.start(CLOSE_BEHIND);
  const ids = identities(await host.numbers("ready"));
  const { watchdog, guardian } = helpers(host.pid);
  const cast = { watchdog, guardian, keeper: Number(stat(ids[0]?.pid ?? 0)?.[1]) };
  await using _ = await held(...who.map((one) => cast[one]));
  await host.tell("go\n");
  const ended = await host.next("ended");
  // Whom nobody can reap yet is a zombie.
  const running = ids.slice(0, 3).filter(({ pid }) => !["Z", undefined].includes(stat(pid)?.[0]));
  await host.tell("go\n");
  return [ended, running.length, await host.next("next")];
}

matrixCase({
  number: "#14",
  title: "a keeper is stopped, its port is closed: the guardian ends keeper and tree",
  needsRoot: true,
  body: async (run) => {
    const ended = ["closed", "close", "lost", "0"];
    assertEquals(await closeBehind(run, "keeper"), [ended, 0, ["1", "normal"]]);
  },
});

/** The guardian and its watchdog go on with nobody's help. */
async function guardianHeld(run: Run): Promise<void> {
  const [ended, running, [, next]] = await closeBehind(run, "guardian", "keeper");
  assertEquals([ended, running, next], [["closed", "close", "lost", "0"], 0, "normal"]);
}

/** Nobody but the runtime is left: it ends a cgroup, and tells of a tree that has none. */
async function allHeld(run: Run): Promise<void> {
  const [ended, running, [, next]] = await closeBehind(run, "watchdog", "guardian", "keeper");
  const outcome = run.mode.kill === "tree"
    ? [["SurvivorsError", "close", "lost", "1"], 3]
    : [["closed", "close", "lost", "0"], 0];
  assertEquals([ended, running, next], [...outcome, "normal"]);
}

/** What was called off is not started when the guardian, or the keeper, goes on. */
async function startsBehindGuardian(run: Run): Promise<void> {
  using scratch = new Scratch().open();
  const file = scratch.file("touched");
  await using host = run.start(`
    const port = await open("cat");
    say("ready", port.pid);
    await hear();
    const outcome = (opened) => opened.then(
      (port) => port.status.then(({ reason }) => reason.kind),
      (error) => error.name === "TimeoutError" ? error.name : error.code,
    );
    const started = [0, 1, 2].map(() => outcome(open("true")));
    const signal = AbortSignal.timeout(10);
    say("aborted", await outcome(open("touch", [${JSON.stringify(file)}], { signal })));
    say("started", ...new Set(await Promise.all(started)));
    say("next", await outcome(open("true")), left([port.pid]).length);
    await hear();
    await port.close();
    await hear();
  `);
  const ids = identities(await host.numbers("ready"));
  const { guardian } = helpers(host.pid);
  const [id] = identities([guardian]);
  {
    await using _ = await held(guardian);
    await host.tell("go\n");
    assertEquals(await host.next("aborted"), ["TimeoutError"]);
    // One may have a keeper that was there before.
    const outcomes = new Set(await host.next("started"));
    assertEquals(outcomes.difference(new Set(["normal", "ETIMEDOUT"])), new Set());
    assertEquals(outcomes.has("ETIMEDOUT"), true);
    assertEquals(await host.next("next"), ["normal", "1"], "new helpers, and the tree lives on");
  }
  await host.tell("go\n");
  await gone([...ids, ...id === undefined ? [] : [id]]); // its last port's end is its own
  assertEquals(exists(file), false);
}

async function startBehindKeeper(run: Run): Promise<void> {
  using scratch = new Scratch().open();
  const file = scratch.file("touched");
  await using host = run.start(`
    await (await open("true")).status;
    say("ready");
    await hear();
    const signal = AbortSignal.timeout(10);
    const opened = open("touch", [${JSON.stringify(file)}], { signal });
    say("aborted", await opened.then(() => "started", (error) => error.name));
    await hear();
  `);
  await host.next("ready");
  const spare = await until(() => children(helpers(host.pid).guardian)[0], { what: "a spare" });
  const [id] = identities([spare]);
  {
    await using _ = await held(spare);
    await host.tell("go\n");
    assertEquals(await host.next("aborted"), ["TimeoutError"]);
  }
  await gone(id === undefined ? [] : [id]);
  assertEquals(exists(file), false);
}

function exists(file: string): boolean {
  return [...Deno.readDirSync(file.replace(/\/[^/]*$/, ""))].some(({ name }) =>
    file.endsWith(name)
  );
}

async function requestsToKeeper(run: Run): Promise<void> {
  await using host = run.start(`
    const port = await open("sleep", ["1000"], { timeoutMs: 2000, delayToSigkill: 10 });
    say("ready", port.pid);
    await hear();
    const error = await port.kill("SIGUSR1").then(() => null, (error) => error);
    say("killed", error?.name, error?.code);
    const { reason, survivors } = await port.status;
    say("ended", reason.kind, survivors.length);
    await hear();
  `);
  const ids = identities(await host.numbers("ready"));
  await using _ = await held(Number(stat(ids[0]?.pid ?? 0)?.[1]));
  await host.tell("go\n");
  assertEquals(await host.next("killed"), ["ContainmentError", "ETIMEDOUT"]);
  assertEquals(await host.next("ended"), ["lost", "0"]);
  await gone(ids);
}

/** Nobody tells the runtime what has become of a tree whose keeper was killed, and nobody closes its port. */
async function keeperKilled(run: Run): Promise<void> {
  await using host = run.start(`
    const port = await open(PROBE, ["double-fork", "2", "stay"], { delayToSigkill: 10 });
    const pids = await ready(port);
    say("ready", ...pids);
    const { cause, survivors } = await port.status;
    say("ended", cause, survivors.length);
    await hear();
  `);
  const ids = identities(await host.numbers("ready"));
  const keeper = Number(stat(ids[0]?.pid ?? 0)?.[1]);
  await using _ = await held(helpers(host.pid).guardian);
  Deno.kill(keeper, "SIGKILL");
  assertEquals(await host.next("ended"), ["guardian", "0"]);
  await until(() => ids.every(({ pid }) => ["Z", undefined].includes(stat(pid)?.[0])), {
    what: "nobody of the tree runs",
  });
}

/** Keeper and guardian hear nothing of it: the watchdog ends all. */
async function runtimeKilled(run: Run): Promise<void> {
  await using host = run.start(THREE_TREES);
  const all = await Cast.of(host);
  await using _ = await held(all.keeper.pid, all.guardian.pid);
  host.kill();
  await gone(all.trees.flat());
}

matrixCase({
  number: "+",
  title:
    "helpers are held so that they cannot go on: every promise is answered, and the next one up ends the tree",
  needsRoot: true,
  body: async (run) => {
    // All at once, as each mostly waits.
    const starts = [startsBehindGuardian, startBehindKeeper];
    const all = [guardianHeld, allHeld, ...starts, requestsToKeeper, keeperKilled, runtimeKilled];
    await Promise.all(all.map((one) => one(run)));
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
