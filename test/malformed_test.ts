// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Thousands of malformed requests, made of good ones by one change each: every
 * one is refused by a typed error that names the option, and no process,
 * descriptor or cgroup is made.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { Mailbox, open, type OpenOptions } from "../mod.ts";
import { MOUNT } from "./cgroups.ts";
import { assert, leavesNothing, test, warmUp } from "./helpers.ts";
import { type Below, random, seedOf } from "./random.ts";

await warmUp();

/** One of `all`, which may be undefined itself. */
function pick<T>(below: Below, all: readonly T[]): T {
  return all[below(all.length)] as T;
}

/** A value of each kind that a program could hand in by mistake. */
const KINDS: Readonly<Record<string, (below: Below) => unknown>> = {
  null: () => null,
  boolean: (below) => below(2) === 0,
  string: (below) => pick(below, ["", "x", "1", "piped ", "PIPED", "unlimited ", "0x10"]),
  number: (below) => pick(below, [-1, 0.5, NaN, Infinity, -Infinity, 2 ** 53, -(2 ** 31) - 1]),
  bigint: () => 5n,
  symbol: () => Symbol("x"),
  function: () => () => 1,
  array: (below) => pick(below, [[], [null], ["x", 1], [[]]]),
  map: () => new Map([["a", 1]]),
  date: () => new Date(0),
  regexp: () => /x/,
  object: (below) => pick(below, [{ x: 1 }, { kill: 1 }, { "-1": "piped" }, { soft: "x" }]),
};

/** Options by the kinds of value that some of theirs can be: those are no mistake of the kind. */
const GOOD: Readonly<Record<keyof OpenOptions, readonly string[]>> = {
  cwd: ["string"],
  cd: ["string"],
  env: ["object"],
  clearEnv: ["boolean"],
  arg0: ["string"],
  stdioWindow: [],
  stdin: [],
  stdout: [],
  stderr: [],
  stderrToStdout: ["boolean"],
  captureStderrOnly: ["boolean"],
  fds: [],
  pty: [],
  delayToSigkill: [],
  flushMs: [],
  closeScope: [],
  onOwnerDeath: [],
  drainTimeoutMs: [],
  timeoutMs: [],
  signal: [],
  owner: [],
  highWaterMark: [],
  maxOutputBytes: [],
  maxLineBytes: [],
  containment: [],
  uid: ["string"],
  gid: ["string"],
  groups: ["array"],
  noNewPrivs: ["boolean"],
  capabilities: [],
  umask: [],
  nice: ["number"],
  rlimits: [],
  oomScoreAdj: ["number"],
  limits: [],
  cgroupBase: ["string"],
  cgroupPath: ["string"],
  cgroupControllers: ["array"],
  cgroupSets: ["array"],
  cgroupMoveSelf: ["boolean"],
  parallelism: ["boolean"],
};
const NAMES = Object.keys(GOOD) as (keyof OpenOptions)[];

/** Good values, so that what is refused is the one that is not. */
const BESIDE: OpenOptions = {
  stdioWindow: 100,
  delayToSigkill: 5,
  umask: 0o22,
  env: { A: "1" },
  rlimits: { core: 0 },
};

type Call = [command: unknown, args: unknown, options: unknown];
type Made = { call: Call; names: string };

/** One option of a wrong kind. */
function wrongKind(below: Below): Made {
  const name = pick(below, NAMES);
  const kinds = Object.keys(KINDS).filter((kind) => !GOOD[name].includes(kind));
  const value = KINDS[pick(below, kinds)]?.(below);
  // An unknown part of `limits` is called a limit.
  const names = name === "limits" ? "limit" : name;
  return { call: ["cat", [], { ...BESIDE, [name]: value }], names };
}

/** An option that there is not: a known one with a letter more, less or changed. */
function misspelt(below: Below): Made {
  const name: string = pick(below, NAMES);
  const at = below(name.length);
  const letter = String.fromCharCode(97 + below(26));
  const wrong = pick(below, [
    name.slice(0, at) + letter + name.slice(at),
    name.slice(0, at) + name.slice(at + 1),
    name.slice(0, at) + letter + name.slice(at + 1),
    name.toUpperCase(),
    ` ${name}`,
  ]);
  const known = (NAMES as string[]).includes(wrong) || wrong === "";
  const final = known ? `${wrong}_` : wrong;
  return { call: ["cat", [], { ...BESIDE, [final]: 1 }], names: final };
}

