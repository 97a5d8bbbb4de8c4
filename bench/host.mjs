// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// host.mjs WAY PROGRAM ARGS...: a host that starts the program by one of the
// ways that are compared, and passes on its first line. Told so by a line, it
// ends the program as that way ends programs, and says how many milliseconds
// that took. It is run by the runtime whose way it is.

import process from "node:process";

const [way, program, ...args] = process.argv.slice(2);
const text = (bytes) => new TextDecoder().decode(bytes);

/** Starts the program: its first output, and how it is ended. */
const WAYS = {
  async port(kill) {
    const { open } = await import("../mod.ts");
    const port = await open(program, args, { delayToSigkill: 0, containment: { kill } });
    const message = await port[Symbol.asyncIterator]().next();
    return {
      line: text(message.value.data),
      end: () => port.close({ graceMs: 0, deadlineMs: 60_000 }),
    };
  },
  async deno() {
    const child = new Deno.Command(program, { args, stdin: "null", stdout: "piped" }).spawn();
    const { value } = await child.stdout.getReader().read();
    return { line: text(value), end: () => (child.kill("SIGKILL"), child.status) };
  },
  async node() {
    const { spawn } = await import("node:child_process");
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
    const line = await new Promise((resolve) => child.stdout.once("data", resolve));
    const ended = new Promise((resolve) => child.once("exit", resolve));
    return { line: text(line), end: () => (child.kill("SIGKILL"), ended) };
  },
  async bun() {
    const child = Bun.spawn([program, ...args], { stdin: "ignore", stdout: "pipe" });
    const { value } = await child.stdout.getReader().read();
    return { line: text(value), end: () => (child.kill("SIGKILL"), child.exited) };
  },
};

const [name, kill] = way.split(":");
const { line, end } = await WAYS[name](kill);
process.stdout.write(line);
await new Promise((resolve) => process.stdin.once("data", resolve));
const begin = performance.now();
await end();
process.stdout.write(`ended ${performance.now() - begin}\n`);
setInterval(() => {}, 60_000); // it is to be killed
