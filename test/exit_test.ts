// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** How a program ended, or why it did not start, is told exactly; and then nothing of it is left. */

import { assertEquals, assertInstanceOf, assertMatch, assertRejects } from "@std/assert";
import { type ExitReason, type Message, open, type OpenOptions, SpawnError } from "../mod.ts";
import { Host } from "./host_process.ts";
import { assert, leavesNothing, PROBE, ready, Scratch, test, warmUp, within } from "./helpers.ts";

await warmUp();

const ANSWERS: [script: string, reason: ExitReason, code: number | null, signal: string | null][] =
  [
    ["exit 0", { kind: "normal" }, 0, null],
    ["exit 1", { kind: "exitStatus", code: 1 }, 1, null],
    ["exit 130", { kind: "exitStatus", code: 130 }, 130, null],
    ["kill -INT $$", { kind: "signal", signal: "SIGINT", number: 2 }, null, "SIGINT"],
    ["exit 137", { kind: "exitStatus", code: 137 }, 137, null],
    ["kill -KILL $$", { kind: "signal", signal: "SIGKILL", number: 9 }, null, "SIGKILL"],
    ["kill -34 $$", { kind: "signal", signal: "SIGRTMIN", number: 34 }, null, "SIGRTMIN"],
  ];

for (const [script, reason, code, signal] of ANSWERS) {
  test(`"${script}" is told as ${JSON.stringify(reason)}`, async () => {
    await leavesNothing(async () => {
      await using port = await open("bash", ["-c", script]);
      const status = await port.status;
      assertEquals([status.reason, status.code, status.signal], [reason, code, signal]);
      assertEquals([status.cause, status.killed, status.survivors], ["exit", 0, []]);
      assertEquals(status.success, reason.kind === "normal");
      const messages: Message[] = await Array.fromAsync(port);
      assertEquals(messages.map(({ type }) => type), ["exit"]);
      const [exit] = messages;
      assert(exit?.type === "exit" && exit.port === port);
      assertEquals([exit.reason, exit.status.code], [reason, code]);
    });
  });
}

test("the usage of the whole tree is in the status", async () => {
  await using port = await open("bash", [
    "-c",
    "for ((i = 0; i < 300000; i++)); do :; done; true | true",
  ]);
  const { usage } = await port.status;
  assert(usage.userMs > 0 && usage.wallMs >= usage.userMs / 2, JSON.stringify(usage));
  assert(usage.maxRssBytes > 500_000 && usage.maxRssBytes < 100_000_000, JSON.stringify(usage));
});

/** What did not start: command, options, and the stage, code and number of its error. */
function refusals(scratch: Scratch): [string, OpenOptions, string, string, number][] {
  const file = (name: string, text: string, mode: number) => {
    Deno.writeTextFileSync(scratch.file(name), text, { mode });
    return scratch.file(name);
  };
  return [
    ["no-such-program", {}, "program", "ENOENT", 2],
    [scratch.file("absent"), {}, "program", "ENOENT", 2],
    [file("plain", "text", 0o644), {}, "program", "EACCES", 13],
    [file("orphan", "#!/no/such/interpreter\n", 0o755), {}, "exec", "ENOENT", 2],
    [file("garbage", "\u0001\u0002\u0003", 0o755), {}, "exec", "ENOEXEC", 8],
    ["true", { cwd: scratch.file("nowhere") }, "cwd", "ENOENT", 2],
    ["true", { cd: scratch.file("plain") }, "cwd", "ENOTDIR", 20],
  ];
}

test("what does not start rejects with stage, errno and a mend, and leaves nothing", async (t) => {
  using scratch = new Scratch();
  for (const [command, options, stage, code, errno] of refusals(scratch)) {
    await t.step(`${stage} ${code}: ${command.split("/").pop()}`, async () => {
      await leavesNothing(async () => {
        for (let i = 0; i < 10; i++) {
          const error = await assertRejects(() => open(command, [], options));
          assertInstanceOf(error, SpawnError);
          assertEquals([error.stage, error.code, error.errno], [stage, code, errno]);
          assertMatch(error.message, new RegExp(`^Cannot start ".+: .+ \\(${code}\\): .+`));
          assertEquals(error.subject, command);
        }
      });
    });
  }
});

