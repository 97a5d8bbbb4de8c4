// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// The isolate over a door of our own: which call goes down, and what comes up in which order.

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import type { PortEvents } from "../src/core.ts";
import { NativeError, PANIC, PermissionError, SpawnError } from "../src/errors.ts";
import { type Door, EVENT, type Host } from "../src/native/abi.ts";
import { Isolate } from "../src/native/isolate.ts";
import { validate } from "../src/options.ts";

/** Everything that can happen to a port. */
const ALL = Object.values(EVENT).reduce((bits, bit) => bits | bit, 0) & ~EVENT.answered;

/** A native side that answers what the test tells it to. */
class FakeDoor implements Door {
  wake: () => void = () => {};
  /** Handles and bits that wait for `ps_drain`. */
  ring: [number, number][] = [];
  answers: number[] = [];
  refs: number[] = [];
  released: number[] = [];
  path = "/bin/true";
  spawned: string[] = [];
  /** What the calls below answer. */
  result: Partial<Record<keyof Door, number>> = {};
  stage = 0;
  answer: Uint8Array = new Uint8Array();
  /** What `ps_leaves` says: pressed 0, no leaves. */
  leaves: ArrayLike<number> = new Uint8Array(8);
  #handles = 0;

  ps_abi_version = () => 1;
  ps_env_open = (wake: () => void) => {
    this.wake = wake;
    return 7;
  };
  ps_env_ref = (_env: number, on: number) => this.refs.push(on) * 0;
  ps_resolve = (_env: number, _spec: Uint8Array, out: Uint8Array) =>
    this.#failing("ps_resolve", out) ?? new TextEncoder().encodeInto(this.path, out).written;
  ps_spawn = (_env: number, path: Uint8Array, out: Uint8Array) => {
    this.spawned.push(new TextDecoder().decode(path));
    return this.#failing("ps_spawn", out) ?? ++this.#handles;
  };
  ps_drain = (_env: number, out: Uint8Array) => {
    const batch = this.ring.splice(0, out.length / 8);
    const view = new DataView(out.buffer, out.byteOffset);
    batch.flat().forEach((n, i) => view.setUint32(4 * i, n, true));
    return batch.length;
  };
  ps_report = (_env: number, _port: number, _out: Uint8Array) => this.result.ps_report ?? 80;
  ps_read = () => this.result.ps_read ?? 0;
  ps_user = (_env: number, _question: Uint8Array) => this.result.ps_user ?? 5;
  /** The tickets whose answers were taken. */
  readonly taken: number[] = [];
  ps_answer = (_env: number, ticket: number, out: Uint8Array) => {
    this.taken.push(ticket);
    out.set(this.answer);
    return this.answer.length;
  };
  ps_resize = () => this.result.ps_resize ?? 0;
  ps_write = (_env: number, _port: number, _stream: number, bytes: Uint8Array) => {
    assert(bytes.length > 0, "an empty buffer crossed the boundary");
    return this.result.ps_write ?? bytes.length;
  };
  ps_join = () => this.result.ps_join ?? 0;
  ps_part = () => this.result.ps_part ?? 0;
  ps_arm = () => this.result.ps_arm ?? 0;
  ps_shut = () => this.result.ps_shut ?? 0;
  ps_signal = () => this.result.ps_signal ?? 0;
  ps_signalled = () => this.answers.shift() ?? 1;
  ps_freeze = () => this.result.ps_freeze ?? 0;
  ps_leaves = (_env: number, _port: number, out: Uint8Array) => this.#filled(out, this.leaves);
  ps_watch = () => this.result.ps_watch ?? 0;
  ps_hierarchies = (out: Uint8Array) => this.#filled(out, [0, 0, 0, 0]);
  ps_cgroup_read = (path: Uint8Array, out: Uint8Array) =>
    this.result.ps_cgroup_read ?? this.#filled(out, path);
  ps_cgroup_write = () => this.result.ps_cgroup_write ?? 0;
  ps_close = () => this.result.ps_close ?? 0;
  ps_release = (_env: number, port: number) => this.released.push(port) * 0;
  ps_offer(): number {
    return -9;
  }
  ps_adopt(): number {
    return -9;
  }
  ps_reset = () => this.result.ps_reset ?? 0;

  #filled(out: Uint8Array, bytes: ArrayLike<number>): number {
    out.set(bytes);
    return bytes.length;
  }

  #failing(call: "ps_resolve" | "ps_spawn", out: Uint8Array): number | undefined {
    const result = this.result[call];
    if (result !== undefined) out[0] = this.stage;
    return result;
  }
}

function isolateOver(door: FakeDoor, allow: Host["allow"] = () => {}) {
  return new Isolate({ door, view: () => null, allow });
}

/** Listeners that write down what they were told. */
function recorder(told: string[], name = ""): PortEvents {
  return {
    started: () => told.push(`${name}started`),
    done: () => told.push(`${name}done`),
    ready: (stream) => told.push(`${name}ready ${stream}`),
    alarm: () => told.push(`${name}alarm`),
  };
}

