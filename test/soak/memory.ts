// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The host's memory does not grow with what it has done: the peak of the last
 * half is at most that of the first and 16 MiB.
 *
 * @module
 */

import { statusField } from "../helpers.ts";
import { Host } from "../host_process.ts";

const MIB = 1024;
/** KiB by which the last half may exceed the first. */
export const MARGIN: number = 16 * MIB;

export interface Peaks {
  /** KiB. */
  first: number;
  last: number;
}

/** What a host does `count` times of. */
export type Work = "stream" | "byob" | "spawns";

/** Each line that the host hears is a number: so much of it is done, and then told. */
const SCRIPTS: Readonly<Record<Work, string>> = {
  stream: `
    async function work(gib) {
      const port = await open("head", ["-c", String(gib * 2 ** 30), "/dev/zero"], { stdin: "null" });
      let bytes = 0;
      for await (const chunk of port.stdout) bytes += chunk.length;
      return bytes === gib * 2 ** 30 && (await port.status).success;
    }
  `,
  byob: `
    async function work(gib) {
      const port = await open("head", ["-c", String(gib * 2 ** 30), "/dev/zero"], { stdin: "null" });
      const reader = port.stdout.getReader({ mode: "byob" });
      let bytes = 0;
      let external = 0;
      for (let buffer = new ArrayBuffer(256 * 1024), reads = 0;; reads++) {
        const { value, done } = await reader.read(new Uint8Array(buffer));
        if (done) break;
        bytes += value.length;
        buffer = value.buffer;
        if (reads % 64 === 0) external = Math.max(external, Deno.memoryUsage().external);
      }
      // There is the one buffer, and what the runtime has besides.
      if (external > 16 * 2 ** 20) throw new Error("as much as " + external + " bytes outside the heap");
      return bytes === gib * 2 ** 30 && (await port.status).success;
    }
  `,
  spawns: `
    async function work(count) {
      let ended = 0;
      for (let left = count; left > 0; left -= 20) {
        const batch = Array.from({ length: Math.min(20, left) }, async () => {
          const port = await open("true");
          return (await port.status).success;
        });
        ended += (await Promise.all(batch)).filter(Boolean).length;
      }
      return ended === count;
    }
  `,
};

const LOOP = `
  for (;;) {
    const count = Number(await hear());
    if (!(count > 0)) break;
    say(await work(count) ? "did" : "failed", count);
  }
`;

/**
 * Does it, in steps of at most `step`, with the peak taken and set back in the
 * middle.
 *
 * @throws {Error} where the last half has exceeded the first by more than `margin` KiB.
 */
export async function peaks(
  work: Work,
  { count, step, margin = MARGIN, progress }: {
    count: number;
    step: number;
    margin?: number;
    progress?: (done: number) => void;
  },
): Promise<Peaks> {
  await using host = Host.start(SCRIPTS[work] + LOOP);
  const half = async (from: number, to: number): Promise<number> => {
    for (let done = from; done < to;) {
      const next = Math.min(step, to - done);
      await host.tell(`${next}\n`);
      await host.next("did");
      done += next;
      progress?.(done);
    }
    const peak = Number(statusField(host.pid, "VmHWM").split(" ")[0]);
    Deno.writeTextFileSync(`/proc/${host.pid}/clear_refs`, "5"); // the peak begins anew: proc_pid_clear_refs(5)
    return peak;
  };
  const middle = Math.ceil(count / 2);
  const found = { first: await half(0, middle), last: await half(middle, count) };
  if (found.last <= found.first + margin) return found;
  throw new Error(
    `${work}: a peak of ${found.last} KiB in the last half, ${found.first} KiB in the first`,
  );
}
