// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * `pipeTo` from port to port goes past JavaScript and looks like the web's own:
 * each case is run both ways, and what can be seen of them is compared.
 */

import { assertEquals } from "@std/assert";
import {
  BrokenPipeError,
  ClosedError,
  type ExitStatus,
  open,
  type OpenOptions,
  type Port,
} from "../mod.ts";
import { nativeCore } from "../src/native/load.ts";
import { asleep, whenStuck } from "./held_back.ts";
import {
  assert,
  bytesOf,
  Echo,
  gone,
  identity,
  Pattern,
  PROBE,
  ready,
  Scratch,
  test,
  textOf,
  until,
  warmUp,
  within,
} from "./helpers.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

await warmUp();

type Pipe = (from: Port, to: Port, options?: StreamPipeOptions) => Promise<void>;

const direct: Pipe = (from, to, options) => from.stdout.pipeTo(to.stdin, options);
const plain: Pipe = (from, to, options) =>
  ReadableStream.prototype.pipeTo.call(from.stdout, to.stdin, options);

/** Joins that were begun, and bytes that passed through here, while `body` ran. */
async function counted<T>(
  body: () => Promise<T>,
): Promise<{ result: T; joins: number; bytes: number }> {
  const core = nativeCore();
  const { join, read, take } = core;
  const [joined, reads, takes] = [join.bind(core), read.bind(core), take?.bind(core)];
  let [joins, bytes] = [0, 0];
  core.join = (port, stream, to) => {
    const result = joined(port, stream, to);
    joins += result === 0 ? 1 : 0;
    return result;
  };
  core.read = (port, stream, into) => {
    const got = reads(port, stream, into);
    bytes += Math.max(got, 0);
    return got;
  };
  if (takes !== undefined) {
    core.take = (port, stream) => {
      const taken = takes(port, stream);
      bytes += typeof taken === "number" ? 0 : taken.length;
      return taken;
    };
  }
  try {
    return { result: await body(), joins, bytes };
  } finally {
    Object.assign(core, { join, read, take });
  }
}

/** How a promise ended: the error's class and message, without what differs from run to run. */
async function outcome(promise: Promise<unknown>): Promise<string> {
  try {
    await within(promise, { what: "the end of a pipe" });
    return "resolved";
  } catch (error) {
    assert(error instanceof Error);
    // Whether it left first or was told to first is a race in both ways.
    if (error instanceof BrokenPipeError || error instanceof ClosedError) return "nobody reads it";
    return `${error.constructor.name}: ${error.message}`;
  }
}

async function ended(port: Port): Promise<ExitStatus["reason"] | string> {
  const { cause, reason } = await within(port.status, { what: "the end of a child" });
  return cause === "exit" ? reason : cause;
}

const start = (command: string, args: string[] = [], options: OpenOptions = {}) =>
  open(command, args, { delayToSigkill: 0, ...options });

const zeros = () => start("cat", ["/dev/zero"]);
/** Reads one line, and the rest only once it has been told to by a file. */
const late = (file: string) =>
  start("sh", ["-c", 'head -c 1000 >/dev/null; until [ -e "$0" ]; do sleep 0.01; done; cat', file]);

/** Takes all that it is given, and says when it has begun and when that has ended. */
const DEVOURS = "head -c 1000 >/dev/null; echo begun; cat >/dev/null; echo end";

