// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** FFI would sidestep --allow-run, so `open` asks for it itself. */

import { assertEquals, assertMatch } from "@std/assert";
import { open } from "../mod.ts";
import { CHECKOUT, Scratch, test, until } from "./helpers.ts";
import { Host } from "./host_process.ts";
import { Screen } from "./screen.ts";

const LIBRARY = `--allow-ffi=${CHECKOUT}npm/native`;

/** What `open` says in a host with these permissions. */
async function answer(allow: string[], call: string): Promise<string> {
  await using host = Host.start(
    `
    const answer = await ${call}.then(async (port) => {
      const { reason } = await port.status;
      return reason.kind;
    }, (error) => error.name + ": " + error.message);
    say("answer", answer);
    `,
    { allow },
  );
  return (await host.next("answer")).join(" ");
}

test("--allow-ffi of the library's folder and --allow-run of the program are enough", async () => {
  assertEquals(await answer([LIBRARY, "--allow-run=true"], `open("true")`), "normal");
});

test("each permission that is missing is named, and nothing starts", async () => {
  const refused = /^PermissionError: Cannot start "\S+": .+ \(\w+\): .*--allow-run/;
  assertMatch(await answer([LIBRARY, "--allow-run=cat"], `open("true")`), refused);
  assertMatch(await answer([LIBRARY], `open("true")`), refused);
  assertMatch(await answer(["--allow-run"], `open("true")`), /^PermissionError: .*--allow-ffi/);
});

/** `a/tool` may be run; `a/link` leads to `evil/sub`, and from there `..` to `evil/tool`, which exits with 7. */
function withLink(): Scratch {
  const scratch = new Scratch().open();
  const at = (name: string) => scratch.file(name);
  for (const folder of ["a", "evil", "evil/sub"]) Deno.mkdirSync(at(folder));
  for (const [tool, code] of [["a/tool", 0], ["evil/tool", 7]] as const) {
    Deno.writeTextFileSync(at(tool), `#!/bin/sh\nexit ${code}\n`, { mode: 0o755 });
  }
  Deno.symlinkSync(at("evil/sub"), at("a/link"));
  return scratch;
}

test("the permission is for the file that is executed, not for its name, nor for what it seems to be", async () => {
  using scratch = withLink();
  const [tool, link] = [scratch.file("a/tool"), scratch.file("a/link")];
  const quoted = (text: string) => JSON.stringify(text);
  const allow = [LIBRARY, `--allow-run=${tool}`];
  assertEquals(await answer(allow, `open(${quoted(tool)})`), "normal");
  for (
    const call of [
      `open(${quoted(`${link}/../tool`)})`,
      `open("../tool", [], { cwd: ${quoted(link)} })`,
      `open("tool", [], { env: { PATH: ${quoted(`${link}/..`)} } })`,
    ]
  ) {
    assertMatch(
      await answer(allow, call),
      /^PermissionError: .*may not run \S+evil\/tool \(EACCES\): /,
      call,
    );
  }
});

test("a path through /proc/self leads where it leads the runtime, and not the child", async () => {
  using scratch = new Scratch().open();
  // The child stands deep enough that the same words lead it to another program.
  const folder = scratch.file("1/2/3/4/5/6/7/8");
  Deno.mkdirSync(folder, { recursive: true });
  Deno.mkdirSync(scratch.file("usr/bin"), { recursive: true });
  Deno.writeTextFileSync(scratch.file("usr/bin/true"), "#!/bin/sh\nexit 7\n", { mode: 0o755 });
  const path = `/proc/self/cwd/${"../".repeat(8)}usr/bin/true`;
  const call = `open(${JSON.stringify(path)}, [], { cwd: ${JSON.stringify(folder)} })`;
  assertEquals(await answer([LIBRARY, "--allow-run=/usr/bin/true"], call), "normal");
});

