// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Which runtime this is, which native library belongs to it, and whether that
 * file is fit to be loaded. Nothing is done before the first port.
 *
 * @module
 */

import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import type { Core } from "../core.ts";
import { NativeError, PermissionError } from "../errors.ts";
import { ABI, type Runtime } from "./abi.ts";
import { deno } from "./deno.ts";
import { Isolate } from "./isolate.ts";
import { nodeApi } from "./napi.ts";

/** Names the library's file for a program that was bundled away from it. */
const VARIABLE = "PROTON_STREAM_LIBRARY";
/** The program of this process: the runtime. */
const PROGRAM = "/proc/self/exe";

let core: Core | undefined;

/**
 * The native side of this isolate.
 *
 * @throws {NativeError} when there is no fit library for this machine.
 * @throws {PermissionError} when the runtime's permissions refuse it.
 */
export function nativeCore(): Core {
  return core ??= firstThatOpens(libraryFiles());
}

/** The native side of this isolate from one file, for tests. Errors as {@link nativeCore}. */
export function openLibrary(file: string): Core {
  const runtime = thisRuntime();
  inspect(runtime, file);
  try {
    return new Isolate(runtime.open(file, (abi) => checkAbi(file, abi)));
  } catch (error) {
    if (error instanceof NativeError || error instanceof PermissionError) throw error;
    throw unloadable(file, error);
  }
}

function thisRuntime(): Runtime {
  return process.versions.deno === undefined ? nodeApi : deno;
}

/** Where the libc is not known, the loader's refusal of the first file may mean that the next one fits. */
function firstThatOpens([file = "", ...others]: readonly string[]): Core {
  try {
    return openLibrary(file);
  } catch (error) {
    const unfit = error instanceof NativeError && error.code === "ELIBACC";
    if (!unfit || others.length === 0) throw error;
    return openedOr(error, others);
  }
}

/** The failure of the first file tells most: the others were guesses. */
function openedOr(first: NativeError, others: readonly string[]): Core {
  try {
    return firstThatOpens(others);
  } catch {
    throw first;
  }
}

function libraryFiles(): string[] {
  const cpu = process.arch;
  if (process.platform !== "linux" || (cpu !== "x64" && cpu !== "arm64")) {
    throw libraryError(`${process.platform}-${cpu}`, {
      why: "there is none for this system",
      code: "ENOSYS",
      mend: "run on Linux, on x86-64 or aarch64",
    });
  }
  const named = thisRuntime().variable(VARIABLE);
  if (named !== undefined && named !== "") return [absolute(named)];
  return libcs().map((libc) => beside(`${cpu}-${libc}.node`));
}

/** Without a slash the loader would look through its own list of places. */
function absolute(file: string): string {
  if (file.startsWith("/")) return file;
  throw libraryError(file, {
    why: `${VARIABLE} is not an absolute path`,
    code: "EINVAL",
    mend: "give it from / on",
  });
}

/** In a checkout the library lies where the build puts it, in the package beside the bundle's folder. */
function beside(name: string): string {
  const here = import.meta.url;
  const folder = here.endsWith("/src/native/load.ts") ? "../../npm/native/" : "../native/";
  const url = new URL(folder + name, here);
  if (url.protocol === "file:") return fileURLToPath(url);
  throw libraryError(url.href, {
    why: "this code was not loaded from a local file",
    code: "ENOENT",
    mend: `install the npm package, or name a local copy in ${VARIABLE} and allow it to be read`,
  });
}

/** The libc of this runtime, by the loader it names; both where that may not be read. */
function libcs(): readonly string[] {
  const both = ["gnu", "musl"];
  if (!thisRuntime().mayRead(PROGRAM)) return both;
  try {
    const loader = withFile(PROGRAM, (fd) => interpreter(fd));
    return loader === null ? both : [loader.includes("musl") ? "musl" : "gnu"];
  } catch {
    // Deno keeps /proc from a program without every permission, whatever it may read.
    return both;
  }
}

