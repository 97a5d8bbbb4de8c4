// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What supervised programs say, line by line: to a log, to whoever waits for
 * one of the lines, and the last of them for an error.
 *
 * @module
 */

import { Lines } from "./lines.ts";
import type { Process } from "./process.ts";
import type { Output } from "./streams.ts";

/** Methods of `console`. */
export type Level = "debug" | "info" | "warn" | "error";

/** One line for the log. */
export interface LogLine {
  /** The child's id. */
  id: string;
  /** Where it comes from; `"supervisor"` tells what became of the child. */
  stream: "stdout" | "stderr" | "supervisor";
  /** How it is logged. */
  level: Level;
  /** The child's prefix. */
  prefix: string;
  /** The line without its end, at most `maxLineBytes` of it. */
  text: string;
  /** It was longer. */
  truncated: boolean;
}

/** Where lines go. */
export type Log = (line: LogLine) => void;

/** The default {@link Log}. */
export function toConsole({ level, prefix, text, truncated }: LogLine): void {
  console[level](`${prefix}${text}${truncated ? " [cut]" : ""}`);
}

/** Logs that have thrown. */
const broken: WeakSet<Log> = new WeakSet();

/**
 * Calls `log`. What it throws, or rejects with, ends neither a child nor this
 * program; the console is told of it, at the first of what may be many lines.
 */
export function tellLog(log: Log, line: LogLine): void {
  const failed = (error: unknown) => {
    if (broken.has(log)) return;
    broken.add(log);
    console.error(`A log failed, first at the line ${line.prefix}${line.text}:`, error);
  };
  try {
    const answer: unknown = log(line); // one that is async gives a promise
    if (answer instanceof Promise) answer.catch(failed);
  } catch (error) {
    failed(error);
  }
}

/** Of the last lines, what an error can show. */
const TAIL_LINES = 20;
const TAIL_CHARS = 200;

/** Reads both outputs of a program to their end. */
export class OutputLog {
  /** Resolves at the end of both. */
  readonly done: Promise<void>;
  readonly #tail: string[] = [];
  readonly #listeners: Set<(line: string) => void> = new Set();

  /** `each` gets every line. */
  constructor(
    process: Process,
    mostBytes: number,
    each: (stream: "stdout" | "stderr", text: string, truncated: boolean) => void,
  ) {
    const follow = (stream: "stdout" | "stderr") => {
      const take = (text: string, truncated: boolean) => {
        this.#keep(text);
        each(stream, text, truncated);
        for (const listener of this.#listeners) listener(text);
      };
      return read(process[stream], new Lines(mostBytes, take));
    };
    this.done = Promise.all([follow("stdout"), follow("stderr")]).then(() => {});
  }

  #keep(text: string): void {
    this.#tail.push(text.length > TAIL_CHARS ? `${text.slice(0, TAIL_CHARS)} [cut]` : text);
    if (this.#tail.length > TAIL_LINES) this.#tail.shift();
  }

  /** The last lines. */
  get tail(): string {
    return this.#tail.join("\n");
  }

  /** Tells of each line from now on; returns what ends that. */
  listen(listener: (line: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

async function read(output: Output, lines: Lines): Promise<void> {
  if (!output.open) return;
  output.claim("the supervisor");
  const buffer = new Uint8Array(16 * 1024);
  for (let got = await output.read(buffer); got > 0; got = await output.read(buffer)) {
    lines.push(buffer.subarray(0, got));
  }
  lines.end();
}
