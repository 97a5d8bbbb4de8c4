// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// Ownership and supervision, as far as a runtime could make a difference.

import assert from "node:assert/strict";
import { alive, gone, identity, text } from "./shared.mjs";

/** The tests, over the module that is tested. */
export function supervision({ proton, probe }) {
  const { ClosedError, ServerError, startLink, whereis } = proton;

  async function serverLife() {
    const module = {
      init: (start) => ({ state: { sum: start, waiting: [] }, continue: "begin" }),
      handleContinue: async (_, state) => await Promise.resolve({ state }),
      async handleCall(term, from, state, self) {
        await self.port.command(`${term}\n`);
        return { state: { ...state, waiting: [...state.waiting, from] } };
      },
      handleStdout(data, state) {
        const [first, ...waiting] = state.waiting;
        const sum = state.sum + Number(text(data));
        first.reply(sum);
        return { state: { sum, waiting } };
      },
    };
    const server = await startLink(module, "bc", ["-q"], 1, { name: "adder" });
    assert.equal(whereis("adder", module), server);
    assert.equal(await server.call("20 * 2"), 41);
    assert.equal(await server.call("1"), 42);
    const id = identity(server.port.pid);
    await server.stop();
    assert.deepEqual([alive(id), (await server.ended).reason], [false, "normal"]);
    await assert.rejects(server.call("1"), ClosedError);
    assert.equal(whereis("adder", module), null);
  }

  async function throwInHandler() {
    const original = new Error("the original");
    const module = {
      init: () => ({ state: null }),
      handleCall() {
        throw original;
      },
    };
    const server = await startLink(module, probe, ["ready"], undefined, { delayToSigkill: 20 });
    const id = identity(server.port.pid);
    const told = (error) => error instanceof ServerError && error.cause === original;
    await assert.rejects(server.call(1), told);
    await assert.rejects(server.ended, told);
    await gone([id]);
  }

  return [
    ["a server: name, calls answered later, continue, stop", serverLife],
    ["a throw in a handler ends server and tree, with its cause", throwInHandler],
  ];
}
