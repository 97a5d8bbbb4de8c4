// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// A Worker with a tree of its own, to be terminated in the middle of `mode`.

import { parentPort } from "node:worker_threads";
import { ready } from "./shared.mjs";

const inNode = !("Deno" in globalThis || "Bun" in globalThis);
const post = (message) => (inNode ? parentPort : globalThis).postMessage(message);
if (inNode) parentPort.on("message", work);
else globalThis.onmessage = ({ data }) => work(data);

async function work({ mode, module, probe, flag }) {
  const { open } = await import(module);
  const port = await open(probe, ["double-fork", "2", "stay"], { delayToSigkill: 20 });
  const pids = await ready(port);
  if (mode === "reading") {
    const endless = `${Number.MAX_SAFE_INTEGER}`;
    const flood = await open(probe, ["flood", endless, "0"], { delayToSigkill: 20 });
    const reader = flood.stdout.getReader();
    await reader.read();
    post([...pids, flood.pid]);
    while (!(await reader.read()).done);
  }
  post(pids);
  while (mode === "busy" && Atomics.load(flag, 0) === 0);
}
