// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { answered, type OpenOptions, validate } from "../src/options.ts";
import type { Answer } from "../src/privileges.ts";

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
    fds: [],
    pty: null,
    closeScope: "tree",
    privileges: null,
    question: null,
    identity: { uid: null, gid: null, groups: null },
    graceMs: 500,
    flushMs: 500,
    killOnOwnerDeath: false,
    treeOnly: false,
    cgroup: null,
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
    closeScope: "child",
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
    fds: [],
    pty: null,
    closeScope: "child",
    privileges: null,
    question: null,
    identity: { uid: null, gid: null, groups: null },
    graceMs: 0,
    flushMs: 2 ** 31 - 1,
    killOnOwnerDeath: true,
    treeOnly: true,
    cgroup: null,
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
  typeRefused({ cwd: "/", clearenv: true, env: {} }, /"clearenv".*did you mean "clearEnv"/);
  typeRefused({ stdio_window: 100 }, /option "stdio_window": .*: did you mean "stdioWindow"\?$/);
  typeRefused({ cmd: "x" }, /option "cmd": .*: did you mean "cwd"\?$/);
  typeRefused({ zzzzzzzzzzz: 1 }, /option "zzzzzzzzzzz": .*: the known ones are cwd, cd, env, /);
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
  typeRefused({ env: { A: new Uint8Array([1, 0]) } }, /the value of "A" holds a NUL byte/);
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
    const mend = new RegExp(`option "${name}": .*: give "piped" or "inherit" or "null" or the num`);
    for (const value of ["pipe", null, true]) typeRefused({ [name]: value }, mend);
    for (const value of [-1, 1.5, 2 ** 31]) {
      rangeRefused(
        { [name]: value },
        new RegExp(`option "${name}": .*: give a whole number, 0 to`),
      );
    }
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
  const half = { aborted: true, addEventListener() {} };
  for (const value of [null, {}, new AbortController(), "SIGTERM", { aborted: true }, half]) {
    typeRefused({ signal: value }, /option "signal": it is .*: give the signal of an AbortContr/);
  }
  for (const value of [null, 5, "me"]) typeRefused({ owner: value }, /option "owner": .* Mailbox$/);
});

