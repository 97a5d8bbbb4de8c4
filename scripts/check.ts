// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Holds the tree to its own rules: layers, the places of `unsafe` and of the
 * runtimes' names, headers, one ABI number, links of pages, generated bindings up
 * to date.
 * Every failure names file and line. The tree is the checkout of this script,
 * or the folder that the first argument names.
 *
 * @module
 */

import {
  reserved,
  type Rows,
  runtimeFolder,
  rust,
  rustFree,
  typescript,
  unsafePlaces,
  upward,
} from "./layers.ts";
import {
  masked,
  type Mention,
  mentions,
  resolved,
  rustPaths,
  type Source,
  typescriptImports,
} from "./source.ts";

/** What is wrong, and where. */
export interface Failure {
  path: string;
  line: number;
  what: string;
}

const checkout = new URL("..", import.meta.url);

/** Every rule that needs nothing but the text of the files. */
export function failures(sources: readonly Source[]): Failure[] {
  return [
    ...sources.flatMap(header),
    ...sources.filter(isTypescript).flatMap((source) => typescriptFailures(source)),
    ...sources.filter(isRust).flatMap((source) => rustEdges(source, sources)),
    ...sources.filter(isCrate).flatMap(unsafeFailures),
    ...abiNumbers(sources),
    ...sources.filter(({ path }) => path.endsWith(".md")).flatMap((page) => links(page, sources)),
  ];
}

