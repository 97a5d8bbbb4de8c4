// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** What a program writes arrives: every byte, in order, and before the end is told. */

import { assertEquals, assertInstanceOf, assertMatch, assertRejects } from "@std/assert";
import { TextLineStream, toText } from "@std/streams";
import {
  BrokenPipeError,
  ClosedError,
  Mailbox,
  type Message,
  open,
  type Port,
  WindowFullError,
} from "../mod.ts";
import {
  alive,
  assert,
  identity,
  left,
  Pattern,
  pause,
  PROBE,
  ready,
  test,
  textOf,
  until,
  within,
} from "./helpers.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** Reads the messages of `port` to their end and checks that they are the probe's pattern. */
async function receivePattern(port: Port, window: number) {
  const [out, err] = [new Pattern(1), new Pattern(2)];
  let exit: Extract<Message, { type: "exit" }> | undefined;
  for await (const message of port) {
    assertEquals(exit, undefined, `a ${message.type} message after exit`);
    if (message.type === "exit") exit = message;
    else if (message.type === "data" || message.type === "error") {
      const { length } = message.data;
      assert(length > 0 && length <= window, `${length} bytes in a window of ${window}`);
      (message.type === "data" ? out : err).feed(message.data);
    }
  }
  assert(exit !== undefined, "no exit message");
  return { out: out.bytes, err: err.bytes, exit };
}

for (
  const [total, window] of [[64 * MIB, 10_240], [64 * MIB, MIB], [MIB, 16]] as const
) {
  test(`${total / MIB} MiB of mixed output through a window of ${window} bytes`, async () => {
    const half = total / 2;
    await using port = await open(PROBE, ["flood", `${half}`, `${half}`], { stdioWindow: window });
    const { out, err, exit } = await receivePattern(port, window);
    assertEquals([out, err], [half, half]);
    assertEquals([exit.reason, exit.status.cause], [{ kind: "normal" }, "exit"]);
    assertEquals([exit.status.truncated, await port.drained], [false, { truncated: false }]);
  });
}

test("a child that exits at once after writing loses nothing, a hundred times", async () => {
  for (let size = 0; size < 100 * KIB; size += KIB + 1) {
    await using port = await open(PROBE, ["flood", `${size}`, `${100 * KIB - size}`]);
    const { out, err, exit } = await receivePattern(port, 10_240);
    assertEquals([out, err, exit.reason], [size, 100 * KIB - size, { kind: "normal" }]);
  }
});

test("the exit message comes after the last byte, also to an owner who begins to read after the end", async () => {
  await using port = await open(PROBE, ["flood", `${32 * KIB}`, `${32 * KIB}`]);
  await port.status;
  const { out, err, exit } = await receivePattern(port, 10_240);
  assertEquals([out, err, exit.reason], [32 * KIB, 32 * KIB, { kind: "normal" }]);
});

test("the messages of several ports come to one mailbox, each in order and each with its end", async () => {
  await using owner = new Mailbox();
  const sizes = new Map<Port, { pattern: Pattern; size: number }>();
  for (const size of [MIB, 2 * MIB, 3 * MIB]) {
    const port = await open(PROBE, ["flood", `${size}`, "0"], { owner });
    sizes.set(port, { pattern: new Pattern(1), size });
  }
  for (let ends = 0; ends < sizes.size;) {
    const message = await owner.receive();
    const one = sizes.get(message.port);
    assert(one !== undefined, "a message of a port that nobody opened");
    if (message.type === "data") one.pattern.feed(message.data);
    if (message.type === "exit") assertEquals([++ends, one.pattern.bytes], [ends, one.size]);
  }
});

test("a shell's output through a process substitution ends by EOF and is whole", async () => {
  const script = "exec > >(sed s/^/x/); seq 1 100000";
  await using port = await open("bash", ["-c", script], { flushMs: 60_000 });
  const lines = port.stdout
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(new TextLineStream()) as ReadableStream<string>;
  let count = 0;
  const all = async () => {
    for await (const line of lines) assertEquals(line, `x${++count}`);
    return await port.status;
  };
  // Well under flushMs: only the end of the stream can be what ended it.
  const status = await within(all(), { what: "EOF, not the timer", deadlineMs: 50_000 });
  assertEquals([count, status.cause, status.killed], [100_000, "exit", 0]);
});