/** Refuses what can be seen to be unfit; a file that may not be read is left to the loader. */
function inspect(runtime: Runtime, file: string): void {
  if (!runtime.mayRead(file)) return;
  let size: { is: number; needed: number | null };
  try {
    size = withFile(file, (fd) => ({ is: fstatSync(fd).size, needed: bytesNeeded(fd) }));
  } catch (error) {
    if (!isMissing(error)) return;
    throw missing(file, error);
  }
  if (size.needed === null) throw notElf(file);
  if (size.is < size.needed) {
    throw libraryError(file, {
      // The loader maps what is not there and dies of SIGBUS at the first use of it.
      why: `it is cut off: ${size.is} bytes of ${size.needed}`,
      code: "ELIBBAD",
    });
  }
}

function withFile<T>(path: string, use: (fd: number) => T): T {
  const fd = openSync(path, "r");
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

/** An ELF program header, as far as it matters here. */
interface Segment {
  type: number;
  offset: number;
  bytes: number;
}

const [PT_LOAD, PT_INTERP] = [1, 3];

/** The segments of a 64-bit little-endian ELF file; null where it is none. */
function segments(fd: number): Segment[] | null {
  const head = bytesAt(fd, 0, 64);
  if (head.byteLength < 64 || head.getUint32(0) !== 0x7f454c46) return null;
  // Class 64 bit, little-endian.
  if (head.getUint16(4) !== 0x0201) return null;
  const [at, each, count] = [u64(head, 32), head.getUint16(54, true), head.getUint16(56, true)];
  const table = bytesAt(fd, at, each * count);
  if (each < 56 || table.byteLength < each * count) return null;
  return Array.from({ length: count }, (_, index) => {
    const entry = index * each;
    const type = table.getUint32(entry, true);
    return { type, offset: u64(table, entry + 8), bytes: u64(table, entry + 32) };
  });
}

function bytesAt(fd: number, position: number, length: number): DataView {
  const bytes = new Uint8Array(length);
  const got = length === 0 ? 0 : readSync(fd, bytes, 0, length, position);
  return new DataView(bytes.buffer, 0, got);
}

function u64(view: DataView, at: number): number {
  return Number(view.getBigUint64(at, true));
}

/** How long the file must be for its segments to be there; null where it is no ELF file. */
function bytesNeeded(fd: number): number | null {
  const loaded = segments(fd)?.filter(({ type }) => type === PT_LOAD);
  return loaded === undefined ? null : Math.max(0, ...loaded.map((s) => s.offset + s.bytes));
}

/** The loader that a program names; null where it names none. */
function interpreter(fd: number): string | null {
  const segment = segments(fd)?.find(({ type }) => type === PT_INTERP);
  if (segment === undefined) return null;
  return new TextDecoder().decode(bytesAt(fd, segment.offset, Math.min(segment.bytes, 4096)));
}

function checkAbi(file: string, abi: number | null): void {
  if (abi === ABI) return;
  const is = abi === null ? "it has no ABI number" : `its ABI number is ${abi}`;
  throw libraryError(file, { why: `${is}, this code needs ${ABI}`, code: "EABI" });
}

/** What the loader's own words say, where we could not look for ourselves. */
function unloadable(file: string, error: unknown): NativeError {
  const said = error instanceof Error ? error.message : String(error);
  const text = said.replace(/^(Could not open library: )+/, "");
  if (text.includes(`${file}: `) && /No such file or directory/.test(text)) {
    return missing(file, error);
  }
  if (/invalid ELF header|file too short|Exec format error/.test(text)) return notElf(file, error);
  const why = (text.split("\n", 1)[0] ?? text).replace(/\.$/, "");
  return libraryError(file, { why, code: "ELIBACC", cause: error });
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}

function missing(file: string, cause: unknown): NativeError {
  return libraryError(file, { why: "there is no such file", code: "ENOENT", cause });
}

function notElf(file: string, cause?: unknown): NativeError {
  return libraryError(file, { why: "it is not an ELF file", code: "ENOEXEC", cause });
}

function libraryError(
  file: string,
  { why, code, mend, cause }: { why: string; code: string; mend?: string; cause?: unknown },
): NativeError {
  return new NativeError({
    what: `Cannot load the native library ${file}`,
    why,
    code,
    mend: mend ?? 'build it with "scripts/build", or reinstall the package',
    op: "open",
    subject: file,
    cause,
  });
}
