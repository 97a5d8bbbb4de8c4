// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What a host and its Workers do: each Worker opens ports until it is
 * terminated, at a random point between its birth and its third port.
 *
 * @module
 */

import { open } from "../../mod.ts";
import { hear, say } from "../fixtures/host.ts";
import { type Below, oneOf, random } from "../random.ts";

/** How much, and with which numbers. */
export interface Task {
  seed: number;
  workers: number;
  /** In the environment of every program. */
  mark: string;
  probe: string;
}

const AT_ONCE = 5;
/** About as long as a Worker takes to load and to open three ports. */
const MOST_MS = 400;

interface Inner {
  postMessage(message: string): void;
  onmessage: (event: MessageEvent<Task>) => void;
}

/** The Worker's side: never ends by itself. */
export function work(): void {
  const inner = globalThis as unknown as Inner;
  inner.onmessage = async ({ data: { seed, mark, probe } }) => {
    const below = random(seed);
    const flood = `${Number.MAX_SAFE_INTEGER}`;
    while (true) {
      const args = oneOf(below, [["double-fork", "2", "stay"], ["flood", flood, flood]]);
      const port = await open(probe, args, {
        env: { PROTON_TEST_MARK: mark },
        delayToSigkill: oneOf(below, [0, 20]),
      });
      inner.postMessage("opened");
      const reader = port.stdout.getReader();
      for (let n = args[0] === "flood" ? below(20) : 1; n > 0; n--) await reader.read();
    }
  };
}

/** Terminates Workers in batches; the test looks for what is left after each. */
export async function terminateWorkers({ workers, ...task }: Task): Promise<void> {
  const below = random(task.seed);
  // What the library holds for good is there from now on.
  const first = await open("cat");
  say("up");
  for (let done = 0; done < workers && await hear() !== null; done += AT_ONCE) {
    await Promise.all(
      Array.from({ length: AT_ONCE }, () => terminateOne(below, { workers, ...task })),
    );
    await first.command("x");
    for await (const { type } of first) {
      say(type === "data" ? "terminated" : type, done + AT_ONCE);
      break;
    }
  }
  await first.close();
}

async function terminateOne(below: Below, task: Task): Promise<void> {
  const worker = new Worker(import.meta.url, { type: "module", name: "inner" });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  worker.onerror = (event) => {
    event.preventDefault();
    reject(new Error(`in the Worker: ${event.message}`));
  };
  let opened = below(4); // none of them: at a moment in which it may still be loading
  const soon = (most: number) => setTimeout(resolve, below(most));
  worker.onmessage = () => --opened === 0 && soon(20);
  worker.postMessage({ ...task, seed: 1 + below(2 ** 31) });
  if (opened === 0) soon(MOST_MS);
  await promise;
  worker.terminate();
}

if ((globalThis as { name?: string }).name === "inner") work();
