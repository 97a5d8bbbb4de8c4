// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Whatever number stands for a port: no call crashes, and none reaches another isolate's port. */

import type { Answer, Step } from "./fixtures/storm_worker.ts";
import { Storm } from "./fixtures/storm.ts";
import { assert, CHECKOUT, test, until, within } from "./helpers.ts";
import { MARK, marked, newMark } from "./marks.ts";
import { seedOf } from "./random.ts";

const SCRIPT = new URL("fixtures/storm_worker.ts", import.meta.url);
const FOLDER = `${CHECKOUT}npm/native`;
const LIBRARY = [...Deno.readDirSync(FOLDER)].map(({ name }) => `${FOLDER}/${name}`)
  .find((file) => file.endsWith(".node")) ?? `there is no library in ${FOLDER}: run scripts/build`;
const ROUNDS = 8;
const CALLS = 1_000;

/** The Worker, one step after the other. */
class Other implements Disposable {
  readonly #worker = new Worker(SCRIPT, { type: "module" });

  async take(step: Step): Promise<Answer> {
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    this.#worker.onmessage = ({ data }: MessageEvent<Answer | { error: string }>) =>
      "error" in data ? reject(new Error(`in the Worker: ${data.error}`)) : resolve(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(`in the Worker: ${event.message}`));
    };
    this.#worker.postMessage(step);
    return await within(promise, { what: `the Worker's answer to ${step.do}` });
  }

  [Symbol.dispose](): void {
    this.#worker.terminate();
  }
}

test("calls at random with stale, forged and foreign handles, from two isolates at once", async () => {
  const seed = seedOf("handles");
  const mark = newMark();
  const options = { library: LIBRARY, seed, env: { [MARK]: mark } };
  using other = new Other();
  const [mine, started] = await Promise.all([
    Storm.start(options),
    other.take({ do: "start", options: { ...options, seed: seed + 1 } }),
  ]);
  let theirs = started;
  for (let round = 0; round < ROUNDS; round++) {
    mine.foreign = theirs.handles;
    mine.foreignEnv = theirs.env;
    [theirs] = await Promise.all([
      other.take({ do: "rage", calls: CALLS, foreign: mine.handles, foreignEnv: mine.env }),
      mine.rage(CALLS),
    ]);
    await Promise.all([mine.turn(), other.take({ do: "turn" })]);
  }
  for (const { refused, fine } of [mine.tally, theirs]) {
    // A storm that never reached a port of its own would tell nothing.
    assert(refused > ROUNDS * CALLS / 4 && fine > ROUNDS * CALLS / 100, `${refused}, ${fine}`);
  }
  assert(marked(mark).length >= 2, "the ports that nobody named are there");
  mine.end();
  await other.take({ do: "end" });
  await until(() => marked(mark).length === 0, { what: () => `the end of ${marked(mark)}` });
});
