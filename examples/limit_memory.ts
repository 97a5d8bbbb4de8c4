// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * A program that wants more memory than it may have.
 *
 * @module
 */

import { open } from "../mod.ts";

const [cgroupBase = "mycgroup"] = Deno.args;
// One line without an end, which tail has to keep as a whole.
await using port = await open("tail", ["/dev/zero"], {
  cgroupControllers: ["memory"],
  cgroupBase,
  cgroupSets: [["memory", "memory.limit_in_bytes", "268435456"]],
});
const { cause, usage } = await port.status;
const mebibytes = Math.round((usage.peakMemoryBytes ?? 0) / 2 ** 20);
console.log(`ended by ${cause} at ${mebibytes} MiB`);
