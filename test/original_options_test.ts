// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Every option of the Elixir original, under its name here, a test each. Those
 * of cgroups (cgroupControllers, cgroupBase, cgroupPath, cgroupSets) are in
 * containment/limits_test.ts.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { open, type OpenOptions } from "../mod.ts";
import { asRoot, PROBE, Scratch, statusField, test, textOf } from "./helpers.ts";

async function said(script: string, options: OpenOptions): Promise<string> {
  await using port = await open("sh", ["-c", script], { stdin: "null", ...options });
  return (await port.text()).trim();
}

test("cd: the child's working directory", async () => {
  using scratch = new Scratch();
  assertEquals(await said("pwd -P", { cd: scratch.path }), Deno.realPathSync(scratch.path));
});

test("env: laid over the runtime's, null unsets", async () => {
  const env = { ADDED: "1", HOME: null };
  const script = 'echo "$ADDED ${HOME-unset} ${PATH:+kept}"';
  assertEquals(await said(script, { env }), "1 unset kept");
});

test("arg0: what the child finds as its own name", async () => {
  assertEquals(
    await said('tr "\\0" " " < /proc/$$/cmdline | cut -d" " -f1', { arg0: "renamed" }),
    "renamed",
  );
});

test("stderrToStdout: both in one stream", async () => {
  assertEquals(await said("echo a; echo b >&2", { stderrToStdout: true }), "a\nb");
});

test("captureStderrOnly: stderr alone", async () => {
  const script = "echo a; echo b >&2";
  await using port = await open("sh", ["-c", script], { captureStderrOnly: true });
  let all = "";
  for await (const message of port) {
    if (message.type === "data" || message.type === "error") {
      all += message.type + textOf(message.data);
    }
  }
  assertEquals(all, "errorb\n");
});

test("parallelism: accepted, and without effect", async () => {
  for (const parallelism of [true, false]) assertEquals(await said("echo x", { parallelism }), "x");
});

asRoot("uid and gid: a number or a name", async () => {
  assertEquals(await said("id -u; id -g", { uid: 4711, gid: 4712, cd: "/" }), "4711\n4712");
  const nobody = await said("id -un", { uid: "nobody", cd: "/" });
  assertEquals(nobody, "nobody");
});

test("uid and gid: root is refused", async () => {
  for (const options of [{ uid: 0 }, { gid: 0 }]) {
    await assertRejects(() => open("true", [], options), RangeError, "root's");
  }
});

test("delayToSigkill: the time between SIGTERM and SIGKILL; 0 is SIGKILL at once", async () => {
  const port = await open(PROBE, ["ignore-sigterm"], { delayToSigkill: 0 });
  for await (const message of port) if (message.type === "data") break;
  await port.close();
  assertEquals((await port.status).signal, "SIGKILL");
  const script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done";
  const patient = await open("sh", ["-c", script], { delayToSigkill: 60_000 });
  for await (const message of patient) if (message.type === "data") break;
  await patient.close();
  assertEquals((await patient.status).code, 7);
});

test("stdioWindow: no more bytes than that are delivered and not consumed", async () => {
  await using port = await open("head", ["-c", "5000", "/dev/zero"], { stdioWindow: 16 });
  let [bytes, most] = [0, 0];
  for await (const message of port) {
    if (message.type !== "data") continue;
    [bytes, most] = [bytes + message.data.length, Math.max(most, message.data.length)];
  }
  assertEquals([bytes, most <= 16], [5_000, true]);
});

// --- large and strange

test("10,000 variables, 1 MiB of arguments and bytes that are no text reach the child as they are", async () => {
  const env: Record<string, string | Uint8Array> = { BYTES: new Uint8Array([0xff, 0xfe, 0x80]) };
  for (let i = 0; i < 10_000; i++) env[`V${i}`] = `${i}`;
  const long = "x".repeat(100_000);
  const args = [...Array.from({ length: 10 }, () => long), new Uint8Array([0x61, 0xff, 0x62])];
  // Beside them a stack that bounds all of it far enough.
  const rlimits = { stack: { soft: 16 * 2 ** 20 } };
  await using port = await open("sh", ["-c", "echo ready; cat", "sh", ...args], { env, rlimits });
  for await (const message of port) if (message.type === "data") break;
  const lines = (path: string) => Deno.readFileSync(`/proc/${port.pid}/${path}`);
  const latin = (bytes: Uint8Array) => Array.from(bytes, (b) => String.fromCharCode(b)).join("");
  const variables = latin(lines("environ")).split("\0");
  assertEquals(variables.filter((one) => /^V\d+=\d+$/.test(one)).length, 10_000);
  assertEquals(variables.includes("BYTES=\xff\xfe\x80"), true);
  const words = latin(lines("cmdline")).split("\0").slice(4, -1);
  assertEquals(words.map((word) => word.length), [...Array(10).fill(100_000), 3]);
  assertEquals(words.at(-1), "a\xffb");
});

test("what is too long is refused before anything starts, with both figures", async () => {
  const one = await assertRejects(() => open("true", ["", "x".repeat(131_072)]));
  assertEquals(
    String(one),
    'SpawnError: Cannot start "true": argument 2 (the command is 0) takes 131,073 bytes, and the ' +
      "system takes 131,072 at most (E2BIG): pass the data on stdin or in a file",
  );
  await using longest = await open("true", ["x".repeat(131_071)]);
  assertEquals((await longest.status).code, 0);
  const stack = { stack: { soft: 2 ** 20 } }; // a quarter of it is for them
  const many = (count: number) => Array.from({ length: count }, () => "x".repeat(1_000));
  const all = await assertRejects(() =>
    open("/usr/bin/true", many(300), { rlimits: stack, clearEnv: true })
  );
  // The path twice, 300 arguments, each with its NUL, and 301 pointers.
  const bytes = 2 * 14 + 300 * 1_001 + 301 * 8;
  assertEquals(
    String(all).match(/together take ([\d,]+) bytes.* takes ([\d,]+) at/)?.slice(1),
    [bytes.toLocaleString("en-US"), "262,144"],
  );
});

test("the bound is the system's own: one byte less starts", async () => {
  const rlimits = { stack: { soft: 2 ** 20 } };
  const most = 2 ** 18;
  const base = "/usr/bin/true".length + 1 + ("t".length + 1 + 8);
  const left = most - base;
  const options: OpenOptions = { rlimits, clearEnv: true, arg0: "t" };
  const rest = left - 2 * (100_001 + 8);
  const fill = (
    more: number,
  ) => ["x".repeat(100_000), "x".repeat(100_000), "x".repeat(rest - 9 + more)];
  await using port = await open("/usr/bin/true", fill(0), options);
  assertEquals((await port.status).code, 0);
  await assertRejects(() => open("/usr/bin/true", fill(1), options), Error, "262,145 bytes");
});

test("a set umask, limit and user of one port do not reach the next", async () => {
  await using strict = await open("cat", [], { umask: 0o777, rlimits: { nofile: 20 }, nice: 19 });
  await strict.close();
  await using port = await open("cat");
  assertEquals(statusField(port.pid, "Umask"), statusField(Deno.pid, "Umask"));
});
