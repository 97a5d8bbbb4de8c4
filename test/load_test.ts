// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// Which files are refused as the native library, and with which words.

import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import process from "node:process";
import { NativeError } from "../src/errors.ts";
import { ABI } from "../src/native/abi.ts";
import { nativeCore, openLibrary } from "../src/native/load.ts";

const MEND = 'build it with "scripts/build", or reinstall the package';

/** A directory for one test, gone with it. */
function inDirectory(test: (directory: string) => void | Promise<void>): () => Promise<void> {
  return async () => {
    const directory = Deno.makeTempDirSync({ prefix: "proton_test_" });
    try {
      await test(directory);
    } finally {
      Deno.removeSync(directory, { recursive: true });
    }
  };
}

function refused(file: string, code: string, why: string): void {
  const error = assertThrows(() => openLibrary(file), NativeError);
  assertEquals([error.code, error.subject], [code, file]);
  assertEquals(error.message, `Cannot load the native library ${file}: ${why} (${code}): ${MEND}`);
}

/** An ELF file of one loaded segment that reaches up to `end`, with `bytes` bytes of it there. */
function elf(end: number, bytes: number): Uint8Array {
  const file = new Uint8Array(Math.max(bytes, 120));
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 3, true);
  view.setUint16(18, Deno.build.arch === "x86_64" ? 62 : 183, true);
  view.setBigUint64(32, 64n, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, 1, true);
  view.setUint32(64, 1, true);
  view.setBigUint64(72, 0n, true);
  view.setBigUint64(96, BigInt(end), true);
  return file.subarray(0, bytes);
}

/** Compiles a library from one line of C. */
function compile(directory: string, line: string): string {
  const [source, file] = [`${directory}/one.c`, `${directory}/one.node`];
  Deno.writeTextFileSync(source, line);
  const args = ["-shared", "-fPIC", "-o", file, source];
  assertEquals(new Deno.Command("cc", { args }).outputSync().code, 0);
  return file;
}

Deno.test(
  "load: a missing file is named, with the command that builds it",
  inDirectory((directory) => {
    refused(`${directory}/none.node`, "ENOENT", "there is no such file");
  }),
);

Deno.test(
  "load: what is not an ELF file is told as such",
  inDirectory((directory) => {
    const contents = [
      new Uint8Array(),
      new TextEncoder().encode("hello, I am a text and more than sixty-four bytes long, am I not?"),
      elf(120, 40),
      elf(120, 100),
    ];
    for (const content of contents) {
      Deno.writeFileSync(`${directory}/text.node`, content);
      refused(`${directory}/text.node`, "ENOEXEC", "it is not an ELF file");
    }
  }),
);

Deno.test(
  "load: a file shorter than its segments never reaches the loader",
  inDirectory((directory) => {
    Deno.writeFileSync(`${directory}/short.node`, elf(8192, 8191));
    refused(`${directory}/short.node`, "ELIBBAD", "it is cut off: 8191 bytes of 8192");
    // The whole one is refused for what it lacks, by the loader.
    Deno.writeFileSync(`${directory}/whole.node`, elf(8192, 8192));
    const error = assertThrows(() => openLibrary(`${directory}/whole.node`), NativeError);
    assertEquals(error.code, "ELIBACC");
  }),
);

Deno.test(
  "load: another ABI number, or none",
  inDirectory((directory) => {
    const other = compile(directory, "unsigned ps_abi_version(void) { return 999; }");
    refused(other, "EABI", `its ABI number is 999, this code needs ${ABI}`);
    const none = compile(directory, "int nothing;");
    refused(none, "EABI", `it has no ABI number, this code needs ${ABI}`);
  }),
);

/** What `script` complains of in a Deno with just `flags`. */
async function saidBy(
  flags: readonly string[],
  { script, env = {} }: { script: string; env?: Record<string, string> },
): Promise<string> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--quiet", "--no-lock", ...flags, "-"],
    cwd: new URL("..", import.meta.url),
    env: { ...env, NO_COLOR: "1" },
    stdin: "piped",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(script));
  await writer.close();
  return new TextDecoder().decode((await child.output()).stderr);
}

/** What a program that may only use FFI says of `file`. */
function withFfiOnly(allowed: string, file: string): Promise<string> {
  const script = `import { openLibrary } from "./src/native/load.ts"; openLibrary(${
    JSON.stringify(file)
  });`;
  return saidBy([`--allow-ffi=${allowed}`], { script });
}

/** The same of the file that the variable names. */
function withVariable(allowed: string, value: string): Promise<string> {
  return saidBy([`--allow-ffi=${allowed}`, "--allow-env=PROTON_STREAM_LIBRARY"], {
    script: `import { nativeCore } from "./src/native/load.ts"; nativeCore();`,
    env: { PROTON_STREAM_LIBRARY: value },
  });
}

Deno.test(
  "load: where the file may not be read, the loader's words are understood",
  inDirectory(async (directory) => {
    const text = `${directory}/text.node`;
    Deno.writeTextFileSync(text, "hello");
    assertMatch(
      await withFfiOnly(directory, text),
      /NativeError: Cannot .*text\.node: it is not an ELF file \(ENOEXEC\): build it with/,
    );
    assertMatch(
      await withFfiOnly(directory, `${directory}/none.node`),
      /NativeError: Cannot .*none\.node: there is no such file \(ENOENT\): build it with/,
    );
  }),
);

Deno.test(
  "load: without permission for the file the message says which flag gives it",
  inDirectory(async (directory) => {
    const file = `${directory}/none.node`;
    const said = await withFfiOnly("/nowhere", file);
    assertMatch(said, /PermissionError: Cannot load the native library .*none\.node: /);
    assertMatch(said, new RegExp(`\\(EACCES\\): run it with --allow-ffi=${file}\\n`));
  }),
);

Deno.test(
  "load: PROTON_STREAM_LIBRARY names the file, by an absolute path",
  inDirectory(async (directory) => {
    const file = `${directory}/none.node`;
    assertMatch(await withVariable(directory, file), /library .*none\.node: .*\(ENOENT\)/);
    assertMatch(
      await withVariable(directory, "native/x64-gnu.node"),
      /library native\/x64-gnu\.node: PROTON_STREAM_LIBRARY is not an absolute path \(EINVAL\)/,
    );
  }),
);

Deno.test("load: another system is told that there is no library for it", () => {
  const platform = process.platform;
  Object.defineProperty(process, "platform", { value: "darwin" });
  try {
    assertThrows(() => nativeCore(), NativeError, "there is none for this system (ENOSYS)");
  } finally {
    Object.defineProperty(process, "platform", { value: platform });
  }
});

Deno.test(
  "load: code that came over the network has no file beside it",
  inDirectory(async (directory) => {
    await using server = Deno.serve({ port: 0, onListen() {} }, async (request) => {
      const file = new URL(`..${new URL(request.url).pathname}`, import.meta.url);
      return new Response(await Deno.readTextFile(file), {
        headers: { "content-type": "application/typescript" },
      });
    });
    const host = `localhost:${(server.addr as Deno.NetAddr).port}`;
    const said = await saidBy(["--allow-ffi", `--allow-import=${host}`], {
      script: `import { nativeCore } from "http://${host}/src/native/load.ts"; nativeCore();`,
      env: { DENO_DIR: directory },
    });
    assertMatch(said, /not loaded from a local file \(ENOENT\): .* PROTON_STREAM_LIBRARY/);
  }),
);
