// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** A port obeys its owner and nobody else, and moves to another with everything it has. */

import { assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { ClosedError, Mailbox, type Message, open, type Port } from "../mod.ts";
import {
  alive,
  assert,
  bytesOf,
  gone,
  identities,
  identity,
  Pattern,
  PROBE,
  ready,
  test,
  textOf,
  within,
} from "./helpers.ts";

const MIB = 1024 * 1024;

/** Every way of telling a port something. */
const ORDERS: [name: string, order: (port: Port, box: Mailbox) => unknown][] = [
  ["command", (port) => port.command("mischief\n")],
  ["close", (port) => port.close()],
  ["connect", (port, box) => port.connect(box)],
  ["kill", (port) => port.kill("SIGKILL")],
  ["send command", (port) => port.send({ command: "mischief\n" })],
  ["send close", (port) => port.send("close")],
  ["send connect", (port, box) => port.send({ connect: box })],
];

test("a handle that is no longer the owner's is told so, and nothing happens", async () => {
  await using first = new Mailbox();
  await using second = new Mailbox();
  await using stranger = new Mailbox();
  const old = await open("cat", [], { owner: first });
  const port = await old.connect(second);
  const id = identity(port.pid);
  assertEquals((await first.receive()).type, "connected");
  for (const [name, order] of ORDERS) {
    const error = await assertRejects(async () => await order(old, stranger));
    assertInstanceOf(error, ClosedError, name);
    assertEquals(error.code, "ENOTOWNER", name);
  }
  await port.command("mine\n");
  const answer = await second.receive();
  assert(answer.type === "data");
  assertEquals([textOf(answer.data), answer.port === port, alive(id)], ["mine\n", true, true]);
});

test("the old owner gets connected, and the order of both mailboxes is whole", async () => {
  const first = new Mailbox();
  await using second = new Mailbox();
  const old = await open(PROBE, ["flood", `${8 * MIB}`, `${8 * MIB}`], { owner: first });
  const patterns = { data: new Pattern(1), error: new Pattern(2) };
  const feed = (message: Message) => {
    if (message.type === "data" || message.type === "error") {
      patterns[message.type].feed(message.data);
    }
    return message.type;
  };
  for (let i = 0; i < 100; i++) feed(await first.receive());
  const port = await old.connect(second);
  while (feed(await first.receive()) !== "connected");
  await assertRejects(() => first.receive(), ClosedError, undefined, "no open port is left");
  while (feed(await second.receive()) !== "exit");
  assertEquals([patterns.data.bytes, patterns.error.bytes], [8 * MIB, 8 * MIB]);
  assertEquals(await port.drained, { truncated: false });
  await first[Symbol.asyncDispose]();
});

test("fifty moves to and fro while data flows lose and double nothing", async () => {
  const boxes = [new Mailbox(), new Mailbox()];
  const size = 16 * MIB;
  let port = await open(PROBE, ["flood", `${size}`, "0"], { owner: at(boxes, 0) });
  const pattern = new Pattern(1);
  let connected = 0;
  const take = async (box: Mailbox) => {
    const message = await within(box.receive(), { what: `a message at byte ${pattern.bytes}` });
    if (message.type === "data") pattern.feed(message.data);
    if (message.type === "connected") connected++;
    return message.type;
  };
  for (let move = 0; move < 50; move++) {
    for (let i = 0; i < 7; i++) assertEquals(await take(at(boxes, move)), "data");
    port = await port.connect(at(boxes, move + 1));
    while (await take(at(boxes, move)) !== "connected");
  }
  while (await take(at(boxes, 50)) !== "exit");
  assertEquals([pattern.bytes, connected], [size, 50]);
  for (const box of boxes) await box[Symbol.asyncDispose]();
});

function at(boxes: Mailbox[], index: number): Mailbox {
  const box = boxes[index % boxes.length];
  assert(box !== undefined);
  return box;
}

test("a receive that waits at the new owner is served by what moves there", async () => {
  await using second = new Mailbox();
  const first = new Mailbox();
  const old = await open("cat", [], { owner: first });
  const other = await open("cat", [], { owner: second });
  const waiting = second.receive((message) => message.type === "data");
  await old.command("moved\n");
  const port = await old.connect(second);
  const message = await within(waiting, { what: "the data" });
  assert(message.type === "data" && message.port === port && message.port !== other);
  assertEquals(textOf(message.data), "moved\n");
  await first[Symbol.asyncDispose]();
});

test("a receive that waits at the old owner is answered with connected", async () => {
  await using second = new Mailbox();
  const first = new Mailbox();
  const old = await open("cat", [], { owner: first });
  const waiting = first.receive();
  await old.connect(second);
  assertEquals((await within(waiting, { what: "connected" })).type, "connected");
  const types: string[] = [];
  const third = await open("cat", [], { owner: first });
  const iterating = (async () => {
    for await (const { type } of first) types.push(type);
  })();
  await third.connect(second);
  await within(iterating, { what: "the end of the iteration" });
  assertEquals(types, ["connected"]);
  await first[Symbol.asyncDispose]();
});

test("the tree's life hangs on the new owner, not on the old one", async () => {
  const [first, second] = [new Mailbox(), new Mailbox()];
  const old = await open("sh", ["-c", "sleep 1000 & echo $!; wait"], {
    owner: first,
    delayToSigkill: 50,
  });
  const message = await first.receive();
  assert(message.type === "data");
  const ids = identities([old.pid, Number(textOf(message.data))]);
  const port = await old.connect(second);
  await first[Symbol.asyncDispose]();
  await port.kill("SIGCONT");
  assertEquals(ids.map(alive), [true, true], "the old owner's end is nothing to it");
  await second[Symbol.asyncDispose]();
  assertEquals(ids.map(alive), [false, false], "gone when dispose resolves");
  assertEquals((await port.status).cause, "owner");
});

test("connect while a stream is claimed is a TypeError", async () => {
  await using box = new Mailbox();
  await using port = await open("cat");
  await port.command("x");
  await port.stdout.getReader().read();
  await assertRejects(async () => await port.connect(box), TypeError);
});

test("with an owner given, iterating the port is a TypeError", async () => {
  await using owner = new Mailbox();
  const port = await open("cat", [], { owner });
  await assertRejects(async () => {
    for await (const _ of port) break;
  }, TypeError);
});

test("close answers with exit and closed, in this order, once", async () => {
  await using owner = new Mailbox();
  const port = await open(PROBE, ["double-fork", "2", "stay"], { owner, delayToSigkill: 20 });
  const first = await owner.receive();
  assert(first.type === "data");
  const ids = identities(textOf(first.data).trim().split(" ").slice(1).map(Number));
  const closing = port.close();
  assert(port.close() === closing, "a second close is the first");
  await closing;
  assertEquals(ids.filter(alive), [], "close resolves only once the tree is gone");
  assertEquals([(await owner.receive()).type, (await owner.receive()).type], ["exit", "closed"]);
  await assertRejects(() => owner.receive(), ClosedError);
});

test("use after close: ClosedError that carries the unsent bytes", async () => {
  await using owner = new Mailbox();
  const port = await open("cat", [], { owner });
  await port.close();
  const error = await assertRejects(() => port.command("unsent"));
  assertInstanceOf(error, ClosedError);
  assertEquals(error.unsent, bytesOf("unsent"));
  const other = await open("cat", [], { owner });
  // More than a pipe holds, and nobody reads what cat would answer: close finds it half sent.
  const sent = new Uint8Array(MIB).map((_, i) => i);
  const writing = other.command(sent);
  writing.catch(() => {}); // It is asserted on below, after the close.
  assertEquals((await owner.receive(other)).type, "data", "some of it was sent");
  await other.close();
  const cut = await assertRejects(() => writing);
  assertInstanceOf(cut, ClosedError);
  assert(cut.unsent !== null && cut.unsent.length > 0 && cut.unsent.length < sent.length);
  assertEquals(cut.unsent, sent.subarray(sent.length - cut.unsent.length));
});

test("receive gives up by time and by signal, and then loses nothing", async () => {
  await using owner = new Mailbox();
  const port = await open("cat", [], { owner });
  const late = await assertRejects(() => owner.receive(undefined, { timeoutMs: 20 }));
  assert(late instanceof DOMException && late.name === "TimeoutError");
  const controller = new AbortController();
  const aborted = owner.receive(undefined, { signal: controller.signal });
  controller.abort("enough");
  assertEquals(await aborted.catch((reason) => reason), "enough");
  await port.command("still here\n");
  const message = await owner.receive(port);
  assert(message.type === "data");
  assertEquals(textOf(message.data), "still here\n");
});

test("breaking out of an iteration leaves the port open", async () => {
  await using port = await open(PROBE, ["ready"]);
  await ready(port);
  const ids = identities([port.pid]);
  assertEquals(ids.map(alive), [true]);
  await port.close();
  await gone(ids);
});
