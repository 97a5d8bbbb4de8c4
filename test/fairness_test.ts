// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Who floods keeps neither timers nor other ports from their turn. Times are for the bench; here it is counted. */

import { assertEquals } from "@std/assert";
import { open, type Port } from "../mod.ts";
import type { Core } from "../src/core.ts";
import { Input } from "../src/streams.ts";
import { nextTurn, Share } from "../src/turns.ts";
import { assert, Echo, pause, test, until, warmUp, within } from "./helpers.ts";

const MIB = 1024 * 1024;
const FLOODS = 4;
const TICKS = 50;
/** What one stream may move in one turn of the event loop, with the chunk that goes past it. */
const MOST = 8 * MIB + 256 * 1024;

await warmUp();

/** Moves bytes for as long as it is asked for more, and tells how many. */
type Flood = (moved: (bytes: number) => boolean) => Promise<void>;

async function read(port: Port, moved: (bytes: number) => boolean): Promise<void> {
  for await (const chunk of port.stdout) if (!moved(chunk.length)) break;
}

const KINDS: Record<string, Flood> = {
  "chunks": async (moved) => {
    await using port = await open("cat", ["/dev/zero"]);
    await read(port, moved);
  },
  "a buffer": async (moved) => {
    await using port = await open("cat", ["/dev/zero"]);
    const reader = port.stdout.getReader({ mode: "byob" });
    for (let buffer = new ArrayBuffer(64 * 1024);;) {
      const { value } = await reader.read(new Uint8Array(buffer));
      if (value === undefined || !moved(value.length)) return;
      buffer = value.buffer;
    }
  },
  "messages": async (moved) => {
    await using port = await open("cat", ["/dev/zero"]);
    for await (const message of port) {
      if (message.type === "data" && !moved(message.data.length)) break;
    }
  },
  "lines": async (moved) => {
    await using port = await open("yes", ["x".repeat(99)]);
    for await (const line of port.lines()) if (!moved(line.length)) break;
  },
  "writes": async (moved) => {
    await using port = await open("sh", ["-c", "exec cat >/dev/null"]);
    const bytes = new Uint8Array(MIB);
    do await port.command(bytes); while (moved(bytes.length));
  },
};

for (const [name, flood] of Object.entries(KINDS)) {
  test(`four floods of ${name}: a timer and another port have their turns, and all four get on`, async () => {
    const moved = new Array<number>(FLOODS).fill(0);
    let [sinceTick, most, ticks, over] = [0, 0, 0, false];
    const floods = moved.map((_, which) =>
      flood((bytes) => {
        moved[which] = (moved[which] ?? 0) + bytes;
        sinceTick += bytes;
        return !over;
      })
    );
    try {
      await using echo = await Echo.start();
      await until(async () => {
        await pause(0);
        most = Math.max(most, sinceTick);
        sinceTick = 0;
        if (ticks++ % 10 === 0) await echo.turn();
        return ticks > TICKS && moved.every((bytes) => bytes > 0);
      }, { what: () => `turns of a timer: ${ticks}, and of the floods: ${moved}` });
    } finally {
      over = true;
      await Promise.all(floods);
    }
    // Several rounds: how many wake-ups it serves before a timer is the runtime's affair.
    const allowed = 16 * FLOODS * MOST;
    assert(most <= allowed, `${most} bytes between two turns of a timer, ${allowed} are the most`);
  });
}

test("a write that is taken at once, however long, lets the event loop come round", async () => {
  let arms = 0;
  const core = {
    write: (_port: number, _stream: number, bytes: Uint8Array) => Math.min(bytes.length, 65_536),
    arm: () => void (arms++, setTimeout(() => input.onReady())),
  } as unknown as Core;
  const input = new Input({ core, handle: 0, subject: "a child", drainTimeoutMs: 0 }, true);
  await within(input.write(new Uint8Array(64 * MIB)), { what: "the end of a write" });
  assert(arms >= 7, `${arms} turns of the event loop, and there should be one every 8 MiB`);
});

test("a share is a part of a turn: by time, by bytes, divided among those who use theirs up", async () => {
  let now = 0;
  const share = () => new Share(() => now);
  /** How long a share lasts that begins now. */
  const lasts = (one: Share): number => {
    const begin = now;
    while (!one.spent) now += 0.125;
    return now - begin;
  };
  const settle = () => {
    for (let n = 0; n < 8; n++) {
      lasts(alone);
      alone.pause();
      nextTurn();
    }
  };
  const alone = share();
  settle();
  assertEquals([lasts(alone), alone.spent], [2, true]);
  alone.pause();
  nextTurn();
  assertEquals(alone.spent, false, "the next turn brings the next share");
  alone.use(8 * MIB - 1);
  assertEquals(alone.spent, false);
  alone.use(1);
  assertEquals(alone.spent, true, "so many bytes are enough at any speed");
  const four = [share(), share(), share(), share()];
  for (const one of four) {
    lasts(one);
    one.pause();
  }
  nextTurn();
  assertEquals(four.map(lasts), [0.5, 0.5, 0.5, 0.5]);
  // Who waits before its share is over counts for nothing.
  for (const one of four) one.pause();
  nextTurn();
  const idle = share();
  assertEquals(idle.spent, false);
  idle.pause();
  settle();
  assertEquals(lasts(share()), 2);
  await Promise.resolve();
});
