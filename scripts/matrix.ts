// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Writes the table of docs/containment.md from what the tests register. With
 * `--check` it changes nothing and fails where the page is not up to date.
 *
 * @module
 */

import { MODE_NAMES, type Row, rows } from "../test/matrix.ts";

const PAGE = "docs/containment.md";
const BEGIN = "<!-- made by scripts/matrix.ts from the tests: do not edit -->";
const END = "<!-- end -->";

/** Which file each case is in. */
const files = new Map<Row, string>();

/** Imports the files that register cases; outside of `deno test` that runs none. */
async function register(folder = "test"): Promise<void> {
  const entries = await Array.fromAsync(Deno.readDir(folder));
  for (const { name, isDirectory } of entries.sort((a, b) => a.name < b.name ? -1 : 1)) {
    const path = `${folder}/${name}`;
    if (isDirectory && name !== "fixtures") await register(path);
    if (!name.endsWith("_test.ts")) continue;
    if (/\bmatrix(Case|Reason)\(/.test(await Deno.readTextFile(path))) {
      await import(new URL(`../${path}`, import.meta.url).href);
      for (const row of rows) if (!files.has(row)) files.set(row, name);
    }
  }
}

/** `#2` before `#10`, and what stands beside the numbers last. */
function order({ number }: Row): number {
  return number.startsWith("#") ? parseInt(number.slice(1)) : Infinity;
}

/** A table's cells cannot hold a bar. */
function cells(...texts: string[]): string {
  return `| ${texts.map((text) => text.replaceAll("|", "\\|")).join(" | ")} |`;
}

/** The part of a test's name that finds it: all but the title. */
function cell(row: Row, mode: typeof MODE_NAMES[number]): string {
  if (row.tests[mode] !== undefined) return `\`${row.number} ${mode}\``;
  const why = typeof row.reasons === "string" ? row.reasons : row.reasons[mode];
  if (why === undefined) {
    throw new Error(`${row.number} ${row.title}: neither test nor reason in ${mode}`);
  }
  return why;
}

function table(): string {
  const sorted = rows.map((row, at) => ({ row, at })).sort((a, b) => {
    const by = order(a.row) - order(b.row);
    return by === 0 || Number.isNaN(by) ? a.at - b.at : by;
  });
  const lines = sorted.map(({ row }) =>
    cells(row.number, row.title, files.get(row) ?? "", ...MODE_NAMES.map((mode) => cell(row, mode)))
  );
  const head = cells("", "case", "in", ...MODE_NAMES);
  return [head, cells(...Array.from({ length: 3 + MODE_NAMES.length }, () => "---")), ...lines]
    .join("\n");
}

/** As `deno fmt` would have it, since the gate asks for that. */
async function formatted(text: string): Promise<string> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--ext", "md", "-"],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(text));
  await writer.close();
  const { success, stdout } = await child.output();
  if (!success) throw new Error("deno fmt failed");
  return new TextDecoder().decode(stdout);
}

if (import.meta.main) {
  Deno.chdir(new URL("..", import.meta.url));
  await register();
  const page = await Deno.readTextFile(PAGE);
  const [before, rest = ""] = page.split(BEGIN);
  const after = rest.split(END)[1] ?? "";
  const fresh = await formatted(`${before}${BEGIN}\n\n${table()}\n\n${END}${after}`);
  if (!Deno.args.includes("--check")) await Deno.writeTextFile(PAGE, fresh);
  else if (fresh !== page) {
    console.error(
      `${PAGE} is not what the tests register: run "scripts/deno run -A scripts/matrix.ts"`,
    );
    Deno.exit(1);
  }
}
