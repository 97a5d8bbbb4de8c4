// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * A file through `gzip`, with back-pressure all the way: `gzip.ts FROM TO`.
 *
 * @module
 */

import { open } from "../mod.ts";

const [from, to] = Deno.args;
if (from === undefined || to === undefined) throw new Error("usage: gzip.ts FROM TO");
const source = await Deno.open(from);
const target = await Deno.create(to);
await using port = await open("gzip", ["-c"]);
await Promise.all([
  source.readable.pipeTo(port.stdin),
  port.stdout.pipeTo(target.writable),
]);
const { success } = await port.status;
console.log(success ? `${to} is written` : "gzip failed");
