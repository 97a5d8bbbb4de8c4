// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** The moment between clone and exec, and every way in which a launch goes wrong: a clear error, and nothing left. */

import { assertEquals } from "@std/assert";
import {
  assert,
  children,
  gone,
  helpers,
  identities,
  type Identity,
  Scratch,
  stat,
  statusField,
  until,
} from "../helpers.ts";
import { copyTree, type Host } from "../host_process.ts";
import { matrixCase } from "../matrix.ts";
import { HangingFiles } from "./hanging_files.ts";

const WIRING = 1000;

matrixCase({
  number: "#27",
  title:
    "0, 1 and 2 are closed in the runtime, a thousand spawns; a child closes all and opens others",
  body: async (run) => {
    using scratch = new Scratch().open();
    const file = scratch.file("answers");
    await using host = run.start(`
      const reopened = await open(PROBE, ["reopen-fds"], { delayToSigkill: 0 });
      const [pid] = await ready(reopened);
      const bytes = await reopened.bytes().catch((error) => error.name);
      const libc = Deno.dlopen("libc.so.6", { close: { parameters: ["i32"], result: "i32" } });
      for (const fd of [0, 1, 2]) libc.symbols.close(fd);
      const seen = new Set();
      const one = async () => {
        const port = await open(PROBE, ["list-fds"]);
        const text = await port.text();
        seen.add(text.trim() + " " + (await port.status).reason.kind);
      };
      for (let i = 0; i < ${WIRING / 10}; i++) await Promise.all(Array.from({ length: 10 }, one));
      await reopened.close();
      Deno.writeTextFileSync("${file}", [...seen, left([pid]).length, ""].join("\\n"));
    `);
    await until(() => scratch.lines("answers").length >= 2, {
      what: "the answers",
      deadlineMs: 90_000,
    });
    assertEquals(scratch.lines("answers"), ["0 1 2 normal", "0"]);
    assertEquals((await host.end()).code, 0);
  },
});

matrixCase({
  number: "#28",
  title: "the runtime ignores or blocks every signal: its children do not",
  body: async (run) => {
    const under = ["env", "--ignore-signal", "--block-signal=USR1,USR2,HUP,TERM"];
    await using host = run.start(
      `say("ready", ...await ready(await open(PROBE, ["ready"]))); await hear();`,
      {
        under,
      },
    );
    const [pid = 0] = await host.numbers("ready");
    // The Rust runtime of the probe ignores SIGPIPE, and the probe sets it back.
    for (const field of ["SigIgn", "SigBlk"]) {
      assertEquals(BigInt(`0x${statusField(pid, field)}`), 0n, field);
    }
  },
});

matrixCase({
  number: "#29",
  title:
    "ENOENT, EACCES, ENOEXEC, E2BIG, no interpreter, no directory: stage and errno, and nothing left",
  body: async (run) => {
    using scratch = new Scratch().open();
    const file = (name: string, text: string, mode: number) => {
      Deno.writeTextFileSync(scratch.file(name), text, { mode });
      return JSON.stringify(scratch.file(name));
    };
    await using host = run.start(`
      const before = await open("cat");
      const calls = [
        ["no-such-program", [], { env: { PATH: "/usr/bin:/bin" } }],
        [${file("plain", "text", 0o644)}],
        [${file("garbage", "\u0001\u0002\u0003", 0o755)}],
        [${file("orphan", "#!/no/such/interpreter\n", 0o755)}],
        ["true", ["x".repeat(200_000)]],
        ["true", [], { cwd: "/no/such/folder" }],
        ["true", [], { cwd: ${file("file", "text", 0o644)} }],
      ];
      for (const call of calls) {
        const error = await open(...call).catch((error) => error);
        say("refused", error.name, error.stage, error.code);
      }
      say("left", left([before.pid]).length);
      await hear();
    `);
    const expected = [
      "program ENOENT",
      "program EACCES",
      "exec ENOEXEC",
      "exec ENOENT",
      "exec E2BIG",
      "cwd ENOENT",
      "cwd ENOTDIR",
    ];
    for (const what of expected) {
      assertEquals((await host.next("refused")).join(" "), `SpawnError ${what}`);
    }
    assertEquals(await host.next("left"), ["1"]);
    const keepers = () => helpers(host.pid).keepers.length;
    await until(() => keepers() === 1, {
      what: () => `the keeper of the one that runs alone, not ${keepers()}`,
    });
  },
});

