// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// Deno's permissions, each in a Deno of its own that has just the ones under test.

import { assertEquals, assertMatch } from "@std/assert";

const ROOT = new URL("..", import.meta.url);

/** What `allow` says in a Deno with `flags`: "allowed", or the error. */
async function asked(
  flags: readonly string[],
  path: string,
  options: unknown = {},
  env: Record<string, string> = {},
): Promise<string> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--quiet", "--no-lock", ...flags, "-"],
    cwd: ROOT,
    env,
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(`
    import { allow } from "./src/native/deno.ts";
    import { validate } from "./src/options.ts";
    try {
      allow(new TextEncoder().encode(${JSON.stringify(path)}), validate("tool", [], ${
    JSON.stringify(options)
  }));
      console.log("allowed");
    } catch (error) {
      console.log(String(error));
    }
  `));
  await writer.close();
  return new TextDecoder().decode((await child.output()).stdout).trim();
}

const CAT = "/usr/bin/cat";

Deno.test("deno: a program is allowed by name, by path, or with all others", async () => {
  const allowing = [["--allow-run"], ["--allow-run=cat"], [`--allow-run=${CAT}`], ["-A"]];
  const said = await Promise.all(allowing.map((flags) => asked(flags, CAT)));
  assertEquals(said, allowing.map(() => "allowed"));
});

Deno.test("deno: any other program is refused with the flag that allows it", async () => {
  for (const flags of [[], ["--allow-run=true"], ["--allow-ffi"]]) {
    assertEquals(
      await asked(flags, CAT),
      `PermissionError: Cannot start "tool": this program may not run ${CAT} (EACCES): ` +
        `run it with --allow-run=${CAT}`,
    );
  }
});

Deno.test("deno: variables of the dynamic loader need every program allowed", async () => {
  const refusal = /^PermissionError: Cannot start "tool": its environment sets (LD|DYLD)_X, .*null/;
  for (const name of ["LD_X", "DYLD_X"]) {
    assertMatch(await asked(["--allow-run=cat"], CAT, { env: { [name]: "1" } }), refusal);
    assertEquals(await asked(["--allow-run"], CAT, { env: { [name]: "1" } }), "allowed");
    assertEquals(await asked(["--allow-run=cat"], CAT, { env: { [name]: null } }), "allowed");
    assertEquals(await asked(["--allow-run=cat"], CAT, { env: { [`A_${name}`]: "1" } }), "allowed");
  }
});

Deno.test("deno: an inherited one counts where this program could have set it", async () => {
  const [inherited, flags] = [{ LD_X: "1" }, ["--allow-run=cat", "--allow-env"]];
  assertMatch(await asked(flags, CAT, {}, inherited), /its environment sets LD_X/);
  assertEquals(await asked(flags, CAT, { env: { LD_X: null } }, inherited), "allowed");
  assertEquals(await asked(flags, CAT, { clearEnv: true }, inherited), "allowed");
  assertEquals(await asked(["--allow-run=cat"], CAT, {}, inherited), "allowed");
});

Deno.test("deno: a permission that was given up counts at the next start", async () => {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--quiet", "--no-lock", "--allow-run", "-"],
    cwd: ROOT,
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(`
    import { allow } from "./src/native/deno.ts";
    import { validate } from "./src/options.ts";
    const ask = () => {
      try {
        allow(new TextEncoder().encode("${CAT}"), validate("tool"));
        return "allowed";
      } catch (error) {
        return error.name;
      }
    };
    const before = ask();
    await Deno.permissions.revoke({ name: "run" });
    console.log(before, ask());
  `));
  await writer.close();
  const { stdout } = await child.output();
  assertEquals(new TextDecoder().decode(stdout).trim(), "allowed PermissionError");
});
