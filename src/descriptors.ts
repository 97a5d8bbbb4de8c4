// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The options that say what the child's descriptors are: its three standard
 * streams, those above them, and a terminal of its own.
 *
 * @module
 */

import { type Given, kind, record, text, together, whole, wrong } from "./checks.ts";
import { quote, typeError } from "./errors.ts";

/**
 * How one of the child's standard streams is joined: to us, to the runtime's
 * own, to /dev/null, or to a copy of this descriptor of the runtime's (a whole
 * number, 0 or more).
 */
export type Stdio = "piped" | "inherit" | "null" | number;

/** A terminal, as the child gets it. */
export interface PtyOptions {
  /** Characters in a line, 1 to 65,535; default 80. */
  cols?: number;
  /** Lines, 1 to 65,535; default 24. */
  rows?: number;
  /** TERM, unless `env` says another; default `"xterm-256color"`. */
  term?: string;
}

/** The size of a terminal in characters. */
export interface PtySize {
  /** In a line. */
  readonly cols: number;
  /** Lines. */
  readonly rows: number;
}

/** Where stderr goes, too: `"stdout"` is wherever that goes. */
export type Streams = readonly [stdin: Stdio, stdout: Stdio, stderr: Stdio | "stdout"];

/** What is at the other end of a descriptor above 2. */
export type Source = "piped" | number;

/** The most descriptors above 2 of one child. */
export const FDS_MAX: number = 12;
/** Beyond it no kernel has descriptors (fs.nr_open) by default. */
const HIGHEST_FD = 1_048_575;
const STDIO = ["piped", "inherit", "null"];

function stdio(given: Given, name: string): Stdio | undefined {
  const value = given[name];
  if (value === undefined) return undefined;
  if (typeof value === "number") return whole(name, value, "", 0, LARGEST_FD);
  if (typeof value === "string" && STDIO.includes(value)) return value as Stdio;
  const is = typeof value === "string" ? quote(value) : kind(value);
  throw wrong(name, is, `give ${STDIO.map(quote).join(" or ")} or the number of a descriptor`);
}

/** Any that a runtime may have; whether it is open is known at the start. */
const LARGEST_FD = 2 ** 31 - 1;

/**
 * Where 0, 1 and 2 of the child go.
 *
 * @throws {TypeError} for options that speak of the same stream.
 */
export function streamsOf(
  given: Given,
  merged: boolean,
  stderrOnly: boolean,
  pty: boolean,
): Streams {
  const [stdin, stdout, stderr] = [
    stdio(given, "stdin"),
    stdio(given, "stdout"),
    stdio(given, "stderr"),
  ];
  if (pty) {
    for (const name of ["stdin", "stdout", "stderr", "stderrToStdout", "captureStderrOnly"]) {
      if (given[name] === undefined) continue;
      throw together(name, "pty", "is all three streams at once", "give one of them");
    }
    return Object.freeze(["piped", "piped", "stdout"] as const);
  }
  if (merged && stderr !== undefined) {
    throw together("stderrToStdout", "stderr", "means the same stream", "give one of them");
  }
  if (stderrOnly && stdout !== undefined) {
    throw together("captureStderrOnly", "stdout", "means the same stream", "give one of them");
  }
  if (stderrOnly && (merged || (stderr ?? "piped") !== "piped")) {
    const other = merged ? "stderrToStdout" : "stderr";
    throw together("captureStderrOnly", other, "leaves nothing to capture", "give one of them");
  }
  return Object.freeze(
    [
      stdin ?? "piped",
      stdout ?? (stderrOnly ? "null" : "piped"),
      merged ? "stdout" : stderr ?? "piped",
    ] as const,
  );
}

/** The descriptors above 2, by number. */
export function fdsOf(given: Given): readonly (readonly [number: number, source: Source])[] {
  const asked = record(given, "fds", 'give an object such as { 3: "piped" }', null);
  if (asked === undefined) return [];
  const all = Object.entries(asked).map(([name, source]) =>
    Object.freeze([fdNumber(name), sourceOf(name, source)] as const)
  );
  if (all.length > FDS_MAX) {
    throw typeError(
      'Cannot use option "fds"',
      `it holds ${all.length} descriptors, more than the ${FDS_MAX} of a start`,
      "give fewer",
    );
  }
  return Object.freeze(all.sort(([a], [b]) => a - b));
}

function fdNumber(name: string): number {
  const number = Number(name);
  if (/^[1-9]\d*$|^0$/.test(name) && number >= 3 && number <= HIGHEST_FD) return number;
  throw typeError(
    'Cannot use option "fds"',
    `${quote(name)} is not the number of a descriptor above 2`,
    `give whole numbers, 3 to ${HIGHEST_FD}; 0, 1 and 2 are stdin, stdout and stderr`,
  );
}

function sourceOf(name: string, source: unknown): Source {
  if (source === "piped") return source;
  const option = `fds[${name}]`;
  if (typeof source === "number") return whole(option, source, "", 0, LARGEST_FD) ?? 0;
  const is = typeof source === "string" ? quote(source) : kind(source);
  throw wrong(option, is, 'give "piped" or the number of a descriptor');
}

/** The terminal that is asked for, and its TERM. */
export function ptyOf(given: Given): (PtySize & { readonly term: string }) | null {
  const mend = "give an object such as { cols: 80, rows: 24 }";
  const asked = record(given, "pty", mend, ["cols", "rows", "term"]);
  if (asked === undefined) return null;
  return Object.freeze({
    ...ptySize(asked, "pty."),
    term: text({ "pty.term": asked.term }, "pty.term") ?? "xterm-256color",
  });
}

/** A size in which what is not given is that of `now`. */
export function ptySize(
  asked: Given,
  prefix: string,
  now: PtySize = { cols: 80, rows: 24 },
): PtySize {
  const one = (name: "cols" | "rows") =>
    whole(prefix + name, asked[name], "characters", 1, 65_535) ?? now[name];
  return Object.freeze({ cols: one("cols"), rows: one("rows") });
}