/** What was thrown to nobody while `act` ran and just after. */
async function uncaught(act: () => void): Promise<unknown[]> {
  const seen: unknown[] = [];
  const listener = (event: ErrorEvent) => {
    event.preventDefault();
    seen.push(event.error);
  };
  globalThis.addEventListener("error", listener);
  try {
    act();
    await new Promise((resolve) => setTimeout(resolve));
  } finally {
    globalThis.removeEventListener("error", listener);
  }
  return seen;
}

const SPEC = validate("true");

Deno.test("isolate: events that came together are told in the order of a port's life", async () => {
  const door = new FakeDoor();
  const core = isolateOver(door);
  const told: string[] = [];
  const port = core.spawn(SPEC, recorder(told));
  door.answers = [0];
  const answered = core.signal(port, 15, "child").then((result) => told.push(`signal ${result}`));
  door.ring = [[port, ALL]];
  door.wake();
  assertEquals(told, ["started", "ready 0", "ready 1", "ready 2", "ready 3", "alarm", "done"]);
  await answered;
  assertEquals(told.at(-1), "signal 0");
});

Deno.test("isolate: a full batch is followed by another, events of unknown ports are dropped", () => {
  const door = new FakeDoor();
  const core = isolateOver(door);
  const told: string[] = [];
  const port = core.spawn(SPEC, recorder(told));
  door.ring = Array.from({ length: 256 }, () => [999, ALL] as [number, number]);
  door.ring.push([port, EVENT.started]);
  door.wake();
  assertEquals([told, door.ring], [["started"], []]);
});

Deno.test("isolate: a listener that throws disturbs neither its own port nor others", async () => {
  const door = new FakeDoor();
  const core = isolateOver(door);
  const told: string[] = [];
  const boom = new Error("boom");
  const bad = core.spawn(SPEC, {
    ...recorder(told, "bad "),
    started: () => {
      throw boom;
    },
  });
  const good = core.spawn(SPEC, recorder(told, "good "));
  door.ring = [[bad, EVENT.started | EVENT.stdin], [good, EVENT.started]];
  assertEquals(await uncaught(() => door.wake()), [boom]);
  assertEquals(told, ["bad ready 0", "good started"]);
});

Deno.test("isolate: a broken batch is told as uncaught and never thrown at the native caller", async () => {
  const door = new FakeDoor();
  isolateOver(door);
  door.ring = [[1, EVENT.answered | EVENT.started]];
  const [error] = await uncaught(() => door.wake());
  assert(error instanceof NativeError);
});

Deno.test("isolate: a port released by its listener hears nothing more", () => {
  const door = new FakeDoor();
  const core = isolateOver(door);
  const told: string[] = [];
  const port = core.spawn(SPEC, { ...recorder(told), ready: () => core.release(port) });
  door.ring = [[port, ALL]];
  door.wake();
  core.release(port);
  assertEquals([told, door.released], [["started"], [port]]);
});

Deno.test("isolate: answers to signals come in the order of the signals", async () => {
  const door = new FakeDoor();
  const core = isolateOver(door);
  const port = core.spawn(SPEC, recorder([]));
  const answers = [1, 2, 3].map((signal) => core.signal(port, signal, "tree"));
  door.answers = [0, -3];
  door.ring = [[port, EVENT.signalled]];
  door.wake();
  assertEquals(await Promise.all(answers.slice(0, 2)), [0, -3]);
  door.answers = [-1];
  door.ring = [[port, EVENT.signalled]];
  door.wake();
  assertEquals(await answers[2], -1);
});

Deno.test("isolate: nobody waits for an answer that can no longer come", async () => {
  const door = new FakeDoor();
  const core = isolateOver(door);
  const [ended, released] = [recorder([]), recorder([])].map((events) => core.spawn(SPEC, events));
  const waiting = [ended, released].map((port) => core.signal(port ?? 0, 15, "child"));
  door.ring = [[ended ?? 0, EVENT.done]];
  door.wake();
  core.release(released ?? 0);
  assertEquals(await Promise.all(waiting), [-3, -3]);
  assertEquals(await core.signal(released ?? 0, 15, "child"), -3);
  door.result.ps_signal = -9;
  assertEquals(await core.signal(ended ?? 0, 15, "child"), -9);
});

Deno.test("isolate: the event loop is kept from the first reference to the last", () => {
  const door = new FakeDoor();
  const core = isolateOver(door);
  core.ref();
  core.ref();
  core.unref();
  assertEquals(door.refs, [0, 1]);
  core.unref();
  core.unref();
  core.ref();
  assertEquals(door.refs, [0, 1, 0, 1]);
});

Deno.test("isolate: permission is asked for the path that is started, before it is", () => {
  const door = new FakeDoor();
  door.path = "/opt/prögram";
  const asked: string[] = [];
  const core = isolateOver(door, (bytes) => {
    const path = new TextDecoder().decode(bytes);
    asked.push(path);
    throw new PermissionError({
      what: "Cannot",
      why: "no",
      code: "EACCES",
      mend: "ask",
      op: "open",
      subject: path,
    });
  });
  assertThrows(() => core.spawn(SPEC, recorder([])), PermissionError);
  assertEquals([asked, door.spawned], [["/opt/prögram"], []]);
  isolateOver(door).spawn(SPEC, recorder([]));
  assertEquals(door.spawned, ["/opt/prögram"]);
});

