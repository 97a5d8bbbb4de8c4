// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Shows that the containment tests can fail. The library is built with the
 * feature `sabotage`; with nothing left out the tests below are green, and for
 * each step that is left out (ffi/src/kernel/sabotage.rs) the named test is
 * red, with the words that it is expected to fail with.
 *
 * `scripts/sabotage.ts slice` does the rows of the ordinary gate, and
 * `scripts/sabotage.ts STEP...` those of these steps.
 *
 * @module
 */

import { type Sabotage, SABOTAGES } from "./sabotages.ts";

const deno = Deno.execPath();
const checkout = new URL("..", import.meta.url).pathname;
const VARIABLE = "PROTON_STREAM_SABOTAGE";

/** A test that is red without a step waits in vain for what that step does: for this long. */
const DEADLINE_MS = 8_000;

/** Builds the library and puts it where every user can read it. */
async function library(folder: string): Promise<string> {
  const build = new Deno.Command(`${checkout}test/fixtures/sabotaged`, { stderr: "inherit" });
  const { success, stdout } = await build.output();
  if (!success) throw new Error("the library was not built: see above");
  Deno.chmodSync(folder, 0o755);
  const copy = `${folder}/libproton_stream.so`;
  Deno.copyFileSync(new TextDecoder().decode(stdout).trim(), copy);
  Deno.chmodSync(copy, 0o644);
  return copy;
}

/** What is wrong with the two libraries: only that of the feature may know the variable. */
function traces(sabotaged: string): string[] {
  const wrong = [];
  if (!holds(sabotaged, VARIABLE)) wrong.push(`${sabotaged} was built without the feature`);
  for (const { name } of Deno.readDirSync(`${checkout}npm/native`)) {
    const shipped = `${checkout}npm/native/${name}`;
    if (holds(shipped, VARIABLE)) wrong.push(`${shipped} was built with the feature`);
  }
  return wrong;
}

function holds(file: string, text: string): boolean {
  return new TextDecoder("latin1").decode(Deno.readFileSync(file)).includes(text);
}

/** By test: the words it failed with, or null where it passed. Tests that did not run are absent. */
type Results = Map<string, string | null>;

async function run(
  file: string,
  tests: readonly string[],
  env: Record<string, string>,
): Promise<Results> {
  const any = tests.map((name) => name.replaceAll(/[\\^$.*+?()[\]{}|/]/g, "\\$&")).join("|");
  const args = ["test", "--allow-all", "--no-check", "--reporter=tap", `--filter=/^(${any})$/`];
  const { stdout } = await new Deno.Command(`${checkout}scripts/contained`, {
    args: [deno, ...args, file],
    cwd: checkout,
    env: { NO_COLOR: "1", PROTON_TEST_PATIENCE: "5", ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).output();
  const results: Results = new Map();
  const parts = new TextDecoder().decode(stdout).split(/^(?=(?:not )?ok \d+ - )/m);
  for (const part of parts) {
    const [, not, name = ""] = part.match(/^(not )?ok \d+ - (.*)$/m) ?? [];
    // TAP escapes the number sign, which begins a directive there.
    if (name !== "") results.set(name.replaceAll("\\#", "#"), not === undefined ? null : part);
  }
  return results;
}

/** The tests that are not green with nothing left out. */
async function control(rows: readonly Sabotage[], env: Record<string, string>): Promise<string[]> {
  const wrong = [];
  for (const file of new Set(rows.map(({ file }) => file))) {
    const tests = [...new Set(rows.filter((row) => row.file === file).map(({ test }) => test))];
    const results = await run(file, tests, env);
    for (const name of tests.filter((name) => results.get(name) !== null)) {
      const why = results.has(name) ? `red: ${results.get(name)}` : "not there, or skipped";
      wrong.push(`with nothing left out, "${name}" is ${why}`);
    }
  }
  return wrong;
}

/** Null where the test is red as expected, else what is wrong. */
async function sabotage(row: Sabotage, env: Record<string, string>): Promise<string | null> {
  const { step, with: more = [], file, test, says, deadlineMs = DEADLINE_MS } = row;
  const steps = [step, ...more].join(",");
  const deadline = String(deadlineMs);
  const armed = { ...env, [VARIABLE]: steps, PROTON_TEST_DEADLINE_MS: deadline };
  const words = (await run(file, [test], armed)).get(test);
  if (words === null) return `without "${step}", "${test}" stays green`;
  if (words === undefined) return `without "${step}", "${test}" did not come to an end`;
  if (!says.test(words)) return `without "${step}", "${test}" is red, but says: ${words}`;
  return null;
}

function chosen(words: readonly string[]): readonly Sabotage[] {
  if (words.length === 0) return SABOTAGES;
  if (words[0] === "slice") return SABOTAGES.filter(({ slice }) => slice);
  return SABOTAGES.filter(({ step }) => words.includes(step));
}

const rows = chosen(Deno.args);
const folder = Deno.makeTempDirSync({ prefix: "proton_test_sabotage_" });
try {
  const file = await library(folder);
  const env = { PROTON_STREAM_LIBRARY: file };
  const wrong = [...traces(file), ...await control(rows, env)];
  let passed = wrong.length === 0 ? 1 : 0;
  for (const row of rows) {
    const failure = await sabotage(row, env);
    if (failure === null) passed++;
    else wrong.push(failure);
    console.log(`${row.step.padEnd(22)} ${failure === null ? "red  " : "WRONG"}  ${row.test}`);
  }
  for (const one of wrong) console.log(`\n${one}`);
  console.log(`\n${passed} passed, ${wrong.length} failed, 0 skipped`);
  Deno.exitCode = wrong.length === 0 && rows.length > 0 ? 0 : 1;
} finally {
  Deno.removeSync(folder, { recursive: true });
}