async function word(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<string> {
  return textOf((await within(reader.read(), { what: "a word" })).value ?? bytesOf("")).trim();
}

/** What it says until it says `last`. */
async function textUpTo(port: Port, last: string): Promise<string> {
  const reader = port.stdout.getReader();
  let text = "";
  const all = async () => {
    while (!text.endsWith(last)) text += textOf((await reader.read()).value ?? bytesOf(""));
  };
  await within(all(), { what: () => `"${last}" behind ${text.length} characters` });
  return text;
}

/** Both have come to a halt: all that fits is on its way. */
async function halted(...ports: Port[]): Promise<void> {
  await using echo = await Echo.start();
  let same = 0;
  await until(async () => {
    await echo.turn();
    same = ports.every(({ pid }) => asleep(pid)) ? same + 1 : 0;
    return same >= 10;
  }, { what: "two children that wait" });
}

/** A case: what can be seen of it, which is the same both ways. */
type Case = (pipe: Pipe) => Promise<unknown>;

const CASES: Record<string, Case> = {
  "all of it, in order, and the end": async (pipe) => {
    await using from = await start(PROBE, ["flood", `${8 * MIB + 3}`, "0"]);
    await using to = await start("cat");
    const piping = outcome(pipe(from, to));
    assert(from.stdout.locked && to.stdin.locked, "locked from the call on");
    const pattern = new Pattern(1);
    for await (const chunk of to.stdout) pattern.feed(chunk);
    const seen = [await piping, pattern.bytes, await ended(from), await ended(to)];
    return [...seen, from.stdout.locked, to.stdin.locked, await from.drained];
  },

  "nothing at all": async (pipe) => {
    await using from = await start("true");
    await using to = await start("wc", ["-c"]);
    return [await outcome(pipe(from, to)), await to.text()];
  },

  "preventClose: more can be written behind it": async (pipe) => {
    await using from = await start("printf", ["first "]);
    await using to = await start("cat");
    const piped = await outcome(pipe(from, to, { preventClose: true }));
    const writer = to.stdin.getWriter();
    await writer.write(bytesOf("second"));
    await writer.close();
    return [piped, await to.text()];
  },

  "a reader that ends early": async (pipe) => {
    await using from = await zeros();
    await using to = await start("sh", ["-c", "head -c 300000 | wc -c"]);
    const piped = await outcome(pipe(from, to));
    return [piped, (await to.text()).trim(), await ended(to), await ended(from)];
  },

  "a reader that ends early, preventCancel: the writer lives, and is read on": async (pipe) => {
    await using from = await zeros();
    await using to = await start("head", ["-c", "10"]);
    const piped = await outcome(pipe(from, to, { preventCancel: true }));
    const { value } = await from.stdout.getReader().read();
    assert(value !== undefined && value.length > 0);
    await from.close();
    return [piped, await ended(to), await ended(from)];
  },

  "a reader that closes its stdin and lives on": async (pipe) => {
    await using from = await zeros();
    await using to = await start(PROBE, ["close-stdin"]);
    await ready(to);
    const piped = await outcome(pipe(from, to));
    await to.kill("SIGKILL");
    return [piped, await ended(from), await ended(to)];
  },

  "an abort reaches both": async (pipe) => {
    using scratch = new Scratch();
    await using from = await zeros();
    await using to = await late(scratch.file("go"));
    const controller = new AbortController();
    const piping = outcome(pipe(from, to, { signal: controller.signal }));
    await halted(from, to);
    controller.abort(new RangeError("enough"));
    // The web's own waits for a chunk that it has begun to write.
    Deno.writeTextFileSync(scratch.file("go"), "");
    const rest = (await to.bytes()).length;
    assert(rest > 0, "what was on its way has arrived");
    return [await piping, await ended(from), await ended(to)];
  },

  "an abort that neither closes nor cancels: both are used on": async (pipe) => {
    await using from = await start("cat");
    await using to = await start("cat");
    const controller = new AbortController();
    const prevent = { preventAbort: true, preventCancel: true, preventClose: true };
    const piping = outcome(pipe(from, to, { ...prevent, signal: controller.signal }));
    await from.command("one ");
    const reader = to.stdout.getReader();
    const first = textOf((await reader.read()).value ?? bytesOf(""));
    controller.abort();
    const piped = await piping;
    await from.command("two ");
    const own = from.stdout.getReader();
    const second = textOf((await own.read()).value ?? bytesOf(""));
    own.releaseLock();
    const again = outcome(pipe(from, to));
    await from.command("three");
    await from.closeStdin();
    let third = "";
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      third += textOf(next.value);
    }
    return [piped, first, second, await again, third, await ended(from), await ended(to)];
  },

  "a signal that is aborted already": async (pipe) => {
    await using from = await zeros();
    await using to = await start("wc", ["-c"]);
    const piped = await outcome(pipe(from, to, { signal: AbortSignal.abort(new Error("before")) }));
    return [piped, (await to.text()).trim(), await ended(from), await ended(to)];
  },

  "the writer's port is closed: the reader reads the end": async (pipe) => {
    await using from = await zeros();
    await using to = await start("sh", ["-c", DEVOURS]);
    const piping = outcome(pipe(from, to));
    const said = to.stdout.getReader();
    const words = [await word(said)];
    await from.close();
    words.push(await word(said));
    return [await piping, words, await ended(from), await ended(to)];
  },

  "the reader's port is closed: the writer sees a closed pipe": async (pipe) => {
    await using from = await zeros();
    await using to = await start("sleep", ["1000"]);
    const piping = outcome(pipe(from, to));
    await halted(from, to);
    await to.close();
    return [await piping, await ended(from), await ended(to)];
  },

  "stdin is closed under it": async (pipe) => {
    await using from = await zeros();
    await using to = await start("sh", ["-c", DEVOURS]);
    const piping = outcome(pipe(from, to));
    const said = to.stdout.getReader();
    const words = [await word(said)];
    await to.closeStdin();
    words.push(await word(said));
    return [await piping, words, await ended(from), await ended(to)];
  },

  "what was written and read before stands before it": async (pipe) => {
    await using from = await start("cat");
    await using to = await start("cat");
    await from.command("read by hand, ");
    const reader = from.stdout.getReader();
    const before = textOf((await reader.read()).value ?? bytesOf(""));
    reader.releaseLock();
    const written = to.command("written before, ".repeat(100_000));
    const piping = outcome(pipe(from, to));
    await from.command("and piped");
    await halted(from, to); // all that could go ahead has
    const text = await textUpTo(to, "and piped");
    await from.closeStdin();
    return [before, await piping, await written, text.length];
  },

  "what stands in the stream of its stdin goes first": async (pipe) => {
    await using from = await start("cat");
    await using to = await start("cat");
    const writer = to.stdin.getWriter();
    const written = ["a", "b", "c"].map((letter) => writer.write(bytesOf(letter.repeat(500_000))));
    writer.releaseLock();
    const piping = outcome(pipe(from, to));
    await from.command("and piped");
    const text = await textUpTo(to, "and piped");
    await from.closeStdin();
    return [await piping, (await Promise.all(written)).length, text.length, text.slice(-15)];
  },

  "somebody outside its tree holds the writer's output: its end is waited for as by any reader":
    async (pipe) => {
      await using from = await start("sh", ["-c", "echo said; read go"], { drainTimeoutMs: 300 });
      using _holder = Deno.openSync(`/proc/${from.pid}/fd/1`, { write: true });
      await using to = await start("cat");
      const piping = outcome(pipe(from, to));
      await from.command("go\n");
      return [await ended(from), await piping, await to.text(), await from.drained];
    },

  "the same of a tree that is gone already": async (pipe) => {
    await using from = await start("sh", ["-c", "read go"], { drainTimeoutMs: 300 });
    using _holder = Deno.openSync(`/proc/${from.pid}/fd/1`, { write: true });
    await from.command("go\n");
    const reason = await ended(from);
    await using to = await start("cat");
    return [reason, await outcome(pipe(from, to)), await to.text(), await from.drained];
  },

  "a chunk that waits in the stream goes first": async (pipe) => {
    await using from = await start("sh", ["-c", "read go; printf first; read go; printf second"]);
    await using to = await start("cat");
    const reader = from.stdout.getReader();
    const pending = outcome(reader.read());
    await halted(from); // by then the stream has asked for bytes
    reader.releaseLock();
    await from.command("go\n");
    await halted(from); // and by then it has them
    const piping = outcome(pipe(from, to));
    await from.command("go\n");
    return [await pending, await to.text(), await piping];
  },

  "a stream that waits for bytes already": async (pipe) => {
    await using from = await start("sh", ["-c", "read go; printf all"]);
    await using to = await start("cat");
    const reader = from.stdout.getReader();
    const pending = outcome(reader.read());
    await halted(from);
    reader.releaseLock();
    const piping = outcome(pipe(from, to));
    await from.command("go\n");
    return [await pending, await to.text(), await piping];
  },

  "a writer that has ended before, its tree too": async (pipe) => {
    await using from = await start("printf", ["left behind"]);
    await from.status;
    await using to = await start("cat");
    return [await outcome(pipe(from, to)), await to.text(), await from.drained];
  },

  "descendants of the writer that hold its output are ended, and what they wrote is there": async (
    pipe,
  ) => {
    await using from = await start("sh", ["-c", "(echo held; exec sleep 1000) & echo out"], {
      flushMs: 300,
    });
    await using to = await start("sort");
    return [await outcome(pipe(from, to)), await to.text(), await ended(from)];
  },

  "a writer that is read as messages is refused, and the reader reads its end": async (pipe) => {
    await using from = await start("cat");
    await from.command("x");
    for await (const _ of from) break;
    await using to = await start("cat");
    return [await outcome(pipe(from, to)), await to.text(), await ended(to)];
  },

  "streams that are locked": async (pipe) => {
    await using from = await start("cat");
    await using to = await start("cat");
    const reader = from.stdout.getReader();
    const one = await outcome(pipe(from, to));
    reader.releaseLock();
    to.stdin.getWriter();
    return [one, await outcome(pipe(from, to))];
  },

  "a child's output into its own stdin": async (pipe) => {
    await using port = await start("sh", ["-c", "echo round; read word; echo $word >&2; exec cat"]);
    const controller = new AbortController();
    const piping = outcome(pipe(port, port, { signal: controller.signal }));
    const { value } = await port.stderr.getReader().read();
    controller.abort(new Error("enough"));
    return [textOf(value ?? bytesOf("")), await piping, await ended(port)];
  },
};