Deno.test("isolate: a start that fails tells stage and errno", () => {
  for (
    const [call, stage, name] of [["ps_resolve", 4, "cwd"], ["ps_spawn", 3, "keeper"]] as const
  ) {
    const door = new FakeDoor();
    door.result[call] = -2;
    door.stage = stage;
    const error = assertThrows(() => isolateOver(door).spawn(SPEC, recorder([])), SpawnError);
    assertEquals([error.stage, error.code], [name, "ENOENT"]);
    door.result[call] = -PANIC;
    assertThrows(() => isolateOver(door).spawn(SPEC, recorder([])), NativeError, "EPANIC");
  }
});

Deno.test("isolate: bytes and errnos pass as they are, a panic does not", () => {
  const door = new FakeDoor();
  const core = isolateOver(door);
  const bytes = new Uint8Array(4);
  assertEquals([core.write(1, 0, new Uint8Array()), core.write(1, 0, bytes)], [0, 4]);
  door.result = { ps_read: -11, ps_write: -32 };
  assertEquals([core.read(1, 1, bytes), core.write(1, 0, bytes)], [-11, -32]);
  door.result = { ps_read: -PANIC, ps_write: -PANIC };
  assertThrows(() => core.read(1, 1, bytes), NativeError, "EPANIC");
  assertThrows(() => core.write(1, 0, bytes), NativeError, "EPANIC");
});

Deno.test("isolate: what ends a thing is silent on one that is gone, what uses it is not", () => {
  const door = new FakeDoor();
  const core = isolateOver(door);
  door.result = { ps_arm: -9, ps_shut: -9, ps_close: -9, ps_report: -9 };
  core.shut(1, 0);
  core.close(1, "close", 0, 0);
  assertThrows(() => core.arm(1, 1), NativeError, "EBADF");
  assertThrows(() => core.report(1), NativeError, "EBADF");
  door.result = { ps_shut: -22, ps_close: -22, ps_reset: -22 };
  assertThrows(() => core.shut(1, 0), NativeError, "EINVAL");
  assertThrows(() => core.close(1, "close", 0, 0), NativeError, "EINVAL");
  assertThrows(() => core.reset(), NativeError, "EINVAL");
});

Deno.test("isolate: whoever asks the user database waits for its answer, and keeps the loop alive", async () => {
  const door = new FakeDoor();
  const core = isolateOver(door);
  const spec = validate("true", [], { uid: "alice" });
  const asked = core.lookup(spec);
  door.answer = Uint8Array.from([1, 1, 5, 7, 0, 0, 0, 0, 0, 0].flatMap((n) => [n, 0, 0, 0]));
  door.ring = [[5, 0x40000000]];
  door.wake();
  const user = { uid: 5, gid: 7, name: "", home: "", groups: [] };
  assertEquals(await asked, { user, group: null, groups: [] });
  assertEquals(door.refs, [0, 1, 0]);
});

Deno.test("isolate: whoever gives up asking keeps the loop alive no more, and the answer is taken all the same", async () => {
  const door = new FakeDoor();
  const core = isolateOver(door);
  const controller = new AbortController();
  const asked = core.lookup(validate("true", [], { uid: "alice", signal: controller.signal }));
  controller.abort(new Error("enough"));
  await assertRejects(() => asked, Error, "enough");
  assertEquals(door.refs, [0, 1, 0]);
  door.answer = Uint8Array.from([0, 2, 1, 2].flatMap((n) => [n, 0, 0, 0]));
  door.ring = [[5, 0x40000000]];
  door.wake();
  await Promise.resolve();
  assertEquals(door.taken, [5]);
});

Deno.test("isolate: a user that nobody knows is a SpawnError that names it", async () => {
  const door = new FakeDoor();
  const core = isolateOver(door);
  const asked = core.lookup(validate("true", [], { uid: "alice", groups: [5, "wheel", "staff"] }));
  door.answer = Uint8Array.from([0, 2, 1, 2].flatMap((n) => [n, 0, 0, 0]));
  door.ring = [[5, 0x40000000]];
  door.wake();
  const error = await assertRejects(() => asked, SpawnError);
  assertEquals(
    error.message,
    'Cannot start "true" as group "staff": there is none of this name (ENOENT): ' +
      "give one that there is, or a number",
  );
  door.result = { ps_user: -11 };
  const refused = () => core.lookup(validate("true", [], { uid: "alice" }));
  assertEquals((await assertRejects(refused, SpawnError)).code, "EAGAIN");
});

Deno.test("isolate: streams above the first three are told by their numbers", () => {
  const door = new FakeDoor();
  const core = isolateOver(door);
  const told: string[] = [];
  const port = core.spawn(SPEC, recorder(told));
  door.ring = [[port, 8 | 64 | 1 << 29]];
  door.wake();
  assertEquals(told, ["ready 1", "ready 3", "ready 26"]);
});
