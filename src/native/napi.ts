// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The native library through Node-API, in Node and Bun.
 *
 * @module
 */

import process from "node:process";
import { PermissionError } from "../errors.ts";
import type { Door, Runtime } from "./abi.ts";

/** Node and Bun. */
export const nodeApi: Runtime = {
  mayRead: () => true,
  variable: (name) => process.env[name],
  open(file, check) {
    const door = load(file);
    check(door.ps_abi_version?.() ?? null);
    // A Worker has a copy of the environment of its own: process.env of the calling isolate decides.
    return { door: door as Door, view: () => process.env, allow: () => {} };
  },
};

function load(file: string): Partial<Door> {
  const addon = { exports: {} as Partial<Door> };
  try {
    process.dlopen(addon, file);
  } catch (error) {
    throw disabled(error) ? refused(file, error) : error;
  }
  return addon.exports;
}

/** Whether Node's permission model, and not the file, is the reason. */
function disabled(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ERR_DLOPEN_DISABLED";
}

function refused(file: string, cause: unknown): PermissionError {
  return new PermissionError({
    what: `Cannot load the native library ${file}`,
    why: "this program may not load native code",
    code: "EACCES",
    mend: "run it with --allow-addons",
    op: "open",
    subject: file,
    cause,
  });
}