test("descendants that hold the output are ended once flushMs is over", async () => {
  await using port = await open(PROBE, ["hold-pipe"], { flushMs: 50, delayToSigkill: 0 });
  const text: string = await toText(port.stdout);
  const [, holder = 0] = text.trim().split(" ").slice(1).map(Number);
  const status = await port.status;
  assertEquals([status.reason, status.cause, status.killed], [{ kind: "normal" }, "exit", 1]);
  assert(holder > 0, text);
  assertEquals(left([holder]), []);
  assertEquals(await port.drained, { truncated: false });
});

test("descendants that hold no output are ended at its EOF, not by the timer", async () => {
  await using port = await open(PROBE, ["double-fork", "2", "exit"], {
    flushMs: 60_000,
    delayToSigkill: 20,
  });
  const text: string = await toText(port.stdout);
  const daemons = text.trim().split(" ").slice(2).map(Number);
  assertEquals(daemons.length, 2, text);
  // Well under flushMs: only the end of the output can be what ended them.
  const status = await within(port.status, { what: "EOF, not the timer", deadlineMs: 50_000 });
  assertEquals([status.reason, status.cause, status.killed], [{ kind: "normal" }, "exit", 1]);
  assertEquals(left(daemons), []);
});

for (const begins of ["before the end", "after the end"] as const) {
  test(`a slow reader that begins ${begins} gets all that a child left in the pipe, however short drainTimeoutMs is`, async () => {
    const size = 64 * KIB;
    await using port = await open(PROBE, ["flood", `${size}`, "0"], { drainTimeoutMs: 100 });
    const reader = port.stdout.getReader({ mode: "byob" });
    const pattern = new Pattern(1);
    const take = async () => {
      const { value, done } = await reader.read(new Uint8Array(10 * KIB));
      if (value !== undefined) pattern.feed(value);
      return !done;
    };
    if (begins === "before the end") await take();
    await port.status;
    while (await take()) await pause(300);
    assertEquals([pattern.bytes, await port.drained], [size, { truncated: false }]);
  });
}

test("a selective receive behind a full window is refused by name, with discard it is served", async () => {
  await using owner = new Mailbox();
  const port = await open(PROBE, ["flood", `${MIB}`, `${MIB}`], { owner });
  const isExit = (message: Message) => message.type === "exit";
  const error = await assertRejects(() => within(owner.receive(isExit), { what: "an answer" }));
  assertInstanceOf(error, WindowFullError);
  assert(error.message.includes(PROBE), error.message);
  // Nothing was lost by the refusal: the first message is still the first.
  const first = await owner.receive();
  assert(first.type === "data" || first.type === "error");
  new Pattern(first.type === "data" ? 1 : 2).feed(first.data);
  // Full again: what stands in the mailbox is dropped, and not only what would come.
  await assertRejects(() => within(owner.receive(isExit), { what: "an answer" }), WindowFullError);
  const exit = await owner.receive(isExit, { discard: true });
  assert(exit.type === "exit" && exit.port === port);
  assertEquals(exit.reason, { kind: "normal" });
});

test("a selective receive leaves what does not match in its place", async () => {
  await using owner = new Mailbox();
  await open("sh", ["-c", "echo out; echo err >&2"], { owner });
  const error = await owner.receive((message) => message.type === "error");
  assert(error.type === "error");
  assertEquals(textOf(error.data), "err\n");
  const data = await owner.receive();
  assert(data.type === "data");
  assertEquals([textOf(data.data), (await owner.receive()).type], ["out\n", "exit"]);
});

test("text, bytes and lines read stdout and let stderr go", async () => {
  const script = "seq 1 3; head -c 1000000 /dev/zero >&2";
  await using text = await open("sh", ["-c", script]);
  assertEquals(await text.text(), "1\n2\n3\n");
  await using bytes = await open(PROBE, ["flood", `${MIB}`, `${MIB}`]);
  const pattern = new Pattern(1);
  pattern.feed(await bytes.bytes());
  assertEquals(pattern.bytes, MIB);
  await using port = await open("sh", ["-c", `${script}; printf last`]);
  assertEquals(await Array.fromAsync(port.lines()), ["1", "2", "3", "last"]);
});

test("of stream and messages the first to claim wins, and the loser is told", async () => {
  await using port = await open("cat");
  await port.command("one\n");
  for await (const message of port) {
    assertEquals(message.type, "data");
    break;
  }
  for (const stream of [port.stdout, port.stderr]) {
    await assertRejects(async () => await stream.getReader().read(), TypeError);
  }
  await assertRejects(() => port.text(), TypeError);
});

