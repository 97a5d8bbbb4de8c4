// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Helpers that stand still and cannot be let go on by SIGCONT: held as by a
 * debugger.
 *
 * @module
 */

import { PROBE, within } from "./helpers.ts";

/** Holds these processes until it is disposed. Takes root: helpers let nobody else look into them. */
export async function held(...pids: number[]): Promise<AsyncDisposable> {
  const probe = new Deno.Command(PROBE, {
    args: ["hold", ...pids.map(String)],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const words = probe.stdout.getReader();
  const { value } = await within(words.read(), { what: `${pids.join(", ")} held` });
  if (value === undefined) throw new Error(`not held: ${pids.join(", ")}`);
  return {
    async [Symbol.asyncDispose]() {
      await probe.stdin.close();
      await words.cancel();
      await probe.status;
    },
  };
}
