// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Watching stdout and stderr of a program until it ends.
 *
 * @module
 */

import { open } from "../mod.ts";

const port = await open("sh", ["-c", "echo out; echo err >&2"]);
for await (const message of port) {
  if (message.type === "data") await Deno.stdout.write(message.data);
  if (message.type === "error") await Deno.stderr.write(message.data);
}
