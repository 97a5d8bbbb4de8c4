// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What a value has to be, and the sentence for one that is not: the checks
 * that all options are made of.
 *
 * @module
 */

import { nearest, quote, rangeError, typeError } from "./errors.ts";

/** Options as a caller without types may hand them in. */
export type Given = Readonly<Record<string, unknown>>;

/** The most that a timer takes, in JavaScript and in the kernel alike. */
export const LONGEST_MS: number = 2 ** 31 - 1;

/** Refuses every name in `given` that is not `known`, with the one that was meant. */
export function refuseUnknown(what: string, given: object, known: readonly string[]): void {
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue;
    const meant = nearest(name, known);
    throw typeError(
      `Cannot use ${what} ${quote(name)}`,
      "there is none of this name",
      meant === null ? `the known ones are ${known.join(", ")}` : `did you mean ${quote(meant)}?`,
    );
  }
}

/** What a call is given beside its subject: an object, without a name that nobody knows. */
export function refuseOptions(call: string, options: unknown, known: readonly string[]): void {
  if (!isRecord(options)) {
    const mend = `give an object such as { ${known[0]} }`;
    throw typeError(`Cannot use the options of ${call}`, `they are ${kind(options)}`, mend);
  }
  refuseUnknown(`${call} option`, options, known);
}

/** A Map, a Date or an array has no own entries by name: it would be an empty record without a word. */
export function isRecord(value: unknown): value is object {
  return typeof value === "object" && value !== null &&
    Object.prototype.toString.call(value) === "[object Object]";
}

/** An option that is a plain object of named parts; undefined where it is not given. */
export function record(
  given: Given,
  name: string,
  mend: string,
  known: readonly string[] | null,
): Given | undefined {
  const value = given[name];
  if (value === undefined) return undefined;
  if (!isRecord(value)) throw wrong(name, kind(value), mend);
  if (known !== null) refuseUnknown(`${name} option`, value, known);
  return value as Given;
}

export function text(given: Given, name: string, empty?: "may be empty"): string | undefined {
  const value = given[name];
  if (value === undefined) return undefined;
  checkText(`use option ${quote(name)}`, "it", value, "give a string", empty);
  return value;
}

/** What a C string can hold: no NUL, and no lone surrogate, which UTF-8 would silently replace. */
export function checkText(
  doing: string,
  name: string,
  value: unknown,
  mend: string,
  empty?: "may be empty",
): asserts value is string {
  if (typeof value !== "string") {
    throw typeError(`Cannot ${doing}`, `${name} is ${kind(value)}`, mend);
  }
  if (value === "" && empty === undefined) {
    throw typeError(`Cannot ${doing}`, `${name} is empty`, mend);
  }
  if (value.includes("\0")) throw holdsNul(doing, name);
  if (!value.isWellFormed()) {
    throw typeError(
      `Cannot ${doing}`,
      `${name} holds half of a surrogate pair`,
      "mend the string, it has no UTF-8 form",
    );
  }
}

/** A copy of bytes without a NUL, so that what is checked here is what starts. */
export function checkedBytes(doing: string, name: string, value: Uint8Array): Uint8Array {
  if (!value.includes(0)) return value.slice();
  throw holdsNul(doing, name);
}

function holdsNul(doing: string, name: string): TypeError {
  return typeError(
    `Cannot ${doing}`,
    `${name} holds a NUL byte, which ends a string for the system`,
    "leave it out",
  );
}

export function flag(given: Given, name: string): boolean {
  const value = given[name];
  if (value === undefined) return false;
  if (typeof value === "boolean") return value;
  throw wrong(name, kind(value), "give true or false");
}

export function oneOf<T extends string>(
  name: string,
  value: unknown,
  choices: readonly T[],
): T | undefined {
  if (value === undefined) return undefined;
  const found = choices.find((choice) => choice === value);
  if (found !== undefined) return found;
  const is = typeof value === "string" ? quote(value) : kind(value);
  throw wrong(name, is, `give ${choices.map(quote).join(" or ")}`);
}

export function delay(given: Given, name: string, least: number): number | undefined {
  return whole(name, given[name], "milliseconds", least, LONGEST_MS);
}

export function size(given: Given, name: string, least: number): number | undefined {
  return whole(name, given[name], "bytes", least, Number.MAX_SAFE_INTEGER);
}

/** A whole number within its range; `unit` may be empty. */
export function whole(
  name: string,
  value: unknown,
  unit: string,
  least: number,
  most: number,
): number | undefined {
  if (value === undefined) return undefined;
  const inside = typeof value === "number" && Number.isInteger(value) && value >= least &&
    value <= most;
  if (inside) return value;
  const range = most === Number.MAX_SAFE_INTEGER ? `${least} or more` : `${least} to ${most}`;
  const mend = `give a whole number${unit === "" ? "" : ` of ${unit}`}, ${range}`;
  if (typeof value !== "number") throw wrong(name, kind(value), mend);
  const why = Number.isInteger(value)
    ? `it is ${value}, ${value < least ? "less" : "more"} than allowed`
    : `it is ${value}, not a whole number`;
  throw rangeError(`Cannot use option ${quote(name)}`, why, mend);
}

export function wrong(name: string, is: string, mend: string): TypeError {
  return typeError(`Cannot use option ${quote(name)}`, `it is ${is}`, mend);
}

/** Two options that exclude each other. */
export function together(name: string, other: string, why: string, mend: string): TypeError {
  return typeError(
    `Cannot use option ${quote(name)}`,
    `${quote(other)} is given too and ${why}`,
    mend,
  );
}

/** What `value` is, for a reader: `null`, `a number`, `an array`. */
export function kind(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (Array.isArray(value)) return "an array";
  if (typeof value !== "object") return `a ${typeof value}`;
  const name = Object.getPrototypeOf(value)?.constructor?.name;
  return typeof name === "string" && name !== "Object" ? `a ${name}` : "an object";
}
