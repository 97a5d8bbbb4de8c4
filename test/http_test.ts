// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** The web server of the examples: a client that goes away takes its tree along. A slice; 200 clients in the soak. */

import { assertEquals, assertMatch } from "@std/assert";
import { streaming } from "../examples/http.ts";
import { serveClients } from "./clients.ts";
import { gone, identities, test, textOf } from "./helpers.ts";
import { Host } from "./host_process.ts";

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

test("HEAD starts no program, also where the answer's end aborts no signal", async () => {
  await using host = Host.start(
    `
    const { streaming } = await import(TREE + "examples/http.ts");
    const started = streaming("sh", ["-c", "echo $$; exec sleep 1000"]);
    let programs = 0;
    const serve = async (request) => {
      const response = await started(request);
      if (response.body !== null) programs++;
      return response;
    };
    const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, serve);
    say("ready", server.addr.port);
    await hear();
    say("programs", programs);
    await server.shutdown();
    `,
    { allow: ["--allow-all", "--unstable-no-legacy-abort"] },
  );
  const [port] = await host.numbers("ready");
  const url = `http://127.0.0.1:${port}/`;
  const head = await fetch(url, { method: "HEAD" });
  assertEquals([head.status, await head.text()], [200, ""]);
  // One that is read, and given up: its program ends by the signal alone.
  const reader = (await fetch(url)).body?.getReader();
  const { value } = await reader?.read() ?? {};
  const ids = identities([Number(textOf(value ?? new Uint8Array()))]);
  await reader?.cancel();
  await gone(ids);
  await host.tell("go\n");
  assertEquals(await host.numbers("programs"), [1]);
});
