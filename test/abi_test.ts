// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

import { assertEquals, assertThrows } from "@std/assert";
import type { Report } from "../src/core.ts";
import { NativeError, type Survivor } from "../src/errors.ts";
import {
  ABI,
  causeNumber,
  decodeAnswer,
  decodeHierarchies,
  decodeLeaves,
  decodeReport,
  decodeStage,
  decodeTooMuch,
  eachEvent,
  encodeQuestion,
  encodeSpec,
  scopeNumber,
  STAGES,
} from "../src/native/abi.ts";
import type { CgroupVersion } from "../src/figures.ts";
import { type OpenOptions, type Spec, validate } from "../src/options.ts";
import type { Cause, Guards, Lack } from "../src/status.ts";
import { type Below, random } from "./random.ts";

// Reports: written here as docs/abi.md says, so that the decoder is held to the page and not to itself.

const CAUSES: Cause[] = [
  "exit",
  "close",
  "timeout",
  "abort",
  "owner",
  "oom",
  "limit",
  "guardian",
];
const REASONS: Survivor["reason"][] = ["EPERM", "uninterruptible", "traced"];
const GUARDS: Guards[] = ["both", "guardian", "none"];
const LACKS: Lack[] = [
  "nothing",
  "unwanted",
  "unmounted",
  "outside",
  "reserved",
  "make",
  "enter",
  "kill",
];

function encodeReport(report: Report): Uint8Array {
  const head = encodeHead(report);
  const tail = encodeMore(report);
  const bytes = new Uint8Array(head.length + tail.length);
  bytes.set(head);
  bytes.set(tail, head.length);
  return bytes;
}

const limited = ({ held, about, figures }: Report): boolean =>
  held.kill + held.limits > 0 || about !== null || figures.length > 0;

/** What only trees with limits have. */
function encodeMore(report: Report): Uint8Array {
  if (!limited(report)) return new Uint8Array();
  const out: number[] = [];
  const u32 = (n: number) => out.push(...new Uint8Array(new Uint32Array([n]).buffer));
  const text = (t: string) => {
    const encoded = new TextEncoder().encode(t);
    u32(encoded.length);
    out.push(...encoded);
  };
  u32(report.held.kill);
  u32(report.held.limits);
  u32(report.about?.setting ?? 0xffffffff);
  text(report.about?.subject ?? "");
  u32(report.figures.length);
  for (const figure of report.figures) {
    u32(figure.version);
    text(figure.file);
    text(figure.text);
  }
  return new Uint8Array(out);
}

function encodeHead(report: Report): Uint8Array {
  const bytes = new Uint8Array(80 + 28 * report.survivors.length);
  const view = new DataView(bytes.buffer);
  const flags = (report.pid ? 1 : 0) | (report.failure ? 2 : 0) | (report.wait ? 4 : 0) |
    (report.done ? 8 : 0) | (report.ownGroup ? 16 : 0) | (report.discarded ? 32 : 0) |
    (limited(report) ? 64 : 0);
  view.setUint32(0, flags, true);
  view.setInt32(4, report.pid, true);
  if (report.failure) {
    view.setUint32(8, STAGES.indexOf(report.failure.stage), true);
    view.setInt32(12, report.failure.errno, true);
  }
  const [kind, number] = waitNumbers(report.wait);
  view.setUint32(16, kind, true);
  view.setInt32(20, number, true);
  view.setUint32(24, CAUSES.indexOf(report.cause), true);
  view.setUint32(28, report.killed, true);
  const { wallMs, userMs, systemMs, maxRssBytes } = report;
  [wallMs, userMs, systemMs, maxRssBytes].forEach((n, i) => view.setFloat64(32 + 8 * i, n, true));
  view.setUint32(64, GUARDS.indexOf(report.guards), true);
  view.setUint32(68, LACKS.indexOf(report.cgroup.lack), true);
  view.setInt32(72, report.cgroup.errno, true);
  view.setUint32(76, report.survivors.length, true);
  report.survivors.forEach((survivor, i) => {
    const at = 80 + 28 * i;
    view.setInt32(at, survivor.pid, true);
    view.setUint32(at + 4, REASONS.indexOf(survivor.reason), true);
    view.setInt32(at + 8, survivor.tracer ?? 0, true);
    bytes.set(new TextEncoder().encode(survivor.comm), at + 12);
  });
  return bytes;
}

