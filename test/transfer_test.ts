// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Ports that move between Workers: with every byte, what they owe their owner, and their life. */

import { assertEquals, assertInstanceOf, assertRejects, assertThrows } from "@std/assert";
import {
  addressOf,
  ClosedError,
  Mailbox,
  type Message,
  open,
  Port,
  type PortTicket,
} from "../mod.ts";
import { copyTree, temporary } from "./host_process.ts";
import {
  alive,
  assert,
  bytesOf,
  CHECKOUT,
  gone,
  identities,
  identity,
  Pattern,
  PROBE,
  Scratch,
  test,
  textOf,
  until,
  within,
} from "./helpers.ts";
// deno-lint-ignore no-explicit-any -- one script for three runtimes, without types
const { startMover }: any = await import(`${CHECKOUT}test/runtimes/start_worker.mjs`);

const MIB = 1024 * 1024;
const MODULE = `file://${CHECKOUT}mod.ts`;

/** What the Worker tells of a message. */
interface Taken {
  type: Message["type"];
  data?: Uint8Array;
  reason?: unknown;
  status?: { truncated: boolean };
  mine: boolean;
}

/** A Worker that does with ports what it is told. */
class Mover implements AsyncDisposable {
  private constructor(
    readonly worker: Worker,
    // deno-lint-ignore no-explicit-any -- as above
    readonly ask: (order: string, details?: object, transfer?: Transferable[]) => Promise<any>,
  ) {}

  static async start(): Promise<Mover> {
    const { worker, ask } = await startMover(MODULE);
    return new Mover(worker, ask);
  }

  async take(count: number): Promise<Taken[]> {
    return (await within(this.ask("take", { count }), { what: "messages" })).taken;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.ask("dispose").catch(() => {}); // one that was terminated does not answer
    this.worker.terminate();
  }
}

test("to and fro while data flows: nothing is lost, nothing doubled", async () => {
  await using mover = await Mover.start();
  await using mailbox = new Mailbox();
  const patterns = { data: new Pattern(1), error: new Pattern(2) };
  const feed = ({ type, data }: { type: string; data?: Uint8Array }) => {
    if (type !== "data" && type !== "error") return;
    assert(data !== undefined);
    patterns[type].feed(data);
  };
  let port = await open(PROBE, ["flood", `${8 * MIB}`, `${4 * MIB}`], { owner: mailbox });
  let exit: Taken | undefined;
  for (let move = 0; move < 20; move++) {
    for (let n = 0; n < 11; n++) feed(await mailbox.receive(port));
    const ticket = port.transfer();
    await mover.ask("adopt", { ticket });
    for (const taken of await mover.take(7)) {
      assert(taken.mine);
      feed(taken);
    }
    port = Port.adopt((await mover.ask("transfer")).ticket, { owner: mailbox });
  }
  await mover.ask("adopt", { ticket: port.transfer() });
  while (exit === undefined) {
    const taken = await mover.take(100);
    taken.forEach(feed);
    exit = taken.find(({ type }) => type === "exit");
  }
  assertEquals([patterns.data.bytes, patterns.error.bytes], [8 * MIB, 4 * MIB]);
  assertEquals([exit.reason, exit.status?.truncated], [{ kind: "normal" }, false]);
});

test("messages that nobody has received go along, and fill the window as before", async () => {
  using scratch = new Scratch();
  await using mover = await Mover.start();
  await using mailbox = new Mailbox();
  const file = scratch.file("counts");
  const options = { owner: mailbox, stdioWindow: 4096 };
  const port = await open(PROBE, ["count-written", file, "out"], options);
  const pattern = new Pattern(1);
  const first = await mailbox.receive();
  assert(first.type === "data");
  pattern.feed(first.data);
  // Another receive in vain: the window is full of what it does not want.
  await assertRejects(() => mailbox.receive(({ type }) => type === "exit"), Error, "EWINDOW");
  await mover.ask("adopt", { ticket: port.transfer() });
  await assertRejects(() => mailbox.receive(), ClosedError, "no open port is left");
  while (pattern.bytes < MIB) {
    for (const { data } of await mover.take(10)) {
      assert(data !== undefined && data.length <= 4096);
      pattern.feed(data);
    }
  }
});

