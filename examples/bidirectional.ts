// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Two questions and their answers over one conversation.
 *
 * @module
 */

import { Mailbox, open } from "../mod.ts";

await using owner = new Mailbox();
const port = await open("bc", ["-q"], { owner });
for (const question of ["2 + 2\n", "10 * 10\n"]) {
  await port.command(question);
  const answer = await owner.receive((message) => message.type === "data");
  if (answer.type === "data") console.log(new TextDecoder().decode(answer.data).trim());
}
