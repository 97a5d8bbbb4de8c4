// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * A program that pays no attention to its stdin, as `ping -i 5 localhost`: it
 * goes with what has started it all the same.
 *
 * @module
 */

import { open } from "../mod.ts";

const worker = new Worker(
  URL.createObjectURL(
    new Blob([`
      import { open } from ${JSON.stringify(new URL("../mod.ts", import.meta.url).href)};
      const port = await open("tail", ["-f", "/dev/null"]);
      postMessage(port.pid);
    `], { type: "text/javascript" }),
  ),
  { type: "module" },
);
const pid = await new Promise<number>((resolve) => worker.onmessage = ({ data }) => resolve(data));
console.log(`runs: ${await runs(pid)}`);
worker.terminate();
while (await runs(pid)) await new Promise((resolve) => setTimeout(resolve, 10));
console.log("it is gone");

async function runs(pid: number): Promise<boolean> {
  const port = await open("kill", ["-0", String(pid)], { stderr: "null" });
  return (await port.status).success;
}
