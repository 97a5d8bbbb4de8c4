// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What of a port goes to another Worker: everything that is known of it on
 * this side. It comes back out of a message, which anybody may have changed:
 * all of it is looked at before any of it is used.
 *
 * @module
 */

import type { Handle } from "./core.ts";
import { FDS_MAX } from "./descriptors.ts";
import type { Spec } from "./options.ts";
import type { MovedOutput } from "./streams.ts";

/** A message that nobody has taken yet. */
export interface MovedMessage {
  type: "data" | "error";
  data: Uint8Array<ArrayBuffer>;
}

/** What a port leaves its isolate with. */
export interface Moved {
  handle: Handle;
  /** What its native side hands it out for. */
  key: Uint8Array;
  spec: Spec;
  outputs: MovedOutput[];
  /** Why each input is over; null where it is not. */
  inputs: (string | null)[];
  messages: MovedMessage[];
}

type Is = (value: unknown) => boolean;
type Shape<T> = Readonly<Record<keyof T, Is>>;

const isText: Is = (value) => typeof value === "string";
const isFlag: Is = (value) => typeof value === "boolean";
const isNull: Is = (value) => value === null;
const isEmpty: Is = (value) => Array.isArray(value) && value.length === 0;
const isBig: Is = (value) => typeof value === "bigint";
const isCount = (least: number, most: number = Number.MAX_SAFE_INTEGER): Is => (value) =>
  Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;
const isMs = isCount(0, 2 ** 31 - 1);
const or = (...all: Is[]): Is => (value) => all.some((is) => is(value));
const among = (...all: unknown[]): Is => (value) => all.includes(value);
const listOf = (is: Is): Is => (value) => Array.isArray(value) && value.every(is);
const isBytes: Is = (value) => value instanceof Uint8Array && value.buffer instanceof ArrayBuffer;

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function fits<T>(shape: Shape<T>): Is {
  const parts = Object.entries<Is>(shape);
  return (value) => isRecord(value) && parts.every(([name, is]) => is(value[name]));
}

const isStdio = or(among("piped", "inherit", "null"), isCount(0));
const isFd: Is = (value) =>
  Array.isArray(value) && value.length === 2 && isCount(3)(value[0]) &&
  or(among("piped"), isCount(0))(value[1]);

/** As far as it is used again; what only a start needs is no more than there. */
const isSpec: Is = fits<Spec>({
  command: isText,
  arg0: isText,
  args: isEmpty,
  cwd: or(isNull, isText),
  env: isEmpty,
  clearEnv: isFlag,
  stdio: (value) =>
    Array.isArray(value) && value.length === 3 &&
    value.every((one, at) => isStdio(one) || (at === 2 && one === "stdout")),
  fds: (value) => listOf(isFd)(value) && (value as unknown[]).length <= FDS_MAX,
  pty: or(isNull, fits({ cols: isCount(1, 65_535), rows: isCount(1, 65_535) })),
  closeScope: among("tree", "group", "child"),
  privileges: or(isNull, (value) =>
    isRecord(value) && listOf(fits({
      number: isCount(0),
      soft: or(isNull, isBig),
      hard: or(isNull, isBig),
    }))(value.rlimits)),
  question: isNull,
  identity: isRecord,
  graceMs: isMs,
  flushMs: isMs,
  killOnOwnerDeath: isFlag,
  treeOnly: isFlag,
  cgroup: isNull,
  drainTimeoutMs: isMs,
  timeoutMs: or(isNull, isMs),
  signal: isNull,
  owner: isNull,
  windowBytes: isCount(1),
  highWaterMark: isCount(0),
  maxOutputBytes: isCount(0),
  maxLineBytes: isCount(1),
});

const isMoved: Is = fits<Moved>({
  handle: Number.isSafeInteger,
  key: (value) => value instanceof Uint8Array,
  spec: isSpec,
  outputs: listOf(fits<MovedOutput>({
    open: isFlag,
    dry: isFlag,
    truncated: isFlag,
    held: or(isNull, isBytes),
  })),
  inputs: listOf(or(isNull, isText)),
  messages: listOf(fits<MovedMessage>({ type: among("data", "error"), data: isBytes })),
});

/** What of `spec` is of use where its program runs already. What it was started with is nobody's business there. */
export function specOf(spec: Spec): Spec {
  const none = { args: [], env: [], signal: null, owner: null, question: null, cgroup: null };
  return { ...spec, ...none };
}

/** `moved`, where it is what a port has left with; null where any of it cannot be. */
export function movedOr(moved: unknown): Moved | null {
  if (!isMoved(moved)) return null;
  const { spec, outputs, inputs, messages } = moved as Moved;
  const more = spec.fds.filter(([, source]) => source === "piped").length;
  const all = outputs.length === 2 + more && inputs.length === 1 + more;
  const bytes = messages.reduce((sum, { data }) => sum + data.length, 0);
  return all && bytes <= spec.windowBytes ? moved as Moved : null;
}
