// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// A Worker of this runtime's own kind: the web's in Deno and Bun, node's in Node.

const SCRIPT = new URL("worker.mjs", import.meta.url);
const MOVER = new URL("mover.mjs", import.meta.url);

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

/** A Worker that is told what to do with ports (mover.mjs), one thing after the other. */
export async function startMover(module) {
  const web = "Worker" in globalThis;
  const Kind = web ? Worker : (await import("node:worker_threads")).Worker;
  const worker = new Kind(MOVER, web ? { type: "module" } : {});
  let answered = () => {};
  if (web) worker.onmessage = ({ data }) => answered(data);
  else worker.on("message", (data) => answered(data));
  const ask = (order, details = {}, transfer = []) => {
    const answer = new Promise((resolve, reject) => {
      answered = (data) =>
        data.error === undefined ? resolve(data) : reject(Object.assign(new Error(), data.error));
    });
    worker.postMessage({ order, ...details }, transfer);
    return answer;
  };
  await ask("load", { module });
  return { worker, ask };
}
