// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Random supervised trees under random kills end as a small model predicts: a slice; all of them in the soak. */

import { seedOf } from "./random.ts";
import { test } from "./helpers.ts";
import { killInTrees } from "./trees.ts";

test("30 random supervised trees under random kills (1,000 in the soak)", async () => {
  await killInTrees({ seed: seedOf("trees"), count: 30 });
});
