// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** A terminal of the child's own: a session, a size, a controlling terminal, and an end. */

import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { existsSync } from "node:fs";
import { cmd, type CommandOptions, open, type OpenOptions, type Port } from "../mod.ts";
import {
  asRoot,
  assert,
  comm,
  descriptors,
  gone,
  identities,
  leavesNothing,
  Scratch,
  skippable,
  stat,
  test,
  textOf,
  until,
} from "./helpers.ts";
import { Screen } from "./screen.ts";

test("pty: a session of its own, the terminal as controlling one and as all three streams", async () => {
  await using port = await open("cat", [], { pty: {} });
  const fields = stat(port.pid) ?? [];
  const [, , group, session, terminal, foreground] = fields.map(Number);
  assertEquals([group, session, foreground], [port.pid, port.pid, port.pid]);
  assert(terminal !== undefined && terminal > 0, "it has a controlling terminal");
  const screen = new Screen(port);
  await screen.type("x\r");
  await screen.wait(/x\r\nx\r\n/); // once by the terminal, once by cat
  const targets = descriptors(port.pid)?.map((one) => one.split(" -> ")[1]) ?? [];
  assertEquals(targets.length, 3);
  assert(targets.every((one) => one?.startsWith("/dev/pts/")), `${targets}`);
  assertThrows(() => port.stderr, TypeError, "it goes where stdout goes");
});

test("pty: size and TERM are those asked for; resize tells the programs on it", async () => {
  const script = `trap 'stty size; echo resized' WINCH; stty size; echo "term $TERM"; echo ready
    while :; do read -r line || exit 0; echo next; done`;
  await using port = await open("bash", ["-c", script], {
    pty: { cols: 101, rows: 33, term: "vt100" },
  });
  const screen = new Screen(port);
  await screen.wait(/33 101\r\nterm vt100\r\nready\r\n/);
  await port.resize({ cols: 50 });
  await screen.type("\r"); // bash runs its traps between two lines
  await screen.wait(/33 50\r\nresized\r\nnext\r\n/);
  await port.resize({ cols: 65_535, rows: 1 });
  await screen.type("\r");
  await screen.wait(/1 65535\r\nresized\r\nnext\r\n/);
  for (const size of [{ cols: 0 }, { rows: 1.5 }, { rows: 65_536 }]) {
    await assertRejects(() => port.resize(size), RangeError);
  }
});

test("pty: resize without a terminal is a TypeError, after its end a ClosedError", async () => {
  await using plain = await open("cat");
  await assertRejects(() => plain.resize({ cols: 80 }), TypeError, "it has no terminal");
  await using port = await open("true", [], { pty: {} });
  assertEquals(await port.text(), "");
  await port.status;
  const error = await assertRejects(() => port.resize({ cols: 80 }));
  assertEquals(error instanceof Error && error.name, "ClosedError");
  await using terminal = await open("cat", [], { pty: {} });
  for (
    const size of [null, undefined, 5, new Map(), [], { cols: 1, x: 2 }, { cols: 0 }] as never[]
  ) {
    await assertRejects(() => terminal.resize(size), Error, "Cannot ");
  }
});

test("pty: the end is an end: all output, then no error, and the exit code", async () => {
  await using port = await open("sh", ["-c", "seq 1 20000; exit 7"], { pty: {} });
  const text = await port.text();
  const expected = Array.from({ length: 20_000 }, (_, i) => `${i + 1}\r\n`).join("");
  assertEquals(text.length, expected.length);
  assert(text === expected);
  const { code, cause } = await port.status;
  assertEquals([code, cause, await port.drained], [7, "exit", { truncated: false }]);
});

test("pty: closeStdin is the end of what is typed, behind half a line too", async () => {
  await using half = await open("cat", [], { pty: {} });
  await half.command("whole\rhalf");
  await half.closeStdin();
  assertEquals((await half.status).code, 0);
  await using port = await open("cat", [], { pty: {} });
  await port.command("typed\r");
  await port.closeStdin();
  assertEquals(await port.text(), "typed\r\ntyped\r\n");
  assertEquals((await port.status).code, 0);
});

