// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** The edges of a supervisor's life: nothing that hangs, fails or waits holds up the rest. */

import { assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import {
  type ChildSpec,
  type LogLine,
  Port,
  type ProgramSpec,
  ServerError,
  startLink,
  type Strategy,
  Supervisor,
  SupervisorError,
  type SupervisorOptions,
  SurvivorsError,
} from "../mod.ts";
import {
  alive,
  assert,
  gone,
  identities,
  type Identity,
  identity,
  PROBE,
  Scratch,
  test,
  until,
  within,
} from "./helpers.ts";
import { Host } from "./host_process.ts";
import { sabotagedHost, STEPS } from "./sabotaged.ts";
import { Waits } from "../src/waits.ts";

const LONG = 2 ** 31 - 1;
const forever = new Promise<never>(() => {});
const silent = () => {};

function start(options: SupervisorOptions): Promise<Supervisor> {
  return Supervisor.start({ log: silent, ...options });
}

/** A program that does nothing. */
function idle(id: string, more: Partial<ProgramSpec> = {}): ProgramSpec {
  return { id, command: "sleep", args: ["1000"], ...more };
}

/** One that lets no grace end it, ready when it does. */
function stubborn(scratch: Scratch, id: string, more: Partial<ProgramSpec> = {}): ProgramSpec {
  const args = ["ignore-sigterm", scratch.file(id)];
  return { id, command: PROBE, args, waitFor: { line: /^ready/ }, shutdown: LONG, ...more };
}

function pidOf(supervisor: Supervisor, id: string): number {
  const child = supervisor.child(id);
  const pid = child?.port?.pid ?? child?.server?.port.pid;
  assert(pid !== undefined, `${id} is ${child?.state}`);
  return pid;
}

async function crash(supervisor: Supervisor, id: string): Promise<void> {
  await supervisor.child(id)?.port?.kill("SIGKILL");
  await until(() => supervisor.child(id)?.state !== "running", { what: `the end of ${id}` });
}

// ---- what hangs

const HANGS: [what: string, spec: () => Partial<ChildSpec>][] = [
  ["factory", () => ({ server: () => forever })],
  ["init", () => ({ server: () => startLink({ init: () => forever }, "cat") })],
  ["check", () => ({ command: "cat", waitFor: () => forever })],
];

for (const [what, spec] of HANGS) {
  test(`kill ends at once behind a ${what} that hangs, and stop within its shutdown`, async () => {
    for (const end of ["kill", "stop"]) {
      const supervisor = await start({ children: [idle("a")] });
      const ids = identities([pidOf(supervisor, "a")]);
      const shutdown = end === "stop" ? 50 : LONG;
      const hanging = { id: "hangs", shutdown, ...spec() } as ChildSpec;
      const starting = supervisor.startChild(hanging).catch((error) => error);
      await until(() => supervisor.child("hangs")?.state === "starting", { what: "its start" });
      await within(end === "kill" ? supervisor.kill() : supervisor.stop(), { what: "the end" });
      const error = await starting;
      assertInstanceOf(error, SupervisorError);
      assertEquals([error.code, (error.cause as SupervisorError).code], ["ESTART", "ECANCELED"]);
      assertEquals(ids.filter(alive), []);
    }
  });
}

test("kill, and stop within its shutdown, do not wait for the user database", async () => {
  for (const end of ["kill", "stop"]) {
    await using host = sabotagedHost(`
      Deno.env.set("${STEPS}", "slow-lookup");
      const supervisor = await proton.Supervisor.start({ log: () => {} });
      const child = { id: "a", command: "true", options: { cwd: "/", uid: "nobody" }, shutdown: 50 };
      const starting = supervisor.startChild(child).catch((error) => error);
      while (supervisor.child("a") === null) await new Promise((resolve) => setTimeout(resolve));
      await supervisor.${end}();
      say("ended", (await starting).cause?.code);
    `);
    assertEquals(await host.next("ended"), ["ECANCELED"]);
    assertEquals((await host.end()).code, 0);
  }
});

test("a start that was given up: its init is told by the signal, what comes later is killed", async () => {
  using scratch = new Scratch();
  const made = Promise.withResolvers<{ state: string }>();
  const terminated = Promise.withResolvers<unknown>();
  const module = {
    init: () => made.promise,
    terminate: (_: unknown, state: unknown) => terminated.resolve(state),
  };
  const touch = ["touch", [scratch.file("started")]] as const;
  const late = Promise.withResolvers<void>();
  const born = Promise.withResolvers<Identity>();
  const servers = [
    (signal: AbortSignal) => startLink(module, ...touch, undefined, { signal }),
    async () => {
      await late.promise;
      const server = await startLink({ init: () => ({ state: 0 }) }, "cat");
      born.resolve(identity(server.port.pid));
      return server;
    },
  ];
  for (const server of servers) {
    const supervisor = await start({});
    const starting = supervisor.startChild({ id: "late", server }).catch(() => {});
    await until(() => supervisor.child("late") !== null, { what: "its start" });
    await within(supervisor.kill(), { what: "the end" });
    await starting;
  }
  made.resolve({ state: "made" });
  assertEquals(await within(terminated.promise, { what: "terminate" }), "made");
  assertEquals([...Deno.readDirSync(scratch.path)], []);
  late.resolve();
  await gone([await within(born.promise, { what: "the late one" })]);
});

test("a server that comes while its supervisor stops is stopped in its turn", async () => {
  const gate = Promise.withResolvers<void>();
  const reasons: unknown[] = [];
  const module = {
    init: () => ({ state: 0 }),
    terminate: (reason: unknown) => void reasons.push(reason),
  };
  const server = async () => {
    await gate.promise;
    return await startLink(module, "cat");
  };
  const supervisor = await start({});
  const starting = supervisor.startChild({ id: "slow", server });
  await until(() => supervisor.child("slow") !== null, { what: "its start" });
  const stopping = supervisor.stop();
  gate.resolve();
  await within(stopping, { what: "the end" });
  await starting;
  assertEquals(reasons, ["shutdown"]);
});

test("kill does not wait for the grace of one that is being started, nested or not", async () => {
  using scratch = new Scratch();
  const never = { waitFor: { file: scratch.file("never"), timeoutMs: LONG } };
  const nested = { children: [stubborn(scratch, "a"), stubborn(scratch, "b", never)] };
  const specs: [ChildSpec, string][] = [
    [stubborn(scratch, "c", never), "c"],
    [{ id: "nested", supervisor: nested }, "b"],
  ];
  for (const [spec, last] of specs) {
    // Once at once, and once when the grace runs.
    for (const stopped of [false, true]) {
      const pids = new Map<string, number>();
      const log = ({ id, text }: LogLine) => {
        if (text.startsWith("ready ")) pids.set(id, Number(text.split(" ")[1]));
      };
      const supervisor = await start({ log });
      const starting = supervisor.startChild(spec).catch((error) => error);
      const pid = await until(() => pids.get(last), { what: "its start" });
      const ids = identities([pid]);
      if (stopped) {
        supervisor.stop().catch(silent);
        await until(() => scratch.lines(last).length > 0, { what: "SIGTERM" });
      }
      await within(supervisor.kill(), { what: "the end" });
      assertInstanceOf(await starting, SupervisorError);
      assertEquals(ids.filter(alive), []);
    }
  }
});

test("run: a second signal ends what is still being started, at once", async () => {
  using scratch = new Scratch();
  await using host = Host.start(`
    await proton.Supervisor.run({
      log: ({ text }) => say(text),
      children: [{
        id: "a", command: PROBE, args: ["ignore-sigterm", ${JSON.stringify(scratch.file("a"))}],
        shutdown: ${LONG}, waitFor: { line: /^never/ },
      }],
    });
  `);
  const ids = identities((await host.numbers("ready")).slice(0, 1));
  Deno.kill(host.pid, "SIGTERM");
  await until(() => scratch.lines("a").length > 0, { what: "SIGTERM at the child" });
  Deno.kill(host.pid, "SIGTERM");
  const { signal } = await host.end();
  assertEquals([signal, ids.filter(alive)], ["SIGTERM", []]);
});

// ---- what waits for its restart

const BACKOFF = { minMs: LONG, maxMs: LONG, jitter: 0 };

test("a restart that waits holds up nothing: other ends, starts, terminations, the end", async () => {
  const lines: string[] = [];
  const supervisor = await start({
    children: [idle("a"), idle("b"), idle("c", { restart: "temporary" })],
    backoff: BACKOFF,
    log: ({ prefix, text }) => lines.push(prefix + text),
  });
  await crash(supervisor, "a");
  assertEquals(supervisor.child("a")?.state, "restarting");
  await within(crash(supervisor, "b"), { what: "the end of b" });
  await within(crash(supervisor, "c"), { what: "the end of c" });
  assertEquals(supervisor.child("c"), null);
  const ends = ["[a] ended (SIGKILL), is restarted", "[b] ended (SIGKILL), is restarted"];
  assertEquals(lines.slice(0, 2), ends.map((end) => `${end} in ${LONG} ms`));
  for (const call of ["restartChild", "deleteChild"] as const) {
    const error = await assertRejects(() => supervisor[call]("a"), SupervisorError);
    assertEquals(error.code, "EBUSY");
  }
  const { state } = await within(supervisor.startChild(idle("d")), { what: "the start of d" });
  await within(supervisor.terminateChild("a"), { what: "the end of the wait" });
  assertEquals([state, supervisor.child("a")?.state], ["running", "stopped"]);
  await within(supervisor.restartChild("a"), { what: "the restart of a" });
  const counts = { specs: 3, active: 2, supervisors: 0, workers: 3 };
  assertEquals(supervisor.countChildren(), counts);
  const ids = identities(["a", "d"].map((id) => pidOf(supervisor, id)));
  await within(supervisor.stop(), { what: "the end" });
  assertEquals(ids.filter(alive), []);
});

test("one whose wait was ended is not restarted, the others in their time", async () => {
  const supervisor = await start({
    children: [idle("a"), idle("b")],
    backoff: { minMs: 100, maxMs: 100, jitter: 0 },
  });
  await using _ = supervisor;
  const before = pidOf(supervisor, "b");
  await crash(supervisor, "a");
  await supervisor.terminateChild("a");
  await crash(supervisor, "b");
  await until(() => supervisor.child("b")?.state === "running", { what: "the restart of b" });
  assertEquals([supervisor.child("a")?.state, pidOf(supervisor, "b") === before], [
    "stopped",
    false,
  ]);
});

/** Notes its start in the file $0, as $1, and is ready then. */
function noting(scratch: Scratch, id: string): ProgramSpec {
  const args = ["-c", 'echo "$1" >> "$0"; echo ready; exec sleep 1000', scratch.file("notes"), id];
  return { id, command: "sh", args, waitFor: { line: /^ready$/ } };
}

/** Who ends, one while the other waits, and who is then started, in which order. */
const GROUPS: [Strategy, ends: [string, string], then: string[]][] = [
  ["one_for_all", ["a", "c"], ["a", "b", "c"]],
  ["rest_for_one", ["c", "a"], ["a", "b", "c"]],
  ["rest_for_one", ["b", "c"], ["b", "c"]],
];

for (const [strategy, ends, then] of GROUPS) {
  test(`${strategy}: ${ends.join(" and ")} wait: all are started once, in order`, async () => {
    using scratch = new Scratch();
    const children = ["a", "b", "c"].map((id) => noting(scratch, id));
    const backoff = { minMs: 1_000, factor: 1, jitter: 0 };
    await using supervisor = await start({ strategy, children, backoff });
    const dead = ends.map((id) => supervisor.child(id)?.port as Port);
    for (const port of dead) Deno.kill(port.pid, "SIGKILL");
    await Promise.all(dead.map((port) => port.status));
    const started = () => scratch.lines("notes").slice(3);
    await until(() => started().length >= then.length, { what: () => `all, not ${started()}` });
    await until(() => supervisor.countChildren().active === 3, { what: "all" });
    assertEquals(started(), then);
    // Not "it is to be restarted": nobody waits any more.
    for (const id of ends) await assertRejects(() => supervisor.restartChild(id), Error, "it runs");
  });
}

test("who waits is restarted in its time, but not before who will bring it along", async () => {
  const order = ["a", "b", "c"];
  let came = Promise.withResolvers<string>();
  const waits = new Waits<string>(
    (one, other) => order.indexOf(one) < order.indexOf(other),
    (one) => came.resolve(one),
  );
  const next = async () => {
    const one = await within(came.promise, { what: "the next" });
    came = Promise.withResolvers();
    return one;
  };
  waits.begin("b", LONG);
  waits.begin("c", 1);
  assertEquals([await next(), waits.ready("c"), waits.has("c")], ["c", false, true]);
  waits.cancel("b");
  assertEquals([await next(), waits.ready("c"), waits.has("b")], ["c", true, false]);
  waits.begin("a", 1);
  assertEquals([await next(), waits.ready("a"), waits.ready("c")], ["a", true, true]);
  waits.begin("a", LONG);
  waits.begin("a", 1);
  assertEquals([await next(), waits.ready("b")], ["a", false]);
  waits.along("b");
  assertEquals(waits.ready("b"), true);
  waits.clear();
  assertEquals(order.map((one) => waits.has(one)), [false, false, false]);
});

test("rest_for_one: who was not started behind one that fails is started when that is given up", async () => {
  using scratch = new Scratch();
  const program = scratch.file("program");
  Deno.writeTextFileSync(program, "#!/bin/sh\nexec sleep 1000\n", { mode: 0o755 });
  const lines: LogLine[] = [];
  await using supervisor = await start({
    strategy: "rest_for_one",
    children: [idle("a"), { id: "b", command: program }, idle("c")],
    backoff: { minMs: 1, factor: 1_000_000, maxMs: LONG, jitter: 0 },
    log: (line) => lines.push(line),
  });
  Deno.removeSync(program);
  await crash(supervisor, "a");
  await until(() => lines.some(({ text }) => text.includes("ENOENT")), { what: "b's failure" });
  const states = () => supervisor.whichChildren().map(({ id, state }) => `${id} ${state}`);
  assertEquals(states(), ["a running", "b restarting", "c restarting"]);
  await within(supervisor.terminateChild("b"), { what: "the end of its wait" });
  await until(() => supervisor.child("c")?.state === "running", { what: "c" });
  assertEquals(states(), ["a running", "b stopped", "c running"]);
});

test("one_for_all: a child that was terminated is started with its siblings, unless deleted", async () => {
  await using supervisor = await start({
    strategy: "one_for_all",
    children: [idle("a"), idle("b"), idle("c")],
  });
  await supervisor.terminateChild("a");
  await supervisor.terminateChild("b");
  await supervisor.deleteChild("b");
  await supervisor.child("c")?.port?.kill("SIGKILL");
  await until(() => supervisor.countChildren().active === 2, { what: "the restart" });
  assertEquals(supervisor.whichChildren().map(({ id }) => id), ["a", "c"]);
});

// ---- what fails

test("a sibling whose terminate throws at a restart costs no restart, and the log is told", async () => {
  const lines: string[] = [];
  const module = {
    init: () => ({ state: 0 }),
    terminate() {
      throw new Error("the original");
    },
  };
  const supervisor = await start({
    strategy: "one_for_all",
    maxRestarts: 1,
    maxSeconds: 1_000,
    children: [idle("a"), { id: "s", server: () => startLink(module, "cat") }],
    log: ({ prefix, level, text }) => lines.push(`${prefix}${level}: ${text}`),
  });
  const before = pidOf(supervisor, "s");
  await supervisor.child("a")?.port?.kill("SIGKILL");
  await until(() => {
    const pid = supervisor.child("s")?.server?.port.pid;
    return pid !== undefined && pid !== before && supervisor.countChildren().active === 2;
  }, { what: () => `the restart: ${lines}` });
  const failed = lines.filter((line) => line.startsWith("[s]"));
  assertEquals(failed.length, 1);
  assert(/^\[s\] error: .*failed.*the original/.test(failed[0] ?? ""), failed[0]);
  const error = await assertRejects(() => supervisor.stop(), SupervisorError);
  assertEquals([error.code, error.subject], ["ESHUTDOWN", "s"]);
  assertInstanceOf(error.cause, ServerError);
});

test("a sibling of which somebody is still there keeps the restart from being done", async () => {
  const survivors = [{ pid: 1, comm: "stuck", reason: "D" }];
  const what = "Cannot end the tree";
  const fault = { what, why: "still there", code: "ESURVIVORS", mend: "wait", op: "close" };
  const module = {
    init: () => ({ state: 0 }),
    terminate() {
      throw new SurvivorsError({ ...fault, subject: "stuck", survivors } as never);
    },
  };
  const supervisor = await start({
    strategy: "one_for_all",
    maxRestarts: 1,
    maxSeconds: 1_000,
    children: [idle("a"), { id: "s", server: () => startLink(module, "cat") }, idle("b")],
  });
  const ids = identities(["a", "s", "b"].map((id) => pidOf(supervisor, id)));
  await supervisor.child("a")?.port?.kill("SIGKILL");
  const error = await assertRejects(() => supervisor.ended, SupervisorError);
  assertEquals([error.code, error.subject], ["EINTENSITY", "s"]);
  assertInstanceOf(error.cause, SupervisorError);
  assertEquals([error.cause.code, error.cause.subject], ["ESHUTDOWN", "s"]);
  await gone(ids);
});

test("a factory that gives no server, and one that throws: told in words", async () => {
  for (
    const [server, says] of [
      [() => Promise.resolve(undefined), "gave no Server"],
      [() => Promise.resolve({ ended: forever, stop: silent }), "gave no Server"],
      [() => {
        throw new Error("the original");
      }, "the original"],
    ] as const
  ) {
    const starting = start({ children: [{ id: "s", server: server as never }] });
    const error = await assertRejects(() => starting, SupervisorError, says);
    assertEquals([error.code, error.subject], ["ESTART", "s"]);
  }
});

// ---- what is handed on

test("a child whose port was given away has ended normally: by its restart, and for good", async () => {
  const lines: string[] = [];
  await using supervisor = await start({
    children: (["permanent", "transient", "temporary"] as const).map((restart) =>
      idle(restart, { restart, output: "keep" })
    ),
    log: ({ prefix, text }) => lines.push(prefix + text),
  });
  const ports = supervisor.whichChildren().map(({ port }) => port as Port);
  const ids = identities(ports.map(({ pid }) => pid));
  const tickets = ports.map((port) => port.transfer());
  await until(() => lines.length === 3 && supervisor.countChildren().active === 1, {
    what: () => `the news, not ${lines}`,
  });
  assertEquals(lines, [
    "[permanent] ended (given to another owner), is restarted",
    "[transient] ended (given to another owner)",
    "[temporary] ended (given to another owner)",
  ]);
  assert(pidOf(supervisor, "permanent") !== ids[0]?.pid, "another program");
  await supervisor.stop();
  assertEquals(ids.filter(alive).length, 3, "they are another's now");
  for (const ticket of tickets) await Port.adopt(ticket).close();
});

test("a child on its way to who does not take it is where it was, and ends with its supervisor", async () => {
  for (const stopped of [false, true]) {
    const { port1, port2 } = new MessageChannel();
    const asked = Promise.withResolvers<() => void>();
    port1.onmessage = ({ data }) =>
      asked.resolve(() => port1.postMessage({ answer: data.offer, refused: "not wanted" }));
    const lines: string[] = [];
    const log = ({ text }: LogLine) => lines.push(text);
    const supervisor = await start({ children: [idle("a", { output: "keep" })], log });
    const port = supervisor.child("a")?.port as Port;
    const ids = identities([port.pid]);
    const connecting = assertRejects(() => port.connect(port2), Error, "not wanted");
    const refuse = await asked.promise;
    if (stopped) await within(supervisor.stop(), { what: "the end" });
    refuse();
    await connecting;
    if (!stopped) {
      assertEquals([supervisor.child("a")?.state, lines], ["running", []]);
      await port.kill("SIGKILL");
      await until(() => lines.length > 0, { what: "its end is seen" });
      await supervisor.stop();
    }
    await gone(ids);
    port1.close();
  }
});

// ---- the rest

test("closeScope is kept for children that are logged", async () => {
  for (const closeScope of ["child", "tree"] as const) {
    // Where all are told, the child waits for the other; else the other has its grace for nothing.
    const script = `trap 'echo child; ${closeScope === "tree" ? "wait $other;" : ""} exit 0' TERM
      sh -c 'trap "echo grandchild; exit 0" TERM; echo up; while :; do sleep 1000 >&- 2>&- & wait; done' &
      other=$!; while :; do sleep 1000 >&- 2>&- & wait; done`;
    const lines: string[] = [];
    const supervisor = await start({
      children: [{
        id: "a",
        command: "sh",
        args: ["-c", script],
        options: { closeScope, flushMs: 0 },
        shutdown: closeScope === "tree" ? LONG : 1_500,
        waitFor: { line: /up/ },
      }],
      log: ({ text }) => lines.push(text),
    });
    await within(supervisor.stop(), { what: "the end" });
    const heard = closeScope === "tree" ? ["child", "grandchild"] : ["child"];
    assertEquals(lines.slice(1).sort(), heard);
  }
});

test("a nested supervisor whose log is undefined inherits", async () => {
  const lines: string[] = [];
  const child: ChildSpec = { id: "x", command: "echo", args: ["hello"], restart: "temporary" };
  const log = ({ text }: LogLine) => lines.push(text);
  const nested = { log: undefined, children: [child] } as unknown as SupervisorOptions;
  await using _ = await start({ log, children: [{ id: "nested", supervisor: nested }] });
  await until(() => lines.includes("hello"), { what: "its line" });
});

// ---- restarts that do not come to an end

test("rest_for_one: one that outlives its end holds up no restart of those before it", async () => {
  const survivors = [{ pid: 1, comm: "stuck", reason: "D" }];
  const fault = { what: "Cannot end", why: "still there", code: "ESURVIVORS", mend: "wait" };
  let ends = 0;
  const module = {
    init: () => ({ state: 0 }),
    terminate() {
      if (ends++ > 0) return;
      throw new SurvivorsError({ ...fault, op: "close", subject: "stuck", survivors } as never);
    },
  };
  await using supervisor = await start({
    strategy: "rest_for_one",
    children: [idle("a"), idle("b"), { id: "s", server: () => startLink(module, "cat") }],
  });
  const before = ["a", "b", "s"].map((id) => pidOf(supervisor, id));
  await supervisor.child("a")?.port?.kill("SIGKILL");
  await until(() => {
    const { active } = supervisor.countChildren();
    return active === 3 && ["a", "b", "s"].every((id, at) => pidOf(supervisor, id) !== before[at]);
  }, { what: "all three again" });
});

test("one_for_all: a terminated child that cannot be started again can be deleted", async () => {
  let broken = false;
  await using supervisor = await start({
    strategy: "one_for_all",
    maxRestarts: 1_000,
    backoff: { minMs: 1, maxMs: LONG, factor: 2 ** 31, jitter: 0 },
    children: [
      idle("bad", {
        waitFor: () => {
          if (broken) throw new Error("broken");
          return true;
        },
      }),
      idle("good"),
    ],
  });
  broken = true;
  await supervisor.terminateChild("bad");
  await supervisor.child("good")?.port?.kill("SIGKILL"); // whose restart brings the other along
  await until(() => supervisor.child("bad")?.state === "restarting", { what: "its wait" });
  await supervisor.deleteChild("bad");
  assertEquals(supervisor.whichChildren().map(({ id }) => id), ["good"]);
  await until(() => supervisor.child("good")?.state === "running", { what: "the other's restart" });
});

test("a start that hangs at a restart is given up by terminateChild, and the others are served", async () => {
  let starts = 0;
  const module = { init: () => starts++ === 0 ? { state: 0 } : forever };
  await using supervisor = await start({
    children: [
      idle("a"),
      {
        id: "hangs",
        shutdown: 10,
        server: (signal) => startLink(module, "cat", [], undefined, { signal }),
      },
    ],
  });
  const before = pidOf(supervisor, "a");
  await supervisor.child("hangs")?.server?.kill();
  await until(() => supervisor.child("hangs")?.state === "starting", { what: "its restart" });
  await supervisor.child("a")?.port?.kill("SIGKILL");
  await supervisor.terminateChild("hangs");
  assertEquals(supervisor.child("hangs")?.state, "stopped");
  await until(
    () => supervisor.child("a")?.state === "running" && pidOf(supervisor, "a") !== before,
    {
      what: "the other's restart",
    },
  );
});

test("a start that hangs in startChild is called off by terminateChild, and is no child", async () => {
  await using supervisor = await start({});
  const starting = supervisor.startChild({ id: "hangs", shutdown: 10, server: () => forever });
  const refusal = assertRejects(() => starting, SupervisorError, "not wanted");
  await until(() => supervisor.child("hangs")?.state === "starting", { what: "its start" });
  await supervisor.terminateChild("hangs");
  await refusal;
  assertEquals(supervisor.whichChildren(), []);
});

test("a nested supervisor that starts has no longer than its shutdown", async () => {
  using scratch = new Scratch();
  for (const shutdown of [10, "brutalKill"] as const) {
    const lines: string[] = [];
    const supervisor = await start({ log: ({ text }) => lines.push(text) });
    const nested = { children: [stubborn(scratch, "n"), { id: "hangs", server: () => forever }] };
    const starting = supervisor.startChild({ id: "n", shutdown, supervisor: nested });
    const refusal = assertRejects(() => starting, SupervisorError);
    await until(() => lines.some((line) => line.startsWith("ready")), { what: "its first child" });
    await supervisor.stop(); // that child has all the time there is
    await refusal;
  }
});

test("a back-off is each child's own, grows to maxMs, and begins anew for one that has recovered", async () => {
  const waits: string[] = [];
  const log = ({ id, text }: LogLine) => {
    const [, ms] = /in (\d+) ms/.exec(text) ?? [];
    if (ms !== undefined) waits.push(`${id} ${ms}`);
  };
  const options = { maxRestarts: 1_000, backoff: { minMs: 2, maxMs: 16, jitter: 0 }, log };
  const crashing = { id: "c", command: "false" };
  {
    // Most of these restarts are older than maxSeconds at the end.
    await using supervisor = await start({
      ...options,
      maxSeconds: 0.01,
      children: [{ ...crashing, waitFor: () => true }, idle("other")],
    });
    await until(() => waits.length >= 6, { what: "six restarts" });
    await supervisor.child("other")?.port?.kill("SIGKILL");
    await until(() => waits.some((wait) => wait.startsWith("other")), { what: "the other's" });
    const [first, ...others] = waits.filter((wait) => wait.startsWith("c"));
    assertEquals([first, others.includes("c 16")], ["c 2", true]);
  }
  waits.length = 0;
  await using supervisor = await start({ ...options, maxSeconds: 0.05, children: [idle("c")] });
  for (const [pause, wait] of [[0, 2], [0, 4], [200, 2]] as const) {
    await until(() => supervisor.child("c")?.state === "running", { what: "its restart" });
    await new Promise((resolve) => setTimeout(resolve, pause)); // it recovers
    await supervisor.child("c")?.port?.kill("SIGKILL");
    await until(() => waits.at(-1) === `c ${wait}`, { what: `a wait of ${wait} ms` });
  }
});

test("a server that ends while its factory dawdles is told by its supervisor, and takes nobody along", async () => {
  const module = { init: () => ({ state: 0 }) };
  let starts = 0;
  await using supervisor = await start({
    children: [{
      id: "s",
      server: async (signal) => {
        const args = ["-c", starts++ === 0 ? "exit 3" : "read x"];
        const server = await startLink(module, "sh", args, undefined, { signal });
        if (starts === 1) await server.ended.catch(() => {});
        return server;
      },
    }],
  });
  await until(() => starts === 2 && supervisor.child("s")?.state === "running", {
    what: "a restart",
  });
});

test("a factory that fails behind its startLink leaves nothing", async () => {
  const ids: Identity[] = [];
  const refusal = await assertRejects(
    () =>
      start({
        children: [{
          id: "s",
          server: async (signal) => {
            const module = { init: () => ({ state: 0 }) };
            const server = await startLink(module, "cat", [], undefined, { signal });
            ids.push(identity(server.port.pid));
            throw new Error("behind it");
          },
        }],
      }),
    SupervisorError,
    "behind it",
  );
  assertEquals([refusal.code, ids.length], ["ESTART", 1]);
  await gone(ids);
});

test("a start that fails, and an end behind it that does as well: both are told", async () => {
  const module = {
    init: () => ({ state: 0 }),
    terminate() {
      throw new Error("the second");
    },
  };
  const children = [
    { id: "a", server: () => startLink(module, "cat") },
    { id: "b", command: "no such program" },
  ];
  const error = await assertRejects(() => start({ children }), SupervisorError, "the second");
  assertEquals([error.code, error.subject], ["ESTART", "b"]);
  assertInstanceOf(error.cause, AggregateError);
});
