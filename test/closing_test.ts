// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** What ends a tree: the first reason wins, whoever else comes; and who hears of it first. */

import { assertEquals } from "@std/assert";
import { type Cause, open, type OpenOptions, type Port } from "../mod.ts";
import { assert, gone, identities, Scratch, test, textOf, until } from "./helpers.ts";

/** A child with another below it: each notes that it was told to end, and ends. */
const FAMILY = (file: string) => `
  trap 'echo child >> ${file}; exit 0' TERM
  sh -c 'trap "echo grandchild >> ${file}; exit 0" TERM; echo ready $$; while :; do sleep 0.01; done' &
  while :; do sleep 0.01; done
`;

/** The ids of such a family. */
async function family(scratch: Scratch, options: OpenOptions) {
  const port = await open("sh", ["-c", FAMILY(scratch.file("told"))], options);
  let text = "";
  for await (const message of port) {
    if (message.type !== "data") continue;
    text += textOf(message.data);
    if (text.endsWith("\n")) break;
  }
  return { port, ids: identities([port.pid, Number(text.split(" ")[1])]) };
}

test('closeScope "tree", the default: everybody hears of the end', async () => {
  using scratch = new Scratch();
  const { port, ids } = await family(scratch, { delayToSigkill: 60_000 });
  await port.close();
  await gone(ids);
  assertEquals(scratch.lines("told").sort(), ["child", "grandchild"]);
  assertEquals((await port.status).killed, 0);
});

test('closeScope "child": the child alone hears of it; what it leaves is killed', async () => {
  using scratch = new Scratch();
  const { port, ids } = await family(scratch, { closeScope: "child", delayToSigkill: 200 });
  await port.close();
  await gone(ids);
  assertEquals(scratch.lines("told"), ["child"]);
  assert((await port.status).killed >= 1);
});

test('closeScope "group": the group hears of it, who has left it does not', async () => {
  using scratch = new Scratch();
  const file = scratch.file("told");
  const note = (who: string) => `trap "echo ${who} >> ${file}; exit 0" TERM`;
  const wait = "while :; do sleep 0.01; done";
  const script = `
    trap 'echo child >> ${file}; exit 0' TERM
    setsid sh -c '${note("daemon")}; echo ready; ${wait}' &
    sh -c '${note("member")}; echo ready; ${wait}' &
    ${wait}
  `;
  const port = await open("sh", ["-c", script], { closeScope: "group", delayToSigkill: 200 });
  let text = "";
  for await (const message of port) {
    if (message.type === "data") text += textOf(message.data);
    if (text === "ready\nready\n") break;
  }
  await port.close();
  assertEquals(scratch.lines("told").sort(), ["child", "member"]);
});

// --- races

/** Ends `port` in one of several ways. */
type Way = (port: Port, controller: AbortController) => void;

const WAYS: Readonly<Partial<Record<Cause, Way>>> = {
  close: (port) => void port.close(),
  abort: (_, controller) => controller.abort(),
};

for (const [first, second] of [["close", "abort"], ["abort", "close"]] as const) {
  test(`${first} and then ${second} at once: the cause is ${first}`, async () => {
    for (let round = 0; round < 20; round++) {
      const controller = new AbortController();
      const port = await open("cat", [], { signal: controller.signal });
      for (const way of [first, second]) WAYS[way]?.(port, controller);
      const told = exitCause(port);
      const { cause } = await port.status;
      assertEquals(cause, first);
      assert([first, undefined].includes(await told as typeof first));
    }
  });
}

/** What the exit message of a port says. */
async function exitCause(port: Port): Promise<Cause | undefined> {
  for await (const message of port) if (message.type === "exit") return message.status.cause;
  return undefined;
}

test("timeout, close, abort and the child's own end race: one of them is the cause, everywhere the same", async () => {
  const seen = new Set<Cause>();
  for (let round = 0; round < 30; round++) {
    const controller = new AbortController();
    const port = await open("sleep", [`0.0${round % 10}`], {
      signal: controller.signal,
      timeoutMs: 1 + round % 7 * 10,
    });
    const order = round % 3;
    const told = exitCause(port);
    const later = async (ms: number, way: Way) => {
      await new Promise((resolve) => setTimeout(resolve, ms));
      way(port, controller);
    };
    const pause = round % 5 * 12;
    await Promise.all([
      later(order === 0 ? pause : 90, (port) => void port.close()),
      later(order === 1 ? pause : 90, (_, controller) => controller.abort()),
      port.status,
    ]);
    const { cause, reason } = await port.status;
    const message = await told;
    assert(["exit", "timeout", "close", "abort"].includes(cause), cause);
    assert(
      message === undefined || message === cause,
      `${message} in the message, ${cause} in the status`,
    );
    // What has ended by itself was not killed, and the other way round.
    if (cause === "exit") assertEquals(reason.kind, "normal");
    if (reason.kind === "signal") assert(cause !== "exit", "a signal of ours, and nobody's cause");
    seen.add(cause);
  }
  assert(seen.size > 1, `only ${[...seen]}`);
});

test("an end that came first stays the cause, whatever follows while the grace lasts", async () => {
  using scratch = new Scratch();
  const file = scratch.file("told");
  const script = `trap 'echo told >> ${file}' TERM; echo ready; while :; do sleep 0.01; done`;
  const controller = new AbortController();
  const port = await open("sh", ["-c", script], {
    timeoutMs: 100,
    delayToSigkill: 60_000,
    signal: controller.signal,
  });
  await until(() => scratch.lines("told").length > 0, { what: "the SIGTERM of its time's end" });
  controller.abort();
  await port.close({ graceMs: 0 });
  assertEquals([(await port.status).cause, (await port.status).signal], ["timeout", "SIGKILL"]);
});
