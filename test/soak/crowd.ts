// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Case #44: 200 children live while thousands come and go, then the runtime is
 * killed. Afterwards nothing of it is left.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { helpers, until } from "../helpers.ts";
import { Host } from "../host_process.ts";
import { endMarked, leftOf, MARK, newMark } from "../marks.ts";

const CONCURRENT = 200;

export interface Crowd {
  /** Starts in all. */
  count: number;
  progress?: (done: number) => void;
}

export async function killCrowd({ count, progress }: Crowd): Promise<void> {
  const mark = newMark();
  await using host = Host.start(
    `
    const options = { env: { ${MARK}: ${JSON.stringify(mark)} } };
    const ports = await Promise.all(Array.from({ length: ${CONCURRENT} }, () => open("cat", [], options)));
    for (let i = ${CONCURRENT}; i < ${count}; i += 20) {
      await Promise.all(Array.from({ length: 20 }, () => open("true", [], options).then((port) => port.status)));
      say("started", i + 20);
    }
    say("started", ports.length, "live");
    await hear();
    `,
    { under: ["setsid"] },
  );
  try {
    let [done, live] = await host.next("started");
    while (live === undefined) {
      progress?.(Number(done));
      [done, live] = await host.next("started");
    }
    assertEquals(helpers(host.pid).keepers.length, CONCURRENT);
    host.kill();
    await host.end();
    const left = () => leftOf(host.id, mark);
    await until(() => left().length === 0, { what: () => `the end of ${left().join(", ")}` });
  } finally {
    endMarked(mark);
  }
}
