// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The first callback of a server, before there is a program; and what becomes
 * of that which it has made where there is never to be one.
 *
 * @module
 */

import { unlessAborted } from "./aborts.ts";
import { checkInit, checkNext, type Outcome, type Self } from "./callbacks.ts";
import { notEnded, notStarted } from "./ends.ts";
import type { AnyCallbacks } from "./items.ts";

/** A server that is to start. */
export interface Starting {
  readonly module: AnyCallbacks;
  readonly subject: string;
  readonly self: Self;
}

/**
 * What `init` answers, where that is to start a program.
 *
 * @throws {ServerError} where it threw, stopped or ignored.
 * @throws the signal's reason where that is aborted before it has answered.
 */
export async function askInit(
  starting: Starting,
  arg: unknown,
  signal: AbortSignal | undefined,
): Promise<Outcome<unknown>> {
  const { subject, module } = starting;
  const outcome = await checked(starting, await answerOf(starting, arg, signal));
  if ("ignore" in outcome) throw notStarted(subject, "its init() chose not to start", "EIGNORE");
  if (!("state" in outcome)) {
    throw notStarted(subject, "its init() stopped it", "ESTOP", outcome.stop);
  }
  try {
    checkNext("init", outcome, module);
  } catch (error) {
    await undo(starting, outcome.state, error);
    throw error;
  }
  return outcome;
}

/** What `init` has made is not to stay behind an answer that is none. */
async function checked(starting: Starting, answer: unknown): Promise<ReturnType<typeof checkInit>> {
  try {
    return checkInit(answer);
  } catch (error) {
    const made = typeof answer === "object" && answer !== null && "state" in answer;
    if (made) await undo(starting, answer.state, error);
    throw error;
  }
}

async function answerOf(
  starting: Starting,
  arg: unknown,
  signal: AbortSignal | undefined,
): Promise<unknown> {
  const answer = (async () => await starting.module.init(arg))();
  try {
    return await unlessAborted(answer, signal);
  } catch (cause) {
    if (!signal?.aborted) {
      throw notStarted(starting.subject, "its init() threw", "ECALLBACK", cause);
    }
    // Whoever wanted it was told why, and hears nothing of what comes of it later.
    answer.then((late) => forget(starting, late, cause)).catch(() => {});
    throw cause;
  }
}

/** It took too long, and has made something all the same. */
async function forget(starting: Starting, answer: unknown, why: unknown): Promise<void> {
  const outcome = checkInit(answer);
  if ("state" in outcome) await undo(starting, outcome.state, why);
}

/**
 * The program does not run: what `init` has made for it is not to stay behind.
 *
 * @throws {ServerError} where `terminate` throws, with both errors.
 */
export async function undo(
  { module, subject, self }: Starting,
  state: unknown,
  error: unknown,
): Promise<void> {
  try {
    await module.terminate?.(error, state, self);
  } catch (second) {
    throw notEnded(subject, error, second);
  }
}
