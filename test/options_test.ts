// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { type OpenOptions, validate } from "../src/options.ts";

/** What a caller without types may hand in. */
const loose = validate as (command?: unknown, args?: unknown, options?: unknown) => unknown;

function refused(kind: typeof TypeError | typeof RangeError, message: RegExp, ...call: unknown[]) {
  const error = assertThrows(() => loose(...call), kind);
  assertMatch(error.message, message);
  assertMatch(error.message, /^Cannot [^:]+: .+: .+$/s, "what: why: mend");
}

const typeRefused = (options: unknown, message: RegExp) =>
  refused(TypeError, message, "true", [], options);
const rangeRefused = (options: unknown, message: RegExp) =>
  refused(RangeError, message, "true", [], options);

Deno.test("options: the defaults", () => {
  assertEquals(validate("true"), {
    command: "true",
    arg0: "true",
    args: [],
    cwd: null,
    env: [],
    clearEnv: false,
    stdio: ["piped", "piped", "piped"],
    graceMs: 500,
    flushMs: 500,
    killOnOwnerDeath: false,
    treeOnly: false,
    drainTimeoutMs: 5_000,
    timeoutMs: null,
    signal: null,
    owner: null,
    windowBytes: 10_240,
    highWaterMark: 0,
    maxOutputBytes: 67_108_864,
    maxLineBytes: 1_048_576,
  });
});

Deno.test("options: what is given arrives", () => {
  const [signal, owner] = [new AbortController().signal, {}];
  const spec = validate("cat", ["-n", new Uint8Array([0xff])], {
    cd: "/tmp",
    env: { A: "1", B: null, C: "" },
    clearEnv: true,
    arg0: "",
    stdioWindow: 16,
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
    delayToSigkill: 0,
    flushMs: 2 ** 31 - 1,
    onOwnerDeath: "kill",
    drainTimeoutMs: 7,
    timeoutMs: 1,
    signal,
    owner,
    highWaterMark: 1,
    maxOutputBytes: 0,
    maxLineBytes: 1,
    containment: { kill: "tree" },
    parallelism: true,
  });
  assertEquals(spec, {
    command: "cat",
    arg0: "",
    args: [new Uint8Array([0x2d, 0x6e]), new Uint8Array([0xff])],
    cwd: "/tmp",
    env: [["A", "1"], ["B", null], ["C", ""]],
    clearEnv: true,
    stdio: ["null", "piped", "inherit"],
    graceMs: 0,
    flushMs: 2 ** 31 - 1,
    killOnOwnerDeath: true,
    treeOnly: true,
    drainTimeoutMs: 7,
    timeoutMs: 1,
    signal,
    owner,
    windowBytes: 16,
    highWaterMark: 1,
    maxOutputBytes: 0,
    maxLineBytes: 1,
  });
});

Deno.test("options: flushMs follows delayToSigkill, an undefined option is not given", () => {
  assertEquals(validate("true", [], { delayToSigkill: 70 }).flushMs, 70);
  assertEquals(validate("true", [], { delayToSigkill: 70, flushMs: 5 }).flushMs, 5);
  const undefineds = { cwd: undefined, cd: "/tmp", stdioWindow: undefined, timeoutMs: undefined };
  assertEquals(validate("true", [], undefineds as unknown as OpenOptions).cwd, "/tmp");
});

Deno.test("options: a spec does not change when what it was made of does", () => {
  const bytes = new Uint8Array([1]);
  const args: (string | Uint8Array)[] = [bytes];
  const env: Record<string, string> = { A: "1" };
  const spec = validate("true", args, { env });
  bytes[0] = 0;
  args.push("more");
  env.A = "2";
  assertEquals(spec.args, [new Uint8Array([1])]);
  assertEquals(spec.env, [["A", "1"]]);
  for (const part of [spec, spec.args, spec.env, spec.stdio]) assert(Object.isFrozen(part));
});

Deno.test("options: the command is a string with something in it", () => {
  refused(TypeError, /the command is empty/, "");
  refused(TypeError, /the command is undefined/);
  refused(TypeError, /the command is a number/, 5);
  refused(TypeError, /the command holds a NUL byte/, "a\0b");
  refused(TypeError, /the command holds half of a surrogate pair/, "a\ud800");
});

Deno.test("options: arguments are an array of strings and bytes", () => {
  refused(TypeError, /Cannot read the arguments \(args\): they are a string/, "echo", "-n");
  refused(TypeError, /Cannot read the arguments \(args\): they are an object/, "echo", {});
  refused(TypeError, /argument 1 is a number/, "echo", ["-n", 5]);
  refused(TypeError, /argument 0 is null/, "echo", [null]);
  refused(TypeError, /argument 0 holds a NUL byte/, "echo", ["a\0b"]);
  refused(TypeError, /argument 1 holds a NUL byte/, "echo", ["a", new Uint8Array([97, 0])]);
  refused(TypeError, /argument 0 holds half of a surrogate pair/, "echo", ["\udc00"]);
  // A hole is no argument, and not an empty one either.
  refused(TypeError, /argument 0 is undefined/, "echo", new Array(1));
  assertEquals(validate("echo", ["", new Uint8Array()]).args, [new Uint8Array(), new Uint8Array()]);
});

Deno.test("options: options are an object", () => {
  refused(TypeError, /Cannot read the options: they are null/, "true", [], null);
  refused(TypeError, /Cannot read the options: they are a string/, "true", [], "cwd");
});

