// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The native library through Deno's FFI, and Deno's permissions: the library
 * sidesteps `--allow-run`, so it is honoured here.
 *
 * @module
 */

import process from "node:process";
import { type Fault, PermissionError, quote } from "../errors.ts";
import type { Spec } from "../options.ts";
import type { Door, Runtime } from "./abi.ts";
import * as bindings from "./bindings.ts";

/** Deno. */
export const deno: Runtime = {
  mayRead: (path) => granted({ name: "read", path }),
  variable: (name) => granted({ name: "env", variable: name }) ? Deno.env.get(name) : undefined,
  open(file, check) {
    try {
      check(abiNumber(file));
      return { door: openDoor(file), view: () => null, allow };
    } catch (error) {
      if (!(error instanceof Deno.errors.NotCapable)) throw error;
      throw refused(error, {
        what: `Cannot load the native library ${file}`,
        why: "this program may not load it",
        mend: `run it with --allow-ffi=${file}`,
        subject: file,
      });
    }
  },
};

/** Never prompts: a permission that would have to be asked for is not granted. */
function granted(permission: Deno.PermissionDescriptor): boolean {
  return Deno.permissions.querySync(permission).state === "granted";
}

/** Looked up alone, so that a library of another ABI is told as such and not as one that lacks a call. */
function abiNumber(file: string): number | null {
  const symbols = { ps_abi_version: { parameters: [], result: "u32", optional: true } } as const;
  const library = Deno.dlopen(file, symbols);
  try {
    return library.symbols.ps_abi_version?.() ?? null;
  } finally {
    library.close();
  }
}

/**
 * FFI for every call, Node-API for the wake-up alone: an FFI callback blocks
 * the native thread and crashes the process when a Worker is terminated.
 */
function openDoor(file: string): Door {
  bindings.load(file);
  const addon = { exports: {} as Pick<Required<Door>, "ps_env_open" | "ps_env_ref" | "ps_take"> };
  process.dlopen(addon, file);
  const { ps_env_open, ps_env_ref, ps_take } = addon.exports;
  return { ...bindings, ps_env_open, ps_env_ref, ps_take };
}

let run: Deno.PermissionStatus | undefined;

/**
 * Asks for `--allow-run` as `Deno.Command` does, prompting where it would.
 *
 * @throws {PermissionError} where it is refused, and for a variable such as
 * LD_PRELOAD, with which one allowed program could be made to run any code.
 */
export function allow(bytes: Uint8Array, spec: Spec): void {
  // Asked for once: Deno keeps the state of what it has handed out up to date, and asking takes 40 µs each time.
  run ??= Deno.permissions.querySync({ name: "run" });
  // Partial: some program is denied by name (--deny-run).
  if (run.state === "granted" && !run.partial) return;
  const path = new TextDecoder().decode(bytes);
  const loader = loaderVariable(spec);
  const what = `Cannot start ${quote(spec.command)}`;
  if (loader !== undefined) {
    throw refused(null, {
      what,
      why: `its environment sets ${loader}, which runs other code inside any program`,
      mend: run.partial
        ? "allow every program with --allow-run and none less with --deny-run, or set it to null in env"
        : "allow every program with --allow-run, or set it to null in env",
      subject: path,
    });
  }
  const program = { name: "run", command: path } as const;
  const denied = Deno.permissions.querySync(program).state === "denied";
  const { state } = Deno.permissions.requestSync(program);
  if (state === "granted") return;
  throw refused(null, {
    what,
    why: `this program may not run ${path}`,
    mend: denied
      ? `leave it out of --deny-run, and run this program with --allow-run=${path}`
      : `run it with --allow-run=${path}`,
    subject: path,
  });
}

/**
 * A variable of the child's environment that steers the dynamic loader.
 * Inherited ones count where this program may see the environment and so could
 * have set them; elsewhere they are its user's own choice.
 */
function loaderVariable(spec: Spec): string | undefined {
  const inherited = spec.clearEnv ? {} : visibleLoaderVariables();
  const variables = { ...inherited, ...Object.fromEntries(spec.env) };
  return Object.keys(variables).find((name) => OF_LOADERS.test(name) && variables[name] !== null);
}

const OF_LOADERS = /^(LD|DYLD)_/;

/** What the loaders of glibc and musl read: to be asked for one by one where not all of the environment is granted. */
const LOADERS = [
  ...["AUDIT", "PRELOAD", "LIBRARY_PATH", "ORIGIN_PATH", "PROFILE", "PROFILE_OUTPUT", "DEBUG"],
  ...["DEBUG_OUTPUT", "HWCAP_MASK", "ASSUME_KERNEL", "DYNAMIC_WEAK", "BIND_NOW", "BIND_NOT"],
  ...["SHOW_AUXV", "TRACE_LOADED_OBJECTS", "TRACE_PRELINKING", "USE_LOAD_BIAS", "VERBOSE", "WARN"],
  "PREFER_MAP_32BIT_EXEC",
].map((name) => `LD_${name}`);

/** Those that this program may see, and so could have set. */
function visibleLoaderVariables(): Record<string, string> {
  if (granted({ name: "env" })) {
    const all = Object.entries(Deno.env.toObject());
    return Object.fromEntries(all.filter(([name]) => OF_LOADERS.test(name)));
  }
  const visible = LOADERS.filter((variable) => granted({ name: "env", variable }));
  const values = visible.map((name) => [name, Deno.env.get(name)] as const);
  return Object.fromEntries(
    values.filter((pair): pair is [string, string] => pair[1] !== undefined),
  );
}

function refused(cause: unknown, fault: Omit<Fault, "code" | "op" | "cause">): PermissionError {
  return new PermissionError({ ...fault, code: "EACCES", op: "open", cause: cause ?? undefined });
}
