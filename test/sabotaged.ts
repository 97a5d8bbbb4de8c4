// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Hosts that run the library of the build with the feature `sabotage`: their
 * environment says which steps are left out, where a child hangs, and which
 * calls fail.
 *
 * @module
 */

import { CHECKOUT, textOf } from "./helpers.ts";
import { Host, type HostOptions, temporary } from "./host_process.ts";

/** The library, where every user can read it. */
const LIBRARY: string = await built();

async function built(): Promise<string> {
  const build = new Deno.Command(`${CHECKOUT}test/fixtures/sabotaged`, { stderr: "inherit" });
  const { success, stdout } = await build.output();
  if (!success) throw new Error("the library was not built with the feature: see above");
  const copy = `${temporary("proton_test_sabotage_")}/libproton_stream.so`;
  Deno.copyFileSync(textOf(stdout).trim(), copy);
  Deno.chmodSync(copy, 0o644);
  return copy;
}

/** The variables that arm the library, for a script to set before `proton.resetGuardian()`. */
export const STEPS = "PROTON_STREAM_SABOTAGE";
export const FAULTS = "PROTON_STREAM_FAULT";

/** A host with this library; nothing is wrong with it before its environment says so. */
export function sabotagedHost(script: string, options: HostOptions = {}): Host {
  const env = { ...options.env, PROTON_STREAM_LIBRARY: LIBRARY };
  return Host.start(script, { ...options, env });
}
