// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// peer.mjs WAY [MODULE]: a process that does the work of the bench by one of
// the ways that are compared. Each line of its stdin is `{"work", ...}`, each
// line of its stdout the answer: a number, or an object of numbers. It is run
// by the runtime whose way it is; WORKS are the same for all ways.

import process from "node:process";
import { createInterface } from "node:readline";
import { bunSpawn, command, execaOf, nodeSpawn, port } from "./ways.mjs";

const [name, module] = process.argv.slice(2);
const WAYS = {
  port: () => port(module),
  command: () => command(),
  node: () => nodeSpawn(),
  execa: () => execaOf(module),
  bun: () => bunSpawn(),
};
const way = await WAYS[name]();

const PIPES = { stdin: true, stdout: true, stderr: true };
const NONE = { stdin: false, stdout: false, stderr: false };
const OUT = { stdin: false, stdout: true, stderr: false };
const now = () => performance.now();
const quantile = (values, part) =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length * part)];

async function truly(stdio, kill) {
  const child = await way.start("true", [], { ...stdio, kill });
  if (!(await child.success)) throw new Error("true failed");
  await child.release();
}

/** Reads to the end, and counts. */
async function count(child, how, bytes) {
  let got = 0;
  if (how === "byob") {
    const reader = child.stdout().getReader({ mode: "byob" });
    for (let buffer = new ArrayBuffer(256 * 1024);;) {
      const { value, done } = await reader.read(new Uint8Array(buffer));
      if (done) break;
      got += value.length;
      buffer = value.buffer;
    }
  } else if (how === "messages") {
    for await (const message of child.messages()) {
      if (message.type === "data") got += message.data.length;
    }
  } else for await (const chunk of child.stdout()) got += chunk.length;
  if (got !== bytes) throw new Error(`${got} bytes instead of ${bytes}`);
}

const resident = [];

/** Every work answers with microseconds of one, milliseconds of a whole, or what its name says. */
const WORKS = {
  /** Microseconds of one start and end. */
  async spawn({ n, stdio, kill }) {
    const begin = now();
    for (let i = 0; i < n; i++) await truly(stdio === "pipes" ? PIPES : NONE, kill);
    return (now() - begin) * 1000 / n;
  },
  async parallel({ n, width }) {
    const begin = now();
    for (let i = 0; i < n; i += width) {
      await Promise.all(Array.from({ length: width }, () => truly(PIPES)));
    }
    return (now() - begin) * 1000 / n;
  },
  /** Microseconds for which one start keeps the event loop: the call itself. */
  async blocked({ n }) {
    const taken = [];
    for (let i = 0; i < n; i++) {
      const begin = now();
      const starting = way.start("true", [], PIPES);
      taken.push((now() - begin) * 1000);
      const child = await starting;
      await child.success;
      await child.release();
    }
    return quantile(taken, 0.5);
  },
  /** Keeps so much memory resident from now on. */
  heap({ mib }) {
    for (let i = 0; i < mib; i += 64) resident.push(new Uint8Array(64 * 2 ** 20).fill(1));
    return resident.length;
  },
  /** Milliseconds until all of it was read. */
  async read({ program, args, bytes, how, options }) {
    const begin = now();
    const child = await way.start(program, args, { ...OUT, options });
    await count(child, how, bytes);
    await child.success;
    return now() - begin;
  },
  /** Milliseconds until a program has taken all of it. */
  async write({ bytes, block }) {
    const chunk = new Uint8Array(block);
    const child = await way.start("sh", ["-c", "exec cat >/dev/null"], { ...NONE, stdin: true });
    const begin = now();
    for (let left = bytes; left > 0; left -= block) await child.write(chunk);
    await child.end();
    await child.success;
    return now() - begin;
  },
  /** Milliseconds until all that one program writes has been read by another. */
  async pipe({ program, args }) {
    const from = await way.start(program, args, OUT);
    const to = await way.start("sh", ["-c", "exec cat >/dev/null"], { ...NONE, stdin: true });
    const begin = now();
    await from.stdout().pipeTo(to.stdin());
    await to.success;
    return now() - begin;
  },
  /** Microseconds of one line to cat and back. */
  async turns({ n }) {
    const child = await way.start("cat", [], { ...OUT, stdin: true });
    const turn = turner(child);
    for (let i = 0; i < 50; i++) await turn();
    const begin = now();
    for (let i = 0; i < n; i++) await turn();
    const taken = (now() - begin) * 1000 / n;
    await child.end();
    await child.success;
    return taken;
  },
  /** The same while `others` each send a line every 10 ms: p50 and p99. */
  async underLoad({ n, others, program }) {
    const load = await Promise.all(
      Array.from({ length: others }, () => way.start(program, ["0", "10"], OUT)),
    );
    const reading = load.map(async (child) => {
      for await (const _ of child.stdout());
    });
    const child = await way.start("cat", [], { ...OUT, stdin: true });
    const turn = turner(child);
    const taken = [];
    for (let i = 0; i < n; i++) {
      const begin = now();
      await turn();
      taken.push((now() - begin) * 1000);
      if (i % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    }
    await child.end();
    for (const other of load) await other.kill();
    await Promise.allSettled(reading);
    return { p50: quantile(taken, 0.5), p99: quantile(taken, 0.99) };
  },
  /** Milliseconds between two runs of a 10 ms timer while four children flood: p50 and p99. */
  async timer({ ms }) {
    const floods = await Promise.all([1, 2, 3, 4].map(() => way.start("cat", ["/dev/zero"], OUT)));
    let over = false;
    const reading = floods.map(async (child) => {
      for await (const _ of child.stdout()) if (over) break;
    });
    const gaps = [];
    const begin = now();
    for (let last = begin; last - begin < ms;) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      gaps.push(now() - last);
      last = now();
    }
    over = true;
    for (const child of floods) await child.kill();
    await Promise.allSettled(reading);
    return { p50: quantile(gaps, 0.5), p99: quantile(gaps, 0.99) };
  },
  /** Of each of `n` children that live at once and have written 64 KiB: milliseconds to start and read it, and to end it. */
  async live({ n, program }) {
    const begin = now();
    const children = [];
    for (let at = 0; at < n; at += 50) {
      const batch = Array.from({ length: Math.min(50, n - at) }, async () => {
        const child = await way.start(program, ["65536", "0"], OUT);
        let left = 65536;
        for await (const chunk of child.stdout({ preventCancel: true })) {
          left -= chunk.length;
          if (left === 0) break;
        }
        return child;
      });
      children.push(...await Promise.all(batch));
    }
    const streamed = now();
    await Promise.all(children.map((child) => child.kill()));
    return { start: (streamed - begin) / n, end: (now() - streamed) / n };
  },
};

/** Sends a line and waits until it is back. */
function turner(child) {
  const line = new TextEncoder().encode("hello\n");
  const chunks = child.stdout()[Symbol.asyncIterator]();
  return async () => {
    await child.write(line);
    for (let got = 0; got < line.length;) got += (await chunks.next()).value.length;
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { work, ...rest } = JSON.parse(line);
  const answer = await WORKS[work](rest);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