function waitNumbers(wait: Report["wait"]): [number, number] {
  if (wait === null) return [0, 0];
  if (wait === "lost") return [3, 0];
  return "code" in wait ? [1, wait.code] : [2, wait.signal];
}

function anyReport(below: Below): Report {
  const waits: Report["wait"][] = [
    null,
    "lost",
    { code: below(256) },
    { signal: 1 + below(64) },
  ];
  return {
    pid: below(4_194_304),
    ownGroup: below(2) === 0,
    failure: below(4) === 0
      ? { stage: STAGES[below(STAGES.length)] ?? "", errno: below(134) }
      : null,
    wait: waits[below(4)] ?? null,
    done: below(2) === 0,
    cause: CAUSES[below(8)] ?? "exit",
    wallMs: below(1e9) / 1000,
    userMs: below(1e9) / 1000,
    systemMs: below(1e9) / 1000,
    maxRssBytes: below(2 ** 31) * 4096,
    killed: below(70_000),
    survivors: Array.from({ length: below(4) * 11 }, () => anySurvivor(below)),
    discarded: below(2) === 0,
    guards: GUARDS[below(3)] ?? "both",
    cgroup: { lack: LACKS[below(8)] ?? "nothing", errno: below(134) },
    held: below(2) === 0 ? { kill: 0, limits: 0 } : { kill: anyVersion(below), limits: 1 },
    about: below(2) === 0
      ? null
      : { setting: below(2) === 0 ? null : below(9), subject: "/a/b.c".slice(0, 1 + below(6)) },
    figures: Array.from({ length: below(3) }, () => ({
      version: anyVersion(below),
      file: "memory.events".slice(0, below(14)),
      text: "oom 1\noom_kill 2\n".slice(0, below(19)),
    })),
  };
}

function anyVersion(below: Below): CgroupVersion {
  return below(3) as CgroupVersion;
}

function anySurvivor(below: Below): Survivor {
  const reason = REASONS[below(3)] ?? "EPERM";
  const comm = "sixteen bytes :)".slice(0, below(17));
  const survivor = { pid: below(4_194_304), comm, reason };
  return reason === "traced" ? { ...survivor, tracer: below(4_194_304) } : survivor;
}

Deno.test("abi: any report comes back as it was written", () => {
  const below = random(0x5eed);
  for (let round = 0; round < 500; round++) {
    const report = anyReport(below);
    assertEquals(decodeReport(encodeReport(report)), report);
  }
});

Deno.test("abi: a report is read where it lies in a larger buffer", () => {
  const report = anyReport(random(7));
  const record = encodeReport(report);
  const larger = new Uint8Array(record.length + 9).fill(0xaa);
  larger.set(record, 3);
  assertEquals(decodeReport(larger.subarray(3, 3 + record.length)), report);
});

Deno.test("abi: a report cut anywhere, or too long, is refused", () => {
  const report = { ...anyReport(random(3)), survivors: [anySurvivor(random(4))] };
  const record = encodeReport(report);
  for (let length = 0; length < record.length; length++) {
    assertThrows(() => decodeReport(record.subarray(0, length)), NativeError, "Cannot read a repo");
  }
  const longer = new Uint8Array(record.length + 1);
  longer.set(record);
  assertThrows(() => decodeReport(longer), NativeError);
});

