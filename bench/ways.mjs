// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// One shape over the ways to start a program: stdio by what is piped (the rest
// is /dev/null), streams as each way has them, and an end.

/** A port of this library, from `module`. */
export async function port(module) {
  const { open } = await import(module);
  const mode = (on) => on ? "piped" : "null";
  return {
    async start(program, args, { stdin, stdout, stderr, kill = "tree", options = {} }) {
      const one = await open(program, args, {
        stdin: mode(stdin),
        stdout: mode(stdout),
        stderr: mode(stderr),
        containment: { kill },
        delayToSigkill: 0,
        ...options,
      });
      return {
        success: one.status.then(({ success }) => success),
        release: () => {},
        stdout: (options) => options === undefined ? one.stdout : one.stdout.values(options),
        stdin: () => one.stdin,
        messages: () => one,
        write: (bytes) => one.command(bytes),
        end: () => one.closeStdin(),
        kill: () => one.close({ deadlineMs: 60_000 }),
      };
    },
  };
}

/** `Deno.Command`. */
export function command() {
  const mode = (on) => on ? "piped" : "null";
  return {
    start(program, args, { stdin, stdout, stderr }) {
      const options = { args, stdin: mode(stdin), stdout: mode(stdout), stderr: mode(stderr) };
      const child = new Deno.Command(program, options).spawn();
      const writer = stdin ? child.stdin.getWriter() : null;
      writer?.ready.catch(() => {});
      return {
        success: child.status.then(({ success }) => success),
        release: () =>
          Promise.all([
            writer?.close(),
            stdout ? child.stdout.cancel() : undefined,
            stderr ? child.stderr.cancel() : undefined,
          ]),
        stdout: (options) => options === undefined ? child.stdout : child.stdout.values(options),
        stdin: () => (writer?.releaseLock(), child.stdin),
        write: (bytes) => writer.write(bytes),
        end: () => writer.close(),
        kill: () => {
          try {
            child.kill("SIGKILL");
          } catch {
            // It has ended: nobody read it any more.
          }
          return child.status;
        },
      };
    },
  };
}

/** What Node's streams have in common, whoever starts the child. */
function nodes(child, success) {
  return {
    success,
    release: () => {},
    stdout: (options) =>
      options === undefined ? child.stdout : child.stdout.iterator({ destroyOnReturn: false }),
    write: (bytes) =>
      child.stdin.write(bytes) || new Promise((resolve) => child.stdin.once("drain", resolve)),
    end: () => child.stdin.end(),
    kill: () => (child.kill("SIGKILL"), success),
  };
}

/** `node:child_process`. */
export async function nodeSpawn() {
  const { spawn } = await import("node:child_process");
  const mode = (on) => on ? "pipe" : "ignore";
  return {
    start(program, args, { stdin, stdout, stderr }) {
      const child = spawn(program, args, { stdio: [mode(stdin), mode(stdout), mode(stderr)] });
      return nodes(
        child,
        new Promise((resolve) => child.once("exit", (code) => resolve(code === 0))),
      );
    },
  };
}

/** execa, from the file `module`. */
export async function execaOf(module) {
  const { execa } = await import(module);
  const mode = (on) => on ? "pipe" : "ignore";
  return {
    start(program, args, { stdin, stdout, stderr }) {
      const child = execa(program, args, {
        stdin: mode(stdin),
        stdout: mode(stdout),
        stderr: mode(stderr),
        buffer: false,
        reject: false,
      });
      return nodes(child, child.then(({ exitCode }) => exitCode === 0));
    },
  };
}

/** `Bun.spawn`. */
export function bunSpawn() {
  const mode = (on) => on ? "pipe" : "ignore";
  return {
    start(program, args, { stdin, stdout, stderr }) {
      const child = Bun.spawn([program, ...args], {
        stdin: mode(stdin),
        stdout: mode(stdout),
        stderr: mode(stderr),
      });
      return {
        success: child.exited.then((code) => code === 0),
        release: () => {},
        stdout: (options) => options === undefined ? child.stdout : child.stdout.values(options),
        write: async (bytes) => {
          child.stdin.write(bytes);
          await child.stdin.flush();
        },
        end: () => child.stdin.end(),
        kill: () => (child.kill("SIGKILL"), child.exited),
      };
    },
  };
}
