// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** A bad call is refused in the grammar "what: why: mend" before anything starts. */

import { assertInstanceOf, assertMatch, assertRejects } from "@std/assert";
import { open, type OpenOptions } from "../mod.ts";
import { assert, leavesNothing, test, warmUp } from "./helpers.ts";

await warmUp();

type Call = [command: unknown, args?: unknown, options?: unknown];

/** With a program that would stay, so that one that was started in spite of it is seen. */
const option = (options: unknown): Call => ["cat", [], options];

const BAD: [name: string, call: Call, kind: typeof TypeError | typeof RangeError, names: string][] =
  [
    ["an empty command", [""], TypeError, "command"],
    ["a command that is no string", [42], TypeError, "command"],
    ["a NUL byte in the command", ["a\0b"], TypeError, "NUL"],
    ["arguments that are no list", ["cat", "-l"], TypeError, "args"],
    ["an argument that is a number", ["cat", [1]], TypeError, "argument"],
    ["a NUL byte in an argument", ["cat", ["a\0b"]], TypeError, "NUL"],
    ["a NUL byte in an argument of bytes", ["cat", [new Uint8Array([1, 0])]], TypeError, "NUL"],
    ["an unknown option", option({ stdioWindwo: 16 }), TypeError, "stdioWindow"],
    ["options that are no object", option("cat"), TypeError, "options"],
    ["both cd and cwd", option({ cd: "/", cwd: "/" }), TypeError, "cwd"],
    ["a NUL byte in cwd", option({ cwd: "/\0" }), TypeError, "NUL"],
    ["an environment that is no record", option({ env: ["A=1"] }), TypeError, "env"],
    ["a variable that is a number", option({ env: { A: 1 } }), TypeError, "env"],
    ["a NUL byte in a variable", option({ env: { A: "\0" } }), TypeError, "NUL"],
    ["a name with =", option({ env: { "A=B": "1" } }), TypeError, "env"],
    ["an empty name", option({ env: { "": "1" } }), TypeError, "env"],
    ["clearEnv as a string", option({ clearEnv: "yes" }), TypeError, "clearEnv"],
    ["arg0 as a number", option({ arg0: 1 }), TypeError, "arg0"],
    ["a NUL byte in arg0", option({ arg0: "\0" }), TypeError, "NUL"],
    ["a window under 16", option({ stdioWindow: 15 }), RangeError, "stdioWindow"],
    ["a window that is no whole number", option({ stdioWindow: 16.5 }), RangeError, "stdioWindow"],
    ["a window in words", option({ stdioWindow: "10 KiB" }), TypeError, "stdioWindow"],
    ["a window of less than nothing", option({ stdioWindow: -1 }), RangeError, "stdioWindow"],
    ["a window of NaN", option({ stdioWindow: NaN }), RangeError, "stdioWindow"],
    ["a window without end", option({ stdioWindow: Infinity }), RangeError, "stdioWindow"],
    ["a window past whole numbers", option({ stdioWindow: 2 ** 53 }), RangeError, "stdioWindow"],
    ...["highWaterMark", "maxOutputBytes"].flatMap((name): typeof BAD =>
      [-1, 0.5, NaN, Infinity, 2 ** 53].map((value) => [
        `${name} ${value}`,
        option({ [name]: value }),
        RangeError,
        name,
      ])
    ),
    ["highWaterMark as text", option({ highWaterMark: "1" }), TypeError, "highWaterMark"],
    ["maxOutputBytes as a bigint", option({ maxOutputBytes: 1n }), TypeError, "maxOutputBytes"],
    ["an unknown kind of stdin", option({ stdin: "pipe" }), TypeError, "stdin"],
    ["a kind of stdout that is a boolean", option({ stdout: true }), TypeError, "stdout"],
    ["a negative delayToSigkill", option({ delayToSigkill: -1 }), RangeError, "delayToSigkill"],
    ["delayToSigkill NaN", option({ delayToSigkill: NaN }), RangeError, "delayToSigkill"],
    ["a negative flushMs", option({ flushMs: -1 }), RangeError, "flushMs"],
    ["a negative drainTimeoutMs", option({ drainTimeoutMs: -1 }), RangeError, "drainTimeoutMs"],
    ["a negative timeoutMs", option({ timeoutMs: -1 }), RangeError, "timeoutMs"],
    ["a delay in words", option({ timeoutMs: "1s" }), TypeError, "timeoutMs"],
    ["onOwnerDeath of no kind", option({ onOwnerDeath: "maybe" }), TypeError, "onOwnerDeath"],
    ["a signal that is none", option({ signal: "SIGTERM" }), TypeError, "signal"],
    ["an owner that is no Mailbox", option({ owner: {} }), TypeError, "owner"],
  ];

for (const [name, [command, args, options], kind, names] of BAD) {
  test(`${name} is a ${kind.name} that names it and the mend`, async () => {
    await leavesNothing(async () => {
      const call = () =>
        open(command as string, args as string[] | undefined, options as OpenOptions | undefined);
      const error = await assertRejects(call);
      assertInstanceOf(error, kind);
      assert(error.constructor === kind, "exactly this class");
      assertMatch(error.message, /^[^:]+.*: .+: .+$/);
      assert(error.message.includes(names), error.message);
    });
  });
}
