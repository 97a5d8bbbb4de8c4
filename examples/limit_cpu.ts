// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * A program that uses half a processor, and no more.
 *
 * @module
 */

import { open } from "../mod.ts";

const [cgroupBase = "mycgroup"] = Deno.args;
await using port = await open("sh", ["-c", "while :; do :; done"], {
  cgroupControllers: ["cpu"],
  cgroupBase,
  cgroupSets: [
    ["cpu", "cpu.cfs_period_us", "100000"],
    ["cpu", "cpu.cfs_quota_us", "50000"],
  ],
});
// Until it has had to wait.
while (((await port.stats()).cpu?.throttledMs ?? 0) === 0) {
  await new Promise((resolve) => setTimeout(resolve, 100));
}
await port.close();
const { cause, usage } = await port.status;
console.log(`${cause}; it has waited: ${(usage.throttledMs ?? 0) > 0}`);
