// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Clients of examples/http.ts, at the same time: half of them read everything,
 * the others go away in the middle. Afterwards no program of theirs is left,
 * and the server's memory is what it was.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { assert, gone, identities, type Identity, textOf } from "./helpers.ts";
import { Host } from "./host_process.ts";

const BYTES = 256 * 1024;

/** A tree that says its pids, then `BYTES` bytes, and stays for who asks for the path /stay. */
const SERVER = `
const { streaming } = await import(TREE + "examples/http.ts");
const tree = 'sleep 1000 >&- 2>&- & echo $$ $!; head -c ${BYTES} /dev/zero; [ $0 = /stay ] && wait; exit 0';
const handlers = new Map(["/all", "/stay"].map((path) => [path, streaming("sh", ["-c", tree, path])]));
const serve = (request) => handlers.get(new URL(request.url).pathname)(request);
const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, serve);
say("ready", server.addr.port);
while (await hear() !== null) {
  globalThis.gc?.();
  say("memory", Deno.memoryUsage().rss);
}
await server.shutdown();
say("shut");
`;

/** The first line of a body, the bytes behind it, and who it names. */
class Body {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  #head = "";
  bytes = 0;

  constructor(response: Response) {
    assert(response.body !== null && response.status === 200);
    this.#reader = response.body.getReader();
  }

  async next(): Promise<boolean> {
    const { value, done } = await this.#reader.read();
    if (done) return false;
    let chunk = value;
    if (!this.#head.endsWith("\n")) {
      const end = chunk.indexOf(10);
      this.#head += textOf(end === -1 ? chunk : chunk.subarray(0, end + 1));
      chunk = end === -1 ? new Uint8Array(0) : chunk.subarray(end + 1);
    }
    this.bytes += chunk.length;
    return true;
  }

  /** Closes its connection, which an abort of fetch() here did not always do. */
  async cancel(): Promise<void> {
    await this.#reader.cancel();
  }

  async ids(): Promise<Identity[]> {
    while (!this.#head.endsWith("\n") && await this.next());
    return identities(this.#head.trim().split(" ").map(Number));
  }
}

async function client(port: number, stays: boolean): Promise<Identity[]> {
  const url = `http://127.0.0.1:${port}/${stays ? "stay" : "all"}`;
  const body = new Body(await fetch(url));
  if (!stays) {
    while (await body.next());
    assertEquals(body.bytes, BYTES);
    return [];
  }
  const ids = await body.ids();
  while (body.bytes < BYTES && await body.next());
  await body.cancel();
  return ids;
}

export interface Clients {
  /** Clients at the same time. */
  parallel: number;
  /** How often so many come. */
  rounds: number;
  progress?: (done: number) => void;
}

/** Bytes that the server's memory may grow by once it has found its size, in that many rounds. */
const GROWTH = 64 * 1024 * 1024;
const ENOUGH = 20;

export async function serveClients({ parallel, rounds, progress }: Clients): Promise<void> {
  await using host = Host.start(SERVER);
  const [port = 0] = await host.numbers("ready");
  const memory: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const clients = Array.from({ length: parallel }, (_, n) => client(port, n % 2 === 0));
    await gone((await Promise.all(clients)).flat());
    await host.tell("go\n");
    memory.push(...await host.numbers("memory"));
    progress?.((round + 1) * parallel);
  }
  // The heap finds its size in the first half, and keeps it in the second.
  const settled = memory[Math.floor(rounds / 2)] ?? 0;
  const grown = Math.max(...memory.slice(rounds / 2)) - settled;
  assert(rounds < ENOUGH || grown < GROWTH, `the server grew by ${grown} bytes: ${memory}`);
}
