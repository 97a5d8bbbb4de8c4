// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** The examples run and say what they should; those with cgroups where there are controllers for them. */

import { assertEquals, assertMatch } from "@std/assert";
import { Ground, versionOf } from "./cgroups.ts";
import { asRoot, CHECKOUT, test, textOf } from "./helpers.ts";

/** What an example writes to stdout, and to stderr. */
async function example(name: string, ...args: string[]): Promise<[string, string]> {
  const run = ["run", "--quiet", "--no-prompt", "--allow-all", `examples/${name}.ts`, ...args];
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: run,
    cwd: CHECKOUT,
  }).output();
  assertEquals(success, true, textOf(stderr));
  return [textOf(stdout), textOf(stderr)];
}

test("example: the streaming API", async () => {
  assertEquals(await example("cat"), ["Got: hello\n", ""]);
});

test("example: bidirectional communication", async () => {
  assertEquals(await example("bidirectional"), ["4\n100\n", ""]);
  assertEquals(await example("bc"), ["1267650600228229401496703205376\n", ""]);
});

test("example: watching the output", async () => {
  assertEquals(await example("watch_output"), ["out\n", "err\n"]);
});

test("example: a program that pays no attention to its stdin", async () => {
  assertEquals(await example("unmindful"), ["runs: true\nit is gone\n", ""]);
});

/** An example that takes cgroups below the one it is given. */
function limited(name: string, controllers: readonly string[], said: RegExp): void {
  const title = `example: ${name}`;
  if (controllers.some((one) => versionOf(one) === null)) {
    const cure = "skipped: its controllers are not here; see scripts/vm";
    Deno.test({ name: `${title} (${cure})`, ignore: true, fn: () => {} });
    return;
  }
  asRoot(title, async () => {
    using ground = new Ground(controllers);
    const [stdout] = await example(name, ground.path);
    assertMatch(stdout, said);
    await ground.empty();
  });
}

limited("contained", ["cpu"], /^started\n0 are left\n$/);
limited("limit_memory", ["memory"], /^ended by oom at 25[4-6] MiB\n$/);
limited("limit_cpu", ["cpu"], /^close; it has waited: true\n$/);
