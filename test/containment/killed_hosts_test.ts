// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** The gate's slice of case #31, 200 spawns over all modes; `deno task soak hosts` runs the whole. */

import { assert } from "../helpers.ts";
import { matrixCase } from "../matrix.ts";
import { seedOf } from "../random.ts";
import { killHosts } from "../soak/hosts.ts";

const SPAWNS = 50;

matrixCase({
  number: "#31",
  title: "hosts killed at random points of their spawns leave nothing",
  body: async (run) => {
    const hosts = await killHosts({
      seed: seedOf("#31"),
      spawns: SPAWNS,
      kill: [run.mode.kill === "tree" ? "tree" : "auto"],
      start: (script, options) => run.start(script, options),
    });
    assert(hosts >= SPAWNS / 10, `only ${hosts} hosts were killed`);
  },
});
