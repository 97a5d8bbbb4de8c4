// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** What cannot be ended is named with its reason, and close() rejects instead of hanging. Bad calls change nothing. */

import { assertEquals } from "@std/assert";
import { chmodSync } from "node:fs";
import {
  alive,
  assert,
  gone,
  helpers,
  identities,
  identity,
  PROBE,
  Scratch,
  stat,
  until,
} from "../helpers.ts";
import { matrixCase, type ModeName, type Run } from "../matrix.ts";
import type { Host } from "../host_process.ts";
import { HangingFiles } from "./hanging_files.ts";

/** Opens `command` beside another tree, closes it when told, and says how that went. */
const CLOSED = (command: string) => `
const other = await open("cat");
const port = await open(${command});
say("ready", port.pid, ...await readyWords(port).catch((error) => [error.message]));
await hear();
const error = await port.close({ graceMs: 0, deadlineMs: 300 }).then(() => null, (error) => error);
say("closed", error?.name ?? "empty", JSON.stringify(error?.survivors ?? []));
const { survivors, cause } = await port.status;
say("status", cause, JSON.stringify(survivors));
say("other", left([other.pid]).length);
await hear();
`;

interface Survivor {
  pid: number;
  comm: string;
  reason: string;
  tracer?: number;
}

/** What close() rejected with; the status says the same, and the other tree is untouched. */
async function survivors(host: Host): Promise<Survivor[]> {
  await host.tell("go\n");
  const [name, ...named] = await host.next("closed");
  const [cause, ...same] = await host.next("status");
  assertEquals([cause, same.join(" ")], ["close", named.join(" ")]);
  assertEquals(await host.next("other"), ["1"]);
  const all: Survivor[] = JSON.parse(named.join(" "));
  assertEquals(name, all.length === 0 ? "empty" : "SurvivorsError");
  return all;
}

/** In tree mode the process is named, and gone when somebody with the right has killed it; its cgroup ends it. */
async function outOfReach(run: Run, host: Host): Promise<void> {
  const [pid = 0] = await host.numbers("ready");
  const [id] = identities([pid]);
  assert(id !== undefined);
  const named = await survivors(host);
  if (run.mode.kill === "cgroup2") {
    assertEquals(named, []);
    return await gone([id]);
  }
  assertEquals(named.map(({ pid, reason }) => [pid, reason]), [[pid, "EPERM"]]);
  assertEquals(identity(pid), id, "it is there, as was said");
  Deno.kill(pid, "SIGKILL");
  await gone([id]);
}

const BY_ROOT: Partial<Record<ModeName, string>> = {
  "tree, root": "root may signal everybody; without CAP_KILL: see below",
  "cgroup2, root": "root may signal everybody; without CAP_KILL: see below",
};

matrixCase({
  number: "#26",
  title: "a set-uid-root program of an unprivileged owner",
  needsRoot: true,
  not: BY_ROOT,
  body: async (run) => {
    using scratch = new Scratch().open();
    const program = scratch.file("owner");
    Deno.copyFileSync(PROBE, program);
    chmodSync(program, 0o4755);
    await using host = run.start(CLOSED(`${JSON.stringify(program)}, ["become-owner"]`));
    await outOfReach(run, host);
  },
});

matrixCase({
  number: "+",
  title: "a set-uid-root program of an unprivileged owner, under noNewPrivs: it gains nothing",
  not: BY_ROOT,
  body: async (run) => {
    using scratch = new Scratch().open();
    const program = scratch.file("owner");
    Deno.copyFileSync(PROBE, program);
    chmodSync(program, 0o4755);
    const options = `["become-owner"], { noNewPrivs: true }`;
    await using host = run.start(CLOSED(`${JSON.stringify(program)}, ${options}`));
    const ids = identities((await host.numbers("ready")).slice(0, 1));
    assertEquals(await survivors(host), []);
    await gone(ids);
  },
});

