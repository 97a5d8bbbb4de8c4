// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** A program that is run to its end: what it is given, what it says, and what bounds it. */

import { assertEquals, assertRejects } from "@std/assert";
import { cmd, type CommandOptions, SpawnError } from "../mod.ts";
import { assert, Pattern, PROBE, test, textOf } from "./helpers.ts";

const MIB = 1024 * 1024;

test("cmd: both outputs whole, with how it ended", async () => {
  const result = await cmd(PROBE, ["flood", `${3 * MIB}`, `${2 * MIB + 5}`]);
  for (const [number, bytes] of [[1, result.stdout], [2, result.stderr]] as const) {
    const pattern = new Pattern(number);
    pattern.feed(bytes);
    assertEquals(pattern.bytes, number === 1 ? 3 * MIB : 2 * MIB + 5);
  }
  const { success, code, cause, truncated, killed, survivors } = result;
  assertEquals(
    [success, code, cause, truncated, killed, survivors],
    [true, 0, "exit", false, 0, []],
  );
});

test("cmd: an exit code, a signal and a program that is not there are three things", async () => {
  const failed = await cmd("sh", ["-c", "echo why >&2; exit 3"]);
  assertEquals([failed.success, failed.code, textOf(failed.stderr)], [false, 3, "why\n"]);
  const killed = await cmd("sh", ["-c", "kill -KILL $$"]);
  assertEquals([killed.code, killed.signal], [null, "SIGKILL"]);
  await assertRejects(() => cmd("no-such-program"), SpawnError, "no-such-program");
  const folder = await assertRejects(() => cmd("/tmp"), SpawnError);
  assertEquals(
    folder.message,
    'Cannot start "/tmp": it is a directory (EISDIR): give the path of a program',
  );
});

test("cmd: input as text, bytes and a stream; without it stdin is /dev/null", async () => {
  const bytes = new Uint8Array(2 * MIB).map((_, i) => i * 7);
  const slices = (async function* () {
    for (let at = 0; at < bytes.length; at += 100_000) yield bytes.subarray(at, at + 100_000);
  })();
  assertEquals((await cmd("cat", [], { input: "é\n" })).text(), "é\n");
  assertEquals((await cmd("cat", [], { input: "" })).stdout.length, 0);
  assertEquals((await cmd("cat", [], { input: bytes })).stdout, bytes);
  assertEquals((await cmd("cat", [], { input: ReadableStream.from(slices) })).stdout, bytes);
  assertEquals((await cmd("readlink", ["/proc/self/fd/0"])).text(), "/dev/null\n");
});

test("cmd: a program may leave its input unread", async () => {
  const unread = await cmd("true", [], { input: new Uint8Array(MIB) });
  assertEquals(unread.success, true);
  let cancelled = false;
  const silent = new ReadableStream<Uint8Array>({ cancel: () => void (cancelled = true) });
  assertEquals((await cmd("true", [], { input: silent })).success, true);
  assert(cancelled, "the source is told that nobody reads it");
});

test("cmd: a source that fails ends the tree, and its error is the answer", async () => {
  let pulls = 0;
  const failing = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (pulls++ > 0) throw new RangeError("half of it");
      controller.enqueue(new Uint8Array(10));
    },
  });
  await assertRejects(() => cmd("cat", [], { input: failing }), RangeError, "half of it");
});

test("cmd: one byte over maxOutputBytes ends the tree and keeps what came", async () => {
  const options = { maxOutputBytes: 100_000, delayToSigkill: 0 };
  const exact = await cmd(PROBE, ["flood", "60000", "40000"], options);
  assertEquals([exact.cause, exact.truncated], ["exit", false]);
  const over = await cmd(PROBE, ["flood", "90000", "90000"], options);
  assertEquals([over.cause, over.truncated], ["limit", true]);
  assertEquals(over.stdout.length + over.stderr.length, 100_000);
  for (const [number, bytes] of [[1, over.stdout], [2, over.stderr]] as const) {
    new Pattern(number).feed(bytes);
  }
  const nothing = await cmd("echo", [], { maxOutputBytes: 0 });
  assertEquals([nothing.cause, nothing.stdout.length], ["limit", 0]);
  const late = await cmd(PROBE, ["flood", "100", "0"], { maxOutputBytes: 99 });
  assertEquals([late.cause, late.stdout.length, late.truncated], ["limit", 99, true]);
});

test("cmd: timeoutMs and an aborted signal end the tree, with the cause and what came", async () => {
  const late = await cmd("sh", ["-c", "echo early; exec sleep 1000"], { timeoutMs: 200 });
  assertEquals([late.cause, late.signal, late.text()], ["timeout", "SIGTERM", "early\n"]);
  const controller = new AbortController();
  const fed = new ReadableStream<Uint8Array>(
    { pull: () => controller.abort(new Error("enough")) },
    { highWaterMark: 0 },
  );
  const aborted = await cmd("cat", [], { signal: controller.signal, input: fed });
  assertEquals(aborted.cause, "abort");
  const before = AbortSignal.abort(new Error("before"));
  await assertRejects(() => cmd("cat", [], { signal: before }), Error, "before");
});

test("cmd: what the program leaves behind is gone when it resolves", async () => {
  const { stdout } = await cmd(PROBE, ["double-fork", "2", "exit"], { delayToSigkill: 10 });
  const pids = textOf(stdout).trim().split(" ").slice(2).map(Number);
  assertEquals(pids.length, 2);
  assertEquals(pids.filter((pid) => exists(pid)), []);
});

function exists(pid: number): boolean {
  try {
    return Deno.statSync(`/proc/${pid}`).isDirectory;
  } catch {
    return false;
  }
}

test("cmd: text and lines are right across the borders of chunks and without a last newline", async () => {
  const text = "é€😀".repeat(60_000);
  const result = await cmd("cat", [], { input: `${text}\r\n\n${text}` });
  assertEquals(result.lines(), [text, "", text]);
  assertEquals((await cmd("true")).lines(), []);
  assertEquals((await cmd("echo")).lines(), [""]);
  assertEquals((await cmd("printf", ["\\377x"])).text(), "\uFFFDx");
});

test("cmd: bad input is refused before anything starts", async () => {
  const refused = (options: unknown, message: string) =>
    assertRejects(() => cmd("true", [], options as CommandOptions), TypeError, message);
  await refused(
    { owner: {} },
    'option "owner": with a command that is run to its end nobody talks meanwhile',
  );
  await refused({ stdioWindow: 100 }, 'option "stdioWindow"');
  await refused({ stdin: "piped" }, 'option "stdin": nobody would write to it');
  await refused({ stdin: "null", input: "x" }, 'option "stdin": "input" is given too');
  await refused({ input: 7 }, 'option "input": it is neither text, bytes nor a stream');
  await refused({ inputs: "x" }, 'option "inputs"');
  await refused(null, "options");
});

test("cmd: many at once", async () => {
  const results = await Promise.all(
    Array.from({ length: 40 }, (_, i) => cmd("cat", [], { input: `${i}` })),
  );
  assertEquals(results.map((result) => result.text()), results.map((_, i) => `${i}`));
});
