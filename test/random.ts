// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Numbers at random that can be had again: a test that draws them prints the
 * seed, and PROTON_STREAM_SEED sets it.
 *
 * @module
 */

/** A whole number from 0 up to, and not with, `below`. */
export type Below = (below: number) => number;

/** A generator of the same numbers for the same seed (xorshift32). */
export function random(seed: number): Below {
  let state = seed | 0 || 1; // zero would stay zero
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

/** One of `all`. */
export function oneOf<T>(below: Below, all: readonly T[]): T {
  const one = all[below(all.length)];
  if (one === undefined) throw new Error("there is nothing to choose from");
  return one;
}

/** A seed of its own for each run, printed; or the one in PROTON_STREAM_SEED. */
export function seedOf(what: string): number {
  const given = Deno.env.get("PROTON_STREAM_SEED");
  const seed = given === undefined
    ? crypto.getRandomValues(new Uint32Array(1))[0] ?? 1
    : Number(given);
  if (!Number.isInteger(seed)) throw new Error(`PROTON_STREAM_SEED is no whole number: ${given}`);
  console.log(`${what}: seed ${seed} (PROTON_STREAM_SEED=${seed} gives the same numbers)`);
  return seed;
}