test("LD_PRELOAD in env needs the full run permission", async () => {
  const call = `open("true", [], { env: { LD_PRELOAD: "" } })`;
  assertMatch(await answer([LIBRARY, "--allow-run=true"], call), /^PermissionError: .*LD_PRELOAD/);
  assertEquals(await answer([LIBRARY, "--allow-run"], call), "normal");
});

test("LD_PRELOAD that this program may set itself needs the full run permission, too", async () => {
  const set = `(Deno.env.set("LD_PRELOAD", "/nowhere.so"), open("true"))`;
  for (const env of ["--allow-env=LD_PRELOAD", "--allow-env=LD_*", "--allow-env"]) {
    const refused = await answer([LIBRARY, "--allow-run=true", env], set);
    assertMatch(refused, /^PermissionError: .*LD_PRELOAD/, env);
  }
  assertEquals(
    await answer([LIBRARY, "--allow-run=true", "--allow-env=HOME"], `open("true")`),
    "normal",
  );
});

test("--deny-run counts beside --allow-run: for the program, and for the loader's variables", async () => {
  const allow = [LIBRARY, "--allow-run", "--deny-run=true"];
  const denied = await answer(allow, `open("true")`);
  assertMatch(denied, /^PermissionError: .*may not run .*: leave it out of --deny-run/);
  const absent = await answer([LIBRARY], `open("true")`);
  assertMatch(absent, /^PermissionError: .*may not run .*: run it with --allow-run=/);
  assertEquals(await answer(allow, `open("cat", [], { stdin: "null" })`), "normal");
  const call = `open("cat", [], { stdin: "null", env: { LD_PRELOAD: "" } })`;
  assertMatch(await answer(allow, call), /^PermissionError: .*LD_PRELOAD.*--deny-run/);
});

// The flags of README.md's table, each with what it grants and without.

/** The one file that is loaded. */
const FILE = `--allow-ffi=${CHECKOUT}npm/native/${
  Deno.build.arch === "x86_64" ? "x64" : "arm64"
}-gnu.node`;

const GRANTS: readonly (readonly [what: string, call: string, flags: string, without: RegExp])[] = [
  ["a program by name", `open("true")`, "--allow-run=true", /may not run .*\/true \(EACCES\)/],
  ["a program by path", `open("/usr/bin/true")`, "--allow-run=/usr/bin/true", /may not run/],
  ["any program", `open("true")`, "--allow-run", /may not run/],
  [
    "a variable of the loader, of glibc",
    `open("true", [], { env: { LD_LIBRARY_PATH: "/x" } })`,
    "--allow-run",
    /its environment sets LD_LIBRARY_PATH/,
  ],
  [
    "a variable of the loader, of macOS",
    `open("true", [], { env: { DYLD_INSERT_LIBRARIES: "/x" } })`,
    "--allow-run",
    /its environment sets DYLD_INSERT_LIBRARIES/,
  ],
  [
    "another directory, descriptors, limits and a terminal",
    `open("true", [], { cwd: "/", fds: { 3: "piped" }, rlimits: { core: 0 }, pty: {}, umask: 0 })`,
    "--allow-run=true",
    /may not run/,
  ],
  [
    "a command run to its end",
    `proton.cmd("true").then(({ reason }) => ({ status: { reason } }))`,
    "--allow-run=true",
    /may not run/,
  ],
];

for (const [what, call, flags, without] of GRANTS) {
  test(`${what}: granted by ${flags}, and denied without`, async () => {
    assertEquals(await answer([FILE, flags], call), "normal");
    const denied = await answer(
      [FILE, ...(what.includes("loader") ? ["--allow-run=true"] : ["--allow-run=cat"])],
      call,
    );
    assertMatch(denied, /^PermissionError: /);
    assertMatch(denied, without);
  });
}

