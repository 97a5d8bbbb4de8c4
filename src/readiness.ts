// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * When a program that runs is ready to be used.
 *
 * @module
 */

import { checkMs } from "./callbacks.ts";
import { typeError } from "./errors.ts";
import type { OutputLog } from "./logging.ts";
import { fileIsThere, listens } from "./native/reach.ts";
import { deferred } from "./streams.ts";

/** How long readiness is awaited. */
export interface Patience {
  /** Milliseconds, 0 or more; default 30,000. */
  timeoutMs?: number;
}

/**
 * What a start waits for: a line of its output, a TCP port (on `host`, default
 * `127.0.0.1`) or a Unix socket that takes a connection, a file, or a function
 * that returns true, asked again until it does.
 */
export type WaitFor =
  | (Patience & { line: RegExp })
  | (Patience & { port: number; host?: string })
  | (Patience & { unix: string })
  | (Patience & { file: string })
  | (Patience & { check: Check })
  | Check;

/** Whether it is ready. */
export type Check = () => boolean | Promise<boolean>;

const KINDS = ["line", "port", "unix", "file", "check"] as const;
const [FIRST_MS, LONGEST_MS] = [5, 200];

/**
 * Refuses what nobody can wait for. `line` is for programs whose output the supervisor reads.
 *
 * @throws {TypeError} or {RangeError}.
 */
export function checkWaitFor(waitFor: unknown, readsLines: boolean): void {
  if (typeof waitFor === "function") return;
  const what = "Cannot use waitFor";
  const mend = "give { line }, { port }, { unix }, { file }, { check } or a function";
  if (typeof waitFor !== "object" || waitFor === null) {
    throw typeError(what, "it is neither an object nor a function", mend);
  }
  const given = waitFor as Record<string, unknown>;
  const kinds = KINDS.filter((kind) => given[kind] !== undefined);
  const extra = Object.keys(given).filter((name) =>
    ![...KINDS, "timeoutMs", "host"].includes(name as "line")
  );
  const [kind] = kinds;
  if (kinds.length !== 1 || kind === undefined || extra.length > 0) {
    throw typeError(what, `it has ${Object.keys(given).join(", ") || "nothing"}`, mend);
  }
  if (given.host !== undefined && (kind !== "port" || typeof given.host !== "string")) {
    const why = kind === "port" ? "its host is no text" : `it has host beside ${kind}`;
    throw typeError(what, why, "give { port, host }, or leave host out");
  }
  if (given.timeoutMs !== undefined) checkMs("timeoutMs of waitFor", given.timeoutMs);
  if (!isKind(kind, given[kind])) throw typeError(what, `its ${kind} is of another kind`, mend);
  if (kind === "line" && !readsLines) {
    throw typeError(what, "nobody but its owner reads its lines", 'use another, or output: "log"');
  }
}

function isKind(kind: typeof KINDS[number], value: unknown): boolean {
  if (kind === "line") return value instanceof RegExp;
  if (kind === "check") return typeof value === "function";
  if (kind !== "port") return typeof value === "string" && value !== "";
  return Number.isInteger(value) && (value as number) > 0 && (value as number) < 65_536;
}

/** What is known of the program that is waited for. */
export interface Starting {
  /** Its lines; null where its owner reads them. */
  readonly output: OutputLog | null;
  /** Resolves at its end. */
  readonly gone: Promise<unknown>;
  /** Nobody wants it any more. */
  readonly signal: AbortSignal;
}

/** How waiting ended; `"aborted"`: nobody wants it any more. */
export type Readiness = "ready" | "gone" | "late" | "aborted";

/**
 * Waits until it is ready.
 *
 * @throws what a function of `waitFor` throws.
 */
export async function awaitReady(waitFor: WaitFor, starting: Starting): Promise<Readiness> {
  const { timeoutMs = 30_000 } = typeof waitFor === "function" ? {} : waitFor;
  const over = deferred<Readiness>();
  const aborted = () => over.resolve("aborted");
  starting.signal.addEventListener("abort", aborted);
  if (starting.signal.aborted) aborted();
  const timer = setTimeout(() => over.resolve("late"), timeoutMs);
  void starting.gone.then(() => over.resolve("gone"));
  const forget = wait(waitFor, starting, over.resolve, over.reject);
  try {
    return await over.promise;
  } finally {
    forget();
    clearTimeout(timer);
    starting.signal.removeEventListener("abort", aborted);
  }
}

/** Tells `resolve` when it is ready; returns what ends the waiting. */
function wait(
  waitFor: WaitFor,
  { output }: Starting,
  resolve: (readiness: Readiness) => void,
  reject: (error: unknown) => void,
): () => void {
  if (typeof waitFor === "object" && "line" in waitFor) {
    const { line } = waitFor;
    return output?.listen((text) => {
      line.lastIndex = 0; // a global one would go on where it was
      if (line.test(text)) resolve("ready");
    }) ?? (() => {});
  }
  const check = checkOf(waitFor);
  let [over, pauseMs] = [false, FIRST_MS];
  let timer: ReturnType<typeof setTimeout> | undefined;
  const ask = async () => {
    if (await check()) return resolve("ready");
    if (over) return;
    timer = setTimeout(() => void ask().catch(reject), pauseMs);
    pauseMs = Math.min(2 * pauseMs, LONGEST_MS);
  };
  void ask().catch(reject);
  return () => {
    over = true;
    clearTimeout(timer);
  };
}

function checkOf(waitFor: Exclude<WaitFor, { line: RegExp }>): Check {
  if (typeof waitFor === "function") return waitFor;
  if ("check" in waitFor) return waitFor.check;
  if ("file" in waitFor) return () => fileIsThere(waitFor.file);
  if ("unix" in waitFor) return () => listens({ path: waitFor.unix });
  return () => listens({ port: waitFor.port, host: waitFor.host ?? "127.0.0.1" });
}
