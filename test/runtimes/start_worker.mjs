// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// A Worker of this runtime's own kind: the web's in Deno and Bun, node's in Node.

const SCRIPT = new URL("worker.mjs", import.meta.url);

/** Starts a Worker with `task` and waits for the pids of its trees. */
export async function startWorker(task) {
  const { worker, told } = "Worker" in globalThis ? webWorker() : await nodeWorker();
  worker.postMessage(task);
  return { worker, pids: await told };
}

function webWorker() {
  const worker = new Worker(SCRIPT, { type: "module" });
  const told = new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(`in the Worker: ${event.message}`));
    };
  });
  return { worker, told };
}

async function nodeWorker() {
  const { Worker } = await import("node:worker_threads");
  const worker = new Worker(SCRIPT);
  const told = new Promise((resolve, reject) =>
    worker.once("message", resolve).once("error", reject)
  );
  return { worker, told };
}