Deno.test("abi: a report with a number that means nothing is refused", () => {
  const report = {
    ...anyReport(random(5)),
    failure: { stage: "exec", errno: 2 },
    survivors: [{ pid: 5, comm: "x", reason: "EPERM" as const }],
  };
  const wrong: [number, number][] = [
    [0, 128],
    [0, 2 ** 31],
    [8, STAGES.length],
    [16, 4],
    [24, 8],
    [64, 3],
    [68, 9],
    [76, 2],
    [76, 0xffffffff],
    [80 + 4, 3],
  ];
  decodeReport(encodeReport(report));
  for (const [at, value] of wrong) {
    const record = encodeReport(report);
    new DataView(record.buffer).setUint32(at, value, true);
    assertThrows(() => decodeReport(record), NativeError);
  }
  for (const value of [NaN, -1, Infinity]) {
    for (const at of [32, 40, 48, 56]) {
      const record = encodeReport(report);
      new DataView(record.buffer).setFloat64(at, value, true);
      assertThrows(() => decodeReport(record), NativeError);
    }
  }
});

// A slice of fuzzing, the same in every run: whatever the bytes, a decoder
// refuses them or reads what docs/abi.md lets them mean.

/** Numbers at which arithmetic goes wrong, if it does. */
const EDGES = [0, 1, 2, 31, 32, 33, 63, 64, 0x7fffffff, 0x80000000, 0xffffffff, 153_391_690];

/** How many inputs were taken for a record, and how many were not. */
interface Tally {
  taken: number;
  refused: number;
}

/** Holds `decode` to it that it takes `bytes`, or refuses them with an error that says so. */
function judge(tally: Tally, bytes: Uint8Array, decode: (bytes: Uint8Array) => void): void {
  try {
    decode(bytes);
    tally.taken++;
  } catch (error) {
    if (!(error instanceof NativeError) || error.code !== "EPROTO") throw error;
    tally.refused++;
  }
}

function assertTold({ taken, refused }: Tally): void {
  assertEquals([taken > 100, refused > 100], [true, true], `${taken} taken, ${refused} refused`);
}

/** What is read is within the page, and written down it is read as the same. */
function lawfulReport(bytes: Uint8Array): void {
  const report = decodeReport(bytes);
  const plain = bytes.length === 80 + 28 * report.survivors.length;
  assertEquals(plain || (bytes[0] ?? 0) >= 64, true, "nothing is read over");
  // A name may hold any byte; what stands for one that is not UTF-8 takes more room than it.
  const survivors = report.survivors.map((survivor) => ({
    ...survivor,
    comm: survivor.comm.replaceAll("\ufffd", "?"),
  }));
  const plainText = (text: string) => text.replaceAll("\ufffd", "?");
  const about = report.about && { ...report.about, subject: plainText(report.about.subject) };
  const figures = report.figures.map((figure) => ({
    ...figure,
    file: plainText(figure.file),
    text: plainText(figure.text),
  }));
  const whole = { ...report, survivors, about, figures };
  assertEquals(decodeReport(encodeReport(whole)), whole);
}

/** `bytes` with each byte changed in turn, with edges where numbers could be, cut, and joined. */
function* damaged(bytes: Uint8Array, below: Below): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at++) {
    for (let bit = 0; bit < 8; bit++) {
      const other = bytes.slice();
      other[at] = (other[at] ?? 0) ^ (1 << bit);
      yield other;
    }
  }
  for (let at = 0; at + 4 <= bytes.length; at++) {
    for (const edge of EDGES) {
      const other = bytes.slice();
      new DataView(other.buffer).setUint32(at, edge, true);
      yield other;
    }
  }
  for (let round = 0; round < 50; round++) {
    yield new Uint8Array([...bytes.subarray(0, below(bytes.length)), ...noise(below, 100)]);
  }
}

function noise(below: Below, most: number): Uint8Array {
  return Uint8Array.from({ length: below(most) }, () => below(4) === 0 ? below(256) : 0);
}

Deno.test("abi: damaged reports are refused or read as they stand", () => {
  const [below, tally] = [random(0xdead), { taken: 0, refused: 0 }];
  for (let round = 0; round < 12; round++) {
    const survivors = Array.from({ length: below(3) }, () => anySurvivor(below));
    const record = encodeReport({ ...anyReport(below), survivors });
    for (const bytes of damaged(record, below)) judge(tally, bytes, lawfulReport);
  }
  assertTold(tally);
});

