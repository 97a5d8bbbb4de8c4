// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

import { assert, assertEquals, assertInstanceOf, assertMatch } from "@std/assert";
import {
  BrokenPipeError,
  ClosedError,
  ContainmentError,
  errnoName,
  errnoSentence,
  type Fault,
  NativeError,
  nearest,
  PANIC,
  PermissionError,
  ProtonError,
  rangeError,
  SpawnError,
  SurvivorsError,
  typeError,
  WindowFullError,
} from "../src/errors.ts";
import { STAGES } from "../src/native/abi.ts";
import { startError } from "../src/start_errors.ts";

/** `what: why (CODE): mend`, with something in every place. */
const GRAMMAR = /^.+: .+ \([A-Z0-9]+\): .+$/;

const FAULT: Fault = {
  what: "Cannot fold the paper",
  why: "it is wet",
  code: "EIO",
  mend: "dry it",
  op: "fold",
  subject: "paper",
};

Deno.test("errors: every class carries its name, the grammar and where it happened", () => {
  const cause = new Error("rain");
  const made = [
    new SpawnError({ ...FAULT, cause, stage: "exec", errno: 5 }),
    new ContainmentError({ ...FAULT, cause }),
    new ClosedError({ ...FAULT, cause }),
    new WindowFullError({ ...FAULT, cause }),
    new SurvivorsError({ ...FAULT, cause, survivors: [] }),
    new BrokenPipeError({ ...FAULT, cause }),
    new PermissionError({ ...FAULT, cause }),
    new NativeError({ ...FAULT, cause }),
  ];
  for (const error of made) {
    assertInstanceOf(error, ProtonError);
    assertInstanceOf(error, Error);
    assertEquals(error.name, error.constructor.name);
    assertEquals(String(error), `${error.name}: Cannot fold the paper: it is wet (EIO): dry it`);
    assertEquals([error.op, error.subject, error.code], ["fold", "paper", "EIO"]);
    assertEquals(error.cause, cause);
  }
});

Deno.test("errors: without a cause there is none, not an undefined one", () => {
  assert(!("cause" in new NativeError(FAULT)));
});

Deno.test("errors: what an error is about comes with it", () => {
  const unsent = new Uint8Array([1, 2]);
  assertEquals(new ClosedError({ ...FAULT, unsent }).unsent, unsent);
  assertEquals(new ClosedError(FAULT).unsent, null);
  const survivors = [{ pid: 7, comm: "stuck", reason: "EPERM" as const }];
  assertEquals(new SurvivorsError({ ...FAULT, survivors }).survivors, survivors);
});

Deno.test("errors: validation errors are what, why and mend, without a code", () => {
  const type = typeError("Cannot use it", "it is a number", "give a string");
  assertInstanceOf(type, TypeError);
  assertEquals(type.message, "Cannot use it: it is a number: give a string");
  const range = rangeError("Cannot use it", "it is 5", "give 6");
  assertInstanceOf(range, RangeError);
  assertEquals(range.message, "Cannot use it: it is 5: give 6");
});

Deno.test("errors: errno names are Linux's", () => {
  const known: [number, string][] = [
    [1, "EPERM"],
    [2, "ENOENT"],
    [11, "EAGAIN"],
    [26, "ETXTBSY"],
    [40, "ELOOP"],
    [42, "ENOMSG"],
    [57, "EBADSLT"],
    [59, "EBFONT"],
    [71, "EPROTO"],
    [110, "ETIMEDOUT"],
    [133, "EHWPOISON"],
    [PANIC, "EPANIC"],
  ];
  for (const [errno, name] of known) assertEquals(errnoName(errno), name);
  for (const nameless of [41, 58, 134, 999]) assertEquals(errnoName(nameless), `E${nameless}`);
  assertEquals(errnoSentence(13), "permission is refused");
  assertEquals(errnoSentence(999), "the system answered with error 999");
});

function messageOf(
  stage: string,
  errno: number,
  command = "frobnicate",
  cwd: string | null = null,
) {
  return startError({ stage, errno }, { command, cwd }).message;
}

