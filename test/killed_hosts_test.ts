// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** The gate's slice of case #31; `deno task soak` runs the whole. */

import { assert, test } from "./helpers.ts";
import { seedOf } from "./random.ts";
import { killHosts } from "./soak/hosts.ts";

test("#31: hosts killed at random points of 200 spawns leave nothing", async () => {
  const hosts = await killHosts({ seed: seedOf("#31"), spawns: 200 });
  assert(hosts >= 20, `only ${hosts} hosts were killed`);
});