Deno.test("options: an unknown option is named, with the one that was meant", () => {
  typeRefused({ stdio_window: 100 }, /option "stdio_window": .*: did you mean "stdioWindow"\?$/);
  typeRefused({ cmd: "x" }, /option "cmd": .*: did you mean "cwd"\?$/);
  typeRefused({ zzzzzzzzzzz: 1 }, /option "zzzzzzzzzzz": .*: the known ones are cwd, cd, env, /);
  typeRefused({ uid: 0 }, /option "uid"/);
  typeRefused({ containment: { kil: "tree" } }, /containment option "kil": .* "kill"\?$/);
});

Deno.test("options: cwd and cd are one and may not both be given", () => {
  typeRefused({ cwd: "/tmp", cd: "/tmp" }, /option "cd": "cwd" is given too/);
  for (const name of ["cwd", "cd"]) {
    typeRefused({ [name]: 5 }, new RegExp(`option "${name}": it is a number`));
    typeRefused({ [name]: "" }, new RegExp(`option "${name}": it is empty`));
    typeRefused({ [name]: "/t\0mp" }, new RegExp(`option "${name}": it holds a NUL byte`));
    typeRefused({ [name]: new URL("file:///tmp") }, new RegExp(`option "${name}": it is a URL`));
  }
});

Deno.test("options: env is a plain object of names and values", () => {
  typeRefused({ env: null }, /option "env": it is null/);
  typeRefused({ env: "A=1" }, /option "env": it is a string/);
  typeRefused({ env: ["A=1"] }, /option "env": it is an array/);
  typeRefused({ env: new Map([["A", "1"]]) }, /option "env": it is a Map/);
  typeRefused({ env: { A: 5 } }, /the value of "A" is a number: give a string, or null/);
  typeRefused({ env: { A: undefined } }, /the value of "A" is undefined/);
  typeRefused({ env: { A: "\0" } }, /the value of "A" holds a NUL byte/);
  typeRefused({ env: { A: "\ud800" } }, /the value of "A" holds half/);
  typeRefused({ env: { "": "1" } }, /the name "" is empty/);
  typeRefused({ env: { "A=B": "1" } }, /the name "A=B" holds a "="/);
  typeRefused({ env: { "A=B": null } }, /the name "A=B" holds a "="/);
  typeRefused({ env: { "A\0": "1" } }, /the name "A\\u0000" holds a NUL byte/);
});

Deno.test("options: arg0 is a string", () => {
  typeRefused({ arg0: 5 }, /option "arg0": it is a number/);
  typeRefused({ arg0: "a\0" }, /option "arg0": it holds a NUL byte/);
});

Deno.test("options: delays are whole milliseconds within a timer's reach", () => {
  for (const name of ["delayToSigkill", "flushMs", "drainTimeoutMs", "timeoutMs"]) {
    const mend = new RegExp(`option "${name}": .*: give a whole number of milliseconds, \\d to 21`);
    for (const value of [-1, 1.5, NaN, Infinity, 2 ** 31]) rangeRefused({ [name]: value }, mend);
    for (const value of ["5", null, 5n, {}]) typeRefused({ [name]: value }, mend);
  }
  rangeRefused({ timeoutMs: 0 }, /"timeoutMs": it is 0, less than allowed: .* 1 to 2147483647$/);
});

Deno.test("options: sizes are whole bytes from their least on", () => {
  const least = { stdioWindow: 16, highWaterMark: 0, maxOutputBytes: 0, maxLineBytes: 1 };
  for (const [name, bytes] of Object.entries(least)) {
    const mend = new RegExp(
      `option "${name}": .*: give a whole number of bytes, ${bytes} or more$`,
    );
    for (const value of [bytes - 1, bytes + 0.5, NaN, Infinity, 2 ** 53]) {
      rangeRefused({ [name]: value }, mend);
    }
    for (const value of ["64", null, true]) typeRefused({ [name]: value }, mend);
  }
});

Deno.test("options: choices name what may be chosen", () => {
  for (const name of ["stdin", "stdout", "stderr"]) {
    const mend = new RegExp(`option "${name}": .*: give "piped" or "inherit" or "null"$`);
    for (const value of ["pipe", null, 1]) typeRefused({ [name]: value }, mend);
  }
  for (const value of ["KILL", false]) {
    typeRefused({ onOwnerDeath: value }, /"onOwnerDeath": .*: give "graceful" or "kill"$/);
  }
  typeRefused({ containment: "tree" }, /option "containment": it is a string/);
  typeRefused({ containment: null }, /option "containment": it is null/);
  typeRefused({ containment: { kill: "cgroup2" } }, /"containment.kill": .* "auto" or "tree"$/);
  validate("true", [], { containment: { kill: "auto" } });
  validate("true", [], { containment: {} });
});

Deno.test("options: booleans are booleans", () => {
  for (const name of ["clearEnv", "parallelism"]) {
    const mend = new RegExp(`option "${name}": .*: give true or false$`);
    for (const value of [0, "true", null]) typeRefused({ [name]: value }, mend);
  }
});

Deno.test("options: signal is an AbortSignal, owner an object", () => {
  for (const value of [null, {}, new AbortController(), "SIGTERM", { aborted: true }]) {
    typeRefused({ signal: value }, /option "signal": it is .*: give the signal of an AbortContr/);
  }
  for (const value of [null, 5, "me"]) typeRefused({ owner: value }, /option "owner": .* Mailbox$/);
});
