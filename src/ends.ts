// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Why a server has ended, as an error where that is one.
 *
 * @module
 */

import { isNormal } from "./callbacks.ts";
import { type Fault, ServerError } from "./errors.ts";

/** Signals of those who hear of each end of what is started with them. */
const listening: WeakSet<AbortSignal> = new WeakSet();

/** Whoever aborts `signal` hears of the end of each server that is started with it. */
export function hearsBy(signal: AbortSignal): void {
  listening.add(signal);
}

/** Whether somebody does. */
export function isHeardBy(signal: AbortSignal | undefined): boolean {
  return signal !== undefined && listening.has(signal);
}

/** Nobody's fault: who killed it knows. */
export const KILLED = "killed";

/** The error of an end; null where it is as it should be. `errors` is what callbacks threw. */
export function failure(subject: string, reason: unknown, errors: unknown[]): ServerError | null {
  const fault = { what: `The server of ${subject} has ended`, op: "server", subject };
  if (errors.length > 0) {
    const cause = errors.length === 1
      ? errors[0]
      : new AggregateError(errors, "and so did its end");
    const why = "a callback failed";
    return endError({ ...fault, why, code: "ECALLBACK", mend: "look at the cause" }, cause);
  }
  if (isNormal(reason) || reason === KILLED) return null;
  const why = "it has stopped";
  return endError({ ...fault, why, code: "ESTOP", mend: "look at its reason" }, reason);
}

/** An error for `reason`, which is its cause as well where something was thrown. */
export function endError(fault: Omit<Fault, "cause">, reason: unknown): ServerError {
  const cause = reason instanceof Error || fault.code === "ECALLBACK" ? { cause: reason } : {};
  return new ServerError({ ...fault, why: fault.why + inWords(reason), reason, ...cause });
}

/** Nothing was started, by what `init` did. */
export function notStarted(
  subject: string,
  why: string,
  code: string,
  reason: unknown = "normal",
): ServerError {
  const [what, mend] = [
    `Cannot start a server of ${subject}`,
    "nothing was started; look at its reason",
  ];
  return endError({ what, why, code, mend, op: "startLink", subject }, reason);
}

/** The program did not start, and neither did `terminate` do what it was to do: both are told. */
export function notEnded(subject: string, error: unknown, second: unknown): ServerError {
  const message = (one: unknown) => one instanceof Error ? one.message : String(one);
  const why = `${message(error)}; and its terminate() threw, ${message(second)}`;
  return endError({
    ...{ what: `Cannot start a server of ${subject}`, why, code: "ECALLBACK" },
    ...{ mend: "look at the causes", op: "startLink", subject },
  }, new AggregateError([error, second], why));
}

/** A reason for the end of a clause. */
function inWords(reason: unknown): string {
  if (reason === "normal" || reason === null) return "";
  if (reason instanceof Error) return `, ${reason.message}`;
  if (typeof reason === "string") return `, ${reason}`;
  if (typeof reason !== "object") return "";
  const { kind, code, signal } = reason as { kind?: string; code?: number; signal?: string };
  if (kind === "exitStatus") return `, its program exited with ${code}`;
  if (kind === "signal") return `, its program was ended by ${signal}`;
  return kind === "lost" ? ", nobody knows how its program ended" : "";
}
