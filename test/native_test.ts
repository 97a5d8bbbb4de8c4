// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** A library that cannot be used is told by name, with the command that builds it. */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { output, Scratch, test } from "./helpers.ts";
import { copyTree, Host } from "./host_process.ts";

/** A copy of what a program needs, with the library in a state of the test's choice. */
class Tree implements Disposable {
  readonly #scratch = new Scratch();
  readonly path: string = `${this.#scratch.path}/`;
  readonly library: string;

  constructor() {
    copyTree(this.path);
    const folder = `${this.path}npm/native`;
    const name = [...Deno.readDirSync(folder)].map(({ name }) => name).find((n) =>
      n.endsWith(".node")
    );
    this.library = `${folder}/${name}`;
  }

  /** What the first `open` says, and how the host then ended. */
  async answer(options: { allow?: string[]; env?: Record<string, string> } = {}): Promise<string> {
    await using host = Host.start(
      `
      const answer = await open("true").then((port) => port.status).then(({ reason }) => reason.kind,
        (error) => error.name + ": " + error.message);
      say("answer", answer);
      `,
      { ...options, tree: this.path },
    );
    const words = await host.next("answer");
    assertEquals((await host.end()).signal, null);
    return words.join(" ");
  }

  [Symbol.dispose](): void {
    this.#scratch[Symbol.dispose]();
  }
}

/** Code that every permission set must show, and what a test may name besides. */
function assertTells(answer: string, file: string, code: string): void {
  assertMatch(answer, new RegExp(`^NativeError: .+: .+ \\(${code}\\): .+`));
  assertStringIncludes(answer, file);
  assertStringIncludes(answer, "scripts/build");
}

const CASES: [name: string, code: string, spoil: (file: string) => void | Promise<void>][] = [
  ["missing", "ENOENT", (file) => Deno.removeSync(file)],
  [
    "not an ELF file",
    "ENOEXEC",
    (file) => Deno.writeTextFileSync(file, "#!/bin/sh\n".repeat(1000)),
  ],
  ["empty", "ENOEXEC", (file) => Deno.truncateSync(file, 0)],
  [
    "shorter than its segments",
    "ELIBBAD",
    // Not half of it: in a build that is not stripped, symbols would be all that is cut off.
    (file) => Deno.truncateSync(file, 65_536),
  ],
  ["of another ABI", "EABI", ofAnotherAbi],
];

for (const [name, code, spoil] of CASES) {
  test(`a library that is ${name}: NativeError that names the file and the command`, async () => {
    using tree = new Tree();
    await spoil(tree.library);
    assertTells(await tree.answer(), tree.library, code);
  });
}

/** Everything a library has to export, with the wrong number. */
async function ofAnotherAbi(file: string): Promise<void> {
  const bindings = Deno.readTextFileSync(new URL("../src/native/bindings.ts", import.meta.url));
  const names = new Set(bindings.match(/\bps_\w+/g));
  names.delete("ps_abi_version");
  const source = [
    "int ps_abi_version(void) { return 999; }",
    ...[...names].map((name) => `int ${name}(void) { return -38; }`),
    "void *napi_register_module_v1(void *env, void *exports) { return exports; }",
  ];
  Deno.writeTextFileSync(`${file}.c`, source.join("\n"));
  await output("cc", "-shared", "-fPIC", "-o", file, `${file}.c`);
}

test("where the file may not be read, its loader's words decide", async () => {
  const allow = ["--allow-ffi", "--allow-run"];
  for (const [name, code, spoil] of CASES) {
    if (name === "shorter than its segments") continue; // the loader answers it with SIGBUS
    using tree = new Tree();
    await spoil(tree.library);
    assertTells(await tree.answer({ allow }), tree.library, name === "empty" ? "ENOEXEC" : code);
  }
});

test("PROTON_STREAM_LIBRARY names the file where the variable may be read, and only there", async () => {
  using tree = new Tree();
  using scratch = new Scratch();
  const moved = scratch.file("elsewhere.node");
  Deno.copyFileSync(tree.library, moved);
  const env = { PROTON_STREAM_LIBRARY: moved };
  Deno.removeSync(tree.library);
  assertEquals(await tree.answer({ env }), "normal");
  const without = await tree.answer({ env, allow: ["--allow-ffi", "--allow-run"] });
  assertTells(without, tree.library, "ENOENT");
  assertMatch(
    await tree.answer({ env: { PROTON_STREAM_LIBRARY: "here.node" } }),
    /NativeError: .*EINVAL/,
  );
});

test("the library works at mode 0644 and after its file was replaced", async () => {
  using tree = new Tree();
  Deno.chmodSync(tree.library, 0o644);
  await using host = Host.start(
    `
    await (await open("true")).status;
    say("first");
    await hear();
    proton.resetGuardian?.();
    const { reason } = await (await open("true")).status;
    say("second", reason.kind);
    `,
    { tree: tree.path },
  );
  await host.next("first");
  Deno.renameSync(tree.library, `${tree.library}.old`);
  Deno.writeTextFileSync(tree.library, "replaced");
  await host.tell("go\n");
  assertEquals(await host.next("second"), ["normal"]);
});
