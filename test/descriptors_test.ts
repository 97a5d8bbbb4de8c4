// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** What the child's descriptors are: of every kind, at any number, and none but those. */

import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { open, type OpenOptions, type Port, SpawnError } from "../mod.ts";
import { assert, bytesOf, descriptors, leavesNothing, Scratch, test, textOf } from "./helpers.ts";

/** A file that this process has open, by the number that it has here. */
class Opened implements Disposable {
  readonly #file: Deno.FsFile;
  readonly fd: number;

  constructor(path: string, options: Deno.OpenOptions = { read: true }) {
    this.#file = Deno.openSync(path, options);
    this.fd = numbers().find((fd) => target(fd) === path) ?? -1;
    assert(this.fd > 2, `the number of ${path}`);
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

function numbers(): number[] {
  return [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => Number(name));
}

function target(fd: number): string | null {
  try {
    return Deno.readLinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return null; // the one that read the directory
  }
}

/** Of a child that waits for its stdin: what each of its descriptors is. */
async function targets(port: Port): Promise<Record<number, string>> {
  await port.command("\n"); // back when it runs its own code, and the loader's files are closed
  for await (const message of port) if (message.type === "data") break;
  const all = descriptors(port.pid)?.map((one) => one.split(" -> ")) ?? [];
  return Object.fromEntries(all.map(([fd, target = ""]) => [Number(fd), target]));
}

/** All messages of a port, by kind. */
async function said(port: Port): Promise<{ data: string; error: string }> {
  const all = { data: "", error: "" };
  for await (const message of port) {
    if (message.type === "data" || message.type === "error") {
      all[message.type] += textOf(message.data);
    }
  }
  return all;
}

const BOTH = "echo one; echo two >&2; echo three";

test("stderrToStdout: one pipe for both, in the order in which the child writes", async () => {
  await using port = await open("sh", ["-c", BOTH], { stderrToStdout: true });
  assertThrows(() => port.stderr, TypeError, "it goes where stdout goes");
  assertEquals(await said(port), { data: "one\ntwo\nthree\n", error: "" });
  const links = 'readlink /proc/$$/fd/1; readlink "/proc/$$/fd/2"';
  await using linked = await open("sh", ["-c", links], { stderrToStdout: true });
  const [first, second] = (await linked.text()).split("\n");
  assert(first !== undefined && first.startsWith("pipe:"));
  assertEquals(first, second);
});

test("stderrToStdout follows stdout wherever it goes", async () => {
  using scratch = new Scratch();
  using file = new Opened(scratch.file("out"), { write: true, create: true });
  await using port = await open("sh", ["-c", BOTH], { stdout: file.fd, stderrToStdout: true });
  await port.status;
  assertEquals(scratch.lines("out"), ["one", "two", "three"]);
});

test("captureStderrOnly: stdout goes to /dev/null, stderr comes as messages", async () => {
  const link = "x=$(readlink /proc/$$/fd/1); echo $x >&2";
  await using port = await open("sh", ["-c", `${BOTH}; ${link}`], { captureStderrOnly: true });
  assertThrows(() => port.stdout, TypeError, 'it is "null"');
  assertEquals(await said(port), { data: "", error: "two\n/dev/null\n" });
});

test("a number is a copy of that descriptor of the runtime's, which stays as it is", async () => {
  using scratch = new Scratch();
  Deno.writeTextFileSync(scratch.file("in"), "read\n");
  using stdin = new Opened(scratch.file("in"));
  using stdout = new Opened(scratch.file("out"), { write: true, create: true });
  using stderr = new Opened(scratch.file("err"), { write: true, create: true });
  const options = { stdin: stdin.fd, stdout: stdout.fd, stderr: stderr.fd };
  await using port = await open("sh", ["-c", "cat; echo told >&2"], options);
  assertThrows(() => port.stdin, TypeError, `it is descriptor ${stdin.fd} of this process`);
  assertThrows(() => port.stdout, TypeError, `it is descriptor ${stdout.fd} of this process`);
  assertEquals((await port.status).code, 0);
  assertEquals([scratch.lines("out"), scratch.lines("err")], [["read"], ["told"]]);
  assertEquals(target(stdin.fd), scratch.file("in"));
});

test("a number that is not open here is a SpawnError, and nothing is started", async () => {
  const closed = Math.max(...numbers()) + 1_000;
  const calls: OpenOptions[] = [{ stdin: closed }, { stdout: closed }, { fds: { 3: closed } }];
  await leavesNothing(async () => {
    for (const options of calls) {
      const error = await assertRejects(() => open("cat", [], options), SpawnError);
      assertEquals([error.stage, error.code], ["stdio", "EBADF"]);
    }
  });
});

test("descriptors above 2 have the numbers that were asked for, whatever had them before", async () => {
  using scratch = new Scratch();
  const files = Array.from({ length: 11 }, (_, i) => scratch.file(`${i}`));
  for (const file of files) Deno.writeTextFileSync(file, "");
  const opened = files.map((file) => new Opened(file));
  try {
    // The numbers of the keeper's own descriptors, those next to them, and the sources' own, the wrong way round.
    for (const first of [3, 6, 12, opened[0]?.fd ?? 0]) {
      const wanted = opened.map(({ fd }, i) => [first + 10 - i, fd] as const);
      const fds = { ...Object.fromEntries(wanted), 900: "piped" as const };
      await using port = await open("cat", [], { fds, rlimits: { nofile: 1_000 } });
      const got = await targets(port);
      const expected = wanted.map(([number], i) => [number, files[i]]);
      const { 0: _0, 1: _1, 2: _2, 900: socket, ...rest } = got;
      assertEquals(rest, Object.fromEntries(expected) as unknown);
      assert(socket?.startsWith("socket:"), `900 is ${socket}`);
    }
  } finally {
    for (const file of opened) file[Symbol.dispose]();
  }
});

test("a number at or above the child's own limit is a SpawnError", async () => {
  const options: OpenOptions = { fds: { 64: "piped" }, rlimits: { nofile: 64 } };
  const error = await assertRejects(() => open("cat", [], options), SpawnError);
  assertEquals([error.stage, error.code], ["fds", "EBADF"]);
  await using port = await open("true", [], { fds: { 63: "piped" }, rlimits: { nofile: 64 } });
  assertEquals((await port.status).code, 0);
});

test("port.fd: both directions at once, more than a socket holds, each with its own end", async () => {
  await using port = await open("sh", ["-c", "cat <&3 >&3; echo over"], { fds: { 3: "piped" } });
  const { readable, writable } = port.fd(3);
  assertEquals(port.fd(3).readable, readable, "the same streams each time");
  const sent = new Uint8Array(3_000_000).map((_, i) => i * 7);
  const writing = async () => {
    const writer = writable.getWriter();
    await writer.write(sent);
    await writer.close();
  };
  const [got] = await Promise.all([new Response(readable).bytes(), writing()]);
  assertEquals(got.length, sent.length);
  assert(got.every((byte, i) => byte === sent[i]));
  assertEquals(await port.text(), "over\n");
});

test("port.fd: descriptors do not mix, and one that is not piped is a TypeError", async () => {
  const copy = "cat <&3 >&4; cat <&4 >&3";
  const options: OpenOptions = { fds: { 3: "piped", 4: "piped", 5: 1 } };
  await using port = await open("sh", ["-c", copy], options);
  const [three, four] = [port.fd(3), port.fd(4)];
  for (const [{ writable }, text] of [[three, "to 4"], [four, "to 3"]] as const) {
    const writer = writable.getWriter();
    await writer.write(bytesOf(text));
    await writer.close();
  }
  assertEquals(await new Response(three.readable).text(), "to 3");
  assertEquals(await new Response(four.readable).text(), "to 4");
  for (const number of [0, 2, 5, 6, NaN]) {
    assertThrows(() => port.fd(number), TypeError, `Cannot use port.fd(${number})`);
  }
});

test("port.fd: whoever stops reading ends that direction alone", async () => {
  // The shell's own echo fails by EPIPE once nobody reads any more; what it reads goes on.
  const script = `trap '' PIPE; while echo x >&3; do :; done 2>/dev/null; cat <&3`;
  await using port = await open("sh", ["-c", script], { fds: { 3: "piped" } });
  const { readable, writable } = port.fd(3);
  await readable.cancel();
  const writer = writable.getWriter();
  await writer.write(bytesOf("still heard"));
  await writer.close();
  assertEquals(await port.text(), "still heard");
});

test("port.fd: what the child has written is there after its end, read or not, and nothing is left", async () => {
  await leavesNothing(async () => {
    await using read = await open("sh", ["-c", "echo late >&3"], { fds: { 3: "piped" } });
    await read.status;
    assertEquals(await new Response(read.fd(3).readable).text(), "late\n");
    assertEquals(await read.drained, { truncated: false });
    await using unread = await open("sh", ["-c", "echo late >&3"], { fds: { 3: "piped" } });
    await unread.status;
    await using silent = await open("true", [], { fds: { 3: "piped", 4: "piped" } });
    await silent.status;
  });
});

test("port.fd: pipeTo from and to a descriptor above 2, to the end of both", async () => {
  const options: OpenOptions = { fds: { 3: "piped" } };
  await using from = await open("sh", ["-c", "seq 1 100000 >&3; exec 3>&-"], options);
  await using to = await open("sh", ["-c", "wc -l <&3"], options);
  await from.fd(3).readable.pipeTo(to.fd(3).writable);
  assertEquals(await to.text(), "100000\n");
});

test("port.fd: a write that nobody reads any more is a BrokenPipeError", async () => {
  await using port = await open("sh", ["-c", "exec 3>&-; echo closed; cat"], {
    fds: { 3: "piped" },
  });
  const writer = port.fd(3).writable.getWriter();
  for await (const message of port) if (message.type === "data") break;
  const error = await assertRejects(() => writer.write(bytesOf("x")));
  assert(error instanceof Error);
  assertEquals(error.name, "BrokenPipeError");
  assert(error.message.includes("fd(3)"), error.message);
});

test("port.fd: a handler of SIGTERM may write there though nobody reads any more", async () => {
  using scratch = new Scratch();
  const file = scratch.file("notes");
  const handler = `head -c 2000000 /dev/zero >&3; echo done > ${file}; exit 0`;
  const script = `trap '${handler}' TERM; echo ready; while :; do sleep 0.01; done`;
  const port = await open("sh", ["-c", script], { fds: { 3: "piped" }, closeScope: "child" });
  for await (const message of port) if (message.type === "data") break;
  await port.close({ graceMs: 60_000 });
  assertEquals([scratch.lines("notes"), (await port.status).code], [["done"], 0]);
});