Deno.test("abi: noise is refused or read, never anything else", () => {
  const [below, tally] = [random(0xbad), { taken: 0, refused: 0 }];
  for (let round = 0; round < 5_000; round++) {
    judge(tally, noise(below, 300), lawfulReport);
    judge(tally, new Uint8Array(80 + 28 * below(3)).fill(below(2), 76, 77), lawfulReport);
    judge(
      tally,
      noise(below, 9),
      (bytes) => assertEquals(STAGES.includes(decodeStage(bytes)), true),
    );
  }
  assertTold(tally);
});

Deno.test("abi: any list of events is refused, or told in order and whole", () => {
  const [below, tally] = [random(0xe7e), { taken: 0, refused: 0 }];
  for (let round = 0; round < 5_000; round++) {
    const bytes = Uint8Array.from({ length: 8 * below(6) + below(2) * below(8) }, (_, at) => {
      return at % 8 < 7 ? below(256) : below(below(8) === 0 ? 256 : 128);
    });
    const count = below(7);
    judge(tally, bytes, () => {
      const seen: number[] = [];
      eachEvent(bytes, count, (port, bits) => {
        assertEquals(bits >= 0 && bits < 2 ** 32, true);
        seen.push(port, bits);
      });
      const view = new DataView(bytes.buffer);
      const told = Array.from(
        { length: 2 * count },
        (_, i) => i % 2 === 0 ? view.getInt32(4 * i, true) : view.getUint32(4 * i, true),
      );
      assertEquals(seen, told);
    });
  }
  assertTold(tally);
});

// Lists of cgroups and hierarchies, written as docs/abi.md says

const u32 = (n: number) => [...new Uint8Array(new Uint32Array([n]).buffer)];
const blob = (text: string) => {
  const bytes = [...new TextEncoder().encode(text)];
  return [...u32(bytes.length), ...bytes];
};
const list = <T>(all: readonly T[], one: (item: T) => number[]) => [
  ...u32(all.length),
  ...all.flatMap(one),
];

type Leaves = ReturnType<typeof decodeLeaves>;
type Hierarchies = ReturnType<typeof decodeHierarchies>;

function encodeLeaves({ pressed, leaves }: Leaves): Uint8Array {
  const all = list(leaves, ({ version, path }) => [...u32(version), ...u32(1), ...blob(path)]);
  return Uint8Array.from([...u32(pressed), ...all]);
}

function encodeHierarchies(hierarchies: Hierarchies): Uint8Array {
  return Uint8Array.from(list(hierarchies, ({ version, controllers, mount, own }) => [
    ...u32(version),
    ...list(controllers, blob),
    ...blob(mount),
    ...blob(own ?? ""),
  ]));
}

const LEAVES: Leaves = {
  pressed: 3,
  leaves: [{ version: 2, path: "/sys/fs/cgroup/ä" }, { version: 1, path: "" }],
};
const HIERARCHIES: Hierarchies = [
  { version: 2, controllers: [], mount: "/sys/fs/cgroup", own: "/sys/fs/cgroup/a" },
  { version: 1, controllers: ["cpu", "cpuacct"], mount: "/m", own: null },
];

Deno.test("abi: lists of cgroups and of hierarchies are read as they are written", () => {
  assertEquals(decodeLeaves(encodeLeaves(LEAVES)), LEAVES);
  assertEquals(decodeLeaves(encodeLeaves({ pressed: 0, leaves: [] })), { pressed: 0, leaves: [] });
  assertEquals(decodeHierarchies(encodeHierarchies(HIERARCHIES)), HIERARCHIES);
  assertEquals(decodeHierarchies(encodeHierarchies([])), []);
});

