// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** What a child starts with: clean signals, no stray descriptors, and the runtime's own attributes. */

import { assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { open, type OpenOptions, SpawnError } from "../mod.ts";
import { openOver } from "../src/port.ts";
import { nativeCore } from "../src/native/load.ts";
import {
  asRoot,
  assert,
  bytesOf,
  children,
  comm,
  descriptors,
  Echo,
  helpers,
  leavesNothing,
  output,
  PROBE,
  ready,
  Scratch,
  skippable,
  stat,
  statusField,
  test,
  until,
  warmUp,
} from "./helpers.ts";
import { Host, USERS } from "./host_process.ts";

await warmUp();

test("a child starts with default dispositions, an empty mask and no descriptor above 2", async () => {
  // The runtime itself ignores SIGPIPE; none of its state may reach the child.
  await using echo = await Echo.start();
  const { pid } = echo.port;
  await echo.turn(); // the loader, which opens the libraries it maps, is through
  for (const field of ["SigIgn", "SigBlk", "SigCgt", "SigPnd", "ShdPnd"]) {
    assertEquals(BigInt(`0x${statusField(pid, field)}`), 0n, field);
  }
  assertEquals(descriptors(pid)?.map((one) => one.split(" ")[0]).sort(), ["0", "1", "2"]);
});

test("a host with every signal ignored or blocked passes none of that on", async () => {
  const under = ["env", "--ignore-signal", "--block-signal=USR1,USR2,HUP,TERM"];
  await using host = Host.start(`say("ready", (await open("cat")).pid); await hear();`, { under });
  const [pid = 0] = await host.numbers("ready");
  for (const field of ["SigIgn", "SigBlk", "SigCgt"]) {
    assertEquals(BigInt(`0x${statusField(pid, field)}`), 0n, field);
  }
});

test("inherit and null: the child's streams are the runtime's own, or /dev/null", async () => {
  await using host = Host.start(`
    const port = await open("sh", ["-c", "readlink /proc/$$/fd/0; cat; echo shown; echo told >&2"], {
      stdin: "null", stdout: "inherit", stderr: "piped",
    });
    for await (const message of port) {
      if (message.type === "error") say("stderr", new TextDecoder().decode(message.data).trim());
    }
    say("stdin", await port.command("x").catch((error) => error.name));
  `);
  await host.next("/dev/null");
  await host.next("shown");
  assertEquals(await host.next("stderr"), ["told"]);
});

test("watchdog, guardian and keepers hold their own descriptors, names, signals and nothing else", async () => {
  await using host = Host.start(`
    const one = await open("cat");
    const two = await open("cat");
    say("ready", one.pid, two.pid);
    await hear();
  `);
  const pids = await host.numbers("ready");
  const { watchdog, guardian, keepers } = helpers(host.pid);
  assertEquals(
    keepers.flatMap(children).sort(),
    pids.sort(),
    "each keeper has its child and no other",
  );
  const all = [watchdog, guardian, ...keepers];
  assertEquals(new Set([watchdog, guardian, keepers[0] ?? 0].map(comm)).size, 3, "three names");
  assertEquals(
    new Set([watchdog, guardian, keepers[0] ?? 0].map(commandLine)).size,
    3,
    "three texts",
  );
  for (const pid of all) {
    const environ = Deno.readTextFileSync(`/proc/${pid}/environ`);
    const foreign = environ.split(/[\0:]/).filter((entry) => !HELPERS_ENVIRONMENT.test(entry));
    assertEquals(foreign, [], `${comm(pid)}'s environment`);
    assertEquals(stat(pid)?.[3], stat(host.pid)?.[3], `${comm(pid)}'s session is the host's`);
    const fds = descriptors(pid) ?? [];
    const stdio = fds.filter((fd) => /^[012] /.test(fd));
    assertEquals(stdio.length, 3, `${comm(pid)}: ${fds}`);
    assert(stdio.every((fd) => fd.endsWith("/dev/null")), `${comm(pid)}: ${fds}`);
  }
  assertEquals(holds(watchdog), "socket pidfd signalfd", "runtime's end, runtime");
  const leashes = children(guardian).map(() => " socket").join("");
  assertEquals(holds(guardian), `socket pidfd signalfd${leashes}`, "requests, runtime, leashes");
  for (const keeper of keepers) {
    assertEquals(
      holds(keeper),
      "socket socket pidfd signalfd pidfd",
      "port, leash, runtime, child",
    );
  }
});

/** The kinds of a helper's own descriptors, by number. */
function holds(pid: number): string {
  const own = (descriptors(pid) ?? []).map((fd) => fd.split(" -> ")).filter(([n]) => Number(n) > 2);
  own.sort(([a], [b]) => Number(a) - Number(b));
  // The cgroup of all, where there is one: each helper keeps it locked.
  const base = /\/proton-\d[^/]*$/;
  return own.filter(([, target = ""]) => !base.test(target)).map(([, target = ""]) =>
    target.replace("anon_inode:", "").match(/\w+/)?.[0]
  ).join(
    " ",
  );
}

/** Theirs from docs/decisions/0009, which glibc takes apart where it stands; nothing of the host's. */
const HELPERS_ENVIRONMENT = /^(GLIBC_TUNABLES=)?(glibc\.malloc\.\w+=0)?$/;

function commandLine(pid: number): string {
  return Deno.readTextFileSync(`/proc/${pid}/cmdline`);
}

test("a thousand ports leave no descriptor, process or file behind", async () => {
  const before = new Set(files());
  await leavesNothing(async () => {
    for (let i = 0; i < 100; i++) {
      await Promise.all(Array.from({ length: 10 }, async (_, j) => {
        await using port = await open(j % 2 === 0 ? "true" : "echo", ["x"]);
        for await (const _ of port);
      }));
    }
  });
  assertEquals(files().filter((name) => !before.has(name)), []);
});

/** Those that are called by our name, but for what the tests of other processes make meanwhile. */
function files(): string[] {
  const names = ["/tmp", "/dev/shm", "/run"].flatMap((folder) =>
    [...Deno.readDirSync(folder)].map(({ name }) => name)
  );
  return names.filter((name) =>
    name.includes("proton") && !/^proton[-_](test|bench)[-_]/.test(name)
  );
}

test("ports that are only opened and then dropped with their mailbox leave nothing either", async () => {
  await leavesNothing(async () => {
    for (let i = 0; i < 20; i++) {
      await using port = await open(PROBE, ["double-fork", "2", "stay"], { delayToSigkill: 0 });
      await ready(port);
    }
  });
});

test("every port gives its handle back, however it ends and whether it is read or not", async () => {
  let [taken, given] = [0, 0];
  const native = nativeCore();
  const core = new Proxy(native, {
    get(_, name) {
      const value = Reflect.get(native, name, native);
      if (typeof value !== "function") return value;
      return (...args: unknown[]) => {
        if (name === "spawn") taken++;
        if (name === "release") given++;
        return value.apply(native, args);
      };
    },
  });
  const opened = (command: string, args: string[] = [], options: OpenOptions = {}) =>
    openOver(() => core, command, args, options);
  const read = await opened("echo", ["x"]);
  await read.text();
  const iterated = await opened("echo", ["x"]);
  for await (const _ of iterated);
  await (await opened("echo", ["x"])).close();
  await (await opened("cat")).close();
  const silent = await opened("true");
  await silent.status;
  const failing: OpenOptions = { fds: { 9: "piped" }, rlimits: { nofile: 9 } };
  await assertRejects(() => opened("sh", [], failing), SpawnError, "EBADF");
  await until(() => given === taken, { what: () => `${taken} handles back; ${given} are` });
  assertEquals(taken, 6);
});

// --- the environment ---------------------------------------------------------

/**
 * A file of a process that the kernel fills late in `execve`, after the
 * descriptors that tell of it were closed.
 */
async function filled(path: string): Promise<Uint8Array> {
  return await until(() => {
    const bytes = Deno.readFileSync(path);
    return bytes.length > 0 && bytes;
  }, { what: path });
}

/** The environment of a process as it started, one entry a line of escaped bytes, sorted. */
async function environment(pid: number): Promise<string[]> {
  const bytes = await filled(`/proc/${pid}/environ`);
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  return text.split("\0").filter((entry) => entry !== "").sort();
}

/** Starts the host with variables that no text can hold. */
const BYTES = [
  "bash",
  "-c",
  `export BYTES=$'\\xff\\xfe=\\x80' EMPTY= LINES_=$'a\\nb' TWICE='a=b=c'; exec "$@"`,
  "bash",
];

test("the environment reaches the child byte for byte with --allow-ffi and --allow-run alone", async () => {
  await using host = Host.start(
    `say("ready", (await open("cat")).pid); await new Promise(() => {});`,
    {
      under: BYTES,
      allow: ["--allow-ffi", "--allow-run"],
    },
  );
  const [pid = 0] = await host.numbers("ready");
  const entries = await environment(pid);
  assert(entries.includes("BYTES=\xff\xfe=\x80"), entries.join("\n"));
  assertEquals(entries, await environment(host.pid));
});

test("env lays over, null unsets, clearEnv starts from nothing", async () => {
  await using host = Host.start(
    `
    Deno.env.set("LATE", "set");
    Deno.env.delete("TWICE");
    const over = await open("cat", [], { env: { EMPTY: null, NEW: "1", LINES_: "over" } });
    const clear = await open("cat", [], { clearEnv: true, env: { ONLY: "this", NOT: null } });
    say("ready", over.pid, clear.pid);
    await hear();
    `,
    { under: BYTES },
  );
  const [over = 0, clear = 0] = await host.numbers("ready");
  const expected = (await environment(host.pid))
    .filter((entry) => !/^(EMPTY|LINES_|TWICE)=/.test(entry))
    .concat("NEW=1", "LINES_=over", "LATE=set").sort();
  assertEquals(await environment(over), expected);
  assertEquals(await environment(clear), ["ONLY=this"]);
});

test("PATH of the child decides what is started", async () => {
  using scratch = new Scratch();
  Deno.writeTextFileSync(scratch.file("frobnicate"), "#!/bin/sh\necho mine\n", { mode: 0o755 });
  const PATH = `/no/such:${scratch.path}:/usr/bin:/bin`;
  await using port = await open("frobnicate", [], { env: { PATH } });
  assertEquals(await port.text(), "mine\n");
  await using relative = await open("./frobnicate", [], { cwd: scratch.path });
  assertEquals(await relative.text(), "mine\n");
});

test("arguments and arg0 reach the child as bytes", async () => {
  await using port = await open("cat", ["-", new Uint8Array([0xff, 0x20, 0xfe]), "", "-"], {
    arg0: "kitten",
  });
  await using other = await open("sh", ["-c", "exec cat"]);
  const words = await filled(`/proc/${port.pid}/cmdline`);
  const expected = [...bytesOf("kitten\0-\0"), 0xff, 0x20, 0xfe, ...bytesOf("\0\0-\0")];
  assertEquals([...words], expected);
  await other.close();
});

test("variables set and unset in a loop, here and in a Worker, while ports are opened: nothing crashes", async () => {
  await using host = Host.start(`
    if (self.name === "setter") {
      self.onmessage = ({ data: stop }) => {
        // All of them and then none, so that the list grows and is moved again and again.
        const names = Array.from({ length: 500 }, (_, i) => "WORKER_" + i);
        let turns = 0;
        for (; Atomics.load(stop, 0) === 0; turns++) {
          names.forEach((name, i) => Deno.env.set(name, "x".repeat(i % 300)));
          names.forEach((name) => Deno.env.delete(name));
        }
        self.postMessage(turns);
      };
    } else {
      const stop = new Int32Array(new SharedArrayBuffer(4));
      Deno.env.set("TURN", "none"); // in front of all that is taken out again, so that it keeps its place
      const worker = new Worker(import.meta.url, { type: "module", name: "setter" });
      const sets = new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data));
      worker.postMessage(stop);
      let right = 0;
      for (let i = 0; i < 300; i++) {
        for (let j = 0; j < 50; j++) Deno.env.set("MAIN_" + (i * 7 + j) % 400, "y".repeat(j));
        Deno.env.set("TURN", String(i));
        const port = await open("sh", ["-c", "echo $TURN"]);
        if (await port.text() === i + "\\n") right++;
      }
      Atomics.store(stop, 0, 1);
      say("done", right, await sets > 0 ? "while-set" : "not-set");
      worker.terminate();
    }
  `);
  assertEquals(await host.next("done"), ["300", "while-set"]);
  assertEquals((await host.end()).code, 0);
});

// --- what the runtime is now is what the child is ----------------------------

/** Starts the guardian, changes the runtime, and then opens the port that the test looks at. */
const CHANGED = (change: string) => `
await (await open("true")).status;
const run = async (command, ...args) => {
  const { success, stderr } = await new Deno.Command(command, { args }).output();
  if (!success) throw new Error(command + ": " + new TextDecoder().decode(stderr));
};
const libc = Deno.dlopen("libc.so.6", {
  umask: { parameters: ["u32"], result: "u32" },
  setgroups: { parameters: ["usize", "buffer"], result: "i32" },
  prctl: { parameters: ["i32", "usize", "usize", "usize", "usize"], result: "i32" },
});
${change}
say("ready", (await open("cat")).pid);
await hear();
`;

test("umask, cwd, rlimits, nice, affinity, policy and oom score of the runtime are the child's", async () => {
  using scratch = new Scratch();
  await using host = Host.start(CHANGED(`
    libc.symbols.umask(0o137);
    Deno.chdir(${JSON.stringify(scratch.path)});
    const me = String(Deno.pid);
    await run("prlimit", "--pid", me, "--nofile=321:654", "--core=0", "--fsize=123456789", "--stack=4194304:8388608");
    await run("renice", "-n", "7", "-p", me);
    await run("taskset", "-p", "2", me);
    await run("chrt", "--batch", "-p", "0", me);
    Deno.writeTextFileSync("/proc/self/oom_score_adj", "300");
  `));
  const [pid = 0] = await host.numbers("ready");
  assertEquals(statusField(pid, "Umask"), "0137");
  assertEquals(Deno.readLinkSync(`/proc/${pid}/cwd`), scratch.path);
  const limits = Deno.readTextFileSync(`/proc/${pid}/limits`);
  assertEquals(limits, Deno.readTextFileSync(`/proc/${host.pid}/limits`));
  assert(/Max open files +321 +654/.test(limits), limits);
  assertEquals(stat(pid)?.[16], "7", "nice");
  assertEquals(statusField(pid, "Cpus_allowed_list"), "1");
  assertEquals(stat(pid)?.[38], "3", "SCHED_BATCH");
  assertEquals(Deno.readTextFileSync(`/proc/${pid}/oom_score_adj`), "300\n");
});

asRoot(
  "a runtime that root gives more than its helpers have gets others: its children have it, too",
  async () => {
    const user = USERS.at(-1);
    await using host = Host.start(
      `
    await (await open("true")).status;
    say("ready");
    while (await hear() !== null) {
      say("child", (await open("cat")).pid);
    }
    `,
      { ...(user === undefined ? {} : { user }), under: ["nice", "-n", "5"] },
    );
    await host.next("ready");
    await output("renice", "-n", "-3", "-p", String(host.pid));
    await host.tell("go\n");
    const [first = 0] = await host.numbers("child");
    assertEquals(stat(first)?.[16], "-3");
    await output("renice", "-n", "4", "-p", String(host.pid));
    await host.tell("go\n");
    const [second = 0] = await host.numbers("child");
    assertEquals(stat(second)?.[16], "4");
  },
);

test("nobody without privileges may look into a helper", async () => {
  const user = USERS.at(-1);
  await using host = Host.start(
    `
    const port = await open("cat");
    say("ready", port.pid);
    for (let pid = await hear(); pid !== null; pid = await hear()) {
      try {
        Deno.openSync("/proc/" + pid + "/mem").close();
        say("looked", "in");
      } catch (error) {
        say("looked", error.name);
      }
    }
    `,
    user === undefined ? {} : { user },
  );
  const [child = 0] = await host.numbers("ready");
  const { watchdog, guardian, keepers } = helpers(host.pid);
  const looks = [];
  for (const pid of [child, watchdog, guardian, ...keepers]) {
    await host.tell(`${pid}\n`);
    looks.push(...await host.next("looked"));
  }
  // Deno says so of EACCES.
  assertEquals(looks, ["in", ...looks.slice(1).map(() => "PermissionDenied")]);
});

test("a keeper interrupts nobody when it is woken; its child has the runtime's own policy", async () => {
  await using port = await open("cat");
  await using limited = await open("cat", [], { umask: 0o77 }); // cloned late
  const policy = (pid: number) => Number(stat(pid)?.[41 - 3]);
  const [SCHED_OTHER, SCHED_BATCH] = [0, 3];
  const own = policy(Deno.pid);
  const keepers = [port, limited].map(({ pid }) => Number(stat(pid)?.[1]));
  const keeping = own === SCHED_OTHER ? SCHED_BATCH : own;
  assertEquals(keepers.map(policy), [keeping, keeping]);
  assertEquals([port, limited].map(({ pid }) => policy(pid)), [own, own]);
});

asRoot("groups set in the runtime after the guardian started are the child's", async () => {
  await using host = Host.start(CHANGED(`
    if (libc.symbols.setgroups(2n, new Uint32Array([54321, 65533])) !== 0) throw new Error("setgroups");
  `));
  const [pid = 0] = await host.numbers("ready");
  assertEquals(statusField(pid, "Groups"), "54321 65533");
});

asRoot("securebits set in the runtime after the guardian started are the child's", async () => {
  // SECBIT_NOROOT and its lock: uid 0 brings no capabilities at an exec any more (capabilities(7)).
  await using host = Host.start(CHANGED(`
    if (libc.symbols.prctl(28, 3n, 0n, 0n, 0n) !== 0) throw new Error("PR_SET_SECUREBITS");
  `));
  const [pid = 0] = await host.numbers("ready");
  assertEquals(statusField(pid, "CapEff"), "0000000000000000");
});

asRoot("chroot of the runtime after the guardian started is the child's", async () => {
  using scratch = new Scratch();
  // The same directories once more, as another mount: only its number tells them apart.
  await using host = Host.start(
    `
    const rootOf = (mountinfo) => mountinfo.split("\\n").find((line) => line.split(" ")[4] === "/").split(" ")[0];
    const own = () => rootOf(Deno.readTextFileSync("/proc/self/mountinfo"));
    const childs = async () => {
      const port = await open("cat", ["/proc/self/mountinfo"]);
      return rootOf(await port.text());
    };
    say("before", own(), await childs());
    const jail = ${JSON.stringify(scratch.path)};
    const { code } = await new Deno.Command("mount", { args: ["--rbind", "/", jail] }).output();
    const { symbols } = Deno.dlopen("libc.so.6", {
      chroot: { parameters: ["buffer"], result: "i32" },
      chdir: { parameters: ["buffer"], result: "i32" },
    });
    const text = (words) => new TextEncoder().encode(words + "\\0");
    say("jailed", code, symbols.chroot(text(jail)), symbols.chdir(text("/")));
    say("after", own(), await childs());
    await hear();
    `,
    { under: ["unshare", "--mount"] },
  );
  const before = await host.next("before");
  assertEquals(await host.next("jailed"), ["0", "0", "0"]);
  const after = await host.next("after");
  assertEquals([before[1], after[1]], [before[0], after[0]], "the child's root is the runtime's");
  assertNotEquals(before[0], after[0]);
});

const NO_NEW_PRIVS = `
if (libc.symbols.prctl(38, 1n, 0n, 0n, 0n) !== 0) throw new Error("PR_SET_NO_NEW_PRIVS");
`;

test("no_new_privs set in the runtime after the guardian started is the child's", async () => {
  await using host = Host.start(CHANGED(NO_NEW_PRIVS));
  const [pid = 0] = await host.numbers("ready");
  assertEquals(statusField(pid, "NoNewPrivs"), "1");
});

test("a seccomp filter set in the runtime after the guardian started is the child's", async () => {
  // One instruction that allows everything: what counts is that it is there. The first filter and the
  // no_new_privs that it takes come before the guardian, so that the second is the only difference.
  await using host = Host.start(CHANGED(`
    const filter = new Uint8Array([0x06, 0, 0, 0, 0, 0, 0xff, 0x7f]);
    const program = new BigUint64Array([1n, BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(filter)))]);
    const at = BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(program)));
    const restrict = () => {
      if (libc.symbols.prctl(22, 2n, at, 0n, 0n) !== 0) throw new Error("PR_SET_SECCOMP");
    };
    ${NO_NEW_PRIVS}
    restrict();
    say("before", (await open("cat")).pid);
    restrict();
  `));
  const [before = 0] = await host.numbers("before");
  const [pid = 0] = await host.numbers("ready");
  const filters = (pid: number) => Number(statusField(pid, "Seccomp_filters"));
  assertEquals([filters(pid), filters(before)], [filters(host.pid), filters(host.pid) - 1]);
  assertEquals([pid, before].map((pid) => statusField(pid, "Seccomp")), ["2", "2"]);
});

const RULES_OF_LANDLOCK = 444;

/** landlock_create_ruleset(2) says its version there. */
function hasLandlock(): boolean {
  const libc = Deno.dlopen("libc.so.6", {
    syscall: { parameters: ["i64", "usize", "usize", "u32"], result: "i64" },
  });
  try {
    return Number(libc.symbols.syscall(BigInt(RULES_OF_LANDLOCK), 0n, 0n, 1)) > 0;
  } finally {
    libc.close();
  }
}

skippable(
  "Landlock's rules of the runtime are the child's after resetGuardian()",
  hasLandlock() ? null : "run it on a kernel that is started with lsm=landlock",
  async () => {
    using scratch = new Scratch().open();
    const file = scratch.file("written");
    await using host = Host.start(CHANGED(`
      ${NO_NEW_PRIVS}
      const write = async () => {
        const port = await open("sh", ["-c", 'exec 2>/dev/null; : > "$0"', ${
      JSON.stringify(file)
    }]);
        return [(await port.status).success, await port.text()];
      };
      await (await open("true")).status; // by the guardian that knows of no_new_privs
      const { symbols: { create, restrict } } = Deno.dlopen("libc.so.6", {
        create: { name: "syscall", parameters: ["i64", "buffer", "usize", "u32"], result: "i64" },
        restrict: { name: "syscall", parameters: ["i64", "i32", "u32"], result: "i64" },
      });
      const [WRITE_FILE, MAKE_REG] = [1n << 1n, 1n << 8n];
      const rules = create(${RULES_OF_LANDLOCK}n, new BigUint64Array([WRITE_FILE | MAKE_REG]), 8n, 0);
      if (rules < 0) throw new Error("landlock_create_ruleset");
      if (restrict(446n, Number(rules), 0) !== 0n) throw new Error("landlock_restrict_self");
      try {
        Deno.writeTextFileSync(${JSON.stringify(file)}, "");
        say("own", true);
      } catch (error) {
        say("own", error.name);
      }
      say("before", (await write())[0]);
      proton.resetGuardian();
      say("after", (await write())[0]);
    `));
    assertEquals(await host.next("own"), ["PermissionDenied"]);
    assertEquals(await host.next("before"), ["true"], "it cannot be read back that there are some");
    assertEquals(await host.next("after"), ["false"]);
  },
);

test("ports of the old guardian live on beside those of the new one", async () => {
  await using host = Host.start(CHANGED(`
    const before = await open("cat");
    ${NO_NEW_PRIVS}
    const after = await open("cat");
    await before.command("old\\n");
    await after.command("new\\n");
    for (const port of [before, after]) {
      for await (const { data } of port) {
        say("echo", new TextDecoder().decode(data).trim());
        break;
      }
    }
  `));
  assertEquals([await host.next("echo"), await host.next("echo")], [["old"], ["new"]]);
});
