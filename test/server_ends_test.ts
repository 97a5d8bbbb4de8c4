// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** The edges of a server's life: no program without an owner, no caller without an answer, no port without a word. */

import { assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import {
  addressOf,
  type Awaitable,
  ClosedError,
  cmd,
  Mailbox,
  Port,
  type PortTicket,
  type Self,
  type Server,
  type ServerEnd,
  ServerError,
  type ServerOptions,
  SpawnError,
  startLink,
  whereis,
} from "../mod.ts";
import {
  alive,
  assert,
  gone,
  identities,
  leavesNothing,
  PROBE,
  Scratch,
  test,
  textOf,
  until,
  within,
} from "./helpers.ts";

// deno-lint-ignore no-explicit-any -- whatever module the test gives it
type AnyServer = Server<any, any, any>;
type Module = Parameters<typeof startLink>[0];

const ERROR = new Error("the original");

function fail(): never {
  throw ERROR;
}

/** Starts one whose end is told, and is to come. */
async function linked(
  module: object,
  command: string,
  args: string[] = [],
  options: ServerOptions = {},
): Promise<{ server: AnyServer; end: () => Promise<ServerEnd> }> {
  const ended = Promise.withResolvers<ServerEnd>();
  const whole = { ...options, onEnd: ended.resolve };
  const server = await startLink(module as Module, command, args, undefined, whole);
  return { server, end: () => within(ended.promise, { what: "its end" }) };
}

test("a handleContinue of init that throws at once is the end of a server that was started", async () => {
  const reasons: unknown[] = [];
  const module = {
    init: () => ({ state: 0, continue: 1 }),
    handleContinue: fail,
    terminate: (reason: unknown) => void reasons.push(reason),
  };
  await leavesNothing(async () => {
    const { server, end } = await linked(module, PROBE, ["ready"], { name: "brief" });
    assert(whereis("brief", module as Module) === server, "it is known before its first callback");
    const ids = identities([server.port.pid]);
    const { error } = await end();
    assert(error instanceof ServerError);
    assertEquals([error.code, error.cause, reasons], ["ECALLBACK", ERROR, [ERROR]]);
    assertEquals([ids.filter(alive), whereis("brief", module as Module)], [[], null]);
  });
});

for (const [name, callback] of [["continue", "handleContinue"], ["timeoutMs", "handleInfo"]]) {
  test(`init gives ${name} and there is no ${callback}: nothing is started`, async () => {
    using scratch = new Scratch();
    const notes: unknown[] = [];
    const module = {
      init: () => ({ state: "made", [name as string]: 1 }),
      terminate: (_: unknown, state: unknown) => void notes.push(state),
    };
    const start = () => linked(module, "touch", [scratch.file("started")]);
    await assertRejects(start, TypeError, `no ${callback}()`);
    assertEquals([notes, [...Deno.readDirSync(scratch.path)]], [["made"], []]);
  });
}

const KILLERS: [how: string, answer: (kill: () => void) => unknown][] = [
  ["at once", (kill) => (kill(), { reply: 1, state: 0 })],
  ["and throws", (kill) => (kill(), fail())],
  ["and gives nonsense", (kill) => (kill(), 5)],
  ["later", async (kill) => (await Promise.resolve(), kill(), { reply: 1, state: 0 })],
  ["and never answers", (kill) => (kill(), new Promise(() => {}))],
];

for (const [how, answer] of KILLERS) {
  for (const queued of [false, true]) {
    test(`a call whose callback kills its server ${how} is refused${queued ? ", queued" : ""}`, async () => {
      const kill = () => void server.kill();
      const module = {
        init: () => ({ state: 0 }),
        handleCast: () => ({ state: 0 }),
        handleCall: () => answer(kill),
      };
      const { server, end } = await linked(module, "cat");
      if (queued) server.cast(0);
      const calling = [1, 2].map(() => server.call(0, { timeoutMs: Infinity }).catch((e) => e));
      const [first, second] = await within(Promise.all(calling), { what: "the answers" });
      assertInstanceOf(first, ClosedError);
      assertInstanceOf(second, ClosedError);
      assertEquals((await end()).reason, "killed");
    });
  }
}

/** Gives its port away in a call, in one of the ways there are. */
const AWAY: [way: string, give: (port: Port, to: Mailbox) => Awaitable<PortTicket | Port>][] = [
  ["transfer", (port) => port.transfer()],
  ["connect", (port, to) => port.connect(to)],
  ["connect to an address", async (port, to) => {
    const came = Promise.withResolvers<Port>();
    const address = addressOf(to, came.resolve);
    await port.connect(address);
    address.close();
    return await came.promise;
  }],
];

for (const [way, give] of AWAY) {
  test(`${way} of a server's port: the program lives on, the server ends and says why`, async () => {
    await using mailbox = new Mailbox();
    const notes: unknown[] = [];
    const module = {
      init: () => ({ state: 0 }),
      async handleCall(_: unknown, __: unknown, state: number, self: Self) {
        self.send("behind it");
        return { reply: await give(self.port, mailbox), state };
      },
      handleInfo: (message: unknown) => (notes.push(message), { state: 0 }),
      terminate: (reason: unknown) => void notes.push(reason),
    };
    const { server, end } = await linked(module, "cat");
    const ids = identities([server.port.pid]);
    const given = await server.call(0);
    const { reason, error, status } = await end();
    assertEquals([reason, error, status], ["handedOn", null, null]);
    assertEquals(notes, ["behind it", "handedOn"]);
    assertEquals((await server.ended).reason, "handedOn");
    await server.stop();
    await server.kill();
    assertEquals(ids.filter(alive).length, 1);
    const port = given instanceof Port ? given : Port.adopt(given, { owner: mailbox });
    await port.command("still here\n");
    const message = await mailbox.receive(port);
    assertEquals(message.type === "data" && textOf(message.data), "still here\n");
    await port.close();
  });
}

test("what no handler has heard goes along, whatever becomes of the handler that gives the port away", async () => {
  for (const way of ["stops", "throws", "goes on"]) {
    await using mailbox = new Mailbox();
    const heardAll = Promise.withResolvers<void>();
    let [heard, ticket]: [string, PortTicket | null] = ["", null];
    const module = {
      init: () => ({ state: 0 }),
      async handleStdout(data: Uint8Array, state: number, self: Self) {
        heard += textOf(data);
        await heardAll.promise;
        ticket = self.port.transfer();
        if (way === "throws") throw new Error("as it is to");
        return way === "stops" ? { stop: "normal", state } : { state };
      },
    };
    const script = "echo 1; read x; echo 2; read x; echo 3; read x; sleep 1000";
    const { server, end } = await linked(module, "sh", ["-c", script]);
    await until(() => heard === "1\n", { what: "the first line" });
    for (const _ of [2, 3]) await server.port.command("next\n");
    // What was written before another program has come and gone is in the server's queue.
    await cmd("true");
    heardAll.resolve();
    await end();
    assert(ticket !== null);
    const port = Port.adopt(ticket, { owner: mailbox });
    while (heard.length < 6) {
      const message = await within(mailbox.receive(port), { what: `more than ${heard}` });
      assert(message.type === "data");
      heard += textOf(message.data);
    }
    assertEquals(heard, "1\n2\n3\n", way);
    await port.close();
  }
});

test("a server whose port nobody takes goes on; one that ended meanwhile takes it along", async () => {
  for (const way of ["goes on", "stops", "is killed"]) {
    const { port1, port2 } = new MessageChannel();
    const asked = Promise.withResolvers<() => void>();
    port1.onmessage = ({ data }) =>
      asked.resolve(() => port1.postMessage({ answer: data.offer, refused: "not wanted" }));
    const module = {
      init: () => ({ state: "" }),
      handleStdout: (data: Uint8Array) => ({ state: textOf(data) }),
      handleCall: (_: unknown, __: unknown, state: string) => ({ reply: state, state }),
    };
    const { server, end } = await linked(module, "cat", [], { delayToSigkill: 0 });
    const ids = identities([server.port.pid]);
    const connecting = server.port.connect(port2).catch((error) => error);
    const refuse = await asked.promise;
    if (way === "stops") await server.stop();
    if (way === "is killed") await server.kill();
    refuse();
    const error = await within(connecting, { what: "the refusal" });
    assertInstanceOf(error, ClosedError);
    assertEquals(error.code, "EREFUSED");
    if (way === "goes on") {
      await server.port.command("here\n");
      await until(async () => await server.call(0) === "here\n", { what: "its program" });
      const ticket = server.port.transfer();
      assertEquals((await end()).reason, "handedOn");
      await Port.adopt(ticket).close();
    }
    await gone(ids);
    port1.close();
  }
});

test("an init that hangs is given up by the signal; what it makes later is not left behind", async () => {
  using scratch = new Scratch();
  const made = Promise.withResolvers<{ state: string }>();
  const notes = Promise.withResolvers<unknown[]>();
  const module = {
    init: () => made.promise,
    terminate: (reason: unknown, state: unknown) => notes.resolve([reason, state]),
  };
  const controller = new AbortController();
  const { signal } = controller;
  const starting = linked(module, "touch", [scratch.file("started")], { signal, name: "hanging" });
  const why = new Error("not wanted");
  controller.abort(why);
  const error = await within(starting.catch((error) => error), { what: "the refusal" });
  assertEquals([error, whereis("hanging", module as Module)], [why, null]);
  made.resolve({ state: "made" });
  assertEquals(await within(notes.promise, { what: "terminate" }), [why, "made"]);
  assertEquals([...Deno.readDirSync(scratch.path)], []);
  let inits = 0;
  const early = { init: () => (inits++, { state: 0 }) };
  assert(await assertRejects(() => linked(early, "cat", [], { signal })) === why);
  assertEquals(inits, 0);
});

test("a terminate that throws where the program does not start hides nothing", async () => {
  const module = { init: () => ({ state: 0 }), terminate: fail };
  const error = await assertRejects(() => linked(module, "no-such-program"));
  assertInstanceOf(error, ServerError);
  assert(/no such file on PATH .*terminate\(\) threw, the original/.test(error.message));
  const { cause } = error;
  assertInstanceOf(cause, AggregateError);
  assertInstanceOf(cause.errors[0], SpawnError);
  assertEquals([error.code, cause.errors[1]], ["ECALLBACK", ERROR]);
});

test("a callback may answer with whatever await takes", async () => {
  const later = <T>(value: T) => ({
    then: (resolve: (value: T) => unknown) => void queueMicrotask(() => resolve(value)),
  });
  const module = {
    init: () => later({ state: 1, continue: 2 }),
    handleContinue: (more: number, state: number) => later({ state: state + more }),
    handleCall: (more: number, _: unknown, state: number) =>
      later({ reply: state + more, state: state + more }),
    terminate: () => later(undefined),
  };
  const server: AnyServer = await startLink(module as unknown as Module, "cat");
  assertEquals([await server.call(4), await server.call(8)], [7, 15]);
  await server.stop();
  const never = { then: (_: unknown, reject: (error: Error) => void) => reject(ERROR) };
  const { server: other, end } = await linked(
    { init: () => ({ state: 0 }), handleCast: () => never },
    "cat",
  );
  other.cast(0);
  assertEquals((await end()).error?.cause, ERROR);
});

test("continue after continue is a loop, not a recursion", async () => {
  const module = {
    init: () => ({ state: 0, continue: true }),
    handleContinue: (_: unknown, state: number) =>
      state < 100_000 ? { state: state + 1, continue: true } : { state },
    handleCall: (_: unknown, __: unknown, state: number) => ({ reply: state, state }),
  };
  const server: AnyServer = await startLink(module as Module, "cat");
  assertEquals(await server.call(0), 100_000);
  await server.stop();
});

test("options that are none are refused in words", async () => {
  const module = { init: fail };
  for (const options of [null, 5, "name", []]) {
    const start = () => startLink(module, "cat", [], undefined, options as never);
    await assertRejects(start, TypeError, "its options are no object");
  }
});