/** What a page links to is there. */
function links({ path, text }: Source, sources: readonly Source[]): Failure[] {
  const base = `file:///${path}`;
  return text.split("\n").flatMap((words, index) =>
    [...words.matchAll(/\]\(([^)#]+)[^)]*\)/g)].flatMap(([, to = ""]) => {
      if (/^[a-z]+:/.test(to)) return [];
      const wanted = new URL(to, base).pathname.slice(1);
      const there = sources.some((one) =>
        one.path === wanted || (wanted.endsWith("/") && one.path.startsWith(wanted))
      );
      return there ? [] : [{ path, line: index + 1, what: `links to ${to}, which is not there` }];
    })
  );
}

const isTypescript = ({ path }: Source) => path === "mod.ts" || /^src\/.*\.ts$/.test(path);
const isRust = ({ path }: Source) => /^ffi\/src\/.*\.rs$/.test(path);
const isCrate = ({ path }: Source) => /^ffi\/.*\.rs$/.test(path);

/** Failures of `source` at the given mentions. */
function at(source: Source, found: readonly Mention[], what: (name: string) => string): Failure[] {
  return found.map(({ name, line }) => ({ path: source.path, line, what: what(name) }));
}

/** The number of the row that holds `name`, or -1. */
const rowOf = (rows: Rows, name: string) => rows.findIndex((row) => row.includes(name));

// Headers

/** Files whose kind allows a comment begin with two lines on licence and holders. */
function header(source: Source): Failure[] {
  if (!takesComments(source)) return [];
  const top = source.text.split("\n").slice(0, 4).join("\n");
  const wanted = [
    "License-Identifier: Apache-2.0",
    "FileCopyrightText: proton-stream contributors",
  ];
  return wanted.filter((line) => !top.includes(`SPDX-${line}`))
    .map((line) => ({ path: source.path, line: 1, what: `lacks the header line "SPDX-${line}"` }));
}

/** Whether a file of this kind can hold a comment. */
function takesComments({ path, text }: Source): boolean {
  return /\.(ts|mts|js|mjs|rs|toml|md|c|h|sh|yml|yaml)$/.test(path) || text.startsWith("#!");
}

// TypeScript

function typescriptFailures(source: Source): Failure[] {
  const imports = typescriptImports(source);
  const relative = imports.filter(({ name }) => /^\.\.?\//.test(name));
  const others = imports.filter(({ name }) => !/^\.\.?\//.test(name));
  return [
    ...placed(source, rowOf(typescript, source.path) >= 0),
    ...at(
      source,
      relative.filter(({ name }) => !allowed(source.path, name)),
      (name) =>
        `may not import ${resolved(source.path, name)}: it is not below in scripts/layers.ts`,
    ),
    ...at(
      source,
      others.filter(({ name }) => !builtin(source, name)),
      (name) => `imports "${name}": only relative imports, and node: under ${runtimeFolder}`,
    ),
    ...at(source, runtimeNames(source), (name) => `names ${name}: only under ${runtimeFolder}`),
  ];
}

/** The failure of a file that no table knows. */
function placed(source: Source, known: boolean): Failure[] {
  const what = "is in no row of scripts/layers.ts: give it a room";
  return known ? [] : [{ path: source.path, line: 1, what }];
}

/** Whether the tables let `from` import `specifier`. */
function allowed(from: string, specifier: string): boolean {
  const to = resolved(from, specifier);
  const below = rowOf(typescript, to) > rowOf(typescript, from);
  if (upward[from]?.includes(to)) return true;
  return below && (reserved[to]?.includes(from) ?? true);
}

const builtin = (source: Source, name: string) =>
  source.path.startsWith(runtimeFolder) && /^(node|bun):/.test(name);

/** Where a file outside the native folder names a runtime. */
function runtimeNames(source: Source): Mention[] {
  if (source.path.startsWith(runtimeFolder)) return [];
  return mentions(masked(source, true), /(?<![.\w])(Deno|Bun)\b/g);
}

// Rust

function rustEdges(source: Source, sources: readonly Source[]): Failure[] {
  if (rustFree.some((free) => source.path.startsWith(free))) return [];
  const from = rustRoom(source.path.replace(/^ffi\/src\//, "").replace(/\.rs$/, ""));
  if (from === undefined) return placed(source, false);
  const wrong = rustPaths(source).filter(({ name }) => {
    const to = rustRoom(moduleOf(name, sources));
    return to === undefined || (to !== from && !rustBelow(from, to));
  });
  return at(source, wrong, (name) => `may not use ${name}: it is not below in scripts/layers.ts`);
}

/** The longest beginning of a Rust path that is a file. */
function moduleOf(name: string, sources: readonly Source[]): string {
  const steps = name.split("/");
  for (let length = steps.length; length > 0; length--) {
    const path = steps.slice(0, length).join("/");
    if (sources.some((source) => source.path === `ffi/src/${path}.rs`)) return path;
  }
  return name;
}

/** The room of the tables that a module belongs to. */
function rustRoom(module: string): string | undefined {
  const rooms = [...rust.columns, rust.base].flat(2);
  return rooms.find((room) => module === room || module.startsWith(`${room}/`));
}

/** Whether `to` stands below `from`: lower in the same column, or in the base under every column. */
function rustBelow(from: string, to: string): boolean {
  const column = [...rust.columns, rust.base].find((rows) => rowOf(rows, from) >= 0) ?? [];
  const inColumn = rowOf(column, to) > rowOf(column, from);
  return inColumn || (column !== rust.base && rowOf(rust.base, to) >= 0);
}

/** `unsafe` only at its addresses, and each block with its reason. */
function unsafeFailures(source: Source): Failure[] {
  const code = masked(source, true);
  if (!unsafePlaces.some((place) => source.path.startsWith(place))) {
    return at(source, mentions(code, /\bunsafe\b/g), () => "unsafe: not in one of its places");
  }
  const bare = mentions(code, /\bunsafe\s*\{/g).filter(({ line }) => !reasoned(source, line));
  return at(source, bare, () => "unsafe without a SAFETY comment above it");
}

/** Whether a SAFETY comment stands above the statement that `line` belongs to. */
function reasoned(source: Source, line: number): boolean {
  const lines = source.text.split("\n");
  for (let above = line - 2; above >= 0; above--) {
    const text = (lines[above] ?? "").trim();
    if (/^\/\/ ?SAFETY:/.test(text)) return true;
    if (!text.startsWith("//") && (text === "" || /[;{}]$/.test(text))) return false;
  }
  return false;
}

// The ABI

/** Both sides of the boundary name the same ABI number. */
function abiNumbers(sources: readonly Source[]): Failure[] {
  const sides: [string, RegExp][] = [
    ["ffi/src/kernel/wire.rs", /\bconst ABI: u32 = (\d+);/g],
    ["src/native/abi.ts", /\bexport const ABI\b[^=\n]*= (\d+)/g],
  ];
  const found = sides.map(([path, pattern]) => {
    const source = sources.find((one) => one.path === path);
    return { path, ...(source && mentions(source.text, pattern)[0]) };
  });
  const missing = found.filter(({ name }) => name === undefined)
    .map(({ path }) => ({ path, line: 1, what: "names no ABI number" }));
  const [native, script] = found;
  if (missing.length > 0 || native?.name === script?.name) return missing;
  const what = `ABI ${script?.name}, but ${native?.path}:${native?.line} says ${native?.name}`;
  return [{ path: script?.path ?? "", line: script?.line ?? 1, what }];
}

/** The committed bindings are what the generator of this checkout writes now. */
async function bindings(): Promise<Failure[]> {
  const path = "src/native/bindings.ts";
  const fresh = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    const args = ["run", "--quiet", "--locked", "--manifest-path", "ffi/Cargo.toml"];
    const run = new Deno.Command("cargo", {
      args: [...args, "--bin", "bindings", "--", fresh],
      cwd: checkout,
    });
    const { success } = await run.spawn().status;
    if (!success) return [{ path: "ffi/src/bin/bindings.rs", line: 1, what: "failed to run" }];
    return differs(path, await Deno.readTextFile(path), await Deno.readTextFile(fresh));
  } finally {
    await Deno.remove(fresh);
  }
}

/** The first line where a generated file is not what it should be. */
function differs(path: string, has: string, wanted: string): Failure[] {
  if (has === wanted) return [];
  const lines = wanted.split("\n");
  const line = has.split("\n").findIndex((text, at) => text !== lines[at]) + 1;
  const cure = `run "cargo run --manifest-path ffi/Cargo.toml --bin bindings -- ${path}"`;
  return [{ path, line: line || 1, what: `is not what the generator writes: ${cure}` }];
}

// The tree

/** Every text file of the checkout that git would not ignore. */
async function tree(): Promise<Source[]> {
  const ignored = (await Deno.readTextFile(".gitignore")).split("\n")
    .filter((line) => /^\/.*\/$/.test(line)).map((line) => line.slice(1, -1));
  const found: Source[] = [];
  for await (const path of files("", new Set([...ignored, ".git"]))) {
    found.push({ path, text: await Deno.readTextFile(path) });
  }
  return found.sort((one, other) => one.path < other.path ? -1 : 1);
}

/** The files below a folder, without the ignored ones. */
async function* files(folder: string, ignored: ReadonlySet<string>): AsyncGenerator<string> {
  for await (const entry of Deno.readDir(folder || ".")) {
    const path = folder ? `${folder}/${entry.name}` : entry.name;
    if (ignored.has(path)) continue;
    if (entry.isDirectory) yield* files(path, ignored);
    else if (entry.isFile) yield path;
  }
}

if (import.meta.main) {
  Deno.chdir(Deno.args[0] ?? checkout);
  const sources = await tree();
  const found = [...failures(sources), ...await bindings()];
  for (const { path, line, what } of found) console.error(`${path}:${line}: ${what}`);
  console.log(`${sources.length} files looked at, ${found.length} failures`);
  if (found.length > 0) Deno.exit(1);
}