/** Parts of options that have parts. */
const PARTS: readonly (readonly [name: string, options: (below: Below) => unknown])[] = [
  ["env", (below) => ({ env: { A: pick(below, [1, true, undefined, {}, [], "\0", "\ud800"]) } })],
  ["env", (below) => ({ env: { [pick(below, ["", "A=B", "=", "\0", "A\0"])]: "x" } })],
  ["fds", (below) => ({ fds: { [pick(below, [0, 1, 2, -3, 3.5, 2 ** 40])]: "piped" } })],
  ["fds", (below) => ({ fds: { 3: pick(below, ["pipe", -1, 1.5, null, {}, 2 ** 31]) } })],
  ["fds", () => ({ fds: Object.fromEntries([...Array(13).keys()].map((n) => [n + 3, 1])) })],
  ["pty", (below) => ({ pty: { cols: pick(below, [0, -1, 65_536, "80", null, 1.5]) } })],
  ["pty", (below) => ({ pty: { [pick(below, ["col", "width", "x"])]: 80 } })],
  ["pty", (below) => ({ pty: {}, [pick(below, ["stdin", "stdout", "stderr"])]: "null" })],
  ["containment", (below) => ({ containment: { [pick(below, ["kil", "limits"])]: "tree" } })],
  ["containment", (below) => ({ containment: { kill: pick(below, ["none", false, 1, null]) } })],
  [
    "containment.require",
    (below) => ({ containment: { require: pick(below, [[], new Map(), 5, null, new Date(0)]) } }),
  ],
  [
    "rlimits",
    (below) => ({ rlimits: { nofile: pick(below, [-1, 0.5, "x", null, {}, [], true]) } }),
  ],
  ["nofiles", () => ({ rlimits: { nofiles: 5 } })],
  ["rlimits", (below) => ({ rlimits: { cpu: { soft: 2 + below(9), hard: 1 } } })],
  [
    "capabilities",
    (below) => ({ capabilities: { bounding: pick(below, ["x", 1, [1], ["KILL"]]) } }),
  ],
  ["capabilities", () => ({ capabilities: { bounding: [], ambient: ["CAP_KILL"] } })],
  ["uid", (below) => ({ uid: pick(below, [0, 2 ** 32 - 1, "", "a\0"]) })],
  ["gid", (below) => ({ gid: pick(below, [0, -1, ""]) })],
  ["groups", (below) => ({ groups: [7, pick(below, [0, -1, "", null, 1.5, {}])] })],
  ["umask", (below) => ({ umask: pick(below, [0o1000, -1, "022"]) })],
  ["nice", (below) => ({ nice: pick(below, [-21, 20]) })],
  ["oomScoreAdj", (below) => ({ oomScoreAdj: pick(below, [-1001, 1001]) })],
  ["timeoutMs", (below) => ({ timeoutMs: pick(below, [0, 2 ** 31]) })],
  ["stdioWindow", (below) => ({ stdioWindow: below(16) })],
  ["cd", () => ({ cd: "/", cwd: "/" })],
  ["stderrToStdout", () => ({ stderrToStdout: true, stderr: "piped" })],
  ["captureStderrOnly", () => ({ captureStderrOnly: true, stdout: "piped" })],
  ["detached", (below) => ({ detached: below(2) === 0 })],
  ["owner", () => ({ owner: { deliver() {} } })],
];

function badPart(below: Below): Made {
  const [names, options] = pick(below, PARTS);
  return { call: ["cat", [], { ...BESIDE, ...options(below) as OpenOptions }], names };
}

/** What is not an option. */
function badCall(below: Below): Made {
  const text = pick(below, ["a\0b", "\ud800"]);
  return pick<Made>(below, [
    { call: [pick(below, ["", text, 5, null, {}, undefined]), [], {}], names: "the command" },
    { call: ["cat", pick(below, ["x", 5, {}, null, new Set(["x"])]), {}], names: "args" },
    {
      call: ["cat", ["ok", pick(below, [5, null, {}, text, undefined])], {}],
      names: "argument 1",
    },
    { call: ["cat", [new Uint8Array([1, 0])], {}], names: "argument 0" },
    {
      call: ["cat", [], pick<unknown>(below, [null, 5, "x", true, [], new Map([["uid", 5]]), /x/])],
      names: "the options",
    },
  ]);
}

const MAKERS = [wrongKind, misspelt, badPart, badCall];

/** The cgroups below this process's own; none where there is no v2 hierarchy. */
function cgroups(): string[] {
  const own = Deno.readTextFileSync("/proc/self/cgroup").match(/^0::(.*)$/m)?.[1];
  if (own === undefined || MOUNT === null) return [];
  const below = (path: string): string[] =>
    [...Deno.readDirSync(path)].filter(({ isDirectory }) => isDirectory)
      .flatMap(({ name }) => [`${path}/${name}`, ...below(`${path}/${name}`)]);
  return below(MOUNT + own);
}

test("five thousand malformed requests: each is refused by a typed error that names the option", async () => {
  const below = random(seedOf("malformed"));
  await using owner = new Mailbox();
  await leavesNothing(async () => {
    const before = cgroups();
    for (let round = 0; round < 5_000; round++) {
      const { call: [command, args, options], names } = pick(below, MAKERS)(below);
      const given = names !== "the options" && below(4) === 0 && options instanceof Object &&
          !("owner" in options)
        ? { owner, ...options }
        : options;
      const error = await open(command as string, args as string[], given as OpenOptions).then(
        async (port) => {
          await port.close({ graceMs: 0 });
          return null;
        },
        (error: unknown) => error,
      );
      const what = () => `${names}: ${Deno.inspect([command, args, options])}`;
      assert(error !== null, `it was started: ${what()}`);
      assert(
        error instanceof TypeError || error instanceof RangeError,
        `${error} for ${what()}`,
      );
      assertMatch(error.message, /^Cannot [^:]+: .+: .+$/s, what());
      assert(error.message.includes(names), `${error.message} for ${what()}`);
    }
    assertEquals(cgroups(), before);
  });
});