test("pty: pipeTo from and to a terminal, to the end of both", async () => {
  await using from = await open("seq", ["1", "3000"], { pty: {} });
  await using counts = await open("wc", ["-l"]);
  await from.stdout.pipeTo(counts.stdin);
  assertEquals(await counts.text(), "3000\n");
  await using echo = await open("echo", ["x"]);
  await using cat = await open("cat", [], { pty: {} });
  await echo.stdout.pipeTo(cat.stdin);
  assertEquals(await cat.text(), "x\r\nx\r\n");
});

test("pty: messages come within the window, as from a pipe", async () => {
  const options: OpenOptions = { pty: {}, stdioWindow: 64 };
  await using port = await open("seq", ["1", "2000"], options);
  let text = "";
  for await (const message of port) {
    if (message.type !== "data") continue;
    assert(message.data.length <= 64);
    text += textOf(message.data);
  }
  assertEquals(text.split("\r\n").length, 2_001);
});

test("pty: Ctrl-C is typed, and ends what is in the foreground, not the shell", async () => {
  const options: OpenOptions = { pty: {}, env: { PS1: "$ ", ENV: "", HOME: "/nonexistent" } };
  await using port = await open("bash", ["--norc", "--noprofile", "-i"], options);
  const screen = new Screen(port);
  await screen.wait(/\$ /);
  await screen.type("echo $((6 * 7)); sleep 1000\r");
  await screen.wait(/\r42\r\n/);
  const sleeper = await until(() => foreground(port), { what: "sleep in the foreground" });
  const ids = identities([sleeper]);
  await screen.type("\x03");
  await screen.wait(/\^C/);
  await gone(ids);
  await screen.type("echo code $?\r");
  await screen.wait(/code 130\r\n/);
  await screen.type("sleep 1000 &\rjobs\r");
  await screen.wait(/\[1\]\+? +Running/);
  await screen.type("exit 3\r");
  assertEquals((await port.status).code, 3);
});

/**
 * Who is in the foreground of a port's terminal, where that is not the child
 * itself any more: before its exec a job has the shell's own handlers.
 */
function foreground(port: Port): number | null {
  const group = Number(stat(port.pid)?.[5]);
  return group !== port.pid && group > 0 && comm(group) === "sleep" ? group : null;
}

test("pty: close ends the shell and its jobs, those that ignore the hang-up too", async () => {
  await leavesNothing(async () => {
    const job = "(trap '' HUP TERM INT; sleep 1000) & nohup sleep 1000 >/dev/null 2>&1 & wait";
    const port = await open("bash", ["-c", `echo ready; ${job}`], {
      pty: {},
      delayToSigkill: 50,
    });
    for await (const message of port) if (message.type === "data") break;
    await port.close();
    assertEquals((await port.status).cause, "close");
  });
});

/** A vim by any of its names, wherever on PATH. */
const VIM = (Deno.env.get("PATH") ?? "").split(":")
  .flatMap((folder) => ["vim", "vim.basic", "vim.tiny"].map((name) => `${folder}/${name}`))
  .find((path) => existsSync(path));

skippable(
  "pty: vim edits a file",
  VIM === undefined ? "install vim, e.g. with apt install vim-tiny" : null,
  async () => {
    using scratch = new Scratch();
    Deno.writeTextFileSync(scratch.file("text"), "one\ntwo\n");
    const options: OpenOptions = { pty: { cols: 80, rows: 24, term: "xterm" } };
    const args = ["-u", "NONE", "-i", "NONE", "-n", scratch.file("text")];
    await using port = await open(VIM ?? "vim", args, options);
    const screen = new Screen(port);
    await screen.wait(/one/);
    await screen.wait(/two/);
    await screen.type("Gothree\x1b");
    await screen.wait(/three/);
    await screen.type(":wq\r");
    await screen.wait(null);
    assertEquals((await port.status).code, 0);
    assertEquals(scratch.lines("text"), ["one", "two", "three"]);
  },
);

asRoot("pty: another user's program owns its terminal and may open it", async () => {
  const script = "ls -l $(tty) | cut -d' ' -f3; echo seen > /dev/tty";
  await using port = await open("sh", ["-c", script], { pty: {}, uid: 4711, gid: 4711, cwd: "/" });
  assertEquals(await port.text(), "4711\r\nseen\r\n");
});

test("pty and piped fds are for a conversation: cmd() refuses them", async () => {
  for (const options of [{ pty: {} }, { fds: { 3: "piped" } }]) {
    await assertRejects(() => cmd("true", [], options as CommandOptions), TypeError, "use open()");
  }
});