Deno.test("options: what other launchers offer is named with what to use here", () => {
  for (const name of ["detached", "detach", "daemon"]) {
    typeRefused(
      { [name]: true },
      /"detach|daemon.*": nothing .* outlives its owner: .*systemd-run/,
    );
  }
  typeRefused({ chroot: "/srv" }, /option "chroot": .*: start the program under "bwrap"/);
  typeRefused({ shell: true }, /option "shell": .*: start one: open\("sh"/);
  typeRefused({ stdio: "pipe" }, /option "stdio": .*: give stdin, stdout, stderr and fds$/);
  typeRefused({ timeout: 5 }, /option "timeout": .*: give timeoutMs$/);
  // Not even one that is false: it would read as if it could be true.
  typeRefused({ detached: false }, /option "detached"/);
});

Deno.test("options: what is undefined was not given, whatever its name", () => {
  const known = [
    "cwd",
    "env",
    "stdin",
    "fds",
    "pty",
    "timeoutMs",
    "signal",
    "owner",
    "uid",
    "groups",
  ];
  const names = [
    ...known,
    "rlimits",
    "limits",
    "containment",
    "stdioWindow",
    "detached",
    "timeout_ms",
  ];
  const nothing = Object.fromEntries(names.map((name) => [name, undefined]));
  assertEquals(loose("true", [], nothing), validate("true"));
  typeRefused({ detached: undefined, timeout_ms: 5 }, /"timeout_ms".*did you mean "timeoutMs"/);
});

Deno.test("options: stderrToStdout and captureStderrOnly say where the outputs go", () => {
  const stdio = (options: OpenOptions) => validate("true", [], options).stdio;
  assertEquals(stdio({ stderrToStdout: true }), ["piped", "piped", "stdout"]);
  assertEquals(stdio({ stderrToStdout: true, stdout: "null" }), ["piped", "null", "stdout"]);
  assertEquals(stdio({ captureStderrOnly: true }), ["piped", "null", "piped"]);
  assertEquals(stdio({ captureStderrOnly: true, stderr: "piped" }), ["piped", "null", "piped"]);
  assertEquals(stdio({ stdin: 0, stdout: 9, stderr: "null" }), [0, 9, "null"]);
  typeRefused({ stderrToStdout: true, stderr: "null" }, /"stderrToStdout": "stderr" is given too/);
  typeRefused({ captureStderrOnly: true, stdout: "piped" }, /"captureStderrOnly": "stdout" is/);
  typeRefused({ captureStderrOnly: true, stderr: "null" }, /"captureStderrOnly": "stderr" is/);
  typeRefused(
    { captureStderrOnly: true, stderrToStdout: true },
    /"captureStderrOnly": "stderrToStdout" is given too/,
  );
});

Deno.test("options: fds are numbers above 2 and what is behind them", () => {
  const { fds } = validate("true", [], { fds: { 20: 1, 3: "piped", 1048575: 0 } });
  assertEquals(fds, [[3, "piped"], [20, 1], [1048575, 0]]);
  for (const number of ["0", "2", "-1", "3.5", "03", "x", "", "1048576", "1e1"]) {
    typeRefused({ fds: { [number]: "piped" } }, /option "fds": ".*" is not the number of a descr/);
  }
  typeRefused({ fds: [1] }, /option "fds": it is an array/);
  typeRefused({ fds: { 3: "pipe" } }, /option "fds\[3\]": it is "pipe": give "piped" or the num/);
  typeRefused({ fds: { 3: null } }, /option "fds\[3\]": it is null/);
  rangeRefused({ fds: { 3: -1 } }, /option "fds\[3\]": it is -1/);
  const many = Object.fromEntries(Array.from({ length: 13 }, (_, i) => [i + 3, "piped"]));
  typeRefused({ fds: many }, /option "fds": it holds 13 descriptors, more than the 12/);
});

Deno.test("options: a terminal has a size and a kind, and is all three streams", () => {
  const spec = validate("vi", [], { pty: {} });
  assertEquals([spec.pty, spec.env], [
    { cols: 80, rows: 24, term: "xterm-256color" },
    [["TERM", "xterm-256color"]],
  ]);
  assertEquals(validate("vi", [], { pty: { term: "vt100" }, env: { TERM: null } }).env, [
    ["TERM", null],
  ]);
  for (const name of ["cols", "rows"]) {
    for (const value of [0, 65_536, 1.5]) {
      rangeRefused(
        { pty: { [name]: value } },
        new RegExp(`option "pty.${name}": .*: .*characters`),
      );
    }
    typeRefused({ pty: { [name]: "80" } }, new RegExp(`option "pty.${name}": it is a string`));
  }
  typeRefused({ pty: true }, /option "pty": it is a boolean/);
  typeRefused({ pty: { columns: 80 } }, /pty option "columns"/);
  typeRefused({ pty: { term: "" } }, /option "pty.term": it is empty/);
  for (const name of ["stdin", "stdout", "stderr"]) {
    typeRefused({ pty: {}, [name]: "piped" }, new RegExp(`option "${name}": "pty" is given too`));
  }
});

Deno.test("options: users and groups are names or numbers, and never root's", () => {
  for (const name of ["uid", "gid"]) {
    const about = new RegExp(`option "${name}": `);
    rangeRefused({ [name]: 0 }, new RegExp(`option "${name}": it is root's: leave it out`));
    for (const value of [-1, 1.5, 2 ** 32 - 1, NaN]) rangeRefused({ [name]: value }, about);
    for (const value of ["", null, true, {}, "a\0b", 5n]) typeRefused({ [name]: value }, about);
  }
  typeRefused({ groups: "wheel" }, /option "groups": it is a string/);
  typeRefused({ groups: [null] }, /option "groups\[0\]": it is null/);
  typeRefused({ groups: new Array(1) }, /option "groups\[0\]": it is undefined/);
  rangeRefused({ groups: [5, 0] }, /option "groups\[1\]": it is root's/);
  rangeRefused({ groups: new Array(65_537).fill(7) }, /"groups": it holds 65537, more than/);
});

Deno.test("options: names are asked for, numbers are taken as they are", () => {
  const asked = (options: OpenOptions) => validate("id", [], options).question;
  assertEquals(asked({ uid: 5, gid: 7 }), null);
  assertEquals(asked({ gid: 7, groups: [] }), null);
  // Somebody's group must be had: by number it is in the database.
  assertEquals(asked({ uid: 5 }), { user: 5, group: null, groups: [] });
  assertEquals(asked({ uid: "a", gid: 7 }), { user: "a", group: 7, groups: [] });
  assertEquals(asked({ uid: 5, gid: "g", groups: [1, "x"] }), {
    user: null,
    group: "g",
    groups: ["x"],
  });
});

Deno.test("options: who has the number that means nobody is nobody to become", () => {
  const nobody = 2 ** 32 - 1;
  const user = { uid: nobody, gid: 100, name: "a", home: "/", groups: [100] };
  const cases: [OpenOptions, Partial<Answer>, RegExp][] = [
    [{ uid: "a" }, { user }, /option "uid": "a" has the number 4294967295/],
    [{ uid: "a" }, { user: { ...user, uid: 5, gid: nobody } }, /option "gid": "a" has the number/],
    [{ gid: "g" }, { group: nobody }, /option "gid": "g" has the number/],
    [{ groups: ["g"] }, { groups: [nobody] }, /option "groups\[0\]": "g" has the number/],
  ];
  for (const [options, answer, message] of cases) {
    const spec = validate("id", [], options);
    const whole = { user: null, group: null, groups: [], ...answer };
    assertMatch(assertThrows(() => answered(spec, whole), RangeError).message, message);
  }
});

Deno.test("options: an answer fills in ids, groups and the variables of a user by name", () => {
  const user = { uid: 1000, gid: 100, name: "alice", home: "/home/alice", groups: [100, 27] };
  const filled = (options: OpenOptions, answer: Partial<Answer>) => {
    const spec = validate("id", [], options);
    const { privileges, env, question } = answered(spec, {
      user: null,
      group: null,
      groups: [],
      ...answer,
    });
    const { uid, gid, groups } = privileges ?? { uid: null, gid: null, groups: null };
    assertEquals(question, null);
    return { uid, gid, groups, env };
  };
  assertEquals(filled({ uid: "alice", env: { USER: "me", HOME: null } }, { user }), {
    uid: 1000,
    gid: 100,
    groups: { implied: true, ids: [100, 27] },
    env: [["USER", "me"], ["HOME", null], ["LOGNAME", "alice"]],
  });
  assertEquals(filled({ uid: 1000 }, { user }), { uid: 1000, gid: 100, groups: null, env: [] });
  assertEquals(
    filled({ uid: "alice", gid: "staff", groups: ["x", 5] }, { user, group: 50, groups: [9] }),
    {
      uid: 1000,
      gid: 50,
      groups: { implied: false, ids: [9, 5] },
      env: [["HOME", "/home/alice"], ["USER", "alice"], ["LOGNAME", "alice"]],
    },
  );
  const root = { ...user, uid: 0 };
  assertThrows(() => filled({ uid: "toor" }, { user: root }), RangeError, '"uid": it is root\'s');
  const ofRoot = { ...user, gid: 0 };
  assertThrows(
    () => filled({ uid: "alice" }, { user: ofRoot }),
    RangeError,
    '"gid": it is root\'s',
  );
  assertThrows(() => filled({ gid: "wheel" }, { group: 0 }), RangeError, '"gid": it is root\'s');
  const names: OpenOptions = { uid: 5, gid: 7, groups: ["wheel"] };
  assertThrows(() => filled(names, { groups: [0] }), RangeError, '"groups[0]": it is root\'s');
});

Deno.test("options: what the child may do", () => {
  const { privileges } = validate("true", [], {
    noNewPrivs: true,
    umask: 0,
    nice: -20,
    oomScoreAdj: 1000,
    capabilities: { bounding: ["CAP_KILL"], ambient: [] },
    rlimits: { core: 0, nofile: { soft: 5, hard: "unlimited" }, rttime: { hard: 7 } },
  });
  assertEquals(privileges, {
    noNewPrivs: true,
    umask: 0,
    nice: -20,
    oomScoreAdj: 1000,
    bounding: 32n,
    ambient: 0n,
    uid: null,
    gid: null,
    groups: null,
    rlimits: [
      { number: 4, soft: 0n, hard: 0n },
      { number: 7, soft: 5n, hard: 2n ** 64n - 1n },
      { number: 15, soft: null, hard: 7n },
    ],
  });
  for (
    const [name, least, most] of [["nice", -20, 19], [
      "oomScoreAdj",
      -1e3,
      1e3,
    ]] as const
  ) {
    for (const value of [least - 1, most + 1, 0.5]) {
      rangeRefused({ [name]: value }, new RegExp(`option "${name}": .*, ${least} to ${most}$`));
    }
    typeRefused({ [name]: "0" }, new RegExp(`option "${name}": it is a string`));
  }
  for (const [value, shown] of [[-1, "-1"], [512, "512 \\(0o1000\\)"], [777, "777 \\(0o1411\\)"]]) {
    const told = new RegExp(`option "umask": it is ${shown}, .*: give 0 to 0o777; .*decimal$`);
    rangeRefused({ umask: value }, told);
  }
  rangeRefused({ umask: 0.5 }, /option "umask": it is 0.5, not a whole number/);
  typeRefused({ umask: "022" }, /option "umask": it is a string/);
  typeRefused({ noNewPrivs: 1 }, /option "noNewPrivs": .*: give true or false$/);
});

Deno.test("options: capabilities and limits go by their names", () => {
  typeRefused({ capabilities: ["CAP_KILL"] }, /option "capabilities": it is an array/);
  typeRefused({ capabilities: { permitted: [] } }, /capabilities option "permitted"/);
  typeRefused({ capabilities: { ambient: "CAP_KILL" } }, /"capabilities.ambient": it is a string/);
  typeRefused({ capabilities: { bounding: [5] } }, /"capabilities.bounding": it is with a number/);
  typeRefused({ capabilities: { bounding: ["KILL"] } }, /no capability "KILL": .*"CAP_KILL"\?$/);
  typeRefused(
    { capabilities: { bounding: [], ambient: ["CAP_KILL", "CAP_CHOWN"] } },
    /ambient holds CAP_CHOWN and CAP_KILL, which bounding does not/,
  );
  typeRefused({ rlimits: { nofiles: 5 } }, /rlimits option "nofiles": .*"nofile"\?$/);
  typeRefused({ rlimits: { nofile: "many" } }, /"rlimits.nofile": it is "many": .*"unlimited"$/);
  typeRefused({ rlimits: { nofile: {} } }, /"rlimits.nofile": it is empty/);
  typeRefused({ rlimits: { nofile: null } }, /"rlimits.nofile": it is null/);
  typeRefused({ rlimits: { nofile: { max: 5 } } }, /rlimits.nofile option "max"/);
  rangeRefused({ rlimits: { nofile: -1 } }, /"rlimits.nofile": it is -1/);
  rangeRefused(
    { rlimits: { nofile: { soft: 2, hard: 1 } } },
    /"rlimits.nofile": the soft limit is/,
  );
  rangeRefused({ rlimits: { nofile: { soft: "unlimited", hard: 1 } } }, /the soft limit is above/);
  for (const nofile of [0, 2, { soft: 1 }, { hard: 2 }, { soft: 0, hard: 9 }]) {
    const told = /"rlimits.nofile": it is [012], and stdin, .* 3 descriptors .*: give 3 or more/;
    rangeRefused({ rlimits: { nofile } }, told);
  }
  validate("true", [], { rlimits: { nofile: 3, nproc: 0 } });
});