test("a missing program and a missing directory have different sentences", async () => {
  const message = async (promise: Promise<unknown>) => {
    const error = await assertRejects(() => promise);
    assertInstanceOf(error, SpawnError);
    return error.message;
  };
  const program = await message(open("no-such-program"));
  assertMatch(program, /no such file on PATH/);
  const folder = await message(open("true", [], { cwd: "/no/such/folder" }));
  assertMatch(folder, /"\/no\/such\/folder": no such directory/);
});

test("a script that cannot be executed directly is not run by a shell in secret", async () => {
  using scratch = new Scratch();
  Deno.writeTextFileSync(scratch.file("script"), "exit 0\n", { mode: 0o755 });
  await assertRejects(() => open(scratch.file("script")), SpawnError, "ENOEXEC");
});

test("timeoutMs ends the tree, and the cause says so", async () => {
  await using port = await open(PROBE, ["double-fork", "2", "stay"], {
    timeoutMs: 300,
    delayToSigkill: 20,
  });
  await ready(port);
  const status = await within(port.status, { what: "the timeout" });
  assertEquals([status.cause, status.signal, status.killed], ["timeout", "SIGTERM", 1]);
});

test("an aborted signal: before open, and while the program runs", async () => {
  await leavesNothing(async () => {
    const before = AbortSignal.abort("too late");
    assertEquals(await open("cat", [], { signal: before }).catch((reason) => reason), "too late");
    const controller = new AbortController();
    // Not a program that ends with its stdin: that is closed before it hears the signal.
    await using port = await open("sleep", ["60"], { signal: controller.signal });
    controller.abort("enough");
    const status = await within(port.status, { what: "the abort" });
    assertEquals([status.cause, status.signal], ["abort", "SIGTERM"]);
  });
});

test("kill reaches the child alone by default, its tree when asked", async () => {
  await using alone = await open("bash", [
    "-c",
    'trap "echo got" USR1; echo up; while :; do read; done',
  ]);
  let text = "";
  for await (const message of alone) {
    if (message.type === "data") text += new TextDecoder().decode(message.data);
    if (text === "up\n") await alone.kill("SIGUSR1");
    if (text === "up\ngot\n") break;
  }
  await using tree = await open(PROBE, ["double-fork", "1", "stay"]);
  await ready(tree);
  await tree.kill("SIGKILL", { scope: "tree" });
  assertEquals((await tree.status).signal, "SIGKILL");
});

test("a host that ignores SIGCHLD still gets every exit code", async () => {
  await using host = Host.start(
    `
    const port = await open("sh", ["-c", "exit 3"]);
    say("code", (await port.status).code);
    `,
    { under: ["env", "--ignore-signal=CHLD"] },
  );
  assertEquals(await host.next("code"), ["3"]);
  assertEquals((await host.end()).code, 0);
});

test("usage is that of the tree, whoever was reaped before it", async () => {
  const busy = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo ready; sleep 1000";
  for (let turn = 0; turn < 3; turn++) {
    const port = await open("sh", ["-c", busy]);
    await ready(port);
    await port.close(); // its keeper had to kill, and ends with it: the next ones are forked
    const { usage } = await port.status;
    assert(usage.userMs > 0);
    // More at once than there are keepers in spare: some are forked now.
    const others = Array.from({ length: 4 }, async () => await (await open("true")).status);
    for (const { usage: own } of await Promise.all(others)) {
      assert(own.userMs < usage.userMs, `${own.userMs} ms of ${usage.userMs}`);
    }
  }
});