// --- between clone and exec --------------------------------------------------

/** Where the kernel has to open the program, it hangs: a launch stands still between clone and exec. */
const OPENS_HANGING = (program: string) => `
const other = await open("cat");
say("other", other.pid);
let controller;
for (let line = await hear(); line !== null; line = await hear()) {
  if (line === "abort") controller.abort();
  if (line === "abort") continue;
  controller = new AbortController();
  open(${JSON.stringify(program)}, [], { signal: controller.signal, delayToSigkill: 20 }).then(
    () => say("opened"),
    (error) => say("refused", error.name),
  );
}
`;

/** The child that has been cloned and not exec'ed, and its keeper. */
async function launching(host: Host): Promise<{ keeper: number; child: Identity }> {
  const found = await until(() => {
    for (const keeper of helpers(host.pid).keepers) {
      const child = children(keeper).find((pid) =>
        isHelper(pid) && /[SD]/.test(stat(pid)?.[0] ?? "")
      );
      if (child !== undefined) return { keeper, child };
    }
    return null;
  }, { what: "a child between clone and exec" });
  const [child] = identities([found.child]);
  assert(child !== undefined);
  return { keeper: found.keeper, child };
}

/** Until its exec a child has its keeper's name. */
function isHelper(pid: number): boolean {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/comm`).startsWith("proton-");
  } catch {
    return false; // it has ended
  }
}

const KEEPERS = 50;

matrixCase({
  number: "#30",
  title: "the keeper is killed between its clone and the child's exec, fifty times",
  body: async (run) => {
    await using files = await HangingFiles.mount();
    await files.tell("leave");
    await using host = run.start(OPENS_HANGING(files.program));
    const [other = 0] = await host.numbers("other");
    for (let i = 0; i < KEEPERS; i++) {
      await host.tell("open\n");
      const { keeper, child } = await launching(host);
      Deno.kill(keeper, "SIGKILL");
      assertEquals(await host.next("refused"), ["SpawnError"]);
      await gone([child]);
    }
    assertEquals(identities([other]).length, 1, "the other tree lives on");
  },
});

matrixCase({
  number: "+",
  title:
    "a child that hangs between clone and exec does not blind its keeper: abort, runtime's end",
  body: async (run) => {
    await using files = await HangingFiles.mount();
    await files.tell("leave");
    await using host = run.start(OPENS_HANGING(files.program));
    await host.next("other");
    await host.tell("open\n");
    const { child } = await launching(host);
    await host.tell("abort\n");
    assertEquals(await host.next("refused"), ["AbortError"]);
    await gone([child]);
    await host.tell("open\n");
    const again = await launching(host);
    host.kill();
    await gone([again.child]);
  },
});

matrixCase({
  number: "+",
  title: "a child in uninterruptible sleep between clone and exec: everything ends when that does",
  body: async (run) => {
    await using files = await HangingFiles.mount();
    await using host = run.start(OPENS_HANGING(files.program));
    await host.next("other");
    await host.tell("open\n");
    await files.heard("hung open");
    const { child } = await launching(host);
    host.kill();
    await until(() => stat(child.pid)?.[0] === "D", {
      what: "SIGKILL at a child that cannot die of it yet",
    });
    await files.tell("fail");
    await gone([child]);
  },
});

// --- a host that has nothing to give -----------------------------------------

/** Opens until it is refused; what runs already goes on, and one that ends makes room for another. */
const UNTIL_REFUSED = (most: number) => `
const ports = [];
let refusal = null;
while (refusal === null && ports.length < ${most}) {
  const port = await open("cat").catch((error) => (refusal = error, null));
  if (port !== null) ports.push(port);
}
say("refused", refusal?.name, refusal?.code);
const turn = async (port) => {
  await port.command("x");
  for await (const { type } of port) return type;
};
say("turns", ports.length, ...new Set(await Promise.all(ports.map(turn))));
await Promise.all(ports.splice(0, 3).map((port) => port.close({ graceMs: 0 })));
say("again", (await (await open("true")).status).reason.kind);
await hear();
`;

matrixCase({
  number: "#33",
  title: "no descriptor is left at a spawn (EMFILE): a clear error, running trees are untouched",
  body: async (run) => {
    await using host = run.start(UNTIL_REFUSED(200), { under: ["prlimit", "--nofile=120:120"] });
    assertEquals(await host.next("refused"), ["SpawnError", "EMFILE"]);
    const [count = "0", ...types] = await host.next("turns");
    assert(Number(count) >= 3, `${count} ports`);
    assertEquals(types, ["data"]);
    assertEquals(await host.next("again"), ["normal"]);
  },
});

matrixCase({
  number: "#33",
  title: "no process is left at a spawn (RLIMIT_NPROC): a clear error, running trees are untouched",
  not: {
    "tree, root": "RLIMIT_NPROC does not hold root; pids.max: starved_test.ts",
    "cgroup2, root": "RLIMIT_NPROC does not hold root; pids.max: starved_test.ts",
  },
  body: async (run) => {
    await using host = run.start(UNTIL_REFUSED(200), { under: ["prlimit", "--nproc=80:80"] });
    assertEquals(await host.next("refused"), ["SpawnError", "EAGAIN"]);
    const [count = "0", ...types] = await host.next("turns");
    assert(Number(count) >= 3, `${count} ports`);
    assertEquals(types, ["data"]);
    assertEquals(await host.next("again"), ["normal"]);
  },
});

matrixCase({
  number: "#39",
  title:
    "the library is at mode 0644 and its file is replaced after the start: guardians start all the same",
  body: async (run) => {
    using scratch = new Scratch().open();
    const tree = `${scratch.path}/`;
    copyTree(tree);
    const folder = `${tree}npm/native`;
    const name = [...Deno.readDirSync(folder)].find(({ name }) => name.endsWith(".node"))?.name;
    const library = `${folder}/${name}`;
    Deno.chmodSync(library, 0o644);
    await using host = run.start(
      `
      await (await open("true")).status;
      say("first");
      await hear();
      proton.resetGuardian();
      const port = await open(PROBE, ["double-fork", "2", "stay"]);
      say("second", ...await ready(port));
      await hear();
      `,
      { tree },
    );
    await host.next("first");
    Deno.renameSync(library, `${library}.old`);
    Deno.writeTextFileSync(library, "replaced");
    await host.tell("go\n");
    const ids = identities(await host.numbers("second"));
    host.kill();
    await gone(ids);
  },
});

for (
  const call of [
    "clone3=ENOSYS",
    "close_range=EPERM",
    "pidfd_open=ENOSYS",
    "pidfd_open=EPERM",
    "process_vm_readv=EPERM",
    "memfd_create=EPERM",
  ]
) {
  matrixCase({
    number: "#35",
    title: `a kernel or a filter without ${call}: trees start and end as ever`,
    body: async (run) => {
      await using host = run.start(
        `
        const ports = [await open("sh", ["-c", "sleep 1000 & echo ready $$ $!; wait"]),
          await open(PROBE, ["double-fork", "2", "stay"], { delayToSigkill: 20 })];
        const pids = (await Promise.all(ports.map(ready))).flat();
        say("ready", ...pids);
        await hear();
        await ports[0].close();
        say("left", left(pids).length);
        await hear();
        `,
        { under: [run.probe, "without", call] },
      );
      const ids = identities(await host.numbers("ready"));
      await host.tell("go\n");
      assertEquals(await host.next("left"), ["3"]);
      host.kill();
      await gone(ids);
    },
  });
}