Deno.test("errors: a missing program, found by name or by path", () => {
  assertEquals(
    messageOf("program", 2),
    'Cannot start "frobnicate": no such file on PATH (ENOENT): install it or give an absolute path',
  );
  assertEquals(
    messageOf("program", 2, "./frobnicate"),
    'Cannot start "./frobnicate": no such file (ENOENT): check the path, or where it is relative, the cwd',
  );
});

Deno.test("errors: a missing cwd is told apart from a missing program", () => {
  for (const stage of ["cwd", "chdir"]) {
    assertEquals(
      messageOf(stage, 2, "frobnicate", "/no/where"),
      'Cannot start "frobnicate" in "/no/where": no such directory (ENOENT): create it or give another cwd',
    );
    assertMatch(messageOf(stage, 20, "f", "/etc/passwd"), /it is not a directory \(ENOTDIR\)/);
    assertMatch(messageOf(stage, 13, "f", "/root"), /it may not be entered \(EACCES\)/);
  }
  assertMatch(messageOf("cwd", 2), /^Cannot start "frobnicate" in the working directory of this/);
});

Deno.test("errors: what execve refuses is told in its own words", () => {
  assertMatch(messageOf("exec", 7), /arguments and environment .* too long \(E2BIG\): .*stdin/);
  assertMatch(messageOf("spec", 7), /arguments and environment .* too long \(E2BIG\): .*stdin/);
  assertMatch(messageOf("exec", 13), /may not be executed \(EACCES\): .*chmod \+x/);
  assertMatch(messageOf("program", 13), /may not be executed \(EACCES\): .*chmod \+x/);
  assertMatch(messageOf("exec", 8), /no program for this machine .* \(ENOEXEC\): .*#! line/);
  assertMatch(messageOf("exec", 2), /interpreter .* missing \(ENOENT\): /);
  assertMatch(messageOf("exec", 26), /open for writing \(ETXTBSY\): /);
});

Deno.test("errors: limits of the host and of the guardian", () => {
  assertMatch(messageOf("keeper", 11), /65,536 processes .* \(EAGAIN\): close some; .*ulimit -u/);
  assertMatch(messageOf("clone", 11), /limit .*, at the step "clone" \(EAGAIN\): .*ulimit -u/);
  assertMatch(messageOf("stdio", 24), /no file descriptors left.* \(EMFILE\): .*ulimit -n/);
  assertMatch(messageOf("guardian", 1), /guardian could not be started \(EPERM\): /);
  assertMatch(messageOf("guardian", 32), /guardian ended meanwhile \(EPIPE\): try again/);
});

Deno.test("errors: any stage and errno gives a whole sentence and keeps both", () => {
  for (const stage of [...STAGES, "a stage of tomorrow"]) {
    for (const errno of [0, 1, 2, 5, 11, 22, 28, 38, 104, 999, PANIC]) {
      const error = startError({ stage, errno }, { command: "x\ny", cwd: "/tmp" });
      assertMatch(error.message, GRAMMAR);
      assertEquals([error.op, error.subject, error.code], ["open", "x\ny", errnoName(errno)]);
      if (error instanceof SpawnError) assertEquals([error.stage, error.errno], [stage, errno]);
    }
  }
});

Deno.test("errors: a fault of the library is a NativeError, every other start a SpawnError", () => {
  const made = (stage: string, errno: number) =>
    startError({ stage, errno }, { command: "x", cwd: null });
  assertInstanceOf(made("library", 2), NativeError);
  assertInstanceOf(made("spec", 22), NativeError);
  assertInstanceOf(made("keeper", PANIC), NativeError);
  assertInstanceOf(made("spec", 7), SpawnError);
  assertInstanceOf(made("guardian", 1), SpawnError);
});

Deno.test("errors: the nearest name is what was meant, or none", () => {
  const known = ["stdioWindow", "stdin", "stdout", "delayToSigkill"];
  assertEquals(nearest("stdio_window", known), "stdioWindow");
  assertEquals(nearest("stdinn", known), "stdin");
  assertEquals(nearest("delayToSigKill", known), "delayToSigkill");
  assertEquals(nearest("zzzzzzzz", known), null);
});