Deno.test("abi: lists that are cut, too long or damaged are refused, or read as they stand", () => {
  const [below, tally] = [random(0x1157), { taken: 0, refused: 0 }];
  const plain = (text: string) => text.replaceAll("\ufffd", "?");
  const leaves = (bytes: Uint8Array) => {
    const read = decodeLeaves(bytes);
    const named = read.leaves.map((leaf) => ({ ...leaf, path: plain(leaf.path) }));
    assertEquals(decodeLeaves(encodeLeaves({ ...read, leaves: named })).leaves, named);
  };
  const hierarchies = (bytes: Uint8Array) => {
    const named = decodeHierarchies(bytes).map((one) => ({
      ...one,
      controllers: one.controllers.map(plain),
      mount: plain(one.mount),
      own: one.own === null ? null : plain(one.own),
    }));
    assertEquals(decodeHierarchies(encodeHierarchies(named)), named);
  };
  for (
    const [record, decode] of [
      [encodeLeaves(LEAVES), leaves],
      [encodeHierarchies(HIERARCHIES), hierarchies],
    ] as const
  ) {
    for (let length = 0; length < record.length; length++) {
      assertThrows(() => decode(record.subarray(0, length)), NativeError);
    }
    assertThrows(() => decode(Uint8Array.from([...record, 0])), NativeError);
    for (const bytes of damaged(record, below)) judge(tally, bytes, decode);
    for (let round = 0; round < 2_000; round++) judge(tally, noise(below, 60), decode);
  }
  assertTold(tally);
});

// Events and stages

Deno.test("abi: events come in their order, and only as many as were counted", () => {
  const bytes = new Uint8Array(8 * 3);
  const view = new DataView(bytes.buffer);
  [0x7fff0001, 1, 2, 0xbfffffff, 3, 0x40000001].forEach((n, i) => view.setUint32(4 * i, n, true));
  const seen: [number, number][] = [];
  eachEvent(bytes, 2, (port, bits) => seen.push([port, bits]));
  assertEquals(seen, [[0x7fff0001, 1], [2, 0xbfffffff]]);
  assertThrows(() => eachEvent(bytes, 3, () => {}), NativeError, "bits 1073741825");
  assertThrows(() => eachEvent(bytes, 4, () => {}), NativeError, "4 entries long in 24 bytes");
});

Deno.test("abi: stages by number, an unknown one is refused", () => {
  assertEquals(STAGES.length, 34);
  STAGES.forEach((stage, i) => assertEquals(decodeStage(new Uint8Array([i, 0, 0, 0])), stage));
  assertEquals([STAGES[0], STAGES[5], STAGES[19]], ["spec", "program", "exec"]);
  assertThrows(() => decodeStage(new Uint8Array([34, 0, 0, 0])), NativeError);
  assertThrows(() => decodeStage(new Uint8Array(3)), NativeError);
});

Deno.test("abi: causes and scopes by number", () => {
  assertEquals(CAUSES.map(causeNumber), [0, 1, 2, 3, 4, 5, 6, 7]);
  assertEquals((["child", "group", "tree"] as const).map(scopeNumber), [0, 1, 2]);
});

// Specs: read here as docs/abi.md says.

