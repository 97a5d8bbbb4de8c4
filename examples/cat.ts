// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The streaming API: data to stdin, messages from stdout, and the end.
 *
 * @module
 */

import { open } from "../mod.ts";

const port = await open("cat");

// Send data to stdin
await port.send({ command: "hello" });

// Receive stdout
for await (const message of port) {
  if (message.type !== "data") continue;
  console.log(`Got: ${new TextDecoder().decode(message.data)}`);
  break;
}

// Close when done
await port.send("close");
