// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** One at a time, however much waits: what is done holds nothing, a turn costs the same, and others have theirs. */

import { assertEquals } from "@std/assert";
import { type Server, startLink } from "../mod.ts";
import { Deque } from "../src/deque.ts";
import { Serial } from "../src/serial.ts";
import { assert, test, textOf, until, within } from "./helpers.ts";
import { Host } from "./host_process.ts";
import { random, seedOf } from "./random.ts";

test("a deque is a queue with two ends, whatever is done to it", async () => {
  await Promise.resolve();
  const seed = seedOf("deque");
  const below = random(seed);
  const [ours, model] = [new Deque<number>(), [] as number[]];
  for (let n = 0, growing = true; n < 20_000; n++) {
    if (n % 2_000 === 0) growing = !growing;
    const what = below(growing ? 5 : 2);
    if (what === 0 || (what === 1 && !growing)) assertEquals(ours.shift(), model.shift());
    else if (what === 1) {
      ours.unshift(n);
      model.unshift(n);
    } else {
      ours.push(n);
      model.push(n);
    }
    assertEquals(ours.length, model.length);
    if (n % 1_999 === 0) assertEquals([...ours], model, `seed ${seed}`);
  }
  ours.clear();
  assertEquals([ours.length, ours.shift(), [...ours]], [0, undefined, []]);
});

test("each of those who wait is told of it once, not once for each that is slow", async () => {
  const COUNT = 1_000;
  let told = 0;
  const done: number[] = [];
  const idle = Promise.withResolvers<void>();
  const serial = new Serial<number>({
    handle: async (item) => void done.push(await Promise.resolve(item)),
    failed: idle.reject,
    slow: () => told++,
    idle: idle.resolve,
  });
  for (let n = 0; n < COUNT; n++) serial.put(n);
  serial.begin();
  await within(idle.promise, { what: "the last turn" });
  assertEquals(done, Array.from({ length: COUNT }, (_, n) => n));
  assert(told < 2 * COUNT, `told ${told} times: as one that waits, and as one that takes its time`);
});

test("memory is flat where one more always waits", async () => {
  // Each request is its caller's alone: what a server keeps of those that are done is all that can grow.
  await using host = Host.start(
    `
    const SIZE = 10_000, CALLS = 20_000;
    const module = {
      init: () => ({ state: 0 }),
      handleCall: async (request, _, state) => {
        await Promise.resolve();
        return { reply: request.length, state: state + 1 };
      },
    };
    const server = await proton.startLink(module, "cat");
    let calls = 0, most = 0;
    const caller = async () => {
      while (calls < CALLS) {
        calls++;
        await server.call(new Uint8Array(SIZE));
        if (calls % 1_000 !== 0) continue;
        gc();
        most = Math.max(most, Deno.memoryUsage().external);
      }
    };
    await Promise.all([caller(), caller(), caller()]);
    say("external", most, calls * SIZE);
    await server.stop();
    `,
    { allow: ["--allow-all", "--v8-flags=--expose-gc"] },
  );
  const [most = 0, all = 0] = await host.numbers("external");
  assert(most > 0 && most < all / 4, `${most} bytes at once, of ${all} in all`);
});

/** More turns than anybody would wait for. */
const TURNS = 60_000_000;

for (const way of ["sends to itself", "sends to itself, async", "goes on with continue"]) {
  test(`a handler that ${way} for ever leaves timers and its program their turns`, async () => {
    // What continues comes before anything else: the program is heard behind it.
    const continues = way === "goes on with continue";
    let [turns, timer, heard] = [0, false, ""];
    setTimeout(() => timer = true, 20);
    const over = () => timer && (continues || heard !== "") || ++turns > TURNS;
    const on = { state: null, continue: 1 };
    const module = {
      init: () => continues ? on : { state: null },
      handleContinue: () => over() ? { state: null } : on,
      handleInfo(message: unknown, _: null, self: { send(message: unknown): void }) {
        if (!over()) self.send(message);
        const next = { state: null };
        return message === "async" ? Promise.resolve(next) : next;
      },
      handleStdout(data: Uint8Array) {
        heard = textOf(data);
        return { state: null };
      },
    };
    const script = "sleep 0.1; echo hello; exec sleep 1000";
    const server = await startLink(module, "sh", ["-c", script]);
    server.send(way.endsWith("async") ? "async" : "sync");
    await until(() => timer && heard !== "", { what: "the timer and the program" });
    assert(turns <= TURNS, "they had their turn when it gave up");
    await server.stop();
  });
}

test("two servers that tell each other for ever leave timers and their programs their turns", async () => {
  let [turns, timer, heard] = [0, false, ""];
  setTimeout(() => timer = true, 20);
  const telling = (other: () => Server<never, never, null>) => ({
    init: () => ({ state: null }),
    handleCast(_: null) {
      if (!(timer && heard !== "") && ++turns < TURNS) other().cast(null);
      return { state: null };
    },
    handleStdout(data: Uint8Array) {
      heard = textOf(data);
      return { state: null };
    },
  });
  const script = "sleep 0.1; echo hello; exec sleep 1000";
  const one: Server<never, never, null> = await startLink(telling(() => two), "sh", ["-c", script]);
  const two: Server<never, never, null> = await startLink(telling(() => one), "cat");
  one.cast(null);
  await until(() => timer && heard !== "", { what: "the timer and the program" });
  assert(turns < TURNS, "they had their turn when it gave up");
  await one.stop();
  await two.stop();
});
