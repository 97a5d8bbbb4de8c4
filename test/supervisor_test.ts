// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Children start in order, come back by the strategy, and end in reverse order; nothing is left of any of them. */

import { assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import {
  type ChildSpec,
  ClosedError,
  type LogLine,
  type ProgramSpec,
  type Restart,
  SpawnError,
  startLink,
  type Strategy,
  Supervisor,
  SupervisorError,
  type SupervisorOptions,
} from "../mod.ts";
import {
  alive,
  assert,
  gone,
  identities,
  type Identity,
  leavesNothing,
  pause,
  PROBE,
  Scratch,
  test,
  until,
  within,
} from "./helpers.ts";

/** Notes its start and its end in the file $0, as $1. */
const NOTE = `echo "start $1" >> "$0"; trap 'echo "stop $1" >> "$0"; exit 0' TERM; echo ready;
while :; do sleep 1000 >&- 2>&- & wait; done`;

/** A program that notes what becomes of it, ready when it has noted its start. */
function noting(scratch: Scratch, id: string, more: Partial<ProgramSpec> = {}): ProgramSpec {
  const args = ["-c", NOTE, scratch.file("notes"), id];
  return { id, command: "sh", args, waitFor: { line: /^ready$/ }, ...more };
}

const silent = () => {};

function start(options: SupervisorOptions): Promise<Supervisor> {
  return Supervisor.start({ log: silent, ...options });
}

function pidOf(supervisor: Supervisor, id: string): number {
  const child = supervisor.child(id);
  const pid = child?.port?.pid ?? child?.server?.port.pid;
  assert(pid !== undefined, `${id} is ${child?.state}`);
  return pid;
}

function idsOf(supervisor: Supervisor): Identity[] {
  return identities(
    supervisor.whichChildren().flatMap(({ port, server, supervisor }) =>
      supervisor !== undefined
        ? supervisor.whichChildren().map((child) => pidOf(supervisor, child.id))
        : [port?.pid ?? server?.port.pid ?? 0]
    ),
  );
}

/** Waits until that child runs with another pid than `before`. */
async function restarted(supervisor: Supervisor, id: string, before: number): Promise<number> {
  return await until(() => {
    const { port, server } = supervisor.child(id) ?? {};
    const pid = port?.pid ?? server?.port.pid;
    return pid !== undefined && pid !== before && pid;
  }, { what: `the restart of ${id}` });
}

test("children start in order, each when the one before is ready, and end in reverse", async () => {
  using scratch = new Scratch();
  const children = ["a", "b", "c"].map((id) => noting(scratch, id));
  const supervisor = await start({ children });
  assertEquals(scratch.lines("notes"), ["start a", "start b", "start c"]);
  const ids = idsOf(supervisor);
  assertEquals([ids.length, ids.filter(alive).length], [3, 3]);
  await supervisor.stop();
  assertEquals(ids.filter(alive), []);
  const stops = ["stop c", "stop b", "stop a"];
  assertEquals(scratch.lines("notes"), ["start a", "start b", "start c", ...stops]);
  await supervisor.ended;
});

const STRATEGIES: [Strategy, string[]][] = [
  ["one_for_one", ["start b"]],
  ["rest_for_one", ["stop c", "start b", "start c"]],
  ["one_for_all", ["stop c", "stop a", "start a", "start b", "start c"]],
];

for (const [strategy, then] of STRATEGIES) {
  test(`${strategy}: who is ended and started again with one that is killed`, async () => {
    using scratch = new Scratch();
    const children = ["a", "b", "c"].map((id) => noting(scratch, id));
    await using supervisor = await start({ children, strategy });
    const before = ["a", "b", "c"].map((id) => pidOf(supervisor, id));
    await supervisor.child("b")?.port?.kill("SIGKILL", { scope: "tree" });
    await until(() => scratch.lines("notes").length === 3 + then.length, {
      what: () => `${then}, not ${scratch.lines("notes").slice(3)}`,
    });
    assertEquals(scratch.lines("notes").slice(3), then);
    await until(() => supervisor.countChildren().active === 3, { what: "all three" });
    const after = ["a", "b", "c"].map((id) => pidOf(supervisor, id));
    const same = before.map((pid, i) => pid === after[i]);
    const expected = ["a", "b", "c"].map((id) => !then.includes(`start ${id}`));
    assertEquals(same, expected);
  });
}

/** The ways in which a program ends by itself, and whether that is normal. */
const ENDS: [how: string, script: string, normal: boolean][] = [
  ["exit 0", "exit 0", true],
  ["exit 3", "exit 3", false],
  ["SIGTERM", "kill -TERM $$", false],
  ["SIGKILL", "kill -KILL $$", false],
];

for (const [how, script, normal] of ENDS) {
  test(`${how}: restarted if permanent, or transient and not normal`, async () => {
    using scratch = new Scratch();
    // The first time it ends so, the second time it stays.
    const args = (id: string) => [
      "-c",
      `[ -e "$0" ] && exec sleep 1000; : > "$0"; ${script}`,
      scratch.file(id),
    ];
    const restarts: Restart[] = ["permanent", "transient", "temporary"];
    const children = restarts.map((restart) => ({
      id: restart,
      command: "sh",
      args: args(restart),
      restart,
    }));
    await using supervisor = await start({ children, maxRestarts: 3 });
    const states = () => supervisor.whichChildren().map(({ id, state }) => `${id} ${state}`);
    const transient = normal ? "transient stopped" : "transient running";
    // A restarted one is the one that stays: its start is looked at by what it has become.
    await until(() => {
      const children = supervisor.whichChildren();
      return children.length === 2 &&
        children.every(({ state, port }) =>
          state === "stopped" || (port !== undefined && comm(port.pid) === "sleep")
        );
    }, { what: () => `the restarts, not ${states()}` });
    assertEquals(states(), ["permanent running", transient]);
  });
}

function comm(pid: number): string {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/comm`).trim();
  } catch {
    return "";
  }
}

test("a program that is gone when it is restarted counts as a restart until it is there again", async () => {
  using scratch = new Scratch();
  const program = scratch.file("program");
  const make = () => {
    Deno.writeTextFileSync(`${program}.new`, "#!/bin/sh\nexec sleep 1000\n", { mode: 0o755 });
    Deno.renameSync(`${program}.new`, program);
  };
  make();
  const lines: LogLine[] = [];
  await using supervisor = await start({
    children: [{ id: "gone", command: program }],
    maxRestarts: 50,
    backoff: { minMs: 5, maxMs: 5, jitter: 0 },
    log: (line) => lines.push(line),
  });
  const before = pidOf(supervisor, "gone");
  Deno.removeSync(program);
  await supervisor.child("gone")?.port?.kill("SIGKILL");
  await until(() => lines.some(({ text }) => text.includes("ENOENT")), {
    what: "a failed restart",
  });
  make();
  await restarted(supervisor, "gone", before);
});

test("too many restarts: all are ended in reverse order, and the owner is told why", async () => {
  using scratch = new Scratch();
  const failing = {
    id: "bad",
    command: "sh",
    args: ["-c", "echo x >> $0; exit 4", scratch.file("n")],
  };
  const children = [noting(scratch, "a"), noting(scratch, "b"), failing];
  const supervisor = await start({ children, maxRestarts: 2, maxSeconds: 1_000 });
  const error = await assertRejects(() => supervisor.ended);
  assertInstanceOf(error, SupervisorError);
  assertEquals([error.code, error.subject], ["EINTENSITY", "bad"]);
  assertEquals(error.cause, { kind: "exitStatus", code: 4 });
  assertEquals(scratch.lines("n").length, 3, "once, and two restarts");
  assertEquals(scratch.lines("notes").slice(2), ["stop b", "stop a"]);
  await assertRejects(() => supervisor.startChild(failing), ClosedError);
  await supervisor.stop();
});

test("restarts that are old enough do not count", async () => {
  await using supervisor = await start({
    children: [{ id: "a", command: "sleep", args: ["1000"] }],
    maxRestarts: 1,
    maxSeconds: 0.001,
  });
  for (let n = 0; n < 4; n++) {
    const before = pidOf(supervisor, "a");
    await supervisor.child("a")?.port?.kill("SIGKILL");
    await restarted(supervisor, "a", before);
  }
});

test("a nested supervisor that gives up is restarted, until its own supervisor gives up", async () => {
  using scratch = new Scratch();
  const count = ["-c", "echo x >> $0; exit 4", scratch.file("n")];
  const inner = { children: [{ id: "bad", command: "sh", args: count }], maxRestarts: 1 };
  const supervisor = await start({
    children: [noting(scratch, "a"), { id: "inner", supervisor: { maxSeconds: 1_000, ...inner } }],
    maxRestarts: 2,
    maxSeconds: 1_000,
  });
  const error = await assertRejects(() => supervisor.ended);
  assertInstanceOf(error, SupervisorError);
  assertEquals([error.code, error.subject], ["EINTENSITY", "inner"]);
  const { cause } = error;
  assertInstanceOf(cause, SupervisorError);
  assertEquals([cause.code, cause.subject], ["EINTENSITY", "bad"]);
  assertEquals(scratch.lines("n").length, 6, "twice in each of three lives");
  assertEquals(scratch.lines("notes").slice(1), ["stop a"]);
});

test("a start that fails: those before it end in reverse order, nothing is left", async () => {
  using scratch = new Scratch();
  const children = [
    noting(scratch, "a"),
    { id: "inner", supervisor: { children: [noting(scratch, "b")] } },
    { id: "none", command: "no-such-program" },
    noting(scratch, "never"),
  ];
  await leavesNothing(async () => {
    const error = await assertRejects(() => start({ children }));
    assertInstanceOf(error, SupervisorError);
    assertEquals([error.code, error.subject], ["ESTART", "none"]);
    assertInstanceOf(error.cause, SpawnError);
    assertEquals(scratch.lines("notes"), ["start a", "start b", "stop b", "stop a"]);
  });
});

test("shutdown: a grace of its own for each child, or SIGKILL at once", async () => {
  using scratch = new Scratch();
  const probe = (id: string, more: Partial<ProgramSpec>) => ({
    id,
    command: PROBE,
    args: ["obey-sigterm", scratch.file(id)],
    waitFor: { line: /^ready/ },
    ...more,
  });
  const supervisor = await start({
    children: [
      probe("long", { shutdown: 2 ** 31 - 1 }),
      probe("killed", { shutdown: "brutalKill" }),
      probe("stubborn", { args: ["ignore-sigterm"], shutdown: 20 }),
    ],
  });
  const statuses = supervisor.whichChildren().map(({ port }) => port?.status);
  await supervisor.stop();
  const reasons = (await Promise.all(statuses)).map((status) => status?.reason);
  const killed = { kind: "signal", signal: "SIGKILL", number: 9 };
  assertEquals(reasons, [{ kind: "exitStatus", code: 7 }, killed, killed]);
  assertEquals([scratch.lines("long").length, scratch.lines("killed").length], [1, 0]);
});

test("kill does not wait for a grace that is running", async () => {
  using scratch = new Scratch();
  const shutdown = 2 ** 31 - 1;
  const supervisor = await start({
    children: ["a", "b"].map((id) => ({
      id,
      command: PROBE,
      args: ["ignore-sigterm", scratch.file(id)],
      waitFor: { line: /^ready/ },
      shutdown,
    })),
  });
  const ids = idsOf(supervisor);
  const stopping = supervisor.stop();
  await until(() => scratch.lines("b").length > 0, { what: "SIGTERM at b" });
  await within(supervisor.kill(), { what: "the end" });
  await stopping;
  assertEquals([ids.filter(alive), scratch.lines("a")], [[], []]);
});

test("a server is a child: restarted when a callback throws, stopped in its turn", async () => {
  using scratch = new Scratch();
  const notes: string[] = [];
  const module = {
    init: () => ({ state: null }),
    handleCast(): { state: null } {
      throw new Error("the original");
    },
    terminate: (reason: unknown) => void notes.push(`${reason}`),
  };
  const server = () => startLink(module, "cat", [], undefined, { name: "supervised" });
  const children = [noting(scratch, "a"), { id: "server", server }];
  const supervisor = await start({ children, strategy: "rest_for_one" });
  const before = pidOf(supervisor, "server");
  const ids = identities([before]);
  supervisor.child("server")?.server?.cast(1);
  await restarted(supervisor, "server", before);
  assertEquals([notes, ids.filter(alive)], [["Error: the original"], []]);
  await supervisor.stop();
  assertEquals(notes, ["Error: the original", "shutdown"]);
  assertEquals(scratch.lines("notes"), ["start a", "stop a"]);
});

test("dynamic children: start, terminate, restart, delete, count", async () => {
  using scratch = new Scratch();
  await using supervisor = await start({ children: [noting(scratch, "a")] });
  const b = await supervisor.startChild(noting(scratch, "b"));
  assertEquals([b.id, b.kind, b.restart, b.state], ["b", "program", "permanent", "running"]);
  const inner = { id: "inner", supervisor: { children: [noting(scratch, "c")] } };
  assertEquals((await supervisor.startChild(inner)).supervisor?.countChildren().active, 1);
  await supervisor.startChild(noting(scratch, "t", { restart: "temporary" }));
  const counts = { specs: 4, active: 4, supervisors: 1, workers: 3 };
  assertEquals(supervisor.countChildren(), counts);

  await supervisor.terminateChild("b");
  assertEquals(supervisor.child("b")?.state, "stopped");
  await supervisor.terminateChild("t");
  assertEquals(supervisor.child("t"), null, "a temporary one is forgotten");
  assertEquals(supervisor.countChildren(), { ...counts, specs: 3, active: 2, workers: 2 });
  const again = await supervisor.restartChild("b");
  assert(again.port !== undefined && again.port.pid !== b.port?.pid);
  await supervisor.terminateChild("b");
  await supervisor.deleteChild("b");
  await supervisor.startChild(noting(scratch, "b"));
  assertEquals(supervisor.whichChildren().map(({ id }) => id), ["a", "inner", "b"]);

  const codes: [() => Promise<unknown>, string][] = [
    [() => supervisor.startChild(noting(scratch, "a")), "EEXIST"],
    [() => supervisor.startChild({ id: "x", command: "no-such-program" }), "ESTART"],
    [() => supervisor.restartChild("a"), "EBUSY"],
    [() => supervisor.deleteChild("a"), "EBUSY"],
    [() => supervisor.restartChild("x"), "ENOENT"],
    [() => supervisor.deleteChild("x"), "ENOENT"],
    [() => supervisor.terminateChild("x"), "ENOENT"],
  ];
  for (const [call, code] of codes) {
    const error = await assertRejects(call);
    assertInstanceOf(error, SupervisorError, code);
    assertEquals(error.code, code);
  }
  assertEquals(supervisor.child("x"), null, "what did not start is no child");
});

test("a temporary child that its siblings' restart ends is not started again", async () => {
  using scratch = new Scratch();
  const children = [
    noting(scratch, "a"),
    noting(scratch, "t", { restart: "temporary" }),
    noting(scratch, "c"),
  ];
  await using supervisor = await start({ children, strategy: "one_for_all" });
  const before = pidOf(supervisor, "a");
  await supervisor.child("a")?.port?.kill("SIGKILL", { scope: "tree" });
  await restarted(supervisor, "a", before);
  await until(() => scratch.lines("notes").length === 7, { what: "the restart of c" });
  const then = ["stop c", "stop t", "start a", "start c"];
  assertEquals(scratch.lines("notes").slice(3), then);
  assertEquals(supervisor.child("t"), null);
});

test("a backoff is cut short by the supervisor's own end", async () => {
  const lines: LogLine[] = [];
  const supervisor = await start({
    children: [{ id: "a", command: "sh", args: ["-c", "exit 1"] }],
    backoff: { minMs: 2 ** 31 - 1, maxMs: 2 ** 31 - 1 },
    log: (line) => lines.push(line),
  });
  await until(() => lines.length > 0, { what: "its end" });
  assert(/^ended \(exit code 1\), is restarted in \d+ ms$/.test(lines[0]?.text ?? ""));
  await within(supervisor.stop(), { what: "the end" });
});

test("lines go to the log whole, with prefix and level, and bounded", async () => {
  const lines: LogLine[] = [];
  const script = `printf 'one\\ntwo'; echo "three" >&2; sleep 0.1; printf ' and a half\\r\\n\\n';
    head -c 40 /dev/zero | tr '\\0' x; echo; printf 'ä%.0s' 1 2 3 4 5 6 7 8 9; printf '\\nlast'`;
  await using _ = await start({
    children: [{
      id: "talker",
      command: "sh",
      args: ["-c", script],
      restart: "temporary",
      prefix: "T: ",
      levels: { stdout: "debug", stderr: "warn" },
      options: { maxLineBytes: 15 },
    }],
    log: (line) => lines.push(line),
  });
  await until(() => lines.some(({ text }) => text === "last"), {
    what: () => `the last line, not ${JSON.stringify(lines)}`,
  });
  const of = (name: string) => lines.filter(({ stream }) => stream === name);
  assertEquals(of("stdout").map(({ text, truncated }) => [text, truncated]), [
    ["one", false],
    ["two and a half".slice(0, 15), false],
    ["", false],
    ["x".repeat(15), true],
    ["ä".repeat(7), true],
    ["last", false],
  ]);
  const { level, prefix, id, text } = of("stderr")[0] ?? {};
  assertEquals([level, prefix, id, text], ["warn", "T: ", "talker", "three"]);
  assertEquals(of("stdout")[0]?.level, "debug");
});

test("what a program says at its end is logged as well", async () => {
  const lines: string[] = [];
  // The shell alone says it: whatever it started then would be ended as well.
  const farewell = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; echo bye; exit 0";
  const script = `trap '${farewell}' TERM; echo up; while :; do sleep 1000 >&- 2>&- & wait; done`;
  const supervisor = await start({
    children: [{ id: "a", command: "sh", args: ["-c", script], waitFor: { line: /up/ } }],
    log: ({ stream, text }) => stream === "stdout" && lines.push(text),
  });
  await supervisor.stop();
  assertEquals([lines[0], lines.length, lines.at(-1)], ["up", 20_002, "bye"]);
});

test("output: drop reads to nothing, keep leaves it to whoever reads the port", async () => {
  const lines: LogLine[] = [];
  const flood = ["flood", `${1024 * 1024}`, `${1024 * 1024}`];
  const common = { command: PROBE, args: flood, restart: "transient" } as const;
  await using supervisor = await start({
    children: [
      { ...common, id: "dropped", output: "drop" },
      { ...common, id: "kept", output: "keep" },
    ],
    log: (line) => lines.push(line),
  });
  await until(() => supervisor.child("dropped")?.state === "stopped", { what: "its end" });
  const port = supervisor.child("kept")?.port;
  assert(port !== undefined, "nobody reads it: it waits");
  assertEquals((await port.bytes()).length, 1024 * 1024);
  assertEquals(lines.filter(({ stream }) => stream !== "supervisor"), []);
});

for (const way of ["throws", "rejects"]) {
  test(`a log that ${way} ends no child and no program; the console is told once`, async () => {
    const seen: string[] = [];
    const told: unknown[][] = [];
    const { error } = console;
    console.error = (...words) => told.push(words);
    try {
      await using supervisor = await start({
        children: [{ id: "a", command: "sh", args: ["-c", "echo 1; echo 2; exec sleep 1000"] }],
        log: ({ text }) => {
          seen.push(text);
          if (way === "throws") throw new Error(text);
          return Promise.reject(new Error(text)) as unknown as void;
        },
      });
      await until(() => seen.length === 2 && told.length > 0, { what: "both lines" });
      await pause(0);
      assertEquals(supervisor.countChildren().active, 1);
      const [words = [], ...more] = told;
      assertEquals([`${words[0]}`, `${words[1]}`, more.length], [
        "A log failed, first at the line [a] 1:",
        "Error: 1",
        0,
      ]);
    } finally {
      console.error = error;
    }
  });
}

test("its scope's end leaves nothing, also where that throws", async () => {
  using scratch = new Scratch();
  let ids: Identity[] = [];
  const error = new Error("the scope's");
  const scope = async () => {
    await using supervisor = await start({
      children: [
        noting(scratch, "a"),
        { id: "inner", supervisor: { children: [noting(scratch, "b")] } },
      ],
    });
    ids = idsOf(supervisor);
    throw error;
  };
  assert(await assertRejects(scope) === error);
  assertEquals([ids.length, ids.filter(alive)], [2, []]);
});

test("a stop in the middle of a start or a restart ends it, and leaves nothing", async () => {
  using scratch = new Scratch();
  const lines: LogLine[] = [];
  const never = { line: /never/, timeoutMs: 2 ** 31 - 1 };
  const supervisor = await start({
    children: [noting(scratch, "a")],
    log: (line) => lines.push(line),
  });
  const starting = supervisor.startChild(noting(scratch, "b", { waitFor: never }));
  starting.catch(() => {}); // asserted on below
  await until(() => scratch.lines("notes").length === 2, { what: "the start of b" });
  assertEquals(supervisor.child("b")?.state, "starting");
  // What is to be restarted waits for its turn, which then does not come.
  const a = supervisor.child("a")?.port;
  await a?.kill("SIGKILL", { scope: "tree" });
  await a?.status;
  await pause(0);
  await within(supervisor.stop(), { what: "the end" });
  const error = await assertRejects(() => starting);
  assertInstanceOf(error, SupervisorError);
  assertInstanceOf(error.cause, SupervisorError);
  assertEquals(error.cause.code, "ECANCELED");
  assertEquals(scratch.lines("notes").slice(2), ["stop b"]);
  assertEquals(lines.filter(({ stream }) => stream === "supervisor"), []);
});

test("a child that is not ready in time is ended, and its siblings live", async () => {
  using scratch = new Scratch();
  await using supervisor = await start({ children: [noting(scratch, "a")] });
  const late = { file: "/no/such/file", timeoutMs: 100 };
  const starting = supervisor.startChild(noting(scratch, "b", { waitFor: late }));
  await assertRejects(() => starting, SupervisorError, "not ready in time");
  assertEquals(scratch.lines("notes"), ["start a", "start b", "stop b"]);
});

test("bad input: typed errors, and nothing is started", async () => {
  const fine: ChildSpec = { id: "a", command: "true" };
  const bad: [unknown, ErrorConstructor][] = [
    [null, TypeError],
    [{ no: 1 }, TypeError],
    [{ strategy: "one_for_two" }, TypeError],
    [{ maxRestarts: -1 }, RangeError],
    [{ maxRestarts: 1.5 }, RangeError],
    [{ maxSeconds: 0 }, RangeError],
    [{ maxSeconds: -1 }, RangeError],
    [{ log: 1 }, TypeError],
    [{ children: {} }, TypeError],
    [{ children: [fine, { ...fine }] }, TypeError],
    [{ backoff: { minMs: -1 } }, RangeError],
    [{ backoff: { minMs: 1, factor: 0.5 } }, RangeError],
    [{ backoff: { minMs: 1, jitter: 2 } }, RangeError],
    [{ backoff: { min: 1 } }, TypeError],
    [{ backoff: null }, TypeError],
    [{ backoff: { minMs: 0 } }, RangeError],
    [{ backoff: { minMs: 10, maxMs: 5 } }, RangeError],
    [{ backoff: { minMs: 1, jitter: "0.5" } }, TypeError],
    [{ backoff: { minMs: 1, factor: "2" } }, TypeError],
    [{ backoff: { minMs: 1, factor: NaN } }, RangeError],
    [{ maxSeconds: "5" }, TypeError],
    [{ maxSeconds: NaN }, RangeError],
    [{ maxRestarts: "3" }, TypeError],
    [{ strategy: 1 }, TypeError],
  ];
  const badChildren: [unknown, ErrorConstructor][] = [
    [null, TypeError],
    [{ command: "true" }, TypeError],
    [{ id: "", command: "true" }, TypeError],
    [{ id: "b" }, TypeError],
    [{ ...fine, server: silent }, TypeError],
    [{ ...fine, id: "b", restart: "always" }, TypeError],
    [{ ...fine, id: "b", shutdown: -1 }, RangeError],
    [{ ...fine, id: "b", shutdown: "softKill" }, TypeError],
    [{ ...fine, id: "b", output: "none" }, TypeError],
    [{ ...fine, id: "b", levels: { stdout: "loud" } }, TypeError],
    [{ ...fine, id: "b", levels: { stdot: "info" } }, TypeError],
    [{ ...fine, id: "b", levels: "info" }, TypeError],
    [{ ...fine, id: "b", levels: null }, TypeError],
    [{ ...fine, id: "b", options: null }, TypeError],
    [{ ...fine, id: "b", args: null }, TypeError],
    [{ ...fine, id: "b", shutdown: null }, TypeError],
    [{ ...fine, id: "b", waitFor: { line: /x/, host: "localhost" } }, TypeError],
    [{ ...fine, id: "b", waitFor: { port: 80, host: 127 } }, TypeError],
    [{ id: "b", supervisor: null }, TypeError],
    [{ ...fine, id: "b", prefix: 1 }, TypeError],
    [{ ...fine, id: "b", options: { owner: {} } }, TypeError],
    [{ ...fine, id: "b", options: { timeoutMs: -1 } }, RangeError],
    [{ ...fine, id: "b", sutdown: 1 }, TypeError],
    [{ id: "b", server: {} }, TypeError],
    [{ id: "b", server: silent, waitFor: { line: /x/ } }, TypeError],
    [{ id: "b", supervisor: { strategy: "none" } }, TypeError],
    [{ id: "b", supervisor: {}, waitFor: silent }, TypeError],
    [{ ...fine, id: "b", waitFor: {} }, TypeError],
    [{ ...fine, id: "b", waitFor: { line: "x" } }, TypeError],
    [{ ...fine, id: "b", waitFor: { line: /x/, file: "x" } }, TypeError],
    [{ ...fine, id: "b", waitFor: { port: 0 } }, TypeError],
    [{ ...fine, id: "b", waitFor: { file: "x", timeoutMs: -1 } }, RangeError],
    [{ ...fine, id: "b", waitFor: { line: /x/ }, output: "keep" }, TypeError],
  ];
  await leavesNothing(async () => {
    const touch = { id: "touch", command: "touch", args: ["/no/such/folder"] };
    await using supervisor = await start({});
    for (const [child, kind] of badChildren) {
      const children = [touch, child] as ChildSpec[];
      await assertRejects(() => start({ children }), kind, undefined, JSON.stringify(child));
      await assertRejects(() => supervisor.startChild(child as ChildSpec), kind);
    }
    for (const [options, kind] of bad) {
      const starting = () => Supervisor.start(options as SupervisorOptions);
      await assertRejects(starting, kind, undefined, JSON.stringify(options));
    }
    assertThrows(() => new Supervisor(Symbol() as never, {}), TypeError);
    assertEquals(supervisor.countChildren().specs, 0);
  });
});

test("a child that dies while its supervisor ends is not restarted", async () => {
  using scratch = new Scratch();
  const children = [noting(scratch, "a"), noting(scratch, "b")];
  const supervisor = await start({ children });
  const ids = idsOf(supervisor);
  // All at once, as when every process of a service is signalled.
  for (const { pid } of ids) Deno.kill(pid, "SIGTERM");
  await supervisor.stop();
  await gone(ids);
  const notes = scratch.lines("notes");
  assertEquals(notes.filter((line) => line.startsWith("start")).length, 2, `${notes}`);
});
