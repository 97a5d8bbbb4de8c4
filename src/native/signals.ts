// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The signals that ask a program to end, and an end that says which one came.
 *
 * @module
 */

import process from "node:process";
import { SIGNALS } from "../status.ts";

const ENDING = ["SIGHUP", "SIGINT", "SIGTERM"] as const;
type Ending = typeof ENDING[number];

/** How long the signal that is to end us may take. */
const LATE_MS = 1_000;

/**
 * Does `body`. Each signal calls `onSignal` with how many have come; where one
 * has, this process ends by it once `body` is done, so that whoever waits for
 * it (a shell, systemd) sees what it sees with any program.
 *
 * @throws what `body` throws, where no signal has come.
 */
export async function runUntilSignal(
  body: () => Promise<void>,
  onSignal: (nth: number) => void,
): Promise<void> {
  const came: Ending[] = [];
  const listeners = ENDING.map((name) => {
    const listener = () => onSignal(came.push(name));
    process.on(name, listener);
    return [name, listener] as const;
  });
  try {
    await body();
  } catch (error) {
    if (came.length === 0) throw error;
    console.error(error); // the signal is how we end, and this is nobody else's to hear
  } finally {
    for (const [name, listener] of listeners) process.off(name, listener);
  }
  const [first] = came;
  if (first !== undefined) await endBy(first);
}

/** Does not come back. To process 1 the kernel sends no signal that would end it: it says the number. */
async function endBy(signal: Ending): Promise<void> {
  const code = 128 + SIGNALS[signal];
  if (process.pid === 1) process.exit(code);
  process.kill(process.pid, signal);
  await new Promise((resolve) => setTimeout(resolve, LATE_MS));
  process.exit(code);
}
