// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Hosts that live on while something of theirs is killed, batch by batch: after
 * each batch nothing of it is left, and at the end nothing of the host.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { assert, descriptors, PROBE, Scratch, until } from "../helpers.ts";
import { Host } from "../host_process.ts";
import { endMarked, leftOf, marked, newMark } from "../marks.ts";
import type { Task } from "./terminated.ts";

const TERMINATED = new URL("terminated.ts", import.meta.url).href;
const ORPHANED = new URL("orphaned.ts", import.meta.url).href;

export interface Batches {
  seed: number;
  count: number;
  progress?: (done: number) => void;
}

/** Workers of one host: Deno keeps two descriptors of each that has loaded a Node-API addon. */
const WORKERS_PER_HOST = 200;
const DENO_KEEPS = 2;

/** Terminates `count` Workers at random points. */
export async function terminateWorkers({ seed, count, progress }: Batches): Promise<void> {
  for (let done = 0; done < count; done += WORKERS_PER_HOST) {
    const workers = Math.min(WORKERS_PER_HOST, count - done);
    const call = `const { terminateWorkers: run } = await import(${JSON.stringify(TERMINATED)});`;
    await inHost(call, { seed: seed + done, count: workers }, async (host, mark) => {
      const before = fds(host);
      for (let here = 0; here < workers;) {
        await host.tell("go\n");
        [here = workers] = await host.numbers("terminated");
        await until(() => marked(mark).length === 0, { what: () => `the end of ${marked(mark)}` });
        progress?.(done + here);
      }
      const most = before + DENO_KEEPS * workers;
      await until(() => fds(host) <= most, { what: () => `${most} descriptors, not ${fds(host)}` });
    });
  }
}

/** Case #30 without a delay between fork and exec: kills `count` keepers while they start a child. */
export async function killKeepers({ seed, count, progress }: Batches): Promise<void> {
  const call = `const { killKeepers: run } = await import(${JSON.stringify(ORPHANED)});`;
  const how = [0, 0, 0];
  await inHost(call, { seed, count }, async (host, mark) => {
    for (let done = 0; done < count; done = how.reduce((sum, n) => sum + n)) {
      await host.tell("go\n");
      (await host.numbers("killed")).forEach((n, i) => how[i] = (how[i] ?? 0) + n);
      await until(() => marked(mark).length === 0, { what: () => `the end of ${marked(mark)}` });
      progress?.(done);
    }
  });
  const [failed = 0, lost = 0, ended = 0] = how;
  console.log(
    `of ${count} starts ${failed} failed, ${lost} lost their keeper, ${ended} ended as ever`,
  );
  assert(failed + lost > count / 100, "hardly a keeper was killed in time");
}

function fds(host: Host): number {
  return descriptors(host.pid)?.length ?? 0;
}

/** A host that leaves nothing: no process, no cgroup, no file. */
async function inHost(
  script: string,
  { seed, count }: { seed: number; count: number },
  body: (host: Host, mark: string) => Promise<void>,
): Promise<void> {
  const mark = newMark();
  using scratch = new Scratch();
  const task: Task = { seed, workers: count, mark, probe: PROBE };
  await using host = Host.start(`${script}\nawait run(${JSON.stringify(task)});`, {
    under: ["setsid"],
    env: { TMPDIR: scratch.path },
  });
  try {
    await host.next("up");
    await body(host, mark);
    assertEquals((await host.end()).code, 0);
    const left = () => leftOf(host.id, mark);
    await until(() => left().length === 0, { what: () => `the end of ${left().join(", ")}` });
    assertEquals([...Deno.readDirSync(scratch.path)], [], "no file is left");
  } finally {
    endMarked(mark);
  }
}
