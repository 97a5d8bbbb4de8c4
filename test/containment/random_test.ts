// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Runtimes that die at any point of many launches. */

import { pause } from "../helpers.ts";
import { matrixCase, type Run } from "../matrix.ts";

/** In each of the four modes, which makes two hundred in all. */
const RUNTIMES = 50;

/** Trees open and close all the time, four at once. */
const LAUNCHES = `
say("ready");
const lives = async () => {
  while (true) {
    const port = await open(PROBE, ["double-fork", "1", "stay"], { delayToSigkill: 0 });
    await ready(port);
    await port.close();
  }
};
await Promise.all([lives(), lives(), lives(), lives()]);
`;

async function killedAtRandom(run: Run): Promise<void> {
  await using host = run.start(LAUNCHES);
  await host.next("ready");
  await pause(Math.random() * 60); // the point is chosen by chance, and no condition
  host.kill();
  await host.end();
}

matrixCase({
  number: "#31",
  title:
    "the runtime is killed at a random point of its launches, 50 times in each mode (10,000 in the soak)",
  body: async (run) => {
    for (let left = RUNTIMES; left > 0; left -= 2) {
      await Promise.all([killedAtRandom(run), killedAtRandom(run)]);
    }
  },
});
