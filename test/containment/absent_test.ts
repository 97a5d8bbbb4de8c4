// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Cases that no test on this kind of host can show, each with the reason. */

import { matrixReason } from "../matrix.ts";

matrixReason(
  "#21",
  "memory.max 32 MB, a grandchild takes 200 MB",
  "by limits, not by mode: test/containment/limits_test.ts, as root and as a user with a subtree",
);
matrixReason(
  "#33",
  "ENFILE and ENOMEM at each step of a launch",
  "would starve the whole machine: the sabotage build answers a call with them",
);
matrixReason(
  "#34",
  "a kernel without CONFIG_PROC_CHILDREN",
  "needs such a kernel: one with the file cannot hide it for processes to come",
);
matrixReason(
  "#35",
  "clone3 refused in another way (EPERM)",
  "the runtime itself starts no thread with it",
);
matrixReason(
  "#35",
  "unshare refused",
  "nothing of it is used: PID namespaces are not a mode of this library",
);
matrixReason(
  "#36",
  "a `domain invalid` parent, missing controllers",
  "a runtime cannot run in the one; of the others only limits are told: test/containment/limits_test.ts",
);
matrixReason(
  "#39",
  "the library on a noexec mount",
  "no process can map it: the loader's own error tells so",
);
matrixReason(
  "+",
  "a Deno Worker is terminated while it is busy",
  "in every mode alike: test/isolates_test.ts",
);
