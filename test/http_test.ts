// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** The web server of the examples: a client that goes away takes its tree along. A slice; 200 clients in the soak. */

import { assertEquals, assertMatch } from "@std/assert";
import { streaming } from "../examples/http.ts";
import { serveClients } from "./clients.ts";
import { test } from "./helpers.ts";

test("20 clients at once, half of them go away: no tree is left, the others get all", async () => {
  await serveClients({ parallel: 20, rounds: 2 });
});

test("a program that cannot be started, and a client that was gone before", async () => {
  const request = new Request("http://localhost/");
  const response = await streaming("no-such-program")(request);
  assertEquals(response.status, 500);
  assertMatch(await response.text(), /no such file on PATH \(ENOENT\)/);
  const early = new Request("http://localhost/", { signal: AbortSignal.abort() });
  assertEquals((await streaming("sleep", ["1000"])(early)).status, 499);
});
