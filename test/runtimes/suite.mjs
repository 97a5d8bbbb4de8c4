// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// The behaviours that every runtime has, run unchanged by each of them:
//
//   deno run --allow-all test/runtimes/suite.mjs mod.ts
//   node test/runtimes/suite.mjs npm/dist/mod.mjs
//   bun test/runtimes/suite.mjs npm/dist/mod.mjs
//
// The last line is `N passed, N failed, N skipped`; the exit code is 1 where
// one failed.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import process from "node:process";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { fileURLToPath, pathToFileURL } from "node:url";
import { alive, gone, identity, ready, text, until } from "./shared.mjs";
import { startWorker } from "./start_worker.mjs";
import { supervision } from "./supervision.mjs";

const [modulePath, only = ""] = process.argv.slice(2);
if (modulePath === undefined) {
  console.error("suite.mjs MODULE [NAME]: give the module to test, such as mod.ts");
  process.exit(2);
}
const MODULE = pathToFileURL(modulePath).href;
const proton = await import(MODULE);
const { BrokenPipeError, ClosedError, Mailbox, open, SpawnError } = proton;

const RUNTIME = "Deno" in globalThis ? "deno" : "Bun" in globalThis ? "bun" : "node";
const PROBE = execFileSync(fileURLToPath(new URL("../fixtures/build", import.meta.url)), {
  stdio: ["ignore", "pipe", "inherit"],
}).toString().trim();
const MIB = 1024 * 1024;

/** @type {[name: string, body: () => Promise<void>][]} */
const TESTS = [
  ["a conversation: command, data, close, in the seed's order", conversation],
  ["stdout and stderr arrive whole, the exit message last", wholeOutput],
  ["exit 0, exit 1, exit 130 and SIGINT are four different answers", fourAnswers],
  ["what does not start rejects with SpawnError", notStarted],
  ["4 MiB through cat while nothing is read, then read", throughCat],
  ["streams: pipeTo stdin, BYOB from stdout, half-close", streams],
  [
    "standard consumers: Response, TextDecoderStream, CompressionStream, tee, node:stream",
    consumers,
  ],
  ["cancel in mid-read, abort while a write waits, text to a byte stream", badUse],
  ["a child that closed its stdin: BrokenPipeError", brokenPipe],
  ["bad input is refused before anything starts", badInput],
  ["launch options: descriptors, a terminal, limits, users and what they may do", launchOptions],
  ["the environment of this isolate is the child's, bytes included", environment],
  ["close ends the tree, double-forked daemons too", closes],
  ["a hundred ports at once, each with its own answer", hundred],
  ["kill -9 of the host: nothing is left", hostKilled],
  ["an unref'ed port does not keep a finished script alive, another does", lifetimes],
  ["a Worker terminated while idle takes its trees along", () => workerTerminated("idle")],
  ["a Worker terminated while it reads takes its trees along", () => workerTerminated("reading")],
  ["a Worker terminated while it is busy", busyWorkerTerminated],
  ...supervision({ proton, module: MODULE, probe: PROBE, startHost }),
];

async function conversation() {
  const owner = new Mailbox();
  const port = await open("cat", [], { owner });
  for (const word of ["one\n", "two\n"]) {
    await port.command(word);
    const message = await owner.receive();
    assert.deepEqual([message.type, text(message.data), message.port === port], [
      "data",
      word,
      true,
    ]);
  }
  await port.close();
  assert.deepEqual([(await owner.receive()).type, (await owner.receive()).type], [
    "exit",
    "closed",
  ]);
  await assert.rejects(port.command("unsent"), ClosedError);
  await owner[Symbol.asyncDispose]();
}

async function wholeOutput() {
  const port = await open(PROBE, ["flood", `${8 * MIB}`, `${4 * MIB}`], { stdioWindow: 65_536 });
  const hashes = { data: createHash("sha256"), error: createHash("sha256") };
  let last = "";
  for await (const message of port) {
    assert.notEqual(last, "exit");
    last = message.type;
    if (message.type in hashes) hashes[message.type].update(message.data);
  }
  assert.equal(last, "exit");
  assert.equal(hashes.data.digest("hex"), pattern(1, 8 * MIB));
  assert.equal(hashes.error.digest("hex"), pattern(2, 4 * MIB));
}

/** The hash of the probe's pattern (`probe help` tells what it is). */
function pattern(stream, bytes) {
  const words = new Uint32Array(bytes / 4).map((_, i) => Math.imul(i + stream, 0x9E3779B1));
  return createHash("sha256").update(new Uint8Array(words.buffer)).digest("hex");
}

async function fourAnswers() {
  const answers = [
    ["exit 0", { kind: "normal" }],
    ["exit 1", { kind: "exitStatus", code: 1 }],
    ["exit 130", { kind: "exitStatus", code: 130 }],
    ["kill -INT $$", { kind: "signal", signal: "SIGINT", number: 2 }],
  ];
  for (const [script, reason] of answers) {
    const port = await open("sh", ["-c", script]);
    assert.deepEqual((await port.status).reason, reason);
  }
}