class Reader {
  #at = 0;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  u8(): number {
    return this.raw(1)[0] ?? -1;
  }

  u32(): number {
    const bytes = this.raw(4);
    return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
  }

  u64(): bigint {
    return BigInt(this.u32()) | BigInt(this.u32()) << 32n;
  }

  raw(length: number): Uint8Array {
    if (this.#at + length > this.#bytes.length) throw new Error("the record ends early");
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  blob(): Uint8Array {
    return this.raw(this.u32()).slice();
  }

  text(): string {
    return new TextDecoder("utf-8", { fatal: true }).decode(this.blob());
  }

  list<T>(each: () => T): T[] {
    return Array.from({ length: this.u32() }, each);
  }

  atEnd(): boolean {
    return this.#at === this.#bytes.length;
  }
}

/** In the order of the bits, each where its own is set. */
function readAttributes(r: Reader) {
  const mask = r.u32();
  const on = <T>(bit: number, read: () => T) => (mask & bit) === 0 ? {} : read();
  const u32 = (name: string) => () => ({ [name]: r.u32() });
  return {
    ...on(1, () => ({ noNewPrivs: true })),
    ...on(2, u32("umask")),
    ...on(4, () => ({ nice: r.u32() | 0 })),
    ...on(8, () => ({ oomScoreAdj: r.u32() | 0 })),
    ...on(16, () => ({ bounding: r.u64() })),
    ...on(32, () => ({ ambient: r.u64() })),
    ...on(64, u32("uid")),
    ...on(128, u32("gid")),
    ...on(256, () => ({ implied: r.u32(), groups: r.list(() => r.u32()) })),
    ...on(512, () => ({ rlimits: r.list(() => [r.u32(), r.u32(), r.u64(), r.u64()]) })),
    ...on(1024, () => ({ fds: r.list(() => [r.u32(), r.u32(), r.u32()]) })),
    ...on(2048, () => ({ pty: [r.u32(), r.u32()] })),
  };
}

function readPlan(r: Reader) {
  const side = () =>
    r.u32() === 1
      ? { controller: r.text(), writes: r.list(() => [r.text(), r.text(), r.u32()]) }
      : null;
  return {
    where: r.u32(),
    path: r.text(),
    flags: [r.u32(), r.u32(), r.u32(), r.u32()],
    settings: r.list(() => ({ optional: r.u32(), v2: side(), v1: side() })),
    figures: r.list(() => r.text()),
  };
}

function readSpec(bytes: Uint8Array) {
  const r = new Reader(bytes);
  const [abi, flags] = [r.u32(), r.u32()];
  const [times, stdio] = [[r.u32(), r.u32(), r.u32()], [r.u8(), r.u8(), r.u8(), r.u8()]];
  const spec = {
    abi,
    flags,
    times,
    stdio,
    descriptors: stdio.filter((kind) => kind === 3).map(() => r.u32()),
    command: r.text(),
    arg0: r.text(),
    cwd: r.text(),
    args: r.list(() => r.blob()),
    env: r.list(() => [r.text(), r.u32(), r.text()]),
    view: (flags & 4) !== 0 ? r.list(() => [r.text(), r.text()]) : null,
    asked: readAttributes(r),
    plan: r.u32() === 1 ? readPlan(r) : null,
  };
  assertEquals(r.atEnd(), true);
  return spec;
}

Deno.test("abi: a spec with nothing but a command", () => {
  assertEquals(readSpec(encodeSpec(validate("cat"))), {
    abi: ABI,
    flags: 0,
    times: [500, 500, 0xffffffff],
    stdio: [0, 0, 0, 0],
    descriptors: [],
    command: "cat",
    arg0: "cat",
    cwd: "",
    args: [],
    env: [],
    view: null,
    asked: {},
    plan: null,
  });
});

Deno.test("abi: a spec with everything", () => {
  const spec = validate("ünï", ["-a", new Uint8Array([0xff, 0xfe])], {
    cwd: "/tmp",
    env: { A: "1", GONE: null, EMPTY: "" },
    arg0: "name",
    onOwnerDeath: "kill",
    delayToSigkill: 1,
    flushMs: 2,
    timeoutMs: 3,
    stdin: "inherit",
    stdout: "null",
  });
  assertEquals(readSpec(encodeSpec(spec, { HOME: "/root", "": "x", "A=B": "x", U: undefined })), {
    abi: ABI,
    flags: 2 | 4,
    times: [1, 2, 3],
    stdio: [1, 2, 0, 0],
    descriptors: [],
    command: "ünï",
    arg0: "name",
    cwd: "/tmp",
    args: [new Uint8Array([0x2d, 0x61]), new Uint8Array([0xff, 0xfe])],
    env: [["A", 1, "1"], ["GONE", 0, ""], ["EMPTY", 1, ""]],
    view: [["HOME", "/root"]],
    asked: {},
    plan: null,
  });
});

Deno.test("abi: a spec with everything that is not inherited", () => {
  const spec = validate("cat", [], {
    stdin: 7,
    stdout: 8,
    stderrToStdout: true,
    closeScope: "group",
    env: { BYTES: new Uint8Array([0xff]) },
    noNewPrivs: true,
    umask: 0o27,
    nice: -5,
    oomScoreAdj: -17,
    capabilities: { bounding: ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"], ambient: [] },
    uid: 4_294_967_294,
    gid: 100,
    groups: [7, 5],
    rlimits: { nofile: { soft: 3 }, cpu: { hard: "unlimited" }, core: 0 },
    fds: { 9: 1, 4: "piped" },
  });
  const { bytes, flags, stdio, descriptors, asked } = readSpecWithBytes(spec);
  assertEquals([bytes, flags, stdio, descriptors], [1, 32, [3, 3, 4, 0], [7, 8]]);
  assertEquals(asked, {
    noNewPrivs: true,
    umask: 0o27,
    nice: -5,
    oomScoreAdj: -17,
    bounding: 1n | 1n << 40n,
    ambient: 0n,
    uid: 4_294_967_294,
    gid: 100,
    implied: 0,
    groups: [7, 5],
    rlimits: [[0, 2, 0n, 2n ** 64n - 1n], [4, 3, 0n, 0n], [7, 1, 3n, 0n]],
    fds: [[4, 0, 0], [9, 1, 1]],
  });
  const pty = readSpec(encodeSpec(validate("cat", [], { pty: { cols: 7 }, closeScope: "child" })));
  assertEquals([pty.flags, pty.stdio], [16, [0, 0, 4, 0]]);
  assertEquals([pty.asked, pty.env], [{ pty: [7, 24] }, [["TERM", 1, "xterm-256color"]]]);
});

/** As {@link readSpec}, of one with a variable of bytes: they are no text to read. */
function readSpecWithBytes(spec: Spec) {
  const at = spec.env.findIndex(([, value]) => value instanceof Uint8Array);
  const text = spec.env.map(([name, value], i) => [name, i === at ? "y" : value] as const);
  const [bytes, plain] = [encodeSpec(spec), encodeSpec({ ...spec, env: text })];
  const differ = bytes.filter((byte, i) => byte !== plain[i]);
  assertEquals(differ, new Uint8Array([0xff]));
  return { bytes: differ.length, ...readSpec(plain) };
}

// Questions to the user database, and its answers

function numbers(...all: (number | string)[]): Uint8Array {
  const parts = all.map((one) => {
    const body = typeof one === "string" ? new TextEncoder().encode(one) : new Uint8Array();
    const part = new Uint8Array(4 + body.length);
    new DataView(part.buffer).setUint32(0, typeof one === "string" ? body.length : one, true);
    part.set(body, 4);
    return [...part];
  });
  return Uint8Array.from(parts.flat());
}

Deno.test("abi: a question names users and groups, or gives their numbers", () => {
  assertEquals(
    encodeQuestion({ user: "ünï", group: 7, groups: ["a", "bc"] }),
    numbers(ABI, 1, "ünï", 2, 7, 2, "a", "bc"),
  );
  assertEquals(encodeQuestion({ user: 5, group: null, groups: [] }), numbers(ABI, 2, 5, 0, 0));
});

Deno.test("abi: answers come back as they were written; anything else is refused", () => {
  const known = numbers(1, 1, 1000, 100, "ünï", "/home/ü", 2, 100, 27, 1, 55, 1, 7);
  assertEquals(decodeAnswer(known), {
    user: { uid: 1000, gid: 100, name: "ünï", home: "/home/ü", groups: [100, 27] },
    group: 55,
    groups: [7],
  });
  assertEquals(decodeAnswer(numbers(1, 0, 0, 0, 0)), { user: null, group: null, groups: [] });
  const unknown = numbers(0, 2, 3, 2);
  assertEquals(decodeAnswer(unknown), { unknown: { what: "groups", at: 3 }, errno: 2 });
  for (const record of [known, unknown]) {
    for (let length = 0; length < record.length; length++) {
      assertThrows(() => decodeAnswer(record.subarray(0, length)), NativeError);
    }
    assertThrows(() => decodeAnswer(Uint8Array.from([...record, 0])), NativeError);
  }
  for (const wrong of [numbers(2), numbers(1, 2), numbers(0, 3, 0, 0), numbers(1, 0, 2, 0, 0)]) {
    assertThrows(() => decodeAnswer(wrong), NativeError);
  }
  const [below, tally] = [random(0xa115), { taken: 0, refused: 0 }];
  for (const bytes of [...damaged(known, below), ...damaged(unknown, below)]) {
    judge(tally, bytes, decodeAnswer);
  }
  assertTold(tally);
});

Deno.test("abi: what is too long is told with both figures", () => {
  const out = new Uint8Array(32);
  const view = new DataView(out.buffer);
  view.setUint32(4, 2, true);
  view.setUint32(8, 3, true);
  view.setFloat64(12, 200_001, true);
  view.setFloat64(20, 131_072, true);
  const expected = { what: "variable", at: 3, bytes: 200_001, most: 131_072 };
  assertEquals(decodeTooMuch(out) as unknown, expected);
  view.setUint32(4, 3, true);
  assertThrows(() => decodeTooMuch(out), NativeError);
  assertEquals(decodeTooMuch(new Uint8Array(27)), null);
});

Deno.test("abi: a spec with cgroups", () => {
  const spec = validate("cat", [], {
    limits: { cpu: 0.25, memoryHigh: 8192 },
    cgroupBase: "a/b",
    cgroupMoveSelf: true,
    containment: { require: { limits: "cgroup1" } },
  });
  const { plan } = readSpec(encodeSpec(spec));
  assertEquals(plan?.settings, [
    { optional: 0, v2: { controller: "memory", writes: [["memory.high", "8192", 2]] }, v1: null },
    {
      optional: 0,
      v2: { controller: "cpu", writes: [["cpu.max", "25000 100000", 1]] },
      v1: {
        controller: "cpu",
        writes: [["cpu.cfs_period_us", "100000", 1], ["cpu.cfs_quota_us", "25000", 1]],
      },
    },
  ]);
  assertEquals([plan?.where, plan?.path, plan?.flags], [1, "a/b", [0, 1, 0, 1]]);
  assertEquals(plan?.figures.includes("memory.events"), true);
});

Deno.test("abi: an empty environment needs no view, a view's value ends where the system's does", () => {
  const cleared = readSpec(encodeSpec(validate("cat", [], { clearEnv: true }), { A: "1" }));
  assertEquals([cleared.flags, cleared.view], [1, null]);
  assertEquals(readSpec(encodeSpec(validate("cat"), { A: "1\x002" })).view, [["A", "1"]]);
  assertEquals(readSpec(encodeSpec(validate("cat"), {})).view, []);
});

Deno.test("abi: a spec is the same in the room of the one before, whether it is enough or not", () => {
  const room = new Uint8Array(256).fill(0xee);
  for (const length of [0, 1, 63, 64, 65, 200, 2_000]) {
    for (
      const text of ["a".repeat(length), "é" + "a".repeat(length), "a".repeat(length) + "\x7f€"]
    ) {
      const spec = validate("cat", [text], { arg0: text, env: { A: text }, cwd: text || "/" });
      const [read, given] = [readSpec(encodeSpec(spec, null, room)), encodeSpec(spec)];
      assertEquals([read.arg0, read.cwd, read.env], [text, text || "/", [["A", 1, text]]]);
      assertEquals(encodeSpec(spec, null, room), given);
    }
  }
});

Deno.test("abi: specs of any size come back as they were written", () => {
  const below = random(0xca7);
  for (let round = 0; round < 100; round++) {
    const args = Array.from(
      { length: below(20) },
      () => Uint8Array.from({ length: below(5_000) }, () => 1 + below(255)),
    );
    const env = Object.fromEntries(
      Array.from({ length: below(20) }, (_, i) => [`N${i}`, "é".repeat(below(900))]),
    );
    const options: OpenOptions = { env, delayToSigkill: below(2 ** 31) };
    const read = readSpec(encodeSpec(validate("x".repeat(1 + below(3_000)), args, options)));
    assertEquals(read.args, args);
    assertEquals(Object.fromEntries(read.env.map(([name, , value]) => [name, value])), env);
    assertEquals(read.times[0], options.delayToSigkill);
  }
});