test("the other Worker speaks to the child, hears its end, and the old handle is of no use", async () => {
  await using mover = await Mover.start();
  await using mailbox = new Mailbox();
  const script = "while read l; do echo got $l; [ $l = end ] && exit 5; done";
  const port = await open("sh", ["-c", script], { owner: mailbox });
  const [status, drained] = [port.status, port.drained];
  assertEquals((await mover.ask("adopt", { ticket: port.transfer() })).pid, port.pid);
  for (const use of [() => port.command("x"), () => port.close(), () => port.kill()]) {
    const error = await assertRejects(use);
    assertInstanceOf(error, ClosedError);
    assertEquals(error.code, "ENOTOWNER");
  }
  assertThrows(() => port.transfer(), ClosedError);
  await assertRejects(() => status, ClosedError, "another Worker");
  await assertRejects(() => drained, ClosedError, "another Worker");
  await mover.ask("command", { text: "hello\n" });
  assertEquals(textOf((await mover.take(1))[0]?.data ?? bytesOf("")), "got hello\n");
  await mover.ask("command", { text: "end\n" });
  const [data, exit] = await mover.take(2);
  assertEquals(textOf(data?.data ?? bytesOf("")), "got end\n");
  assertEquals([exit?.type, exit?.reason], ["exit", { kind: "exitStatus", code: 5 }]);
});

test("a child that ends on its way: whoever adopts it hears of it, with all that it said", async () => {
  await using mailbox = new Mailbox();
  const port = await open("sh", ["-c", "read l; echo $l; exit 6"], { owner: mailbox });
  const ids = identities([port.pid]);
  await port.command("last words\n");
  const ticket = structuredClone(port.transfer());
  await gone(ids);
  const adopted = Port.adopt(ticket);
  let text = "";
  let reason: unknown;
  for await (const message of adopted) {
    if (message.type === "data") text += textOf(message.data);
    if (message.type === "exit") reason = message.reason;
  }
  assertEquals([text, reason], ["last words\n", { kind: "exitStatus", code: 6 }]);
  assertEquals(await adopted.drained, { truncated: false });
  assertThrows(() => adopted.transfer(), ClosedError, "has ended");
});

test("a child that had ended before: what it left in its pipe goes along, and so does its end", async () => {
  await using mailbox = new Mailbox();
  const options = { owner: mailbox, stdioWindow: 16 };
  const port = await open("sh", ["-c", "seq 1000; exit 6"], options);
  const first = await mailbox.receive(port);
  assert(first.type === "data");
  assertEquals((await port.status).code, 6, "its end was told here");
  let text = textOf(first.data);
  let reason: unknown;
  for await (const message of Port.adopt(structuredClone(port.transfer()))) {
    if (message.type === "data") text += textOf(message.data);
    if (message.type === "exit") reason = message.reason;
  }
  const lines = Array.from({ length: 1000 }, (_, n) => `${n + 1}\n`);
  assertEquals([text, reason], [lines.join(""), { kind: "exitStatus", code: 6 }]);
});

test("what the program was started with stays behind, its signal too", async () => {
  const { signal } = new AbortController();
  const env = { WORD: "only the child's" };
  const port = await open("sh", ["-c", ": an argument; exec cat"], { env, signal });
  const ticket = structuredClone(port.transfer());
  const text = JSON.stringify(ticket);
  assertEquals([text.includes("only the child's"), text.includes("an argument")], [false, false]);
  await Port.adopt(ticket).close();
});

test("a ticket that nobody has adopted dies with its sender, and is then of no use", async () => {
  const mover = await Mover.start();
  const ids = identities((await mover.ask("tree", { probe: PROBE })).pids);
  const { ticket } = await mover.ask("transfer");
  assertEquals(ids.filter(alive).length, 3);
  mover.worker.terminate();
  await gone(ids);
  const error = assertThrows(() => Port.adopt(ticket));
  assertInstanceOf(error, ClosedError);
  assertEquals(error.code, "EBADF");
});

test("an adopted port outlives its sender and dies with who has it", async () => {
  const [first, second] = [await Mover.start(), await Mover.start()];
  const ids = identities((await first.ask("tree", { probe: PROBE })).pids);
  const { ticket } = await first.ask("transfer");
  const { pid } = await second.ask("adopt", { ticket });
  first.worker.terminate();
  // The end of the first is through when what it had besides is gone.
  await using echo = await open("cat");
  await echo.command("x");
  await until(async () => (await echo.stdout.getReader().read()).value !== undefined, {
    what: "x",
  });
  assertEquals([pid, ids.filter(alive).length], [ids[0]?.pid, 3]);
  second.worker.terminate();
  await gone(ids);
});

