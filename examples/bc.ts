// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * A conversation: commands go in, messages come out.
 *
 * @module
 */

import { open } from "../mod.ts";

await using port = await open("bc", ["-q"]);
await port.command("2 ^ 100\n");
for await (const message of port) {
  if (message.type !== "data") continue;
  console.log(new TextDecoder().decode(message.data).trim());
  break;
}
