// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Callback mode: one callback at a time, in order, and no end that leaves a tree or goes unheard. */

import { assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import {
  ClosedError,
  type ExitReason,
  type From,
  type Self,
  type Server,
  type ServerEnd,
  ServerError,
  SpawnError,
  startLink,
  whereis,
} from "../mod.ts";
import { existsSync } from "node:fs";
import { Host } from "./host_process.ts";
import {
  alive,
  assert,
  gone,
  identities,
  leavesNothing,
  pause,
  PROBE,
  Scratch,
  stat,
  test,
  textOf,
  until,
  within,
} from "./helpers.ts";

const MIB = 1024 * 1024;

/** A module whose every callback notes that it ran. */
function noting(notes: string[]) {
  const note = (text: string) => {
    notes.push(text);
    return { state: notes.length };
  };
  return {
    init: (arg: string) => note(`init ${arg}`),
    handleStdout: (data: Uint8Array) => note(`stdout ${textOf(data).trim()}`),
    handleStderr: (data: Uint8Array) => note(`stderr ${textOf(data).trim()}`),
    handleExit: (reason: ExitReason) => note(`exit ${reason.kind}`),
    handleCall: (request: string) => ({ ...note(`call ${request}`), reply: `re: ${request}` }),
    handleCast: (request: string) => note(`cast ${request}`),
    handleInfo: (message: unknown) => note(`info ${JSON.stringify(message)}`),
    terminate: (reason: unknown) => void notes.push(`terminate ${reason}`),
  };
}

test("a whole life: each callback once, in the order of what happened", async () => {
  const notes: string[] = [];
  const script = "echo out; read line; echo $line >&2; exit 3";
  const server = await startLink(noting(notes), "sh", ["-c", script], "arg");
  await until(() => notes.includes("stdout out"), { what: "stdout" });
  server.cast("one");
  server.send({ two: 2 });
  assertEquals(await server.call("three"), "re: three");
  await server.port.command("err\n");
  await until(() => notes.at(-1) === "exit exitStatus", { what: "the exit" });
  await server.stop("shutdown");
  const end = await server.ended;
  assertEquals([end.reason, end.error, end.status?.code], ["shutdown", null, 3]);
  assertEquals(notes, [
    "init arg",
    "stdout out",
    "cast one",
    'info {"two":2}',
    "call three",
    "stderr err",
    "exit exitStatus",
    "terminate shutdown",
  ]);
});

test("slow and quick callbacks alike run one at a time, in order", async () => {
  let inside = 0;
  const order: number[] = [];
  const module = {
    init: () => ({ state: null }),
    async handleCast(n: number) {
      assertEquals(++inside, 1);
      if (n % 3 === 0) await pause(0);
      if (n % 3 === 1) await Promise.resolve();
      order.push(n);
      inside--;
      return { state: null };
    },
    handleCall(n: number) {
      assertEquals(inside, 0);
      order.push(n);
      return { reply: n, state: null };
    },
  };
  await using server = await startLink(module, "cat");
  const calls: Promise<number>[] = [];
  for (let n = 0; n < 60; n += 2) {
    server.cast(n);
    calls.push(server.call(n + 1));
  }
  const answers = await Promise.all(calls);
  assertEquals(order, Array.from({ length: 60 }, (_, n) => n));
  assertEquals(answers, Array.from({ length: 30 }, (_, n) => 2 * n + 1));
});

test("what init gives as continue comes before anything else, and may go on", async () => {
  const seen: unknown[] = [];
  const module = {
    init: () => ({ state: 0, continue: "first" }),
    async handleContinue(value: unknown, state: number) {
      seen.push(value);
      await pause(0);
      return state < 2 ? { state: state + 1, continue: `after ${value}` } : { state };
    },
    handleStdout(_: Uint8Array, state: number) {
      seen.push("stdout");
      return { state };
    },
  };
  await using server = await startLink(module, "sh", ["-c", "echo hello; exec cat"]);
  await until(() => seen.includes("stdout"), { what: "stdout" });
  assertEquals(seen, ["first", "after first", "after after first", "stdout"]);
  assertEquals(server.name, null);
});

test("timeoutMs without a message tells handleInfo, a message in between does not", async () => {
  const seen: unknown[] = [];
  const module = {
    init: () => ({ state: 0, timeoutMs: 2 ** 31 - 1 }),
    handleInfo(message: unknown, state: number) {
      seen.push(message);
      return { state };
    },
    handleCall: () => ({ reply: null, state: 0, timeoutMs: 1 }),
    handleCast: () => ({ state: 0 }),
  };
  await using server = await startLink(module, "cat");
  await server.call(undefined as never);
  server.cast(undefined as never); // it comes in time, and gives no timeout
  await pause(30);
  assertEquals(seen, []);
  await server.call(undefined as never);
  await until(() => seen.length > 0, { what: "the timeout" });
  assertEquals(seen, [{ type: "timeout" }]);
});

test("a call may be answered later, by from.reply()", async () => {
  type Waiting = From<string>[];
  const module = {
    init: () => ({ state: [] as Waiting }),
    async handleCall(term: string, from: From<string>, state: Waiting, self: Self) {
      await self.port.command(`${term}\n`);
      return { state: [...state, from] };
    },
    handleStdout(data: Uint8Array, state: Waiting) {
      for (const word of textOf(data).trim().split("\n")) {
        const [first, ...others] = state;
        assert(first !== undefined);
        first.reply(word);
        first.reply("twice has no effect");
        state = others;
      }
      return { state };
    },
  };
  await using server = await startLink(module, "bc", ["-q"]);
  const terms = ["1 + 1", "6 * 7", "2 ^ 10"];
  assertEquals(await Promise.all(terms.map((term) => server.call(term))), ["2", "42", "1024"]);
});

test("a handler that waits holds the child back after one window, and loses nothing", async () => {
  using scratch = new Scratch();
  const file = scratch.file("counts");
  const gate = Promise.withResolvers<void>();
  const queued: number[] = [];
  let handled = 0;
  const module = {
    init: () => ({ state: null }),
    async handleStdout(data: Uint8Array) {
      if (handled === 0) await gate.promise;
      handled += data.length;
      queued.push(data.length);
      return { state: null };
    },
  };
  await using server = await startLink(module, PROBE, ["count-written", file, "out"]);
  const written = () => Number(new DataView(Deno.readFileSync(file).buffer).getBigUint64(0, true));
  await until(() => existsSync(file) && Deno.statSync(file).size >= 8, { what: "the first count" });
  let [last, same] = [-1, 0];
  await until(() => {
    const now = written();
    same = stat(server.port.pid)?.[0] === "S" && now === last ? same + 1 : 0;
    last = now;
    return same >= 20;
  }, { what: "a writer that is held back" });
  // What the pipe may hold once it has grown, and the window.
  assert(last <= 256 * 1024 + 10_240, `${last} bytes written`);
  gate.resolve();
  await until(() => handled > MIB, { what: "a megabyte" });
});

const THROWS: [name: string, module: Record<string, unknown>, act: (s: AnyServer) => unknown][] = [
  ["handleStdout", { handleStdout: fail }, (s) => s.port.command("x\n")],
  ["handleStderr", { handleStderr: fail }, (s) => s.port.command("y\n")],
  ["handleExit", { handleExit: fail }, (s) => s.port.closeStdin()],
  ["handleCast", { handleCast: fail }, (s) => s.cast(1)],
  ["handleInfo", { handleInfo: fail }, (s) => s.send(1)],
  ["handleCall", { handleCall: fail }, (s) => s.call(1).catch(() => {})],
  [
    "handleContinue",
    { handleCast: () => ({ state: 0, continue: 1 }), handleContinue: fail },
    (s) => s.cast(1),
  ],
  ["terminate", { terminate: fail }, (s) => assertRejects(() => s.stop(), ServerError)],
  [
    "async handleCast",
    { handleCast: async () => fail(await Promise.resolve()) },
    (s) => s.cast(1),
  ],
];

// deno-lint-ignore no-explicit-any -- whatever module the test gives it
type AnyServer = Server<any, any, any>;

const ERROR = new Error("the original");

function fail(_?: unknown): never {
  throw ERROR;
}

const TREE = "sleep 1000 & echo $!; while read l; do [ $l = x ] && echo $l || echo $l >&2; done";

for (const [name, callbacks, act] of THROWS) {
  test(`a throw in ${name} ends the server, kills its tree and reaches the owner`, async () => {
    const pids: number[] = [];
    const reasons: unknown[] = [];
    const ended = Promise.withResolvers<ServerEnd>();
    const module = {
      init: () => ({ state: null }),
      handleStdout(data: Uint8Array) {
        if (pids.length > 0) return fail();
        pids.push(Number(textOf(data)));
        return { state: null };
      },
      terminate: (reason: unknown) => void reasons.push(reason),
      ...callbacks,
    } as never;
    const script = name === "handleStdout" ? TREE.replace("echo $!", ":") : TREE;
    const onEnd = (end: ServerEnd) => ended.resolve(end);
    const server: AnyServer = await startLink(module, "sh", ["-c", script], undefined, { onEnd });
    if (name !== "handleStdout") await until(() => pids.length > 0, { what: "its tree" });
    const ids = identities([server.port.pid, ...pids]);
    await act(server);
    const { error, reason } = await within(ended.promise, { what: "the end" });
    assert(error instanceof ServerError);
    assert(error.cause === ERROR, `the cause is ${error.cause}`);
    assertEquals(error.code, "ECALLBACK");
    assertEquals(ids.filter(alive), [], "the tree is gone when its owner hears of it");
    assertEquals(await server.ended.catch((e) => e), error);
    if (name !== "terminate") {
      assert(reason === ERROR);
      assertEquals(reasons, [ERROR], "terminate ran once, with the reason");
    }
  });
}

test("those who wait for an answer are told why there will be none", async () => {
  const module = {
    init: () => ({ state: null }),
    async handleCall(request: string): Promise<{ reply: string; state: null }> {
      await pause(0);
      if (request === "throw") throw ERROR;
      return { reply: request, state: null };
    },
  };
  const server = await startLink(module, "cat");
  const calls = ["fine", "throw", "late"].map((word) => server.call(word).catch((error) => error));
  const [fine, thrown, late] = await Promise.all(calls);
  assertEquals(fine, "fine");
  for (const error of [thrown, late]) {
    assertInstanceOf(error, ServerError);
    assert(error.cause === ERROR);
  }
  await assertRejects(() => server.call("more"), ClosedError, "ECLOSED");
  assertThrows(() => server.send("more"), ClosedError);
  await server.stop(); // has ended: nothing to do, and its caller was told
});

test("without an owner, an end that nobody was told of ends the program, tree included", async () => {
  await using host = Host.start(`
    const server = await proton.startLink({
      init: () => ({ state: 0 }),
      handleStdout() { throw new Error("the original"); },
    }, "sh", ["-c", "read l; echo $l; sleep 1000"]);
    say("ready", server.port.pid);
    await hear();
    await server.port.command("go\\n");
    await new Promise(() => setInterval(() => {}, 1000));
  `);
  const ids = identities(await host.numbers("ready"));
  await host.tell("go\n");
  const { code, stderr } = await host.end();
  assertEquals(code, 1);
  assert(/ServerError: .*ECALLBACK/.test(stderr) && /the original/.test(stderr), stderr);
  await gone(ids);
});

test("without handleExit the server stops for the reason of the exit", async () => {
  const module = { init: () => ({ state: null }) };
  const fine = await startLink(module, "true");
  assertEquals((await fine.ended).reason, { kind: "normal" });
  const bad = await startLink(module, "sh", ["-c", "exit 7"]);
  const error = await assertRejects(() => bad.ended);
  assertInstanceOf(error, ServerError);
  assertEquals(error.reason, { kind: "exitStatus", code: 7 });
  assert(error.message.includes("exited with 7"), error.message);
  const killed = await startLink(module, "sh", ["-c", "kill -9 $$"]);
  const signal = await assertRejects(() => killed.ended);
  assertInstanceOf(signal, ServerError);
  assertEquals(signal.reason, { kind: "signal", signal: "SIGKILL", number: 9 });
});

test("every way to stop: by stop(), by each callback's answer, with a last reply", async () => {
  const stops = { stop: "normal", state: null };
  const base = { init: () => ({ state: null }) };
  const ways: [object, (server: AnyServer) => unknown][] = [
    [{}, (server) => server.stop()],
    [{ handleStdout: () => stops }, (server) => server.port.command("x")],
    [{ handleCast: () => stops }, (server) => server.cast(1)],
    [{ handleInfo: async () => await Promise.resolve(stops) }, (server) => server.send(1)],
    [{ handleExit: () => stops }, (server) => server.port.closeStdin()],
    [{ handleCall: () => ({ ...stops, reply: 5 }) }, async (server) => {
      assertEquals(await server.call(1), 5);
    }],
    [{ handleCall: () => stops }, async (server) => {
      await assertRejects(() => server.call(1), ClosedError);
    }],
  ];
  for (const [callbacks, act] of ways) {
    const server: AnyServer = await startLink({ ...base, ...callbacks } as never, "cat");
    const ids = identities([server.port.pid]);
    await act(server);
    const { reason, error } = await within(server.ended, { what: "the end" });
    assertEquals([reason, error, ids.filter(alive)], ["normal", null, []]);
  }
});

test("a stop for another reason is an error of the server, not of who asked for it", async () => {
  const server = await startLink({ init: () => ({ state: null }) }, "cat");
  const reason = new Error("no more");
  await server.stop(reason);
  const error = await assertRejects(() => server.ended);
  assertInstanceOf(error, ServerError);
  assert(error.reason === reason && error.cause === reason);
});

test("terminate runs while the program still does, and may speak to it", async () => {
  using scratch = new Scratch();
  const module = {
    init: () => ({ state: null }),
    async terminate(_: unknown, __: null, self: Self) {
      await self.port.command("the end\n");
      await until(() => scratch.lines("said").length > 0, { what: "what it was told" });
    },
  };
  const server = await startLink(module, "sh", ["-c", `cat > ${scratch.file("said")}`]);
  await server.stop();
  assertEquals(scratch.lines("said"), ["the end"]);
});

test("init may ignore, stop or throw: then nothing is started", async () => {
  using scratch = new Scratch();
  const start = (init: () => unknown) =>
    startLink({ init } as never, "touch", [scratch.file("started")], undefined, { name: "none" });
  const ignored = await assertRejects(() => start(() => ({ ignore: true })));
  assertInstanceOf(ignored, ServerError);
  assertEquals([ignored.code, ignored.reason], ["EIGNORE", "normal"]);
  const stopped = await assertRejects(() => start(() => Promise.resolve({ stop: "too early" })));
  assertInstanceOf(stopped, ServerError);
  assertEquals([stopped.code, stopped.reason], ["ESTOP", "too early"]);
  const thrown = await assertRejects(() => start(fail));
  assertInstanceOf(thrown, ServerError);
  assert(thrown.cause === ERROR);
  assertEquals(thrown.code, "ECALLBACK");
  assertEquals(whereis("none", { init: fail }), null, "the name is free again");
  assertEquals([...Deno.readDirSync(scratch.path)], []);
});

test("a program that cannot be started: SpawnError, after terminate, and the name is free", async () => {
  const notes: string[] = [];
  const module = noting(notes);
  const start = () => startLink(module, "no-such-program", [], "arg", { name: "failing" });
  const error = await assertRejects(start, SpawnError);
  assertEquals(notes, ["init arg", `terminate ${error}`]);
  await assertRejects(start, SpawnError);
});

test("names: found with their module, given once at a time, free after the end", async () => {
  const module = {
    init: (start: number) => ({ state: start }),
    handleCall: (more: number, _: unknown, state: number) => ({ reply: state + more, state }),
  };
  const other = { init: () => ({ state: null }) };
  const server = await startLink(module, "cat", [], 40, { name: "adder" });
  const found = whereis("adder", module);
  assert(found === server);
  assertEquals(await found.call(2), 42);
  assertThrows(() => whereis("adder", other), TypeError, "another module");
  assertEquals(whereis("nobody", module), null);
  const taken = await assertRejects(() => startLink(module, "cat", [], 1, { name: "adder" }));
  assertInstanceOf(taken, ServerError);
  assertEquals(taken.code, "EEXIST");
  await server.stop();
  assertEquals(whereis("adder", module), null);
  await using again = await startLink(module, "cat", [], 1, { name: "adder" });
  assertEquals(await again.call(1), 2);
});

test("a call gives up in time; its callback runs all the same, its answer goes nowhere", async () => {
  const gate = Promise.withResolvers<void>();
  const seen: string[] = [];
  const module = {
    init: () => ({ state: null }),
    async handleCall(request: string) {
      await gate.promise;
      seen.push(request);
      return { reply: request, state: null };
    },
  };
  await using server = await startLink(module, "cat");
  const first = server.call("first", { timeoutMs: Infinity });
  const longer = server.call("late", { timeoutMs: 2 ** 31 - 1 });
  for (const timeoutMs of [5, 0]) {
    const error = await assertRejects(() => server.call("late", { timeoutMs }));
    assert(error instanceof DOMException && error.name === "TimeoutError");
  }
  gate.resolve();
  assertEquals([await first, await longer], ["first", "late"]);
  assertEquals(await server.call("last"), "last");
  assertEquals(seen, ["first", "late", "late", "late", "last"]);
});

test("stop kills what does not stop in time, and says so", async () => {
  for (const stuck of ["handleCast", "terminate"]) {
    const module = {
      init: () => ({ state: null }),
      handleCast: () => ({ state: null }),
      [stuck]: () => new Promise(() => {}),
    };
    const server: AnyServer = await startLink(module as never, PROBE, ["ignore-sigterm"]);
    const ids = identities([server.port.pid]);
    server.cast(1);
    const error = await assertRejects(() => server.stop("normal", { timeoutMs: 10 }));
    assert(error instanceof DOMException && error.name === "TimeoutError", stuck);
    assertEquals([(await server.ended).reason, ids.filter(alive)], ["killed", []]);
  }
});

test("kill ends at once what a grace would have let live", async () => {
  const server = await startLink(
    { init: () => ({ state: null }) },
    PROBE,
    ["ignore-sigterm"],
    undefined,
    { delayToSigkill: 2 ** 31 - 1 },
  );
  const ids = identities([server.port.pid]);
  await within(server.kill(), { what: "the end" });
  assertEquals(ids.filter(alive), []);
});

test("await using stops it, also where the scope throws", async () => {
  let ids = identities([]);
  const scope = async () => {
    await using server = await startLink({ init: () => ({ state: null }) }, "cat");
    ids = identities([server.port.pid]);
    throw ERROR;
  };
  assert(await assertRejects(scope) === ERROR);
  assertEquals([ids.length, ids.filter(alive)], [1, []]);
});

test("bad input: typed errors, nothing started, nothing lost", async () => {
  let inits = 0;
  const module = {
    init() {
      inits++;
      return { state: null };
    },
  };
  const bad: [unknown, unknown, ErrorConstructor | typeof ServerError][] = [
    [null, {}, TypeError],
    [{}, {}, TypeError],
    [{ init: 1 }, {}, TypeError],
    [{ ...module, handleCall: 1 }, {}, TypeError],
    [{ ...module, handleStdOut: () => ({ state: null }) }, {}, TypeError],
    [{ ...module, handleinfo: () => ({ state: null }) }, {}, TypeError],
    [module, { name: "" }, TypeError],
    [module, { name: 1 }, TypeError],
    [module, { owner: {} }, TypeError],
    [module, { onEnd: 1 }, TypeError],
    [module, { timeoutMs: -1 }, RangeError],
    [module, { no: 1 }, TypeError],
  ];
  await leavesNothing(async () => {
    for (const [callbacks, options, kind] of bad) {
      const start = () => startLink(callbacks as never, "cat", [], undefined, options as never);
      await assertRejects(start, kind as ErrorConstructor);
    }
    assertEquals(inits, 0);
    const own = { ...module, handleClient: () => {}, helper: 1 }; // what is not meant for us
    await using server: AnyServer = await startLink(own, "cat");
    await assertRejects(() => server.call(1), TypeError, "no handleCall()");
    const late = { timeout: 1 } as never;
    await assertRejects(() => server.call(1, late), TypeError, 'did you mean "timeoutMs"?');
    await assertRejects(() => server.call(1, [] as never), TypeError, "they are an array");
    await assertRejects(() => server.stop("x", late), TypeError, 'did you mean "timeoutMs"?');
    assertThrows(() => server.cast(1), TypeError, "no handleCast()");
    assertThrows(() => server.send(1), TypeError, "no handleInfo()");
    await assertRejects(() => server.call(1, { timeoutMs: -1 }), RangeError);
    await assertRejects(() => server.call(1, { timeoutMs: "1" as never }), TypeError);
    await assertRejects(() => server.stop("normal", { timeoutMs: NaN }), RangeError);
    assertEquals(identities([server.port.pid]).map(alive), [true]);
  });
});

test("nonsense from a callback is an error that names it", async () => {
  const nonsense: [unknown, string][] = [
    [undefined, "returned nothing"],
    [null, "returned null"],
    [42, "returned a number"],
    [{}, "no state"],
    [{ stop: "normal" }, "no state"],
    [{ state: 1, reply: 2 }, '"reply"'],
    [{ state: 1, timeoutMS: 2 }, '"timeoutMS"'],
    [{ state: 1, timeoutMs: -1 }, "timeoutMs of handleCast()"],
    [{ state: 1, timeoutMs: 1 }, "no handleInfo()"],
    [{ state: 1, continue: 1 }, "no handleContinue()"],
  ];
  for (const [answer, says] of nonsense) {
    const module = { init: () => ({ state: null }), handleCast: () => answer } as never;
    const server: AnyServer = await startLink(module, "cat");
    const ended = assertRejects(() => server.ended, ServerError, "ECALLBACK");
    server.cast(1);
    const { cause } = await ended as Error;
    assert(cause instanceof TypeError || cause instanceof RangeError);
    assert(/handleCast\(\)/.test(cause.message) && cause.message.includes(says), cause.message);
  }
  const init = { init: () => ({ no: 1 }) } as never;
  await assertRejects(() => startLink(init, "cat"), TypeError, "init()");
});

/** Never called: the compiler holds each line to what it says. */
export async function typed(): Promise<void> {
  const module = {
    init: (n: number) => ({ state: n }),
    handleCall: (add: number, _: unknown, state: number) => ({ reply: `${state + add}`, state }),
    handleCast: (_: "up" | "down", state: number) => ({ state }),
  };
  const server = await startLink(module, "cat", [], 1);
  const answer: string = await server.call(1);
  server.cast("up");
  const found: Server<number, string, "up" | "down"> | null = whereis("name", module);
  // @ts-expect-error: init takes a number
  await startLink(module, "cat", [], "one");
  // @ts-expect-error: it is asked numbers
  await server.call("1");
  // @ts-expect-error: it answers text
  const number: number = await server.call(1);
  // @ts-expect-error: there is no such order
  server.cast("left");
  // @ts-expect-error: the state is a number
  await startLink({ ...module, handleCast: (_: "up", __: number) => ({ state: "x" }) }, "cat");
  void [answer, found, number];
}
