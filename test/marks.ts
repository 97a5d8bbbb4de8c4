// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Finds what is left of a host that was killed at any moment, when nobody
 * could write down the pids: by a mark in the environment, which every
 * descendant has, by the session of the host, which its helpers never leave,
 * and by the names of its cgroups.
 *
 * @module
 */

import { comm, stat } from "./helpers.ts";

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
  return everyPid().filter((pid) => hasMark(pid, mark));
}

/** Kills what a broken promise has left, so that it does not outlive its test. */
export function endMarked(mark: string): void {
  for (const pid of marked(mark)) {
    try {
      Deno.kill(pid, "SIGKILL");
    } catch {
      // It has ended in between.
    }
  }
}

function hasMark(pid: number, mark: string): boolean {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/environ`).split("\0").includes(`${MARK}=${mark}`);
  } catch {
    return false; // ended, or another user's: nobody but root and its user may look
  }
}

/** Processes, and cgroups, that a host which led a session of its own has left. */
export function leftOf(host: { pid: number; start: string }, mark: string): string[] {
  const processes = everyPid().filter((pid) => {
    const fields = stat(pid);
    // Younger than the host, and no zombie of process 1, which in some containers reaps nobody.
    if (fields === null || Number(fields[19]) < Number(host.start)) return false;
    if (fields[0] === "Z" && fields[1] === "1") return false;
    return fields[3] === `${host.pid}` || hasMark(pid, mark);
  });
  return [
    ...processes.map((pid) => `${pid} (${comm(pid)} ${stat(pid)?.[0]})`),
    ...cgroups().filter((path) => path.includes(`/proton-${host.pid}-`)),
  ];
}

const UNIFIED = unified();

/** The v2 directory that this process, and so every host of its, is in. */
function unified(): string | undefined {
  const mount = Deno.readTextFileSync("/proc/self/mountinfo").match(/^.* (\/\S*) .* - cgroup2 /m);
  const own = Deno.readTextFileSync("/proc/self/cgroup").match(/^0::(.*)$/m);
  return mount === null || own === null ? undefined : `${mount[1]}${own[1]}`.replace(/\/$/, "");
}

function cgroups(): string[] {
  if (UNIFIED === undefined) return [];
  try {
    return [...Deno.readDirSync(UNIFIED)].map(({ name }) => `${UNIFIED}/${name}`);
  } catch {
    return []; // outside of what is mounted here
  }
}
