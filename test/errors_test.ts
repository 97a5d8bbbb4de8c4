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
import { containmentError, type Mounted } from "../src/containment_error.ts";
import { planOf } from "../src/plan.ts";
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

/**
 * A way in which each step of a start fails, as it is told. The steps that a
 * test makes fail for real are in exit_test.ts, descriptors_test.ts,
 * hardening_test.ts, identity_test.ts and starved_test.ts.
 */
const TABLE:
  readonly (readonly [stage: string, errno: number, kind: { name: string }, told: RegExp])[] = [
    ["spec", 22, NativeError, /did not understand the request \(EINVAL\): build it again/],
    ["library", 2, NativeError, /cannot be opened to run as its guardian \(ENOENT\): restart/],
    ["guardian", 1, SpawnError, /guardian could not be started \(EPERM\): let this process start/],
    ["keeper", 11, SpawnError, /65,536 processes are kept already.* \(EAGAIN\): close some/],
    [
      "keeper",
      10,
      SpawnError,
      /its keeper ended before it could tell .* \(ECHILD\): look what it has done/,
    ],
    ["keeper", 110, SpawnError, /its guardian does not answer \(ETIMEDOUT\): look for who has/],
    ["cwd", 20, SpawnError, / in "\/tmp": it is not a directory \(ENOTDIR\): give a directory/],
    ["program", 2, SpawnError, /no such file on PATH \(ENOENT\): install it/],
    ["program", 20, SpawnError, /on the way to it is no directory \(ENOTDIR\): check the path/],
    ["program", 40, SpawnError, /links lead round in a circle \(ELOOP\): mend the links/],
    ["exec", 40, SpawnError, /its interpreter is a script.* \(ELOOP\): name a program in the #!/],
    [
      "stdio",
      9,
      SpawnError,
      /is not open in this process \(EBADF\): give the number of one that is/,
    ],
    ["stdio", 24, SpawnError, /no file descriptors left.* \(EMFILE\): .*ulimit -n/],
    ["clone", 11, SpawnError, /limit on processes.* \(EAGAIN\): .*ulimit -u, pids.max/],
    ["group", 1, SpawnError, /does not permit it, at the step "group" \(EPERM\): check what/],
    ["rlimit", 1, SpawnError, /takes CAP_SYS_RESOURCE \(EPERM\): ask for no more.*ulimit -H/],
    ["rlimit", 22, SpawnError, /soft limit is above its hard one \(EINVAL\): give a hard limit/],
    [
      "umask",
      38,
      SpawnError,
      /does not know the system call.* \(ENOSYS\): allow it in the sandbox/,
    ],
    ["nice", 13, SpawnError, /takes CAP_SYS_NICE \(EACCES\): give a larger nice value/],
    ["affinity", 22, SpawnError, /at the step "affinity" \(EINVAL\): check what this process may/],
    ["scheduler", 1, SpawnError, /at the step "scheduler" \(EPERM\): check what this process may/],
    ["ioprio", 1, SpawnError, /at the step "ioprio" \(EPERM\): check what this process may do/],
    ["chdir", 13, SpawnError, / in "\/tmp": it may not be entered \(EACCES\): give another cwd/],
    ["pdeathsig", 3, SpawnError, /there is no such process, at the step "pdeathsig" \(ESRCH\): /],
    ["fds", 9, SpawnError, /is not below its limit \(EBADF\): give a smaller number in fds/],
    ["signals", 22, SpawnError, /at the step "signals" \(EINVAL\): check what this process may/],
    ["exec", 8, SpawnError, /has no #! line \(ENOEXEC\): give it a #! line, or start its interp/],
    ["exec", 26, SpawnError, /stays open for writing \(ETXTBSY\): start it after its writer has/],
    ["oom_score_adj", 13, SpawnError, /CAP_SYS_RESOURCE \(EACCES\): give a larger oomScoreAdj/],
    ["cgroup", 13, SpawnError, /could not enter the cgroup.* \(EACCES\): open it with containment/],
    ["user", 2, SpawnError, /there is none of this name \(ENOENT\): give one that there is/],
    ["user", 110, SpawnError, /it took too long.* \(ETIMEDOUT\): .*getent passwd.*numbers/],
    ["groups", 1, SpawnError, /take CAP_SETGID \(EPERM\): leave groups out/],
    ["gid", 1, SpawnError, /takes CAP_SETGID \(EPERM\): leave gid out/],
    ["uid", 1, SpawnError, /takes CAP_SETUID \(EPERM\): leave uid out/],
    ["uid", 22, SpawnError, /not mapped into the user namespace.* \(EINVAL\): .*uid_map/],
    ["capabilities", 1, SpawnError, /does not have what it is to hand on.* \(EPERM\): .*capsh/],
    ["no_new_privs", 22, SpawnError, /at the step "no_new_privs" \(EINVAL\): check what this/],
    [
      "reach",
      1,
      SpawnError,
      /could not end it: .*CAP_KILL.* \(EPERM\): grant this process CAP_KILL/,
    ],
    ["terminal", 28, SpawnError, /as many terminals as.* \(ENOSPC\): .*kernel.pty.max/],
  ];

Deno.test("errors: each step of a start has its class, its sentence and its mend", () => {
  // Those of a cgroup that was asked for are ContainmentErrors, of a table of their own.
  const contained = ["controller", "leaf", "limit", "require"];
  const told = new Set([...TABLE.map(([stage]) => stage), ...contained]);
  assertEquals([...told].sort(), [...STAGES].sort());
  for (const [stage, errno, kind, told] of TABLE) {
    const error = startError({ stage, errno }, { command: "frobnicate", cwd: "/tmp" });
    assertEquals(error.constructor.name, kind.name, stage);
    assertMatch(error.message, GRAMMAR);
    assertMatch(error.message, told);
  }
});

Deno.test("errors: what is too long is told with both figures", () => {
  const message = (what: "all" | "argument" | "variable") => {
    const tooMuch = { what, at: 3, bytes: 2_500_000, most: 131_072 };
    return startError({ stage: "exec", errno: 7, tooMuch }, { command: "x", cwd: null }).message;
  };
  const end = " 2,500,000 bytes, and the system takes 131,072 at most (E2BIG): pass the data on " +
    "stdin or in a file";
  const start = 'Cannot start "x": ';
  assertEquals(message("all"), `${start}its arguments and environment together take${end}`);
  assertEquals(message("argument"), `${start}argument 3 (the command is 0) takes${end}`);
  assertEquals(message("variable"), `${start}variable 4 of its environment takes${end}`);
});

Deno.test("errors: a number without an entry is no name that is unknown", () => {
  const failure = { stage: "user", errno: 2, who: "user 4799", byNumber: true };
  assertEquals(
    startError(failure, { command: "x", cwd: null }).message,
    'Cannot start "x" as user 4799: the user database has no such number, so its group is not ' +
      "known (ENOENT): give gid, too",
  );
  assertMatch(
    startError({ ...failure, errno: 5 }, { command: "x", cwd: null }).message,
    /give gid/,
  );
});

Deno.test("errors: what another user may not execute is named, and so is that user", () => {
  const failure = { stage: "program", errno: 13, refused: "/srv/closed" };
  const message = (uid: string | number) =>
    startError(failure, { command: "x", cwd: null, identity: { uid } }).message;
  assertMatch(message(7), /^Cannot start "x": "\/srv\/closed" is not for user 7 to execute/);
  assertMatch(message("alice"), GRAMMAR);
  assertMatch(message("alice"), /user "alice" to execute/);
  // Of the runtime itself it is a directory that is closed to it.
  const own = startError(failure, { command: "x", cwd: null }).message;
  assertMatch(own, /^Cannot start "x": "\/srv\/closed" may not be searched \(EACCES\): give this/);
});

Deno.test("errors: a long name is cut in a message", () => {
  const { message } = startError({ stage: "exec", errno: 8 }, {
    command: "x".repeat(5_000_000),
    cwd: null,
  });
  assertEquals(message.length < 500, true, `${message.length}`);
  assertMatch(message, /"x{200}"\.\.\. \(5000000 characters\)/);
});

Deno.test("errors: who was looked up is in the message", () => {
  const failure = { stage: "user", errno: 2, who: 'user "alice"' };
  assertEquals(
    startError(failure, { command: "x", cwd: null }).message,
    'Cannot start "x" as user "alice": there is none of this name (ENOENT): ' +
      "give one that there is, or a number",
  );
});

const V1 = { version: 1, mount: "/sys/fs/cgroup/memory" } as const;
const V2 = { version: 2, mount: "/sys/fs/cgroup/unified" } as const;
/** What only the other version has. */
const OF_V2 = /subtree_control|cgroup\.(freeze|kill)|Delegate/;
const OF_V1 = /freezer\.state|mount -t cgroup /;

/** The messages of all errors that a start in `at` can have because of its cgroups. */
function contained(at: string, mounted: readonly Mounted[]): string[] {
  const plan = planOf({ limits: { memory: "1MiB" }, cgroupBase: "a" });
  const failures: [stage: string, errno: number, subject: string][] = [];
  for (const errno of [1, 2, 13, 16, 17, 22, 30, 95, 121]) {
    failures.push(["leaf", errno, `${at}/a/b`], ["limit", errno, `${at}/a/b/memory.max`]);
  }
  failures.push(["controller", 2, "memory"]);
  return failures.map(([stage, errno, subject]) => {
    const about = { setting: 0, subject };
    const error = containmentError({ failure: { stage, errno }, about }, plan, "x", () => mounted);
    if (error === null) throw new Error(`no error of ${stage}`);
    assertMatch(error.message, GRAMMAR);
    return error.message;
  });
}

Deno.test("errors: what mends a cgroup is of the version that the error is about", () => {
  for (const message of contained(V1.mount, [V1])) {
    assertEquals(OF_V2.test(message), false, message);
  }
  for (const message of contained(V2.mount, [V2])) {
    assertEquals(OF_V1.test(message), false, message);
  }
  const [inV1, inV2] = [V1, V2].map(({ mount }) => contained(mount, [V1, V2]).join("\n"));
  assertMatch(inV1 ?? "", /echo THAWED \| sudo tee \/sys\/fs\/cgroup\/memory\/a\/freezer.state/);
  assertMatch(inV2 ?? "", /echo 0 \| sudo tee \/sys\/fs\/cgroup\/unified\/a\/cgroup.freeze/);
  assertMatch(
    inV2 ?? "",
    /echo \+memory \| sudo tee \/sys\/fs\/cgroup\/unified\/a\/cgroup.subtree_control/,
  );
  const own = {
    failure: { stage: "leaf", errno: 13 },
    about: { setting: null, subject: "the runtime's own cgroup" },
  };
  assertMatch(
    String(containmentError(own, planOf({ limits: { pids: 9 } }), "x", () => [])),
    /see doctor\(\)/,
  );
});
