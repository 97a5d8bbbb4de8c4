// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Children that nobody reads: when they are stuck, and how far they came.
 *
 * @module
 */

import { Echo, until } from "./helpers.ts";

/** Bytes that the probe says it has written to stdout and stderr. */
function counts(file: string): { out: number; err: number } {
  const bytes = Deno.readFileSync(file);
  const view = new DataView(bytes.buffer);
  return { out: Number(view.getBigUint64(0, true)), err: Number(view.getBigUint64(8, true)) };
}

/** True while every thread of the process waits for something. */
export function asleep(pid: number): boolean {
  const tasks = [...Deno.readDirSync(`/proc/${pid}/task`)];
  return tasks.every(({ name }) => {
    const text = Deno.readTextFileSync(`/proc/${pid}/task/${name}/stat`);
    return text.slice(text.lastIndexOf(")") + 2).startsWith("S");
  });
}

/** What a `count-written` probe has written once it is stuck: asleep, and no further after several turns of another port. */
export async function whenStuck(pid: number, file: string): Promise<{ out: number; err: number }> {
  await using echo = await Echo.start();
  let last = { out: -1, err: -1 };
  let same = 0;
  await until(async () => {
    await echo.turn();
    const now = counts(file);
    same = asleep(pid) && now.out === last.out && now.err === last.err ? same + 1 : 0;
    last = now;
    return same >= 10;
  }, { what: () => `a writer that is held back; it wrote ${JSON.stringify(last)}` });
  return last;
}
