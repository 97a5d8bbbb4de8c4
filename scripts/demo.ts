// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The main job, shown: a conversation, a large file through two programs, and a
 * host that is killed while daemons run. Called with a word it is one of its
 * own parts: `pipe FILE`, which streams in a process of its own so that its
 * memory can be told, or `host`, which is killed.
 *
 * @module
 */

import { createHash } from "node:crypto";
import { open } from "../mod.ts";

const MIB = 1024 * 1024;
/** How much more memory 256 MiB may take than 64 MiB. */
const FLAT_MIB = 96;

function prove(holds: boolean, what: string): void {
  console.log(`  ${holds ? "yes" : "NO "}  ${what}`);
  if (!holds) Deno.exitCode = 1;
}

async function conversation(): Promise<void> {
  console.log("\nA conversation with bc");
  await using port = await open("bc", ["-q"]);
  for (
    const [question, answer] of [["2 + 2", "4"], ["10 * 10", "100"], [
      "2 ^ 64",
      "18446744073709551616",
    ]]
  ) {
    await port.command(`${question}\n`);
    for await (const message of port) {
      const said = message.type === "data"
        ? new TextDecoder().decode(message.data).trim()
        : message.type;
      prove(said === answer, `${question} = ${said}`);
      break;
    }
  }
}

/** A file that compresses about as text does. */
async function makeFile(path: string, mib: number): Promise<void> {
  const file = await Deno.open(path, { write: true, create: true, truncate: true });
  const block = new Uint8Array(MIB);
  for (let i = 0; i < mib; i++) {
    crypto.getRandomValues(block.subarray(0, 65_536));
    for (let at = 65_536; at < MIB; at *= 2) block.copyWithin(at, 0, at);
    block.forEach((byte, j) => block[j] = 32 + byte % 64);
    let rest = block;
    while (rest.length > 0) rest = rest.subarray(await file.write(rest));
  }
  file.close();
}

/** The bytes as they are, and their digest when they have gone by. */
function hashing(): { through: TransformStream<Uint8Array, Uint8Array>; digest: () => string } {
  const hash = createHash("sha256");
  const through = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      hash.update(chunk);
      controller.enqueue(chunk);
    },
  });
  return { through, digest: () => hash.digest("hex") };
}

async function pipe(path: string): Promise<void> {
  const [before, after] = [hashing(), hashing()];
  await using pack = await open("gzip", ["-1"]);
  await using unpack = await open("gzip", ["-d"]);
  const file = await Deno.open(path);
  let bytes = 0;
  await Promise.all([
    file.readable.pipeThrough(before.through).pipeTo(pack.stdin),
    pack.stdout.pipeTo(unpack.stdin),
    unpack.stdout.pipeThrough(after.through).pipeTo(
      new WritableStream({ write: (chunk) => void (bytes += chunk.length) }),
    ),
  ]);
  const peak = Deno.readTextFileSync("/proc/self/status").match(/VmHWM:\s+(\d+)/)?.[1];
  console.log(
    JSON.stringify({
      bytes,
      before: before.digest(),
      after: after.digest(),
      peakMib: Number(peak) / 1024,
    }),
  );
}

interface Piped {
  bytes: number;
  before: string;
  after: string;
  peakMib: number;
}

async function measured(path: string): Promise<Piped> {
  const args = ["run", "--allow-all", import.meta.filename ?? "", "pipe", path];
  const { stdout } = await new Deno.Command(Deno.execPath(), { args, stderr: "inherit" }).output();
  return JSON.parse(new TextDecoder().decode(stdout));
}

async function largeFile(): Promise<void> {
  console.log("\nA file through gzip and gzip -d, by pipeTo");
  const folder = await Deno.makeTempDir();
  try {
    const peaks: number[] = [];
    for (const mib of [64, 256]) {
      const path = `${folder}/file`;
      await makeFile(path, mib);
      const { bytes, before, after, peakMib } = await measured(path);
      prove(
        bytes === mib * MIB && before === after,
        `${mib} MiB come back the same: SHA-256 ${after.slice(0, 16)}...`,
      );
      peaks.push(peakMib);
    }
    const [small = 0, large = Infinity] = peaks;
    prove(
      large <= small + FLAT_MIB,
      `memory is flat: peak ${small.toFixed(0)} MiB for 64 MiB, ${
        large.toFixed(0)
      } MiB for 256 MiB`,
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const DAEMONS =
  'for i in 1 2; do (setsid sh -c "sleep 1000 & echo \\$\\$ \\$!; wait" &); done; echo $$; exec sleep 1000';

async function host(): Promise<void> {
  for (let i = 0; i < 3; i++) {
    const port = await open("sh", ["-c", DAEMONS], { delayToSigkill: 100 });
    const pids: string[] = [];
    for await (const line of port.lines()) {
      pids.push(...line.split(" "));
      if (pids.length === 5) break;
    }
    console.log(pids.join(" "));
  }
  console.log("ready");
  await new Promise(() => setInterval(() => {}, 1000));
}

/** A process is its pid and the time it started: a pid alone may come again. */
function identity(pid: string): string | null {
  try {
    const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? null : `${pid}@${fields[19]}`;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

async function killedHost(): Promise<void> {
  console.log("\nA host with three children and their daemons is killed by SIGKILL");
  const args = ["run", "--allow-all", import.meta.filename ?? "", "host"];
  const child = new Deno.Command(Deno.execPath(), { args, stdout: "piped", stderr: "inherit" })
    .spawn();
  let text = "";
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    if (text.includes("ready")) break;
  }
  const pids = text.trim().split(/\s+/).filter((word) => /^\d+$/.test(word));
  const before = pids.map(identity).filter((id) => id !== null);
  prove(before.length === 15, `${before.length} processes run: ${pids.join(" ")}`);
  child.kill("SIGKILL");
  await child.status;
  const begun = performance.now();
  const left = () => pids.map(identity).filter((id) => id !== null && before.includes(id));
  while (left().length > 0 && performance.now() - begun < 10_000) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const ms = (performance.now() - begun).toFixed(0);
  prove(left().length === 0, `left after ${ms} ms: ${left().join(" ") || "nothing"}`);
}

const [part, path = ""] = Deno.args;
if (part === "pipe") await pipe(path);
else if (part === "host") await host();
else {
  await conversation();
  await largeFile();
  await killedHost();
  console.log(Deno.exitCode === 0 ? "\nAll of it holds." : "\nSomething does not hold.");
}
