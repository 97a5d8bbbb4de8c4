// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The one gate. Runs every check and every test, and closes with the sum. A
 * test run whose counts cannot be read has failed.
 *
 * @module
 */

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

interface Step {
  name: string;
  command: string[];
  /** Reads the counts off the output of a test run; absent for a plain check. */
  counts?: (output: string) => Counts | null;
}

const deno = Deno.execPath();
const suite = "test/runtimes/suite.mjs";
const packed = ".cache/package/dist/mod.mjs";
const contained = "scripts/contained";
const manifest = ["--locked", "--manifest-path", "ffi/Cargo.toml"];

/** One after another; those in a list at the same time, as each of them mostly waits. */
const steps: (Step | Step[])[] = [
  { name: "format", command: [deno, "fmt", "--check"] },
  { name: "lint", command: [deno, "lint"] },
  {
    name: "docs of the API: complete, and of exported types alone",
    command: ["sh", "-c", '"$0" doc --lint mod.ts >/dev/null', deno],
  },
  { name: "layers and headers", command: [deno, "run", "--allow-all", "scripts/check.ts"] },
  {
    name: "Rust format",
    command: ["cargo", "fmt", "--check", "--manifest-path", "ffi/Cargo.toml"],
  },
  {
    name: "clippy",
    command: ["cargo", "clippy", "--quiet", ...manifest, "--all-targets", "--", "-D", "warnings"],
  },
  {
    name: "clippy of what the tests can leave out",
    command: [
      ...["cargo", "clippy", "--quiet", ...manifest, "--features", "sabotage", "--lib"],
      ...["--", "-D", "warnings"],
    ],
  },
  { name: "types", command: [deno, "check"] },
  { name: "Rust tests", command: ["cargo", "test", ...manifest], counts: cargoCounts },
  // Before the tests: those of the watch modes run it.
  { name: "package", command: ["scripts/npm"] },
  {
    name: "types in projects of users",
    command: [deno, "run", "--allow-all", "scripts/projects.ts"],
    counts: plainCounts,
  },
  {
    name: "Deno tests and the examples of the docs",
    command: [
      contained,
      deno,
      "test",
      "--allow-all",
      "--doc",
      "README.md",
      "mod.ts",
      "src/",
      "test/",
    ],
    counts: denoCounts,
  },
  {
    name: "Deno suite",
    command: [contained, deno, "run", "--allow-all", suite, "mod.ts"],
    counts: plainCounts,
  },
  { name: "Node suite", command: [contained, "node", suite, packed], counts: plainCounts },
  { name: "Bun suite", command: [contained, "scripts/bun", suite, packed], counts: plainCounts },
  [
    {
      name: "sabotage: the tests can fail",
      command: [deno, "run", "--allow-all", "scripts/sabotage.ts", "slice"],
      counts: plainCounts,
    },
    {
      name: "a guest with cgroup v2 alone",
      command: ["scripts/vm", "test", "slice"],
      counts: plainCounts,
    },
  ],
];

/** What a step could not do on this machine, each with the cure; said again at the end. */
const notDone: string[] = [];

/** `test result: ok. 12 passed; 0 failed; 1 ignored; ...`, once per program. */
function cargoCounts(output: string): Counts | null {
  const lines = [
    ...output.matchAll(/^test result: .*?(\d+) passed; (\d+) failed; (\d+) ignored/gm),
  ];
  if (lines.length === 0) return null;
  return sum(lines.map(([, passed, failed, skipped]) => numbers(passed, failed, skipped)));
}

/** `ok | 12 passed (3 steps) | 0 failed | 1 ignored (2s)`. */
function denoCounts(output: string): Counts | null {
  const line = output.match(/^\w+ \| (\d+) passed.*? \| (\d+) failed(?:.*? \| (\d+) ignored)?/m);
  return line === null ? null : numbers(line[1], line[2], line[3]);
}

/** `16 passed, 0 failed, 0 skipped`. */
function plainCounts(output: string): Counts | null {
  const line = output.match(/^(\d+) passed, (\d+) failed, (\d+) skipped$/m);
  return line === null ? null : numbers(line[1], line[2], line[3]);
}

function numbers(passed?: string, failed?: string, skipped?: string): Counts {
  return { passed: Number(passed), failed: Number(failed), skipped: Number(skipped ?? 0) };
}

function sum(all: Counts[]): Counts {
  return all.reduce((a, b) => ({
    passed: a.passed + b.passed,
    failed: a.failed + b.failed,
    skipped: a.skipped + b.skipped,
  }), { passed: 0, failed: 0, skipped: 0 });
}

/** Runs one step, shows what it prints, at once or when it is over, and says how it went. */
async function run({ name, command, counts }: Step, atOnce: boolean): Promise<Counts> {
  const [program = "", ...args] = command;
  const child = new Deno.Command(program, {
    args,
    env: { NO_COLOR: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  if (atOnce) console.log(`\n--- ${name}`);
  const [shown, kept] = child.stdout.tee();
  const [output, { success }] = await Promise.all([
    new Response(kept).text(),
    child.status,
    shown.pipeTo(atOnce ? Deno.stdout.writable : new WritableStream(), { preventClose: true }),
  ]);
  if (!atOnce) console.log(`\n--- ${name}\n${output.trimEnd()}`);
  notDone.push(...(output.match(/^SKIPPED: .*$/gm) ?? []));
  if (counts === undefined) return { passed: 0, failed: success ? 0 : 1, skipped: 0 };
  const found = counts(output) ?? { passed: 0, failed: 1, skipped: 0 };
  return success || found.failed > 0 ? found : { ...found, failed: 1 };
}

const results: Counts[] = [];
const bad: string[] = [];
for (const next of steps) {
  const group = [next].flat();
  const ends = await Promise.all(group.map((step) => run(step, group.length === 1)));
  results.push(...ends);
  bad.push(...group.filter((_, at) => (ends[at]?.failed ?? 1) > 0).map(({ name }) => name));
}
const { passed, failed, skipped } = sum(results);
if (notDone.length > 0) console.log(`\n${notDone.join("\n")}`);
if (bad.length > 0) console.log(`\nFailed: ${bad.join(", ")}`);
console.log(`\n${passed} passed, ${failed} failed, ${skipped} skipped`);
Deno.exit(failed > 0 ? 1 : 0);
