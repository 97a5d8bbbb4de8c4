// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Who does not read is not written to: pipes and windows hold a flood back, on both sides. */

import { assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { toBytes } from "@std/streams";
import { BrokenPipeError, Mailbox, open } from "../mod.ts";
import {
  assert,
  bytesOf,
  Echo,
  identity,
  output,
  Pattern,
  pause,
  PROBE,
  ready,
  Scratch,
  stat,
  test,
  textOf,
  until,
  warmUp,
  within,
} from "./helpers.ts";
import { asleep, whenStuck } from "./held_back.ts";

const MIB = 1024 * 1024;
const WINDOW = 10_240;
/** Longer than any test. */
const ENDLESS = `${Number.MAX_SAFE_INTEGER}`;

await warmUp();

async function pipeSize(pid: number, fd: 1 | 2): Promise<number> {
  return Number(await output(PROBE, "pipe-size", `${pid}`, `${fd}`));
}

test("unread, a child can write what its two pipes hold and no more", async () => {
  using scratch = new Scratch();
  await using owner = new Mailbox();
  const file = scratch.file("counts");
  const port = await open(PROBE, ["count-written", file, "both"], { owner });
  await until(() => stat(port.pid) !== null && exists(file), { what: "the counts" });
  const { out, err } = await whenStuck(port.pid, file);
  assertEquals(out, await pipeSize(port.pid, 1));
  assertEquals(err, await pipeSize(port.pid, 2));
});

for (const [which, type, stream] of [["out", "data", 1], ["err", "error", 2]] as const) {
  test(`an owner that stops receiving std${which} holds the child back after one window`, async () => {
    using scratch = new Scratch();
    await using owner = new Mailbox();
    const file = scratch.file("counts");
    const port = await open(PROBE, ["count-written", file, which], { owner });
    const pattern = new Pattern(stream);
    const take = async () => {
      const message = await owner.receive();
      assert(message.type === type);
      pattern.feed(message.data);
    };
    while (pattern.bytes < MIB) await take();
    const stuck = (await whenStuck(port.pid, file))[which];
    const most = pattern.bytes + WINDOW + await pipeSize(port.pid, stream);
    assert(stuck <= most, `${stuck} bytes written, ${most} are the most that may be`);
    // It was held back, not ended: what it wrote is there, and then it goes on.
    while (pattern.bytes <= most) await take();
  });

  for (const owner of ["quick", "slow"] as const) {
    test(`a flood of std${which} does not keep the other stream from a ${owner} owner`, async () => {
      const other = 1_000_000;
      const sizes = which === "out" ? [ENDLESS, `${other}`] : [`${other}`, ENDLESS];
      await using port = await open(PROBE, ["flood", ...sizes]);
      const quiet = new Pattern(stream === 1 ? 2 : 1);
      const all = async () => {
        for await (const message of port) {
          if (message.type !== "data" && message.type !== "error") continue;
          if (message.type !== type) quiet.feed(message.data);
          if (quiet.bytes === other) return;
          // The window fills up, and both streams wait for room in it.
          if (owner === "slow") await pause(0);
        }
      };
      await within(all(), { what: () => `the quiet stream; ${quiet.bytes} bytes of it came` });
    });
  }
}

test("8 MiB written to cat while nothing is read: the write waits, nothing is stuck", async () => {
  await using echo = await Echo.start();
  await using port = await open("cat");
  const sent = new Uint8Array(8 * MIB).map((_, i) => i * 7 + (i >> 8));
  let written = false;
  const writing = port.command(sent).then(() => written = true);
  await until(async () => {
    await echo.turn();
    return asleep(port.pid);
  }, { what: "a cat that is held back" });
  assertEquals(written, false, "the promise resolved before the child took the bytes");
  const [got] = await within(
    Promise.all([
      toBytes(port.stdout) as Promise<Uint8Array>,
      writing.then(() => port.closeStdin()),
    ]),
    { what: "8 MiB back" },
  );
  assertEquals(got.length, sent.length);
  assert(got.every((byte, i) => byte === sent[i]), "other bytes came back");
  assertEquals((await port.status).reason, { kind: "normal" });
});

test("stdin as a stream keeps the same brake: pipeTo from a source through cat", async () => {
  await using port = await open("cat");
  let pulled = 0;
  const source = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (pulled === 8 * MIB) return controller.close();
      pulled += 65_536;
      controller.enqueue(new Uint8Array(65_536).fill(pulled / 65_536));
    },
  }, { highWaterMark: 0 });
  const piping = source.pipeTo(port.stdin);
  await using echo = await Echo.start();
  await until(async () => {
    await echo.turn();
    return asleep(port.pid);
  }, { what: "a cat that is held back" });
  assert(pulled < 4 * MIB, `${pulled} bytes were pulled for a child that takes none`);
  const got: Uint8Array = await within(toBytes(port.stdout), { what: "8 MiB back" });
  await piping;
  assertEquals([got.length, pulled], [8 * MIB, 8 * MIB]);
  assert(got.every((byte, i) => byte === ((Math.floor(i / 65_536) + 1) & 0xff)));
});

test("half-close: sort answers after closeStdin", async () => {
  await using port = await open("sort");
  await port.command("pear\napple\n");
  await port.command(bytesOf("fig\n"));
  await port.closeStdin();
  let text = "";
  for await (const message of port) if (message.type === "data") text += textOf(message.data);
  assertEquals(text, "apple\nfig\npear\n");
});

test("writing to a child that closed its stdin: BrokenPipeError, and the port lives on", async () => {
  await using port = await open(PROBE, ["close-stdin"]);
  const [pid = 0] = await ready(port);
  const id = identity(pid);
  for (const send of [() => port.command("x"), () => port.send({ command: bytesOf("y") })]) {
    const error = await assertRejects(() => Promise.resolve(send()));
    assertInstanceOf(error, BrokenPipeError);
    assertEquals(error.code, "EPIPE");
  }
  assertEquals(identity(port.pid), id, "it lives on");
  await using other = await open(PROBE, ["close-stdin"]);
  await ready(other);
  const writer = other.stdin.getWriter();
  await assertRejects(() => writer.write(new Uint8Array(1)), BrokenPipeError);
  assertEquals(
    await port.kill("SIGKILL").then(() => port.status).then(({ signal }) => signal),
    "SIGKILL",
  );
});

function exists(file: string): boolean {
  try {
    return Deno.statSync(file).size === 16;
  } catch {
    return false;
  }
}