test("the end of a mailbox is the end of what it has adopted, and a signal of what it came with", async () => {
  for (const end of ["mailbox", "signal"]) {
    const mailbox = new Mailbox();
    const controller = new AbortController();
    const ticket = (await open(PROBE, ["ready"], { delayToSigkill: 20 })).transfer();
    const port = Port.adopt(ticket, { owner: mailbox, signal: controller.signal });
    const ids = identities([port.pid]);
    if (end === "mailbox") await mailbox[Symbol.asyncDispose]();
    else controller.abort();
    await gone(ids);
    assertEquals((await port.status).cause, end === "mailbox" ? "owner" : "abort");
    await mailbox[Symbol.asyncDispose]();
  }
});

test("used, forged and foreign tickets are refused, and do nothing", async () => {
  await using port = await open("cat");
  const id = identity(port.pid);
  const ticket = port.transfer();
  const { moved } = ticket as unknown as { moved: { handle: number; key: Uint8Array } };
  const forged = (change: object) => ({ ...ticket, moved: { ...moved, ...change } });
  const otherKey = moved.key.slice();
  otherKey[20] = (otherKey[20] ?? 0) ^ 1;
  const otherLibrary = moved.key.slice();
  otherLibrary[0] = (otherLibrary[0] ?? 0) ^ 1;
  const bad: [unknown, string][] = [
    [forged({ key: otherKey }), "EBADF"],
    [forged({ handle: moved.handle + 1 }), "EBADF"],
    [forged({ handle: -1 }), "EBADF"],
    [forged({ key: moved.key.subarray(0, 8) }), "EBADF"],
    [forged({ key: new Uint8Array(0) }), "EBADF"],
    [forged({ key: otherLibrary }), "EXDEV"],
    [{ ...ticket, type: "proton-stream ticket 0" }, "EXDEV"],
  ];
  for (const [ticket, code] of bad) {
    const error = assertThrows(() => Port.adopt(ticket as PortTicket));
    assertInstanceOf(error, ClosedError, code);
    assertEquals(error.code, code);
  }
  for (const nonsense of [null, 1, {}, { type: ticket.type }, forged({ spec: null })]) {
    assertThrows(() => Port.adopt(nonsense as unknown as PortTicket), TypeError, "no ticket");
  }
  assertThrows(() => Port.adopt(ticket, { owner: {} as Mailbox }), TypeError);
  assertThrows(() => Port.adopt(ticket, { signal: 5 as never }), TypeError, "signal");
  await using adopted = Port.adopt(ticket);
  const error = assertThrows(() => Port.adopt(ticket));
  assertInstanceOf(error, ClosedError);
  assertEquals([error.code, alive(id)], ["EBADF", true]);
  await adopted.command("still here\n");
  await adopted.closeStdin();
  assertEquals(await adopted.text(), "still here\n");
});

test("a ticket with a part that is none is refused whole: its port stays, for the right one", async () => {
  await using mailbox = new Mailbox();
  const port = await open("sh", ["-c", "echo first; exec cat <&3 >&3"], {
    owner: mailbox,
    fds: { 3: "piped" },
    rlimits: { cpu: 1_000 },
  });
  await mailbox.receive(port);
  // deno-lint-ignore no-explicit-any -- what is in it is nobody's business, but for this
  const ticket: any = port.transfer();
  const part = new Uint8Array(1);
  const { outputs, spec } = ticket.moved;
  const tampered: [name: string, moved: object][] = [
    ...[null, [5], [null], [{ type: "data" }], [{ type: "exit", data: part }], [{
      type: "data",
      data: new Uint8Array(new SharedArrayBuffer(1)),
    }], [{ type: "data", data: new Uint8Array(spec.windowBytes + 1) }]]
      .map((messages): [string, object] => ["messages", { messages }]),
    ...[null, [], outputs.slice(1), [...outputs, outputs[0]], outputs.map(() => ({}))]
      .map((outputs): [string, object] => ["outputs", { outputs }]),
    ...[null, [], [1, 2], [null], [null, null, null]]
      .map((inputs): [string, object] => ["inputs", { inputs }]),
    ["spec", { spec: {} }],
    ["spec", { spec: { ...spec, fds: [] } }],
    ...Object.keys(spec).map((name): [string, object] => {
      return [name, { spec: { ...spec, [name]: { nonsense: true } } }];
    }).filter(([name]) => name !== "identity"), // of which nothing is used again
  ];
  for (const [name, change] of tampered) {
    const forged = { ...ticket, moved: { ...ticket.moved, ...change } };
    assertThrows(() => Port.adopt(forged), TypeError, "no ticket", name);
  }
  const adopted = Port.adopt(structuredClone(ticket));
  const { readable, writable } = adopted.fd(3);
  const writer = writable.getWriter();
  await writer.write(bytesOf("still here\n"));
  await writer.close();
  assertEquals(await new Response(readable).text(), "still here\n");
  await adopted.close();
});

