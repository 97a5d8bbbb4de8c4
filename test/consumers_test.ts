// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** What is written for streams works with a port's, unchanged. */

import { assertEquals, assertRejects } from "@std/assert";
import { mergeReadableStreams, TextLineStream, toText } from "@std/streams";
import { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { ClosedError, open } from "../mod.ts";
import {
  alive,
  assert,
  bytesOf,
  identity,
  Pattern,
  PROBE,
  Scratch,
  test,
  textOf,
  warmUp,
  within,
} from "./helpers.ts";
import { whenStuck } from "./held_back.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

await warmUp();

/** A child that writes `size` bytes of the pattern to stdout. */
function flood(size: number) {
  return open(PROBE, ["flood", `${size}`, "0"]);
}

/** Checks that a stream holds the pattern, whole. */
async function isPattern(stream: AsyncIterable<Uint8Array>, size: number): Promise<void> {
  const pattern = new Pattern(1);
  for await (const chunk of stream) pattern.feed(chunk);
  assertEquals(pattern.bytes, size);
}

test("new Response(port.stdout): text, bytes and a body", async () => {
  await using text = await open("printf", ["grüße\\n%.0s", "1", "2"]);
  assertEquals(await new Response(text.stdout).text(), "grüße\ngrüße\n");
  await using bytes = await flood(3 * MIB + 5);
  const pattern = new Pattern(1);
  pattern.feed(new Uint8Array(await new Response(bytes.stdout).arrayBuffer()));
  assertEquals(pattern.bytes, 3 * MIB + 5);
  await using body = await flood(3 * MIB);
  const response = new Response(body.stdout);
  assert(response.body !== null);
  await isPattern(response.body, 3 * MIB);
});

test("TextDecoderStream and TextLineStream: characters and lines across the borders of chunks", async () => {
  const line = "é€😀";
  const script = `for (let n = 0; n < 20000; n++) console.log("${line}")`;
  await using port = await open(Deno.execPath(), ["eval", script]);
  const lines: ReadableStream<string> = port.stdout
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(new TextLineStream());
  let count = 0;
  for await (const one of lines) {
    if (one !== line) throw new Error(`line ${count} is ${one}`);
    count++;
  }
  assertEquals([count, (await port.status).success], [20_000, true]);
});

test("a chunk is its reader's own for as long as it is kept, however much is read meanwhile", async () => {
  await using kept = await flood(32 * MIB + 7);
  await using dropped = await flood(320 * MIB);
  const chunks: Uint8Array[] = [];
  const keep = async () => {
    for await (const chunk of kept.stdout) {
      chunks.push(chunk);
      await new Promise((resolve) => setTimeout(resolve)); // among those of the other
    }
  };
  await Promise.all([keep(), isPattern(dropped.stdout, 320 * MIB)]);
  const pattern = new Pattern(1);
  for (const chunk of chunks) {
    assertEquals(chunk.buffer.byteLength, chunk.byteLength, "nothing of others is in its buffer");
    pattern.feed(chunk);
  }
  assertEquals(pattern.bytes, 32 * MIB + 7);
});

test("CompressionStream: gzip(1) reads what it made of a child's output", async () => {
  await using port = await flood(4 * MIB);
  await using gzip = await open("gzip", ["-dc"]);
  const feeding = port.stdout.pipeThrough(new CompressionStream("gzip")).pipeTo(gzip.stdin);
  await isPattern(gzip.stdout, 4 * MIB);
  await feeding;
  assertEquals((await gzip.status).success, true);
});

test("tee: both branches have all of it", async () => {
  await using port = await flood(4 * MIB);
  const [one, other] = port.stdout.tee();
  await Promise.all([isPattern(one, 4 * MIB), isPattern(other, 4 * MIB)]);
  await using left = await open(PROBE, ["flood", `${Number.MAX_SAFE_INTEGER}`, "0"]);
  const [first, second] = left.stdout.tee();
  const readers = [first.getReader(), second.getReader()];
  await readers[0]?.read();
  await Promise.all(readers.map((reader) => reader.cancel()));
  const { signal } = await within(left.status, { what: "the end by SIGPIPE" });
  assertEquals(signal, "SIGPIPE", "cancelling both branches reaches the child");
});

test("toText and mergeReadableStreams of @std/streams", async () => {
  await using port = await open("printf", ["grüße\n"]);
  assertEquals(await toText(port.stdout), "grüße\n");
  await using both = await open(PROBE, ["flood", `${MIB}`, `${MIB}`]);
  const merged: ReadableStream<Uint8Array> = mergeReadableStreams(both.stdout, both.stderr);
  let bytes = 0;
  for await (const chunk of merged) bytes += chunk.length;
  assertEquals([bytes, await both.drained], [2 * MIB, { truncated: false }]);
});

/** node:stream/web has a type of its own for the same class. */
const nodes = (stream: ReadableStream | WritableStream) => stream as unknown as never;

test("node:stream: Readable.fromWeb reads it, Writable.fromWeb feeds it, destroy reaches the child", async () => {
  await using port = await flood(4 * MIB);
  await isPattern(Readable.fromWeb(nodes(port.stdout)), 4 * MIB);
  await using cat = await open("cat");
  const words = Readable.from([bytesOf("a"), bytesOf("b")]);
  const feeding = pipeline(words, Writable.fromWeb(nodes(cat.stdin)));
  assertEquals(await toText(cat.stdout), "ab");
  await feeding;
  await using endless = await open(PROBE, ["flood", `${Number.MAX_SAFE_INTEGER}`, "0"]);
  const readable = Readable.fromWeb(nodes(endless.stdout));
  for await (const _ of readable) break; // leaving the loop destroys it
  const { signal } = await within(endless.status, { what: "the end by SIGPIPE" });
  assertEquals(signal, "SIGPIPE");
});

// --- bad use -----------------------------------------------------------------

for (const mode of [undefined, "byob"] as const) {
  test(`cancel in mid-read${mode === "byob" ? " with a buffer" : ""}: the read ends, and the child sees a closed pipe`, async () => {
    await using port = await open("sh", [
      "-c",
      "read go; while echo x; do :; done 2>/dev/null; exit 3",
    ]);
    const { read, cancel } = reading(port.stdout, mode);
    const pending = read();
    await cancel();
    assertEquals((await within(pending, { what: "the end of the read" })).done, true);
    await port.command("go\n");
    const { code, signal } = await within(port.status, {
      what: "the end of a child that nobody hears",
    });
    assert(code === 3 || signal === "SIGPIPE", `${code} ${signal}`);
    assertEquals(await port.drained, { truncated: false });
  });
}

/** One read, and cancel, of a reader of this kind. */
function reading(stream: ReadableStream<Uint8Array<ArrayBuffer>>, mode: "byob" | undefined) {
  if (mode === "byob") {
    const reader = stream.getReader({ mode });
    return { read: () => reader.read(new Uint8Array(64)), cancel: () => reader.cancel() };
  }
  const reader = stream.getReader();
  return { read: () => reader.read(), cancel: () => reader.cancel() };
}

test("a reader that is let go in mid-read loses nothing: the next, with a buffer, reads on to the end", async () => {
  await using port = await open("cat");
  const first = port.stdout.getReader();
  const pending = first.read();
  first.releaseLock();
  await assertRejects(() => pending, TypeError);
  const next = port.stdout.getReader({ mode: "byob" });
  let got = next.read(new Uint8Array(64));
  await port.command("all\n");
  assertEquals(
    textOf((await within(got, { what: "what was written" })).value ?? bytesOf("")),
    "all\n",
  );
  got = next.read(new Uint8Array(64));
  await port.closeStdin();
  assertEquals((await within(got, { what: "the end" })).done, true);
});

test("a reader with a buffer that takes over a waiting read is told the end", async () => {
  await using port = await open("cat");
  const first = port.stdout.getReader();
  const pending = first.read();
  first.releaseLock();
  await assertRejects(() => pending, TypeError);
  const got = port.stdout.getReader({ mode: "byob" }).read(new Uint8Array(64));
  await port.closeStdin();
  assertEquals((await within(got, { what: "the end" })).done, true);
});

test("abort while a write waits: it is told at once, and the child reads the end after what it was sent", async () => {
  using scratch = new Scratch();
  const script = 'until [ -e "$0" ]; do sleep 0.01; done; wc -c';
  await using port = await open("sh", ["-c", script, scratch.file("go")]);
  const writer = port.stdin.getWriter();
  await writer.write(new Uint8Array(1000));
  const writing = writer.write(new Uint8Array(8 * MIB));
  const refused = assertRejects(() => writing, ClosedError);
  await within(writer.abort(new Error("enough")), { what: "the end of a write that nobody takes" });
  await refused;
  await assertRejects(() => writer.write(bytesOf("more")), Error, "enough");
  Deno.writeTextFileSync(scratch.file("go"), "");
  const sent = Number(await within(port.text(), { what: "the child's end" }));
  assert(sent >= 1000 && sent < 8 * MIB, `${sent} bytes`);
});

test("a second reader, and a second writer, are refused as the web says", async () => {
  await using port = await open("cat");
  const reader = port.stdout.getReader();
  const refused = (what: () => unknown) => assertRejects(async () => await what(), TypeError);
  await refused(() => port.stdout.getReader());
  await refused(() => port.stdout.getReader({ mode: "byob" }));
  await refused(() => port.stdout.pipeTo(new WritableStream()));
  const writer = port.stdin.getWriter();
  await refused(() => port.stdin.getWriter());
  await writer.write(bytesOf("x"));
  assertEquals(textOf((await reader.read()).value ?? bytesOf("")), "x", "the first goes on");
});

for (
  const [what, chunk] of [["a string", "text"], ["an ArrayBuffer", new ArrayBuffer(4)], [
    "null",
    null,
  ]]
) {
  test(`${what} written to port.stdin is a TypeError, and the child reads its end`, async () => {
    await using port = await open("cat");
    const writer = port.stdin.getWriter();
    await writer.write(bytesOf("bytes"));
    const error = await assertRejects(
      () => writer.write(chunk as unknown as Uint8Array),
      TypeError,
    );
    assert(
      /^Cannot write to stdin of "cat": the chunk is no Uint8Array/.test(error.message),
      error.message,
    );
    assertEquals(await within(port.text(), { what: "the end" }), "bytes");
    assertEquals((await port.status).success, true);
  });
}

test("a pipe of text to port.stdin is refused, its source is cancelled, and no child waits for ever", async () => {
  await using port = await open("cat");
  let cancelled: unknown;
  const source = new ReadableStream({
    pull: (controller) => controller.enqueue("text"),
    cancel: (reason) => void (cancelled = reason),
  });
  const error = await assertRejects(() => source.pipeTo(port.stdin), TypeError);
  assertEquals([cancelled, (await within(port.status, { what: "its end" })).success], [
    error,
    true,
  ]);
});

test("a stream and messages both: the second is refused, the child lives on", async () => {
  await using port = await open("cat");
  const id = identity(port.pid);
  await port.command("x");
  await port.stdout.getReader().read();
  for (
    const other of [() => port.text(), () => port.bytes(), () => port.lines().getReader().read()]
  ) {
    await assertRejects(other, TypeError, "it is being read by the stream port.stdout");
  }
  assert(alive(id));
});

// --- reading ahead -----------------------------------------------------------

for (const mode of [undefined, "byob"] as const) {
  for (const highWaterMark of [0, MIB]) {
    test(`a reader ${mode ?? "without a buffer"} that stops after one chunk: ${highWaterMark} bytes are read ahead`, async () => {
      using scratch = new Scratch();
      const file = scratch.file("counts");
      await using port = await open(PROBE, ["count-written", file, "out"], { highWaterMark });
      const { read } = reading(port.stdout, mode);
      const pattern = new Pattern(1);
      pattern.feed((await read()).value ?? bytesOf(""));
      const { out } = await whenStuck(port.pid, file);
      const ahead = out - pattern.bytes;
      const pipe = 256 * KIB; // at most, and a chunk is as much
      assert(ahead >= highWaterMark, `${ahead} bytes were read ahead and wait in the pipe`);
      assert(
        ahead <= highWaterMark + 2 * pipe,
        `${ahead} bytes were taken from a child that nobody reads`,
      );
      while (pattern.bytes < 2 * MIB) pattern.feed((await read()).value ?? bytesOf(""));
    });
  }
}