/** Cases in which something is in the way, and those of writers that may have ended before all is ready. */
const [NEVER, QUICK] = [
  /already|tree too|messages|locked|in the stream/,
  /nothing|preventClose|before/,
];

for (const [name, run] of Object.entries(CASES)) {
  test(`pipeTo from port to port, ${name}: as the web's own`, async () => {
    const expected = await counted(() => run(plain));
    const { result, joins } = await counted(() => run(direct));
    assertEquals(result, expected.result);
    assertEquals(expected.joins, 0);
    if (NEVER.test(name)) assertEquals(joins, 0);
    else if (!QUICK.test(name)) assert(joins > 0, "it took the copying path");
  });
}

test("pipeTo from port to port: next to no byte passes through JavaScript", async () => {
  const { bytes, joins } = await counted(async () => {
    await using from = await start(PROBE, ["flood", `${64 * MIB}`, "0"]);
    await using to = await start("sh", ["-c", "wc -c >&2"]);
    await from.stdout.pipeTo(to.stdin);
    const { value } = await to.stderr.getReader().read();
    assertEquals(textOf(value ?? bytesOf("")).trim(), `${64 * MIB}`);
  });
  assertEquals(joins, 1);
  assert(bytes < MIB, `${bytes} bytes did`);
});

test("pipeTo from port to port: a reader that stops holds the writer back", async () => {
  using scratch = new Scratch();
  const file = scratch.file("counts");
  const { joins } = await counted(async () => {
    await using from = await start(PROBE, ["count-written", file, "out"]);
    await using to = await start("sleep", ["1000"]);
    const piping = outcome(from.stdout.pipeTo(to.stdin));
    await until(() => size(file) === 16, { what: "the counts" });
    const { out } = await whenStuck(from.pid, file);
    assert(out > 0 && out <= 2 * 256 * KIB, `${out} bytes are more than two pipes hold`);
    await to.close();
    await piping;
  });
  assertEquals(joins, 1);
});

