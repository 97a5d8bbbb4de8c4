// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// Ownership and supervision, as far as a runtime could make a difference.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { Buffer } from "node:buffer";
import { startMover } from "./start_worker.mjs";
import { alive, gone, identity, met, text } from "./shared.mjs";

/** The tests, over the module that is tested. */
export function supervision({ proton, module, probe, startHost }) {
  const { addressOf, ClosedError, Mailbox, open, Port, ServerError, startLink } = proton;
  const { Supervisor, SupervisorError, whereis } = proton;

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

  async function supervisorLife() {
    const lines = [];
    const folder = mkdtempSync(`${tmpdir()}/proton_test_`);
    const note = `echo "start $1" >> "$0"; trap 'echo "stop $1" >> "$0"; exit 0' TERM
      echo ready; while :; do sleep 1000 >&- 2>&- & wait; done`;
    const child = (id, waitFor) => ({
      id,
      command: "sh",
      args: ["-c", note, `${folder}/notes`, id],
      waitFor,
    });
    const notes = () => readFileSync(`${folder}/notes`, "utf8").trim().split("\n");
    const supervisor = await Supervisor.start({
      strategy: "rest_for_one",
      children: [
        child("a", { line: /^ready$/ }),
        { id: "inner", supervisor: { children: [child("b", { file: `${folder}/notes` })] } },
        child("c", { check: async () => await Promise.resolve(notes().includes("start c")) }),
      ],
      log: ({ prefix, text }) => lines.push(prefix + text),
    });
    const pidOf = (id) => supervisor.child(id).port?.pid;
    const before = pidOf("c");
    await supervisor.child("c").port.kill("SIGKILL", { scope: "tree" });
    await met(() => ![undefined, before].includes(pidOf("c")));
    const ids = [pidOf("a"), pidOf("c")].map(identity);
    await supervisor.stop();
    assert.deepEqual(ids.filter(alive), []);
    const starts = ["start a", "start b", "start c", "start c"];
    assert.deepEqual(notes(), [...starts, "stop c", "stop b", "stop a"]);
    assert.ok(lines.includes("[a] ready") && lines.includes("[c] ended (SIGKILL), is restarted"));
    rmSync(folder, { recursive: true });
  }

  async function escalation() {
    const supervisor = await Supervisor.start({
      children: [
        { id: "fine", command: probe, args: ["ready"], waitFor: { line: /^ready/ } },
        { id: "bad", command: "sh", args: ["-c", "exit 4"] },
      ],
      maxRestarts: 2,
      log: () => {},
    });
    const id = identity(supervisor.child("fine").port.pid);
    await assert.rejects(
      supervisor.ended,
      (error) =>
        error instanceof SupervisorError && error.code === "EINTENSITY" && error.cause.code === 4,
    );
    assert.equal(alive(id), false);
    const early = { id: "early", command: "sh", args: ["-c", "echo why; exit 3"] };
    await assert.rejects(
      Supervisor.start({ children: [{ ...early, waitFor: { line: /never/ } }], log: () => {} }),
      (error) => error.code === "ESTART" && error.lastOutput === "why",
    );
  }

  async function runUntilSignal() {
    for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) {
      const { host, next, ended } = startHost("supervised");
      await next("ready");
      host.kill(signal);
      assert.deepEqual([await next("noted"), await next("noted")], [["stop", "b"], ["stop", "a"]]);
      assert.deepEqual(await ended, { code: null, signal });
    }
  }

  /** Each strategy, by who is new after one was killed; a server that ends is a child that ends. */
  async function restarts() {
    const groups = { one_for_one: ["b"], rest_for_one: ["b", "c"], one_for_all: ["a", "b", "c"] };
    for (const [strategy, group] of Object.entries(groups)) {
      const module = {
        init: () => ({ state: null }),
        handleCast() {
          throw new Error("the original");
        },
      };
      const supervisor = await Supervisor.start({
        strategy,
        children: [
          { id: "a", command: probe, args: ["ready"], waitFor: { line: /^ready/ }, shutdown: 0 },
          { id: "b", server: () => startLink(module, "cat") },
          { id: "c", command: "cat" },
        ],
        maxRestarts: 3,
        log: () => {},
      });
      const pids = () =>
        supervisor.whichChildren().map(({ port, server }) => (port ?? server?.port)?.pid);
      const fresh = (before) => ["a", "b", "c"].filter((_, at) => pids()[at] !== before[at]);
      const before = pids();
      supervisor.child("b").server.cast(1);
      await met(() => !pids().includes(undefined) && fresh(before).length === group.length);
      assert.deepEqual(fresh(before), group);
      const ids = pids().map(identity);
      await supervisor.stop();
      assert.deepEqual(ids.filter(alive), []);
    }
  }

  /** A restart that waits, and a start that hangs, hold up nothing. */
  async function waits() {
    const long = 2 ** 31 - 1;
    const supervisor = await Supervisor.start({
      children: ["a", "b"].map((id) => ({ id, command: "cat", restart: "transient" })),
      backoff: { minMs: long, maxMs: long },
      log: () => {},
    });
    await supervisor.child("a").port.kill("SIGKILL");
    await met(() => supervisor.child("a").state === "restarting");
    await supervisor.child("b").port.kill("SIGKILL");
    await met(() => supervisor.child("b").state === "restarting");
    await supervisor.terminateChild("a");
    await supervisor.restartChild("a");
    const id = identity(supervisor.child("a").port.pid);
    const hanging = supervisor.startChild({
      id: "hangs",
      server: (signal) =>
        startLink({ init: () => new Promise(() => {}) }, "cat", [], undefined, { signal }),
      shutdown: long,
    });
    const refused = assert.rejects(hanging, (error) => error.cause.code === "ECANCELED");
    await met(() => supervisor.child("hangs")?.state === "starting");
    await supervisor.kill();
    await refused;
    assert.equal(alive(id), false);
  }

  /** What is asked, told and continued, in order; each that fails ends the server and leaves no program. */
  async function serverEnds() {
    const order = [];
    const next = (what) => (order.push(what), { state: null });
    const module = {
      init: () => ({ state: null, continue: "continue" }),
      handleContinue: next,
      handleCast: async (what) => await Promise.resolve(next(what)),
      handleInfo: next,
      handleCall: (what) => ({ ...next(what), reply: what }),
      terminate: (reason) => void order.push(reason),
    };
    const server = await startLink(module, "cat");
    server.cast("cast");
    server.send("info");
    assert.equal(await server.call("call"), "call");
    await server.stop("shutdown");
    assert.deepEqual(order, ["continue", "cast", "info", "call", "shutdown"]);

    const original = new Error("the original");
    const ended = (module, act = () => {}) =>
      new Promise((resolve, reject) => {
        startLink(module, "cat", [], undefined, { onEnd: resolve }).then(act).catch(reject);
      });
    const init = () => ({ state: null });
    const fail = () => {
      throw original;
    };
    const { error } = await ended({
      init: () => ({ state: null, continue: 1 }),
      handleContinue: fail,
    });
    assert.equal(error.cause, original);
    const cast = await ended({ init, handleCast: fail }, (server) => server.cast(1));
    assert.equal(cast.error.cause, original);
    let calling;
    const { reason } = await ended(
      { init, handleCall: () => new Promise(() => {}) },
      (server) => {
        calling = assert.rejects(server.call(1, { timeoutMs: Infinity }), ClosedError);
        void server.kill();
      },
    );
    await calling;
    assert.equal(reason, "killed");
  }

  /** Timers have their turn beside a server that goes on for ever. */
  async function fairTurns() {
    let timer = false;
    const module = {
      init: () => ({ state: 0 }),
      handleInfo(_, turns, self) {
        if (!timer && turns < 1e8) self.send(null);
        return { state: turns + 1 };
      },
      handleCall: (_, __, turns) => ({ reply: turns, state: turns }),
    };
    const server = await startLink(module, "cat");
    setTimeout(() => timer = true, 20);
    server.send(null);
    await met(() => timer);
    assert.ok(await server.call() < 1e8);
    await server.stop();
  }

  /** A port that a server or a supervisor gives to a Worker is no longer theirs, and its program lives on. */
  async function handedOn() {
    const mover = await startMover(module);
    const callbacks = {
      init: () => ({ state: null }),
      handleCall: (_, __, state, self) => ({ reply: self.port.transfer(), state }),
    };
    const server = await startLink(callbacks, "cat");
    const children = [{ id: "a", command: "cat", output: "keep" }];
    const supervisor = await Supervisor.start({ children, log: () => {} });
    const { port } = supervisor.child("a");
    const ids = [server.port.pid, port.pid].map(identity);
    for (const ticket of [await server.call(), port.transfer()]) {
      await mover.ask("adopt", { ticket });
      await mover.ask("command", { text: "there\n" });
      const [message] = (await mover.ask("take", { count: 1 })).taken;
      assert.equal(text(message.data), "there\n");
    }
    const { reason, status } = await server.ended;
    assert.deepEqual([reason, status], ["handedOn", null]);
    await met(() => ![undefined, port.pid].includes(supervisor.child("a").port?.pid));
    await supervisor.stop();
    assert.equal(ids.filter(alive).length, 2);
    await mover.worker.terminate();
    await gone(ids);
  }

  /** To a Worker while data flows, and back; then its sender's end, and the adopter's. */
  async function moves() {
    const mover = await startMover(module);
    const mailbox = new Mailbox();
    const size = 4 * 1024 * 1024;
    let port = await open(probe, ["flood", `${size}`, "0"], { owner: mailbox });
    const parts = [];
    const keep = ({ type, data }) => type === "data" && parts.push(data);
    for (let move = 0; move < 5; move++) {
      for (let n = 0; n < 9; n++) keep(await mailbox.receive(port));
      await mover.ask("adopt", { ticket: port.transfer() });
      (await mover.ask("take", { count: 7 })).taken.forEach(keep);
      port = Port.adopt((await mover.ask("transfer")).ticket, { owner: mailbox });
    }
    for await (const message of mailbox) keep(message);
    const words = new Uint32Array(size / 4).map((_, i) => Math.imul(i + 1, 0x9E3779B1));
    assert.equal(Buffer.compare(Buffer.concat(parts), new Uint8Array(words.buffer)), 0);

    const ids = (await mover.ask("tree", { probe })).pids.map(identity);
    const adopted = Port.adopt((await mover.ask("transfer")).ticket);
    const lost = (await mover.ask("tree", { probe })).pids.map(identity);
    const { ticket } = await mover.ask("transfer");
    await mover.worker.terminate();
    await gone(lost);
    assert.throws(() => Port.adopt(ticket), ClosedError);
    assert.deepEqual([ids.filter(alive).length, adopted.pid], [3, ids[0].pid]);
    await adopted.close();
    assert.deepEqual(ids.filter(alive), []);
  }

  async function addresses() {
    const mover = await startMover(module);
    const mailbox = new Mailbox();
    const { address } = await mover.ask("address");
    const port = await open("cat", [], { owner: mailbox });
    const id = identity(port.pid);
    await port.command("there\n");
    await port.connect(address);
    const [message] = (await mover.ask("take", { count: 1 })).taken;
    assert.deepEqual([text(message.data), message.mine], ["there\n", true]);
    const arrived = [];
    const here = addressOf(mailbox, (port) => arrived.push(port));
    await mover.ask("connect", { address: here }, [here]);
    address.close();
    await mover.worker.terminate();
    await arrived[0].command("here\n");
    const back = await mailbox.receive(arrived[0]);
    assert.equal(text(back.data), "here\n");
    await mailbox[Symbol.asyncDispose]();
    await gone([id]);
  }

  return [
    ["a port moves between Workers: no byte lost, its life with whoever has it", moves],
    ["a port goes to a mailbox in another Worker, and one comes from there", addresses],
    ["Supervisor.run: a signal ends all in reverse order, and the program by it", runUntilSignal],
    ["a supervisor: order, readiness, a nested one, a restart, reverse order", supervisorLife],
    ["too many restarts escalate; a start that fails says why", escalation],
    ["each strategy: who is started anew when a server of it ends", restarts],
    ["a restart that waits, and a start that hangs, hold up nothing", waits],
    ["a port that is given away is its server's and its supervisor's no more", handedOn],
    ["a server: what it is told, in order, and how each that fails ends it", serverEnds],
    ["a server that sends to itself for ever leaves others their turns", fairTurns],
    ["a server: name, calls answered later, continue, stop", serverLife],
    ["a throw in a handler ends server and tree, with its cause", throwInHandler],
  ];
}