matrixCase({
  number: "+",
  title: "root without CAP_KILL, and a program that is started as another user",
  not: {
    "tree, root": "is refused at its start: test/identity_test.ts",
    "tree, unprivileged": "has no CAP_SETUID",
    "cgroup2, unprivileged": "has no CAP_SETUID",
  },
  body: async (run) => {
    const under = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"];
    const command =
      `"sh", ["-c", "echo ready $$; sleep 1000"], { uid: 65534, gid: 65534, cwd: "/" }`;
    await using host = run.start(CLOSED(command), { under });
    await outOfReach(run, host);
  },
});

matrixCase({
  number: "+",
  title: "root without CAP_KILL, and a child that has become another user",
  not: {
    "tree, unprivileged": "has no CAP_KILL to lose: #26",
    "cgroup2, unprivileged": "has no CAP_KILL to lose: #26",
  },
  body: async (run) => {
    const drop = ["--reuid=65534", "--clear-groups", "--inh-caps=-all"];
    const under = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"];
    const command = `"setpriv", [...${JSON.stringify(drop)}, PROBE, "ready"]`;
    await using host = run.start(CLOSED(command), { under });
    await outOfReach(run, host);
  },
});

const SLOW = "takes the full 5 s of a deadline; the code is that of the modes beside it";

matrixCase({
  number: "#41",
  title: "a child in uninterruptible sleep: named, and ended as soon as it can be",
  needsRoot: true,
  body: async (run) => {
    await using files = await HangingFiles.mount();
    const script = `echo ready $$; exec cat "$0"`;
    await using host = run.start(
      CLOSED(`"sh", ["-c", '${script}', ${JSON.stringify(files.data)}]`),
    );
    const ids = identities((await host.numbers("ready")).slice(0, 1));
    await files.heard("hung read");
    const named = await survivors(host);
    assertEquals(named.map(({ pid, reason }) => [pid, reason]), [[ids[0]?.pid, "uninterruptible"]]);
    await files.tell("fail");
    await gone(ids);
  },
});

matrixCase({
  number: "+",
  title:
    "a keeper is killed, its child cannot be: others start and end meanwhile, then it is named",
  needsRoot: true,
  not: { "tree, unprivileged": SLOW, "cgroup2, root": SLOW },
  body: async (run) => {
    await using files = await HangingFiles.mount();
    await using host = run.start(`
      const port = await open("sh", ["-c", 'echo ready $$; exec cat "$0"', ${
      JSON.stringify(files.data)
    }]);
      say("ready", ...await ready(port));
      await hear();
      let told = false;
      const status = port.status.finally(() => told = true);
      const { code } = await (await open("sh", ["-c", "exit 7"])).status;
      say("other", code, told);
      const { cause, survivors } = await status;
      say("status", cause, survivors.map(({ pid, reason }) => [pid, reason]).join());
      await hear();
    `);
    const ids = identities((await host.numbers("ready")).slice(0, 1));
    await files.heard("hung read");
    const [keeper = 0] = helpers(host.pid).keepers;
    Deno.kill(keeper, "SIGKILL");
    await until(() => stat(keeper) === null, { what: "the guardian has seen the keeper's end" });
    await host.tell("go\n");
    assertEquals(await host.next("other"), ["7", "false"]);
    assertEquals(await host.next("status"), ["guardian", `${ids[0]?.pid},uninterruptible`]);
    await files.tell("fail");
    await gone(ids);
  },
});

matrixCase({
  number: "+",
  title: "a survivor outlives its keeper, too: the guardian goes on, and its cgroup goes with it",
  not: {
    "tree, root": "has no cgroup that could stay: #41",
    "tree, unprivileged": "has no cgroup that could stay: #41",
    "cgroup2, unprivileged": SLOW,
  },
  body: async (run) => {
    await using files = await HangingFiles.mount();
    const script = `echo ready $$; exec cat "$0"`;
    await using host = run.start(
      CLOSED(`"sh", ["-c", '${script}', ${JSON.stringify(files.data)}]`),
    );
    const [child] = identities((await host.numbers("ready")).slice(0, 1));
    assert(child !== undefined);
    await files.heard("hung read");
    const keepers = identities([Number(stat(child.pid)?.[1])]);
    assertEquals((await survivors(host)).length, 1);
    await gone(keepers);
    assert(alive(child));
    await files.tell("fail");
    await gone([child]);
    // That of all is left, and in it that of the other tree.
    await until(() => run.cgroup?.below().length === 2, { what: "the end of the child's cgroup" });
  },
});

