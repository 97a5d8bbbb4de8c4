// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Reads source files as far as `scripts/check` needs it: comments and strings
 * masked out, imports found, each with its line.
 *
 * @module
 */

/** One file of the checkout, its path relative to the top. */
export interface Source {
  path: string;
  text: string;
}

/** Something a file names, and the line where it does. */
export interface Mention {
  name: string;
  line: number;
}

/** `text` with comments, and on demand strings, replaced by spaces; offsets and lines stay. */
export function masked(source: Source, strings: boolean): string {
  const blank = (part: string) => part.replace(/[^\n]/g, " ");
  const keepQuotes = (part: string) => strings ? blank(part) : part;
  return source.text.replace(
    tokens(source.path),
    (part) => part.startsWith("//") || part.startsWith("/*") ? blank(part) : keepQuotes(part),
  );
}

/** What may hide code: comments, strings, and in Rust raw strings and characters. */
function tokens(path: string): RegExp {
  const common = String.raw`\/\/[^\n]*|\/\*[\s\S]*?\*\/`;
  return path.endsWith(".rs")
    ? new RegExp(
      common +
        String.raw`|r(#+)"[\s\S]*?"\1|r"[^"]*"|"(?:[^"\\]|\\[\s\S])*"|'(?:[^'\\\n]|\\[^\n]+?)'`,
      "g",
    )
    : new RegExp(
      common + String.raw`|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|` +
        "`(?:[^`\\\\]|\\\\[\\s\\S])*`",
      "g",
    );
}

/** The line, from 1, that holds `offset`. */
export function lineAt(text: string, offset: number): number {
  let line = 1;
  for (let at = text.indexOf("\n"); at >= 0 && at < offset; at = text.indexOf("\n", at + 1)) line++;
  return line;
}

/** Every match of `pattern` in `text`; the name is the first group, or the whole match. */
export function mentions(text: string, pattern: RegExp): Mention[] {
  return [...text.matchAll(pattern)].map((match) => ({
    name: match[1] ?? match[0],
    line: lineAt(text, match.index),
  }));
}

/** The specifiers that a TypeScript file imports or re-exports, types included. */
export function typescriptImports(source: Source): Mention[] {
  const code = masked(source, false);
  return [
    ...mentions(code, /\b(?:import|export)\b[^;"'`()]*?\bfrom\s*["']([^"'\n]+)["']/g),
    ...mentions(code, /\bimport\s*\(?\s*["']([^"'\n]+)["']/g),
  ];
}

/** The file that a relative specifier of `from` names. */
export function resolved(from: string, specifier: string): string {
  return new URL(specifier, `file:///${from}`).pathname.slice(1);
}

/** The paths below the crate that a Rust file names, such as `kernel/sys/poll`. */
export function rustPaths(source: Source): Mention[] {
  const code = masked(source, true);
  return [...code.matchAll(/\b(crate|self|super)\s*::/g)].flatMap((match) => {
    if (/::\s*$/.test(code.slice(0, match.index))) return []; // the middle of a path
    const start = parentOf(source.path, code, match.index, match[1] ?? "");
    return tree(code, { at: match.index + match[0].length }).map((leaf) => ({
      name: climbed([...start, ...leaf]).join("/"),
      line: lineAt(code, match.index),
    }));
  });
}

/** `a/b/super/c` is `a/c`. */
function climbed(path: string[]): string[] {
  return path.reduce<string[]>(
    (way, step) => step === "super" ? way.slice(0, -1) : [...way, step],
    [],
  );
}

/** The module that `crate`, `self` or `super` means at `offset`. */
function parentOf(path: string, code: string, offset: number, keyword: string): string[] {
  const here = path.replace(/^ffi\/src\//, "").replace(/\.rs$/, "").split("/");
  if (keyword === "crate") return [];
  if (keyword === "self" || inlineModules(code, offset) > 0) return here;
  return here.slice(0, -1);
}

/** How many `mod name { ... }` of the file itself enclose `offset`. */
function inlineModules(code: string, offset: number): number {
  const open: boolean[] = [];
  for (const match of code.slice(0, offset).matchAll(/(\bmod\s+\w+\s*)?\{|\}/g)) {
    if (match[0] === "}") open.pop();
    else open.push(match[1] !== undefined);
  }
  return open.filter(Boolean).length;
}

/** The ends of the use tree at `place`, which is moved behind it: `a::{b, c::d}` is a/b and a/c/d. */
function tree(code: string, place: { at: number }): string[][] {
  const path: string[] = [];
  for (;;) {
    skipSpace(code, place);
    if (code[place.at] === "{") return branches(code, place).map((leaf) => [...path, ...leaf]);
    const word = /^[A-Za-z_]\w*/.exec(code.slice(place.at, place.at + 80))?.[0];
    if (word === undefined) return [path];
    place.at += word.length;
    path.push(word);
    if (!/^\s*::/.test(code.slice(place.at, place.at + 20))) return [path];
    place.at = code.indexOf("::", place.at) + 2;
  }
}

/** Parses `{ a, b::c as d }`. */
function branches(code: string, place: { at: number }): string[][] {
  const found: string[][] = [];
  place.at++;
  while (place.at < code.length && code[place.at] !== "}") {
    const before = place.at;
    found.push(...tree(code, place));
    while (place.at < code.length && !/[,}]/.test(code[place.at] ?? "}")) place.at++;
    if (code[place.at] === ",") place.at++;
    skipSpace(code, place);
    if (place.at === before) break;
  }
  place.at++;
  return found;
}

function skipSpace(code: string, place: { at: number }): void {
  while (/\s/.test(code[place.at] ?? "x")) place.at++;
}
