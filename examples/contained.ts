// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * All that a program starts is ended with it, in a cgroup below `mycgroup`:
 * `sudo cgcreate -a $(whoami) -g memory,cpu:mycgroup`.
 *
 * @module
 */

import { open } from "../mod.ts";

const [cgroupBase = "mycgroup"] = Deno.args;
const spawning = "sleep 1000 & (setsid sleep 1000 &) ; echo started; read _";
await using port = await open("sh", ["-c", spawning], { cgroupControllers: ["cpu"], cgroupBase });
for await (const line of port.lines()) {
  console.log(line);
  break;
}
await port.close();
const { survivors } = await port.status;
console.log(`${survivors.length} are left`);