async function notStarted() {
  const isSpawnError = (stage) => (error) =>
    error instanceof SpawnError && error.stage === stage && error.code === "ENOENT";
  await assert.rejects(open("no-such-program"), isSpawnError("program"));
  await assert.rejects(open("true", [], { cwd: "/no/such/folder" }), isSpawnError("cwd"));
}

async function throughCat() {
  const port = await open("cat");
  const sent = new Uint8Array(4 * MIB).map((_, i) => i * 7 + (i >> 8));
  const writing = port.command(sent).then(() => port.closeStdin());
  const got = await port.bytes();
  await writing;
  assert.equal(Buffer.compare(got, sent), 0);
}

async function streams() {
  const port = await open("sort");
  await new Blob(["pear\napple\n"]).stream().pipeTo(port.stdin);
  const reader = port.stdout.getReader({ mode: "byob" });
  const { value } = await reader.read(new Uint8Array(64));
  assert.equal(text(value), "apple\npear\n");
  assert.equal((await reader.read(new Uint8Array(64))).done, true);
  assert.deepEqual((await port.status).reason, { kind: "normal" });
}

async function consumers() {
  const flood = () => open(PROBE, ["flood", `${MIB}`, "0"]);
  const hashed = async (chunks) => {
    const hash = createHash("sha256");
    for await (const chunk of chunks) hash.update(chunk);
    return hash.digest("hex");
  };
  const whole = pattern(1, MIB);
  const body = new Uint8Array(await new Response((await flood()).stdout).arrayBuffer());
  assert.equal(await hashed([body]), whole);
  let text = "";
  const printed = (await open("printf", ["grüße"])).stdout.pipeThrough(new TextDecoderStream());
  for await (const part of printed) text += part;
  assert.equal(text, "grüße");
  const gzip = new CompressionStream("gzip");
  const squeezed = (await flood()).stdout.pipeThrough(gzip);
  assert.equal(await hashed(squeezed.pipeThrough(new DecompressionStream("gzip"))), whole);
  assert.deepEqual(await Promise.all((await flood()).stdout.tee().map(hashed)), [whole, whole]);
  assert.equal(await hashed(Readable.fromWeb((await flood()).stdout)), whole);
  const endless = await open(PROBE, ["flood", `${Number.MAX_SAFE_INTEGER}`, "0"]);
  for await (const _ of Readable.fromWeb(endless.stdout)) break;
  assert.equal((await endless.status).signal, "SIGPIPE");
}

async function badUse() {
  const port = await open("cat");
  const reader = port.stdout.getReader();
  const pending = reader.read();
  assert.throws(() => port.stdout.getReader(), TypeError);
  const writer = port.stdin.getWriter();
  await assert.rejects(writer.write("text"), /the chunk is no Uint8Array/);
  assert.equal((await pending).done, true, "cat has read its end");
  const stuck = await open("sleep", ["1000"]);
  const held = stuck.stdin.getWriter();
  await held.write(new Uint8Array(1));
  const waits = assert.rejects(held.write(new Uint8Array(MIB)));
  await held.abort(new Error("enough"));
  await waits;
  const read = stuck.stdout.getReader({ mode: "byob" });
  const never = read.read(new Uint8Array(8));
  await read.cancel();
  assert.equal((await never).done, true);
  await stuck.close();
}

async function brokenPipe() {
  const port = await open(PROBE, ["close-stdin"]);
  await ready(port);
  await assert.rejects(port.command("x"), BrokenPipeError);
  await port.close();
}

async function launchOptions() {
  const fds = await open("sh", ["-c", "tr a-z A-Z <&7 >&7; echo done"], { fds: { 7: "piped" } });
  const { readable, writable } = fds.fd(7);
  const writer = writable.getWriter();
  await writer.write(new TextEncoder().encode("hello"));
  await writer.close();
  assert.equal(await new Response(readable).text(), "HELLO");
  assert.equal(await fds.text(), "done\n");

  const ask = 'test -t 0 -a -t 2 && stty size; echo "$TERM"; read -r _; stty size';
  const pty = await open("sh", ["-c", ask], { pty: { cols: 90, rows: 20, term: "vt100" } });
  let shown = "";
  for await (const message of pty) {
    if (message.type === "data") shown += new TextDecoder().decode(message.data);
    if (shown === "20 90\r\nvt100\r\n") {
      await pty.resize({ rows: 21 });
      await pty.command("\r");
    }
  }
  assert.equal(shown, "20 90\r\nvt100\r\n\r\n21 90\r\n");

  const script = "umask; ulimit -n; grep NoNewPrivs /proc/self/status; echo told >&2";
  const options = { umask: 0o27, rlimits: { nofile: 77 }, noNewPrivs: true, stderrToStdout: true };
  const strict = await open("sh", ["-c", script], options);
  assert.equal(await strict.text(), "0027\n77\nNoNewPrivs:\t1\ntold\n");

  const unknown = await open("true", [], { uid: "no-such-user-here" }).catch((error) => error);
  assert.equal(unknown instanceof SpawnError && unknown.stage, "user");
  if (process.getuid?.() !== 0) return;
  const other = await open("id", ["-u"], { uid: "nobody", cwd: "/" });
  assert.notEqual(await other.text(), "0\n");
}