function size(file: string): number {
  try {
    return Deno.statSync(file).size;
  } catch {
    return 0;
  }
}

test("a chain of three ports, and none of them left behind when one is closed", async () => {
  await using first = await zeros();
  await using second = await start("cat");
  await using third = await start("sleep", ["1000"]);
  const ids = [first, second, third].map(({ pid }) => identity(pid));
  const pipes = [first.stdout.pipeTo(second.stdin), second.stdout.pipeTo(third.stdin)];
  const settled = Promise.allSettled(pipes);
  await halted(first, second, third);
  await third.close();
  assertEquals((await within(settled, { what: "the end of both pipes" })).length, 2);
  await gone(ids);
});

test("pipeThrough, tee and cmd's kin: whatever else reads goes the way of the web", async () => {
  const { joins } = await counted(async () => {
    await using from = await start("printf", ["text"]);
    await using to = await start("cat");
    await from.stdout.pipeThrough(new TransformStream()).pipeTo(to.stdin);
    assertEquals(await to.text(), "text");
    await using other = await start("printf", ["text"]);
    let got = "";
    await other.stdout.pipeTo(
      new WritableStream({ write: (chunk) => void (got += textOf(chunk)) }),
    );
    assertEquals(got, "text");
  });
  assertEquals(joins, 0);
});
