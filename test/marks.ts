// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Finds processes whose pids nobody could write down, because their host was
 * killed at any moment: by a mark in their environment, which every descendant
 * has, and by the session of their host, which its helpers never leave.
 *
 * @module
 */

import { stat } from "./helpers.ts";

/** The variable that holds the mark. */
export const MARK = "PROTON_TEST_MARK";

/** A mark that no other run has. */
export function newMark(): string {
  return `proton_test_${Deno.pid}_${crypto.randomUUID()}`;
}

function everyPid(): number[] {
  return [...Deno.readDirSync("/proc")].map(({ name }) => Number(name)).filter(Number.isInteger);
}

/** The pids of all processes with `mark` in their environment. */
export function marked(mark: string): number[] {
  return everyPid().filter((pid) => environment(pid).split("\0").includes(`${MARK}=${mark}`));
}

function environment(pid: number): string {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/environ`);
  } catch {
    return ""; // ended, or another user's: nobody but root and its user may look
  }
}

/** The pids of all processes in the session of `leader`; a zombie of process 1 is gone. */
export function inSession(leader: number): number[] {
  return everyPid().filter((pid) => {
    const [state, parent, , session] = stat(pid) ?? [];
    return session === `${leader}` && !(state === "Z" && parent === "1");
  });
}