test("a claimed stdout leaves stderr and the exit to the messages", async () => {
  await using port = await open("sh", ["-c", "echo out; echo err >&2"]);
  const reader = port.stdout.getReader();
  assertEquals(textOf((await reader.read()).value ?? new Uint8Array()), "out\n");
  assertEquals((await reader.read()).done, true);
  const messages: Message[] = await Array.fromAsync(port);
  assertEquals(messages.map(({ type }) => type), ["error", "exit"]);
});

test("cancelling a stream is what the child sees as a closed pipe", async () => {
  await using port = await open(PROBE, ["flood", `${64 * MIB}`, "0"]);
  const id = identity(port.pid);
  await port.stdout.cancel();
  const { reason } = await within(port.status, { what: "the end by SIGPIPE" });
  assertEquals(reason, { kind: "signal", signal: "SIGPIPE", number: 13 });
  await until(() => !alive(id), { what: "its end" });
});

test("lines(): one that is too long is an error however it arrives, and those before it are told", async () => {
  for (const pause of ["", "; sleep 0.2"]) {
    const script = `printf 'abcde\\r\\nabcde\\n'${pause}; printf 'abcdefgh\\nx\\n'; sleep 1000`;
    await using port = await open("sh", ["-c", script], { maxLineBytes: 5 });
    const lines: string[] = [];
    const error = await assertRejects(async () => {
      for await (const line of port.lines()) lines.push(line);
    }, RangeError);
    assertEquals(lines, ["abcde", "abcde"]);
    assertMatch(error.message, /maxLineBytes \(5\)/);
    assertEquals((await port.status).cause, "limit");
  }
});

test("text(), bytes() and lines() read stdout once: another is told who has read it", async () => {
  await using port = await open("sh", ["-c", "echo out; read -r line"]);
  const text = port.text();
  await assertRejects(() => port.text(), TypeError, "it is being read by port.text()");
  await port.command("\n");
  assertEquals(await text, "out\n");
  const others = [
    () => port.text(),
    () => port.bytes(),
    () => port.lines().getReader().read(),
    () => new Response(port.stdout).text(),
  ];
  for (const other of others) {
    await assertRejects(other, TypeError, "Cannot read stdout: port.text() has read it: read each");
  }
  await using lines = await open("seq", ["2"]);
  assertEquals((await lines.lines().getReader().read()).value, "1");
  await assertRejects(() => lines.lines().getReader().read(), TypeError, "by port.lines()");
});

test("text() leaves stderr to whoever asks for it in the same turn, and to nobody later", async () => {
  const say = ["-c", "echo out; echo err >&2"];
  await using both = await open("sh", say);
  const all = [both.text(), new Response(both.stderr).text()];
  assertEquals(await Promise.all(all), ["out\n", "err\n"]);
  await using one = await open("sh", ["-c", "echo out; echo err >&2; read -r line"]);
  const text = one.text();
  await pause(5); // a turn of the event loop later
  const late = () => one.stderr.getReader().read();
  await assertRejects(late, TypeError, "port.text(), bytes() or lines(), which throw it away");
  await one.command("\n");
  assertEquals(await text, "out\n");
});

test("what is written or piped to a program that has ended says that it has", async () => {
  const told = "the program has ended (ECLOSED): look at port.status";
  await using ended = await open("true");
  await using source = await open("seq", ["100000"]);
  await ended.status;
  await assertRejects(() => source.stdout.pipeTo(ended.stdin), ClosedError, told);
  await assertRejects(() => ended.command("x"), ClosedError, told);
  // The program alone: something of its tree goes on, and nobody reads.
  const left = "(trap '' TERM; echo ready; exec sleep 1000 >/dev/null) <&- 2>/dev/null &";
  const options = { delayToSigkill: 60_000 };
  await using leader = await open("sh", ["-c", `${left} read -r line; exit 3`], options);
  await ready(leader);
  const refused = () => leader.command("x\n").then(() => null, (error) => error);
  const why = (error: Error | null) => error?.message.includes("the program has ended (EPIPE)");
  const error = await until(async () => {
    const error = await refused();
    return why(error) ? error : null;
  }, { what: "that the program has ended" });
  assertInstanceOf(error, BrokenPipeError);
  await leader.close({ graceMs: 0 });
});