test("a script is allowed by its own path; its interpreter need not be", async () => {
  using scratch = new Scratch();
  Deno.chmodSync(scratch.path, 0o755);
  const script = scratch.file("tool");
  Deno.writeTextFileSync(script, "#!/bin/sh\nexit 0\n", { mode: 0o755 });
  const call = `open(${JSON.stringify(script)})`;
  assertEquals(await answer([FILE, `--allow-run=${script}`], call), "normal");
  assertMatch(await answer([FILE, "--allow-run=sh"], call), /^PermissionError: .*may not run/);
});

test("a name in another PATH is another program: that one must be allowed", async () => {
  using scratch = new Scratch();
  Deno.chmodSync(scratch.path, 0o755);
  Deno.writeTextFileSync(scratch.file("true"), "#!/bin/sh\nexit 0\n", { mode: 0o755 });
  const call = `open("true", [], { env: { PATH: ${JSON.stringify(scratch.path)} } })`;
  assertMatch(await answer([FILE, "--allow-run=/usr/bin/true"], call), /may not run .*\/true/);
  assertEquals(await answer([FILE, `--allow-run=${scratch.file("true")}`], call), "normal");
});

test("neither env, sys, read nor write permission is needed, nor asked for", async () => {
  const call = `open("sh", ["-c", 'test -n "$PATH"'], { cwd: "/", uid: "nobody" })
    .catch((error) => error.stage === "uid" ? open("sh", ["-c", 'test -n "$PATH"']) : Promise.reject(error))`;
  const deny = ["--deny-env", "--deny-sys", "--deny-read", "--deny-write"];
  assertEquals(await answer([FILE, "--allow-run=sh", ...deny], call), "normal");
});

/** Its first thread waits in read(2) of descriptor 0, whose number is 0 on x86-64 and 63 on aarch64. */
function readsStdin(pid: number): boolean {
  return /^(0|63) 0x0 /.test(Deno.readTextFileSync(`/proc/${pid}/syscall`));
}

/** What a program without --allow-run shows on a terminal where each question is answered with one of `answers`. */
async function prompted(answers: string[]): Promise<{ asked: string; said: string[] }> {
  using scratch = new Scratch();
  Deno.writeTextFileSync(
    scratch.file("main.ts"),
    `import { open } from ${JSON.stringify(`${CHECKOUT}mod.ts`)};
    for (let i = 0; i < 2; i++) {
      const said = await open("true").then(async (port) => (await port.status).reason.kind,
        (error) => error.name + ": " + error.message);
      console.log("SAID " + said + " .");
    }`,
  );
  const flags = ["--quiet", "--no-config", "--no-lock", "--no-check", FILE];
  await using port = await open(Deno.execPath(), ["run", ...flags, scratch.file("main.ts")], {
    // Wide enough for nothing to be broken into two lines.
    pty: { cols: 1_000, rows: 50 },
    env: { NO_COLOR: "1" },
  });
  const screen = new Screen(port);
  let asked = "";
  for (const answer of answers) {
    const question = screen.wait(/requests run access to ("[^"]+")[^]*Allow\?[^>]*> /);
    asked = (await question)[1] ?? "";
    await until(() => readsStdin(port.pid), { what: "somebody who reads the answer" });
    await screen.type(`${answer}\n`);
  }
  const said = [];
  for (let i = 0; i < 2; i++) said.push((await screen.wait(/SAID (.*) \./))[1] ?? "");
  await screen.wait(null);
  assertEquals((await port.status).code, 0);
  return { asked, said };
}

test("where Deno prompts, open asks for the file that is executed; y is a yes", async () => {
  const { asked, said } = await prompted(["y"]);
  assertMatch(asked, /^"\/\S*\/true"$/);
  // The answer is remembered by Deno: the second one is not asked for.
  assertEquals(said, ["normal", "normal"]);
});

test("where Deno prompts, n is a no: a PermissionError, and nothing starts", async () => {
  const { said } = await prompted(["n"]);
  for (const one of said) {
    assertMatch(one, /^PermissionError: Cannot start "true": .*may not run .*\/true \(EACCES\)/);
  }
});
