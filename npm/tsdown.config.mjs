// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// What `scripts/npm` builds: one ES module for Node 20 and later and for Bun,
// where `using` is not yet known to every parser and is lowered here.
import { fileURLToPath } from "node:url";

export default {
  cwd: fileURLToPath(new URL("..", import.meta.url)),
  entry: { mod: "mod.ts" },
  format: "esm",
  target: "node20",
  platform: "node",
  tsconfig: false,
  dts: { oxc: true },
  clean: false,
  publint: false,
  report: false,
  logLevel: "warn",
};
