// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * `cmd()`: a program that is run to its end, with all that it said.
 *
 * @module
 */

import { BrokenPipeError, ClosedError, typeError } from "./errors.ts";
import type { OpenOptions } from "./options.ts";
import { open, processOf } from "./port.ts";
import type { Process } from "./process.ts";
import type { ExitStatus } from "./status.ts";
import { gather, type Output, type Room } from "./streams.ts";

/** What a program can be given to read: text, bytes, or a stream of bytes. */
export type Input = string | Uint8Array | ReadableStream<Uint8Array>;

/** Every option of `open` but those for a conversation, and what the program is to read. */
export interface CommandOptions extends Omit<OpenOptions, "owner" | "stdioWindow" | "pty" | "fds"> {
  /** All of stdin. Without it stdin is `"null"`, unless `stdin: "inherit"` is given. */
  input?: Input;
  /**
   * Most bytes of stdout and stderr together, 0 or more; default 67,108,864
   * (64 MiB). One more ends the tree with cause `"limit"`; what came is kept.
   */
  maxOutputBytes?: number;
}

/** How it ended, and what it said. */
export interface CommandResult extends ExitStatus {
  /** Empty where stdout was not `"piped"`. */
  stdout: Uint8Array<ArrayBuffer>;
  /** Empty where stderr was not `"piped"`. */
  stderr: Uint8Array<ArrayBuffer>;
  /** True where some of the output is missing. */
  truncated: boolean;
  /** stdout as text; what is not UTF-8 becomes U+FFFD. */
  text(): string;
  /** The lines of stdout without their ends (`\n` or `\r\n`). */
  lines(): string[];
}

/**
 * Runs a program to its end and takes all of its output. An exit code other
 * than 0 is a result, not an error; the tree is gone when this resolves.
 *
 * ```ts
 * import { cmd } from "@proton-stream/port";
 * import { assertEquals } from "@std/assert";
 *
 * const sorted = await cmd("sort", ["-n"], { input: "10\n9\n" });
 * assertEquals([sorted.success, sorted.lines()], [true, ["9", "10"]]);
 *
 * const { code, stderr } = await cmd("sh", ["-c", "echo no >&2; exit 3"]);
 * assertEquals([code, new TextDecoder().decode(stderr)], [3, "no\n"]);
 * ```
 *
 * An end by `timeoutMs`, by a `signal` that is aborted while it runs, or by `maxOutputBytes` is a result: `cause` says
 * `"timeout"`, `"abort"` or `"limit"`, and what came until then is there.
 *
 * @param command a name to look up on the child's PATH, or a path.
 * @param args what follows argv[0].
 * @throws {SpawnError} and whatever else `open` rejects with, where it does not start.
 * @throws the reason of a `signal` that is aborted before it has started.
 * @throws whatever a stream that is its `input` fails with; the tree is ended before, as by an abort: a program
 * must not take half of its input for all.
 */
export async function cmd(
  command: string,
  args: readonly (string | Uint8Array)[] = [],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const { input, ...rest } = checked(options);
  const stdin = input === undefined ? rest.stdin ?? "null" : "piped";
  await using port = await open(command, args, { ...rest, stdin });
  const process = processOf(port);
  const room: Room = { left: process.spec.maxOutputBytes, exceeded: false };
  const [stdout, stderr] = await Promise.all([
    all(process, process.stdout, room),
    all(process, process.stderr, room),
    input === undefined ? undefined : feed(process, port.stdin, input),
  ]);
  const [ended, { truncated }] = await Promise.all([port.status, port.drained]);
  // What was too much was written before the program ended, also where it has ended before that was read.
  const early = room.exceeded && ended.cause === "exit";
  const status: ExitStatus = early ? { ...ended, cause: "limit" } : ended;
  const text = () => new TextDecoder().decode(stdout);
  const lines = () => text().replace(/\r?\n$/, "").split(/\r?\n/).slice(stdout.length ? 0 : 1);
  return { ...status, stdout, stderr, truncated: truncated || room.exceeded, text, lines };
}

function checked(options: CommandOptions): CommandOptions {
  if (typeof options !== "object" || options === null) {
    throw typeError("Cannot read the options", "they are no object", "give an object");
  }
  for (const name of ["owner", "stdioWindow", "pty", "fds"]) {
    if (!(name in options)) continue;
    throw typeError(
      `Cannot use option "${name}"`,
      "with a command that is run to its end nobody talks meanwhile",
      "leave it out, or use open()",
    );
  }
  const { input, stdin } = options;
  if (input === undefined && stdin !== "piped") return options;
  if (stdin !== undefined) {
    throw typeError(
      'Cannot use option "stdin"',
      input === undefined ? "nobody would write to it" : '"input" is given too',
      'give "input" alone, or stdin: "inherit" or "null"',
    );
  }
  if (
    typeof input === "string" || input instanceof Uint8Array || input instanceof ReadableStream
  ) return options;
  throw typeError(
    'Cannot use option "input"',
    "it is neither text, bytes nor a stream",
    "give a string, a Uint8Array or a ReadableStream of bytes",
  );
}

async function all(
  process: Process,
  output: Output,
  room: Room,
): Promise<Uint8Array<ArrayBuffer>> {
  output.claim("cmd()");
  const bytes = await gather(output, room);
  if (room.exceeded) process.stop("limit");
  return bytes;
}

/** A program need not read what it is given, and may end before that does; a source that fails is an error. */
async function feed(
  process: Process,
  stdin: WritableStream<Uint8Array>,
  input: Input,
): Promise<void> {
  const ended = new AbortController();
  const unread = (error: unknown): boolean =>
    ended.signal.aborted || error instanceof BrokenPipeError || error instanceof ClosedError;
  void process.status.then(() => ended.abort());
  try {
    if (input instanceof ReadableStream) {
      await input.pipeTo(stdin, { signal: ended.signal });
    } else {
      await process.stdin.write(typeof input === "string" ? ENCODER.encode(input) : input);
      await process.stdin.end();
    }
  } catch (error) {
    if (unread(error)) return;
    await process.end("abort");
    throw error;
  }
}

const ENCODER = new TextEncoder();
