// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// A Worker that does with ports what it is told, in every runtime.

import { parentPort } from "node:worker_threads";
import { ready } from "./shared.mjs";

const inNode = !("Deno" in globalThis || "Bun" in globalThis);
const post = (message, transfer = []) =>
  (inNode ? parentPort : globalThis).postMessage(message, transfer);
const hear = (data) =>
  Promise.resolve(data).then(obey).catch((error) => post({ error: describe(error) }));
if (inNode) parentPort.on("message", hear);
else globalThis.onmessage = ({ data }) => hear(data);

const describe = ({ name, code, message }) => ({ name, code, message });

let proton;
let mailbox;
let port;

const ORDERS = {
  async load({ module }) {
    proton = await import(module);
    mailbox = new proton.Mailbox();
    return {};
  },
  async open({ command, args, options }) {
    port = await proton.open(command, args, { owner: mailbox, ...options });
    return { pid: port.pid };
  },
  /** A tree of the probe's, ready. */
  async tree({ probe }) {
    port = await proton.open(probe, ["double-fork", "2", "stay"], { delayToSigkill: 20 });
    return { pids: await ready(port) };
  },
  adopt({ ticket }) {
    port = proton.Port.adopt(ticket, { owner: mailbox });
    return { pid: port.pid };
  },
  transfer() {
    return { ticket: port.transfer() };
  },
  /** The next messages, but no more than up to the port's exit. */
  async take({ count }) {
    const taken = [];
    while (taken.length < count && taken.at(-1)?.type !== "exit") {
      const { type, data, reason, status, port: sender } = await mailbox.receive();
      taken.push({ type, data, reason, status, mine: sender === port });
    }
    return { taken };
  },
  async command({ text }) {
    await port.command(text);
    return {};
  },
  address() {
    const address = proton.addressOf(mailbox, (arrived) => port = arrived);
    return { address };
  },
  async connect({ address }) {
    await port.connect(address);
    return {};
  },
  async dispose() {
    await mailbox[Symbol.asyncDispose]();
    return {};
  },
};

async function obey({ order, ...details }) {
  const answer = await ORDERS[order](details);
  post(answer, answer.address === undefined ? [] : [answer.address]);
}