async function badInput() {
  await assert.rejects(open(""), TypeError);
  await assert.rejects(open("true", [], { stdioWindow: 15 }), RangeError);
  await assert.rejects(open("true", [], { cd: "/", cwd: "/" }), TypeError);
  await assert.rejects(open("a\0b"), TypeError);
}

async function environment() {
  process.env.SET_LATE = "grüße";
  try {
    const port = await open("sh", ["-c", "echo $SET_LATE; env | grep -c ^SET_LATE="]);
    assert.equal(await port.text(), "grüße\n1\n");
  } finally {
    delete process.env.SET_LATE;
  }
  const port = await open("sh", ["-c", "echo ${SET_LATE-unset}"]);
  assert.equal(await port.text(), "unset\n");
}

async function closes() {
  const port = await open(PROBE, ["double-fork", "2", "stay"], { delayToSigkill: 20 });
  const ids = (await ready(port)).map(identity);
  await port.close();
  assert.deepEqual(ids.filter(alive), []);
  const { cause, killed } = await port.status;
  assert.deepEqual([cause, killed], ["close", 1]);
}

async function hundred() {
  const answers = await Promise.all(Array.from({ length: 100 }, async (_, i) => {
    const port = await open("echo", [`${i}`]);
    return (await port.text()).trim();
  }));
  assert.deepEqual(answers, Array.from({ length: 100 }, (_, i) => `${i}`));
}

/** This runtime with a host script; the lines it says come from `next`. */
function startHost(kind) {
  const script = fileURLToPath(new URL("host.mjs", import.meta.url));
  const flags = RUNTIME === "deno" ? ["run", "--quiet", "--allow-all"] : [];
  const host = spawn(process.execPath, [...flags, script, kind, MODULE, PROBE], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = new Promise((resolve) =>
    host.on("exit", (code, signal) => resolve({ code, signal }))
  );
  const lines = createInterface({ input: host.stdout })[Symbol.asyncIterator]();
  const next = async (word) => {
    for (let line = await lines.next(); !line.done; line = await lines.next()) {
      const [first, ...words] = line.value.split(" ");
      if (first === word) return words;
    }
    throw new Error(`the host ended before it said ${word}`);
  };
  return { host, next, ended };
}

async function hostKilled() {
  const { host, next, ended } = startHost("three-trees");
  const ids = (await next("ready")).map(Number).map(identity);
  assert.equal(ids.length, 9);
  host.kill("SIGKILL");
  assert.equal((await ended).signal, "SIGKILL");
  await gone(ids);
}

async function lifetimes() {
  const idle = startHost("unref");
  const ids = (await idle.next("ready")).map(Number).map(identity);
  idle.host.stdin.write("go\n");
  assert.deepEqual(await idle.ended, { code: 0, signal: null });
  await gone(ids);
  const waits = startHost("ref");
  const [child] = (await waits.next("ready")).map(Number);
  waits.host.stdin.write("go\n");
  await waits.next("last");
  process.kill(child, "SIGINT");
  assert.deepEqual(await waits.next("status"), ["SIGINT"]);
  assert.deepEqual(await waits.ended, { code: 0, signal: null });
}

async function workerTerminated(mode) {
  const mine = await open("cat");
  const { worker, pids } = await startWorker({ mode, module: MODULE, probe: PROBE });
  const ids = pids.map(identity);
  await worker.terminate();
  await gone(ids);
  await mine.command("still here\n");
  for await (const message of mine) {
    assert.equal(text(message.data), "still here\n");
    break;
  }
  await mine.close();
}

/** Deno does not stop a Worker that is stuck in synchronous code; Node and Bun do. */
async function busyWorkerTerminated() {
  const flag = new Int32Array(new SharedArrayBuffer(4));
  const { worker, pids } = await startWorker({ mode: "busy", module: MODULE, probe: PROBE, flag });
  const ids = pids.map(identity);
  try {
    worker.terminate();
    if (RUNTIME === "deno") {
      const port = await open("true");
      await port.status;
      assert.deepEqual(ids.filter((id) => !alive(id)), [], "its port lives while it is busy");
    } else await gone(ids);
  } finally {
    Atomics.store(flag, 0, 1);
  }
  await gone(ids);
}

let [passed, failed, skipped] = [0, 0, 0];
for (const [name, body] of TESTS) {
  if (!name.includes(only)) {
    skipped++;
    continue;
  }
  try {
    await until(body(), name);
    console.log(`${RUNTIME}: ${name} ... ok`);
    passed++;
  } catch (error) {
    console.log(`${RUNTIME}: ${name} ... FAILED`);
    console.error(error);
    failed++;
  }
}
console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
process.exit(failed === 0 ? 0 : 1);