test("two copies of the package work side by side and refuse each other's tickets", async () => {
  const folder = `${temporary("proton_test_copy_")}/`;
  copyTree(folder);
  const copy: typeof import("../mod.ts") = await import(`file://${folder}mod.ts`);
  const ours = await open("cat");
  const theirs = await copy.open("cat");
  const tickets = [ours.transfer(), theirs.transfer()] as const;
  const foreign = assertThrows(() => Port.adopt(tickets[1]));
  assertInstanceOf(foreign, ClosedError);
  const strange = assertThrows(() => copy.Port.adopt(tickets[0]));
  assertInstanceOf(strange, copy.ClosedError);
  assertEquals([foreign.code, strange.code], ["EXDEV", "EXDEV"]);
  for (const port of [Port.adopt(tickets[0]), copy.Port.adopt(tickets[1])]) {
    await port.command("here\n");
    await port.closeStdin();
    assertEquals(await port.text(), "here\n");
  }
});

test("what cannot go along: a stream that is read, what is on its way, what has ended", async () => {
  await using reading = await open("cat");
  await reading.command("x");
  await reading.stdout.getReader().read();
  assertThrows(() => reading.transfer(), TypeError, "stdout is read");
  await using writing = await open("sleep", ["1000"]);
  const written = writing.command(new Uint8Array(MIB));
  written.catch(() => {}); // ended by its close
  assertThrows(() => writing.transfer(), TypeError, "on its way");
  await using signalled = await open("cat");
  const signal = signalled.kill("SIGCONT");
  assertThrows(() => signalled.transfer(), TypeError, "on its way");
  await signal;
  const closed = await open("cat");
  await closed.close();
  assertThrows(() => closed.transfer(), ClosedError, "ended");
  const again = Port.adopt(signalled.transfer());
  await again.close();
});

test("connect by an address: the port is in the other Worker's mailbox, the old owner is told", async () => {
  await using mover = await Mover.start();
  await using mailbox = new Mailbox();
  const { address } = await mover.ask("address");
  for (const word of ["one", "two"]) {
    const port = await open("cat", [], { owner: mailbox });
    await port.command(`${word}\n`);
    await within(port.connect(address as MessagePort), { what: "its arrival" });
    assertEquals((await mailbox.receive()).type, "connected");
    const [data] = await mover.take(1);
    assertEquals([textOf(data?.data ?? bytesOf("")), data?.mine], [`${word}\n`, true]);
    await mover.ask("command", { text: "back\n" });
    const [back] = await mover.take(1);
    assertEquals(textOf(back?.data ?? bytesOf("")), "back\n");
  }
  (address as MessagePort).close();
});

test("a Worker gives its port to a mailbox here, and ends", async () => {
  const mover = await Mover.start();
  await using mailbox = new Mailbox();
  const arrived: Port[] = [];
  const address = addressOf(mailbox, (port) => arrived.push(port));
  const { pid } = await mover.ask("open", { command: "cat", args: [] });
  await mover.ask("connect", { address }, [address]);
  mover.worker.terminate();
  const [port] = arrived;
  assert(port !== undefined && port.pid === pid);
  await port.command("here\n");
  const message = await mailbox.receive(port);
  assert(message.type === "data");
  assertEquals(textOf(message.data), "here\n");
});

