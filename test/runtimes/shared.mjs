// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// What the suite, its hosts and its Workers share, in every runtime.

import { readFileSync } from "node:fs";

const DEADLINE_MS = 30_000;

export const text = (bytes) => new TextDecoder().decode(bytes);

/** The fields of /proc/PID/stat from the state on; null where there is no such process. */
function stat(pid) {
  try {
    const all = readFileSync(`/proc/${pid}/stat`, "utf8");
    return all.slice(all.lastIndexOf(")") + 2).trim().split(" ");
  } catch {
    return null;
  }
}

/** A process that no later one with its pid can be taken for. */
export function identity(pid) {
  const fields = stat(pid);
  if (fields === null) throw new Error(`there is no process ${pid}`);
  return { pid, start: fields[19] };
}

/** A zombie of process 1 is gone as well: in some containers it reaps nobody. */
export function alive({ pid, start }) {
  const now = stat(pid);
  return now !== null && now[19] === start && !(now[0] === "Z" && now[1] === "1");
}

/** Waits until none of `ids` is left. */
export async function gone(ids) {
  const deadline = performance.now() + DEADLINE_MS;
  while (ids.some(alive)) {
    if (performance.now() > deadline) throw new Error(`left: ${JSON.stringify(ids.filter(alive))}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Waits until `condition` holds. */
export async function met(condition) {
  const deadline = performance.now() + DEADLINE_MS;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`never: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** `promise`, or an error where it does not come: a safety net only. */
export async function until(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`not in ${2 * DEADLINE_MS} ms: ${what}`)),
      2 * DEADLINE_MS,
    );
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** The pids in the probe's ready line, its own first. */
export async function ready(port) {
  let line = "";
  for await (const message of port) {
    if (message.type !== "data") throw new Error(`not ready: ${message.type}`);
    line += text(message.data);
    if (line.endsWith("\n")) break;
  }
  return line.trim().split(" ").slice(1).map(Number);
}
