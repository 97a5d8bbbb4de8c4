// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** `scripts/check` passes this checkout, and names file, line and rule of each way to spoil it. */

import { assertEquals } from "@std/assert";
import { cpSync } from "node:fs";
import { CHECKOUT, Scratch, test, textOf } from "./helpers.ts";

/** What the rules are about; without anything that a build has left there. */
const PARTS = [".gitignore", "mod.ts", "src", "ffi/build.rs", "ffi/src", "ffi/tests", "scripts"];

// Built here, outside of any deadline: in a fresh checkout that takes a minute or two.
const bindings = ["--manifest-path", `${CHECKOUT}ffi/Cargo.toml`, "--bin", "bindings"];
const build = new Deno.Command("cargo", { args: ["build", "--quiet", "--locked", ...bindings] });
if (!(await build.spawn().status).success) throw new Error("the bindings' generator was not built");

/** A copy of what `scripts/check` looks at, to be spoiled. */
class Copy implements Disposable {
  readonly #scratch = new Scratch();

  constructor() {
    for (const part of PARTS) {
      cpSync(CHECKOUT + part, this.#scratch.file(part), { recursive: true });
    }
  }

  read(path: string): string {
    return Deno.readTextFileSync(this.#scratch.file(path));
  }

  write(path: string, text: string): void {
    Deno.writeTextFileSync(this.#scratch.file(path), text);
  }

  /** Puts `text` behind all else; returns its line, as messages name it. */
  append(path: string, text: string): number {
    const before = this.read(path);
    this.write(path, `${before}${text}\n`);
    return before.split("\n").length;
  }

  /** Takes the first line that `pattern` matches out; returns where it was. */
  cut(path: string, pattern: RegExp): number {
    const lines = this.read(path).split("\n");
    const at = lines.findIndex((line) => pattern.test(line));
    if (at < 0) throw new Error(`${path} has no line like ${pattern}`);
    this.write(path, lines.toSpliced(at, 1).join("\n"));
    return at + 1;
  }

  /** What the check says about this copy: its failures, and whether they made it fail. */
  async check(): Promise<{ success: boolean; failures: string[]; sum: string }> {
    const args = ["run", "--quiet", "--allow-all", `${CHECKOUT}scripts/check.ts`];
    const command = new Deno.Command(Deno.execPath(), { args: [...args, this.#scratch.path] });
    const { success, stdout, stderr } = await command.output();
    const failures = textOf(stderr).split("\n").filter((line) => /^[\w./]+:\d+: /.test(line));
    return { success, failures, sum: textOf(stdout).trim() };
  }

  [Symbol.dispose](): void {
    this.#scratch[Symbol.dispose]();
  }
}

/** One test: what `spoil` does to a copy fails with the one message that it returns. */
function caught(name: string, spoil: (copy: Copy) => string): void {
  test(`check: ${name}`, async () => {
    using copy = new Copy();
    const message = spoil(copy);
    const { success, failures } = await copy.check();
    assertEquals(failures, [message]);
    assertEquals(success, false);
  });
}

test("check: what nobody has touched passes", async () => {
  using copy = new Copy();
  const { success, failures, sum } = await copy.check();
  assertEquals(failures, []);
  assertEquals(success, true);
  assertEquals(/^(\d+) files looked at, 0 failures$/.test(sum) && parseInt(sum) > 50, true, sum);
});

// Layers

const below = "it is not below in scripts/layers.ts";

caught("an import that points up", (copy) => {
  const line = copy.append("src/errors.ts", 'import type { Port } from "./port.ts";');
  return `src/errors.ts:${line}: may not import src/port.ts: ${below}`;
});

caught("an import over several lines, and a re-export, are imports", (copy) => {
  const line = copy.append("src/status.ts", 'export {\n  open,\n} from "./port.ts";');
  return `src/status.ts:${line}: may not import src/port.ts: ${below}`;
});

caught("an import of a neighbour", (copy) => {
  const line = copy.append("src/native/deno.ts", 'const napi = await import("./napi.ts");');
  return `src/native/deno.ts:${line}: may not import src/native/napi.ts: ${below}`;
});

caught("an import that is reserved for another file", (copy) => {
  const line = copy.append("src/native/load.ts", 'import "./bindings.ts";');
  return `src/native/load.ts:${line}: may not import src/native/bindings.ts: ${below}`;
});

caught("a package imported", (copy) => {
  const line = copy.append("src/port.ts", 'import "@std/assert";');
  return `src/port.ts:${line}: imports "@std/assert": ` +
    "only relative imports, and node: under src/native/";
});

caught("a runtime named outside the native folder", (copy) => {
  const line = copy.append("src/port.ts", "Deno.exit();");
  return `src/port.ts:${line}: names Deno: only under src/native/`;
});

caught("a file without a room", (copy) => {
  copy.write("src/utils.ts", copy.read("src/status.ts").split("\n").slice(0, 2).join("\n"));
  return "src/utils.ts:1: is in no row of scripts/layers.ts: give it a room";
});

caught("a use that points up", (copy) => {
  const line = copy.append("ffi/src/kernel/wire.rs", "use crate::guard::keeper::Birth;");
  return `ffi/src/kernel/wire.rs:${line}: may not use guard/keeper/Birth: ${below}`;
});

caught("a use across, from the runtime's column to the helpers'", (copy) => {
  const use = "use super::super::{\n    guard::table::Table,\n    kernel::wire::ABI,\n};";
  const line = copy.append("ffi/src/runtime/handle.rs", use);
  return `ffi/src/runtime/handle.rs:${line}: may not use guard/table/Table: ${below}`;
});

caught("a path that points up in the middle of the code", (copy) => {
  const line = copy.append("ffi/src/kernel/procfs.rs", "fn up() { crate::kernel::tree::f() }");
  return `ffi/src/kernel/procfs.rs:${line}: may not use kernel/tree/f: ${below}`;
});

// Unsafe

const block = "fn f() { unsafe { std::hint::unreachable_unchecked() } }";

for (const path of ["ffi/src/runtime/handle.rs", "ffi/src/guard/keeper.rs", "ffi/tests/wire.rs"]) {
  caught(`unsafe in ${path}`, (copy) => {
    const line = copy.append(path, `// SAFETY: does not help here.\n${block}`) + 1;
    return `${path}:${line}: unsafe: not in one of its places`;
  });
}

test("check: unsafe in a comment, a text or a longer word is none", async () => {
  using copy = new Copy();
  copy.append("ffi/src/runtime/handle.rs", '/* unsafe { */ const S: &str = "unsafe {";');
  copy.append("ffi/src/runtime/handle.rs", 'const R: &str = r#"an " unsafe {"#; // unsafe');
  copy.append("ffi/src/runtime/handle.rs", "#![deny(unsafe_code)]");
  assertEquals((await copy.check()).failures, []);
});

caught("an unsafe block that gives no reason", (copy) => {
  const line = copy.append("ffi/src/kernel/sys/helper.rs", block);
  return `ffi/src/kernel/sys/helper.rs:${line}: unsafe without a SAFETY comment above it`;
});

caught("an unsafe block whose reason was taken out", (copy) => {
  const line = copy.cut("ffi/src/guard/child.rs", /^ *\/\/ SAFETY: `start` passes its plan/);
  return `ffi/src/guard/child.rs:${line}: unsafe without a SAFETY comment above it`;
});

caught("an unsafe block below the reason of another", (copy) => {
  const text = `// SAFETY: for the first alone.\n${block}\n${block}`;
  const line = copy.append("ffi/src/kernel/sys/raw.rs", text) + 2;
  return `ffi/src/kernel/sys/raw.rs:${line}: unsafe without a SAFETY comment above it`;
});

// Headers

for (const path of ["src/port.ts", "ffi/src/lib.rs", "scripts/demo"]) {
  caught(`${path} without its licence line`, (copy) => {
    copy.cut(path, /SPDX-License-Identifier/);
    return `${path}:1: lacks the header line "SPDX-License-Identifier: Apache-2.0"`;
  });
}

caught("a file that does not say whose it is", (copy) => {
  copy.cut("src/status.ts", /SPDX-FileCopyrightText/);
  return 'src/status.ts:1: lacks the header line "SPDX-FileCopyrightText: ' +
    'proton-stream contributors"';
});

// The ABI

caught("bindings that lack a call", (copy) => {
  const line = copy.cut("src/native/bindings.ts", /\bps_shut\b/);
  return `src/native/bindings.ts:${line}: is not what the generator writes: run ` +
    '"cargo run --manifest-path ffi/Cargo.toml --bin bindings -- src/native/bindings.ts"';
});

caught("an ABI number that only one side has", (copy) => {
  const wire = copy.read("ffi/src/kernel/wire.rs");
  copy.write(
    "ffi/src/kernel/wire.rs",
    wire.replace(/\bconst ABI: u32 = \d+/, "const ABI: u32 = 99"),
  );
  const place = (path: string, pattern: RegExp) =>
    `${path}:${copy.read(path).split("\n").findIndex((line) => pattern.test(line)) + 1}`;
  const script = copy.read("src/native/abi.ts").match(/\bconst ABI\b.*= (\d+)/)?.[1];
  return `${place("src/native/abi.ts", /\bconst ABI\b/)}: ABI ${script}, but ` +
    `${place("ffi/src/kernel/wire.rs", /\bconst ABI\b/)} says 99`;
});

caught("a link of a page to what is not there", (copy) => {
  const page = "<!-- SPDX-License-Identifier: Apache-2.0 -->\n" +
    "<!-- SPDX-FileCopyrightText: proton-stream contributors -->\n\n" +
    "[a](src/) [b](mod.ts) [c](https://example.com/) [d](docs/none.md#part)\n";
  copy.write("page.md", page);
  return "page.md:4: links to docs/none.md, which is not there";
});