test("connect where it is refused: the port stays with its owner, and all it has said", async () => {
  await using mailbox = new Mailbox();
  const other = new Mailbox();
  await other[Symbol.asyncDispose]();
  assertThrows(() => addressOf(other), ClosedError);
  const unwilling = new MessageChannel();
  unwilling.port1.onmessage = ({ data }) =>
    unwilling.port1.postMessage({ answer: data.offer, refused: "not wanted" });
  const port = await open("cat", [], { owner: mailbox });
  const id = identity(port.pid);
  for (let time = 0; time < 2; time++) {
    await port.command("before\n");
    const error = await assertRejects(
      () => port.connect(unwilling.port2),
      ClosedError,
      "not wanted",
    );
    assertEquals((error as ClosedError).code, "EREFUSED");
    await port.command("after\n");
    let text = "";
    while (text.length < "before\nafter\n".length) {
      const message = await mailbox.receive(port);
      assert(message.type === "data");
      text += textOf(message.data);
    }
    assertEquals([text, alive(id)], ["before\nafter\n", true]);
  }
  unwilling.port1.close();
  await port.close();
  assertEquals((await port.status).cause, "close");
});

/** The other side of an address that takes nothing. */
function unwilling(): MessageChannel {
  const channel = new MessageChannel();
  channel.port1.onmessage = ({ data }) =>
    channel.port1.postMessage({ answer: data.offer, refused: "not wanted" });
  return channel;
}

test("connect where it is refused: streams, status, signal and who waits are as before", async () => {
  await using mailbox = new Mailbox();
  const { port1, port2 } = unwilling();
  const controller = new AbortController();
  const port = await open("sh", ["-c", "cat; sleep 1000"], {
    owner: mailbox,
    signal: controller.signal,
    delayToSigkill: 0,
  });
  const { stdin, stdout, status } = port;
  const waiting = mailbox.receive();
  await assertRejects(() => port.connect(port2), ClosedError, "not wanted");
  assertEquals([port.stdin === stdin, port.stdout === stdout], [true, true]);
  const writer = stdin.getWriter();
  const refused = assertRejects(() => port.connect(port2), ClosedError, "not wanted");
  const written = writer.write(bytesOf("here\n")); // while it is away
  await refused;
  await written;
  const message = await within(waiting, { what: "a message for who waited before" });
  assertEquals(message.type === "data" && textOf(message.data), "here\n");
  await writer.close();
  const again = assertRejects(() => port.connect(port2), ClosedError, "not wanted");
  controller.abort(); // while it is away
  await again;
  assertEquals((await within(status, { what: "the status of before" })).cause, "abort");
  port1.close();
});

test("connect where it was taken and nobody says so: it is another's", async () => {
  await using mailbox = new Mailbox();
  await using other = new Mailbox();
  const { port1, port2 } = new MessageChannel();
  const taken: Port[] = [];
  port1.onmessage = ({ data }) => {
    taken.push(Port.adopt(data.ticket, { owner: other }));
    port1.postMessage({ answer: data.offer, refused: "nobody answers there" });
  };
  const port = await open("cat", [], { owner: mailbox });
  await port.connect(port2);
  assertEquals((await mailbox.receive()).type, "connected");
  await assertRejects(() => port.command("x"), ClosedError, "ENOTOWNER");
  const [there] = taken;
  assert(there !== undefined);
  await there.command("here\n");
  const message = await other.receive(there);
  assertEquals(message.type === "data" && textOf(message.data), "here\n");
  port1.close();
});

test("however often a connect is refused, no more than the window waits to be received", async () => {
  const waits: string[] = [];
  class Watched extends Mailbox {
    override deliver(...[message, consumed]: Parameters<Mailbox["deliver"]>): void {
      if (message.type === "data") waits.push(textOf(message.data));
      super.deliver(message, consumed);
    }
    override withdraw(port: Port): ReturnType<Mailbox["withdraw"]> {
      waits.length = 0;
      return super.withdraw(port);
    }
  }
  await using mailbox = new Watched();
  const { port1, port2 } = unwilling();
  const port = await open("sh", ["-c", "seq 1000; sleep 1000"], {
    owner: mailbox,
    stdioWindow: 64,
    delayToSigkill: 0,
  });
  const full = () => until(() => waits.join("").length === 64, { what: "a full window" });
  await assertRejects(() => mailbox.receive(() => false), Error, "EWINDOW");
  for (let time = 0; time < 3; time++) {
    await full();
    await assertRejects(() => port.connect(port2), ClosedError, "not wanted");
  }
  await full();
  const whole = Array.from({ length: 1000 }, (_, at) => `${at + 1}\n`).join("");
  let text = "";
  while (text.length < whole.length) {
    const message = await mailbox.receive(port);
    assert(message.type === "data");
    text += textOf(message.data);
  }
  assertEquals(text, whole);
  port1.close();
});