matrixCase({
  number: "+",
  title: "a child under somebody else's debugger: named with the tracer, gone when that lets go",
  body: async (run) => {
    await using host = run.start(CLOSED(`PROBE, ["ready"]`));
    const [pid = 0] = await host.numbers("ready");
    const tracer = new Deno.Command(PROBE, {
      args: ["trace", `${pid}`],
      stdin: "piped",
      stdout: "null",
    }).spawn();
    await until(() => Number(tracerOf(pid)) === tracer.pid, { what: "the tracer" });
    const named = await survivors(host);
    assertEquals(named.map(({ pid, reason, tracer }) => [pid, reason, tracer]), [
      [pid, "traced", tracer.pid],
    ]);
    await tracer.stdin.close();
    await tracer.status;
    await until(() => stat(pid) === null, { what: "the end of what was traced" });
  },
});

function tracerOf(pid: number): string | undefined {
  return Deno.readTextFileSync(`/proc/${pid}/status`).match(/^TracerPid:\s*(\d+)$/m)?.[1];
}

matrixCase({
  number: "+",
  title: "bad calls: clear errors, and the tree is as it was",
  body: async (run) => {
    await using host = run.start(`
      const port = await open(PROBE, ["double-fork", "2", "stay"], { delayToSigkill: 20 });
      const pids = await ready(port);
      say("ready", ...pids);
      const gone = new Mailbox();
      await gone[Symbol.asyncDispose]();
      const calls = {
        grace: () => port.close({ graceMs: -1 }),
        deadline: () => port.close({ deadlineMs: 1.5 }),
        name: () => port.kill("SIGNOPE"),
        zero: () => port.kill(0),
        number: () => port.kill(65),
        scope: () => port.kill("SIGTERM", { scope: "world" }),
        owner: () => port.connect(gone),
        nobody: () => port.connect({}),
        misspelt: () => port.close({ grace: 1 }),
        list: () => port.close([]),
        scopes: () => port.kill("SIGTERM", { scopes: "tree" }),
        match: async () => await gone.receive("data"),
        until: async () => await gone.receive(undefined, { timeout: 1 }),
      };
      for (const [name, call] of Object.entries(calls)) {
        const error = await call().then(() => null, (error) => error);
        say(name, error?.name, /^[^:]+: .+: .+/.test(error?.message) || error?.message);
      }
      say("left", left(pids).length);
      await hear();
      await port.close();
      const late = await port.kill("SIGTERM").catch((error) => error);
      say("late", late.name, late.code, left(pids).length);
      await hear();
    `);
    const ids = identities(await host.numbers("ready"));
    const expected: [string, string][] = [
      ["grace", "RangeError"],
      ["deadline", "RangeError"],
      ["name", "TypeError"],
      ["zero", "RangeError"],
      ["number", "RangeError"],
      ["scope", "TypeError"],
      ["owner", "ClosedError"],
      ["nobody", "TypeError"],
      ["misspelt", "TypeError"],
      ["list", "TypeError"],
      ["scopes", "TypeError"],
      ["match", "TypeError"],
      ["until", "TypeError"],
    ];
    for (const [call, name] of expected) assertEquals(await host.next(call), [name, "true"], call);
    assertEquals(await host.next("left"), ["3"]);
    assertEquals(ids, ids.map(({ pid }) => identity(pid)));
    await host.tell("go\n");
    assertEquals(await host.next("late"), ["ClosedError", "ESRCH", "0"]);
  },
});
