// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The processes that do the work, one for each way, and the C programs.
 *
 * @module
 */

import { CHECKOUT } from "../test/helpers.ts";
import type { Column } from "./table.ts";

const HERE = new URL(".", import.meta.url).pathname;
const PACKAGE = `${CHECKOUT}.cache/package/dist/mod.mjs`;
const EXECA = "9.6.1";

const DENO = [Deno.execPath(), "run", "--quiet", "--no-lock", "--allow-all"];
const BUN = [`${CHECKOUT}scripts/bun`];

/** How each way is run. */
const COMMANDS: Readonly<Record<Peered, () => Promise<string[]>>> = {
  command: () => Promise.resolve([...DENO, `${HERE}peer.mjs`, "command"]),
  node: () => Promise.resolve(["node", `${HERE}peer.mjs`, "node"]),
  bun: () => Promise.resolve([...BUN, `${HERE}peer.mjs`, "bun"]),
  execa: async () => ["node", `${HERE}peer.mjs`, "execa", await execa()],
  ours: () => Promise.resolve([...DENO, `${HERE}peer.mjs`, "port", `${CHECKOUT}mod.ts`]),
  oursNode: () => Promise.resolve(["node", `${HERE}peer.mjs`, "port", PACKAGE]),
  oursBun: () => Promise.resolve([...BUN, `${HERE}peer.mjs`, "port", PACKAGE]),
};

/** The columns that are a process of their own. */
export type Peered = Exclude<Column, "limit" | "own" | "base">;
export const PEERED = ["command", "node", "bun", "execa", "ours", "oursNode", "oursBun"] as const;

/** execa from npm, fetched once beside the pinned runtimes. */
async function execa(): Promise<string> {
  const folder = `${CHECKOUT}.cache/execa-${EXECA}`;
  const file = `${folder}/node_modules/execa/index.js`;
  try {
    Deno.statSync(file);
  } catch {
    const args = ["install", "--prefix", folder, "--ignore-scripts", "--no-save"];
    args.push("--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error", `execa@${EXECA}`);
    const { success } = await new Deno.Command("npm", { args, stdout: "null" }).output();
    if (!success) throw new Error("npm could not fetch execa");
  }
  return file;
}

/** A process that works on request. */
class Peer implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #requests: WritableStreamDefaultWriter<Uint8Array>;

  constructor([command = "", ...args]: string[]) {
    this.#process = new Deno.Command(command, { args, stdin: "piped", stdout: "piped" }).spawn();
    this.#lines = this.#process.stdout.pipeThrough(new TextDecoderStream()).getReader();
    this.#requests = this.#process.stdin.getWriter();
  }

  get pid(): number {
    return this.#process.pid;
  }

  async ask<Answer = number>(request: Record<string, unknown>): Promise<Answer> {
    await this.#requests.write(new TextEncoder().encode(`${JSON.stringify(request)}\n`));
    let line = "";
    while (!line.endsWith("\n")) {
      const { done, value } = await this.#lines.read();
      if (done) throw new Error(`a peer ended at ${JSON.stringify(request)}`);
      line += value;
    }
    return JSON.parse(line);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#requests.close().catch(() => {}); // it has ended before, which its answers told
    await this.#process.status;
    await this.#lines.cancel();
  }
}

/** All that rows need: peers that are started at their first use, and programs. */
export class Bench implements AsyncDisposable {
  readonly #peers = new Map<string, Peer>();
  readonly #folder: string = Deno.makeTempDirSync({ prefix: "proton-bench-" });
  readonly #programs = new Map<string, string>();

  /** The peer of a way; `kind` tells apart those that are kept in another state. */
  async peer(way: Peered, kind = ""): Promise<Peer> {
    const name = way + kind;
    const peer = this.#peers.get(name) ?? new Peer(await COMMANDS[way]());
    this.#peers.set(name, peer);
    return peer;
  }

  /** A measure of this work by this way. */
  work(way: Peered, request: Record<string, unknown>): () => Promise<number> {
    return async () => await (await this.peer(way)).ask(request);
  }

  /** The same by all ways, or by these. */
  works(
    request: Record<string, unknown>,
    ways: readonly Peered[] = PEERED,
  ): Partial<Record<Column, () => Promise<number>>> {
    return Object.fromEntries(ways.map((way) => [way, this.work(way, request)]));
  }

  /** Ends peers of that kind, and gives back what they hold. */
  async end(kind: string): Promise<void> {
    for (const [name, peer] of this.#peers) {
      if (!name.endsWith(kind)) continue;
      this.#peers.delete(name);
      await peer[Symbol.asyncDispose]();
    }
  }

  /** One of the programs of bench/c, compiled once. */
  program(name: string): string {
    const built = this.#programs.get(name);
    if (built !== undefined) return built;
    const file = `${this.#folder}/${name}`;
    const args = ["-O2", "-pthread", "-o", file, `${HERE}c/${name}.c`];
    const { success, stderr } = new Deno.Command("cc", { args }).outputSync();
    if (!success) throw new Error(`cc failed: ${new TextDecoder().decode(stderr)}`);
    this.#programs.set(name, file);
    return file;
  }

  /** A measure that is what such a program prints. */
  prints(name: string, ...args: (string | number)[]): () => Promise<number> {
    const program = this.program(name);
    return async () => {
      const command = new Deno.Command(program, { args: args.map(String), stderr: "inherit" });
      const { success, stdout } = await command.output();
      if (!success) throw new Error(`bench/c/${name}.c failed`);
      return Number(new TextDecoder().decode(stdout));
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end("");
    Deno.removeSync(this.#folder, { recursive: true });
  }
}
