// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Who a child is: exactly who was asked for, as the kernel shows it, or nobody at all. */

import { assertEquals, assertRejects } from "@std/assert";
import { open, type OpenOptions, SpawnError } from "../mod.ts";
import {
  asRoot,
  assert,
  bytesOf,
  leavesNothing,
  ROOT,
  Scratch,
  skippable,
  statusField,
  test,
} from "./helpers.ts";
import { Cgroup, PLACE } from "./cgroups.ts";
import { Host, type HostOptions, USERS } from "./host_process.ts";
import { sabotagedHost, STEPS } from "./sabotaged.ts";

/** Real, effective, saved and file system ids of a process, and its supplementary groups. */
function ids(pid: number): { uid: number[]; gid: number[]; groups: number[] } {
  const all = (name: string) =>
    statusField(pid, name).split(/\s+/).filter((word) => word !== "").map(Number);
  return { uid: all("Uid"), gid: all("Gid"), groups: all("Groups").sort((a, b) => a - b) };
}

function four(id: number): number[] {
  return [id, id, id, id];
}

/** The ids of the children that a host opens with each of `options`. */
async function shown(options: OpenOptions[], host: HostOptions = {}) {
  await using process = Host.start(
    `
    const ports = [];
    for (const options of ${
      JSON.stringify(options)
    }) ports.push(await open("cat", [], { cwd: "/", ...options }));
    say("ready", ...ports.map((port) => port.pid));
    await hear();
    `,
    host,
  );
  return (await process.numbers("ready")).map(ids);
}

/** What a host hears of each of `options`: how the program ended, or the error. */
async function refused(options: OpenOptions[], host: HostOptions): Promise<string[]> {
  await using process = Host.start(
    `
    for (const options of ${JSON.stringify(options)}) {
      const said = await open("true", [], { cwd: "/", ...options }).then(
        async (port) => "code " + (await port.status).code,
        ({ name, stage, code }) => [name, stage, code].join(" "),
      );
      say("said", said);
    }
    `,
    host,
  );
  const said = [];
  for (const _ of options) said.push((await process.next("said")).join(" "));
  return said;
}

/** A root host as hosts of services are: with groups of its own. */
const GROUPED: HostOptions = { under: ["setpriv", "--groups=0,4,27"] };

asRoot(
  "uid, gid and groups by number: those and no others, none of the runtime's groups",
  async () => {
    const [plain, both, some, group, groups] = await shown([
      {},
      { uid: 4711, gid: 4712 },
      { uid: 4711, gid: 4712, groups: [27, 5, 27] },
      { gid: 4712 },
      { groups: [5] },
    ], GROUPED);
    assertEquals(plain, { uid: four(0), gid: four(0), groups: [0, 4, 27] });
    assertEquals(both, { uid: four(4711), gid: four(4712), groups: [] });
    assertEquals(some, { uid: four(4711), gid: four(4712), groups: [5, 27] });
    assertEquals(group, { uid: four(0), gid: four(4712), groups: [] });
    assertEquals(groups, { uid: four(0), gid: four(0), groups: [5] });
  },
);

asRoot("groups: more than a few, in any order, each once", async () => {
  const groups = Array.from({ length: 3_000 }, (_, i) => 100_000 - 7 * i);
  const [all] = await shown([{ uid: 4711, gid: 4712, groups: [...groups, ...groups] }], GROUPED);
  assertEquals(all?.groups, groups.toSorted((a, b) => a - b));
});

/** A host that knows users of its own: /etc/passwd and /etc/group are others there. */
function withUsers(scratch: Scratch, command: string[] = []): HostOptions {
  const passwd = [
    "root:x:0:0::/root:/bin/sh",
    "alice:x:4711:4712::/home/alice:/bin/sh",
    "bob:x:4714:4714::/home/bob:/bin/sh",
    "toor:x:0:0::/root:/bin/sh",
    "wheeled:x:4713:0::/:/bin/sh",
  ];
  const group = [
    "root:x:0:",
    "staff:x:4712:",
    "audio:x:29:bob,alice",
    "video:x:44:alice",
    "x:x:7:",
  ];
  Deno.writeTextFileSync(scratch.file("passwd"), `${passwd.join("\n")}\n`);
  Deno.writeTextFileSync(scratch.file("group"), `${group.join("\n")}\n`);
  const mount = `mount --bind ${scratch.path}/passwd /etc/passwd && ` +
    `mount --bind ${scratch.path}/group /etc/group && exec "$@"`;
  return { above: ["unshare", "--mount", "sh", "-c", mount, "sh", ...command] };
}

asRoot("uid by name: the user's own uid, gid and groups (initgroups)", async () => {
  using scratch = new Scratch();
  const all = await shown([
    { uid: "alice" },
    { uid: "alice", gid: "x" },
    { uid: "alice", groups: ["video", 5] },
    { uid: 4711 },
    { uid: 4711, groups: ["audio"] },
    { gid: "staff" },
  ], withUsers(scratch, ["setpriv", "--groups=0,4,27"]));
  const [named, other, given, numbered, withGroup, group] = all;
  assertEquals(named, { uid: four(4711), gid: four(4712), groups: [29, 44, 4712] });
  assertEquals(other, { uid: four(4711), gid: four(7), groups: [7, 29, 44] });
  assertEquals(given, { uid: four(4711), gid: four(4712), groups: [5, 44] });
  assertEquals(numbered, { uid: four(4711), gid: four(4712), groups: [] });
  assertEquals(withGroup, { uid: four(4711), gid: four(4712), groups: [29] });
  assertEquals(group, { uid: four(0), gid: four(4712), groups: [] });
});

asRoot("a name that nobody has, or that is root's, is refused", async () => {
  using scratch = new Scratch();
  const said = await refused([
    { uid: "alicia" },
    { uid: "alice", gid: "stuff" },
    { uid: "alice", groups: ["audio", "vidio"] },
    { uid: 4799 },
    { uid: "toor" },
    { uid: "wheeled" },
    { gid: "root" },
    { groups: ["root"] },
  ], withUsers(scratch));
  const unknown = "SpawnError user ENOENT";
  assertEquals(said.slice(0, 4), [unknown, unknown, unknown, unknown]);
  assertEquals(said.slice(4).map((one) => one.trim()), new Array(4).fill("RangeError"));
});

asRoot("HOME, USER and LOGNAME are a named user's, unless env says others", async () => {
  using scratch = new Scratch();
  await using host = Host.start(
    `
    const print = ["-c", 'echo "$HOME $USER \${LOGNAME-unset}"'];
    for (const options of [
      { uid: "alice" },
      { uid: "alice", env: { HOME: "/srv", LOGNAME: null } },
      { uid: 4711, env: { HOME: "/h", USER: "u", LOGNAME: "l" } },
    ]) {
      const port = await open("/bin/sh", print, { cwd: "/", ...options });
      say("said", (await port.text()).trim());
    }
    `,
    withUsers(scratch),
  );
  assertEquals(await host.next("said"), ["/home/alice", "alice", "alice"]);
  assertEquals(await host.next("said"), ["/srv", "alice", "unset"]);
  assertEquals(await host.next("said"), ["/h", "u", "l"]);
});

asRoot("another user's program may open /dev/stdin, /dev/stdout and /dev/stderr", async () => {
  const script = "cat /dev/stdin; echo out > /dev/stdout; echo err > /dev/stderr";
  await using port = await open("sh", ["-c", script], { uid: 4711, gid: 4711 });
  await port.command(bytesOf("in\n"));
  await port.closeStdin();
  assertEquals(await port.text(), "in\nout\n");
  assertEquals((await port.status).code, 0);
});

asRoot("another user's directory and programs are that user's to enter and to run", async () => {
  using scratch = new Scratch(); // mode 0700, root's
  const user: OpenOptions = { uid: 4711, gid: 4711 };
  const closed = await assertRejects(
    () => open("true", [], { ...user, cwd: scratch.path }),
    SpawnError,
    "it may not be entered",
  );
  assertEquals([closed.stage, closed.code], ["chdir", "EACCES"]);
  Deno.writeTextFileSync(scratch.file("mine"), "#!/bin/sh\n", { mode: 0o755 });
  const mine = await assertRejects(
    () => open(scratch.file("mine"), [], user),
    SpawnError,
    `${JSON.stringify(scratch.path)} is not for user 4711 to execute, or to search`,
  );
  assertEquals([mine.stage, mine.code], ["program", "EACCES"]);
});

asRoot("PATH is searched with the rights of the user, not with the runtime's", async () => {
  using scratch = new Scratch();
  Deno.chmodSync(scratch.path, 0o755);
  const folder = (name: string, mode: number, script: number, group = 0) => {
    Deno.mkdirSync(scratch.file(name));
    const file = scratch.file(`${name}/tool`);
    Deno.writeTextFileSync(file, `#!/bin/sh\necho ${name}\n`);
    Deno.chmodSync(file, script);
    Deno.chownSync(file, 0, group);
    Deno.chmodSync(scratch.file(name), mode);
    return scratch.file(name);
  };
  const closed = folder("closed", 0o700, 0o755);
  const forbidden = folder("forbidden", 0o755, 0o744);
  const grouped = folder("grouped", 0o755, 0o750, 4713);
  const opened = folder("opened", 0o755, 0o755);
  Deno.symlinkSync(`${closed}/tool`, scratch.file("tool"));
  const PATH = [scratch.path, closed, forbidden, grouped, opened].join(":");
  const said = async (options: OpenOptions) => {
    await using port = await open("tool", [], { cwd: "/", env: { PATH }, ...options });
    return (await port.text()).trim();
  };
  assertEquals(await said({}), "closed");
  assertEquals(await said({ uid: 4711, gid: 4711 }), "opened");
  assertEquals(await said({ uid: 4711, gid: 4713 }), "grouped");
  assertEquals(await said({ uid: 4711, gid: 4711, groups: [5, 4713] }), "grouped");
  const error = await assertRejects(
    () => said({ uid: 4711, gid: 4711, env: { PATH: `${forbidden}:${closed}:/nowhere` } }),
    SpawnError,
    `${JSON.stringify(`${forbidden}/tool`)} is not for user 4711`,
  );
  assertEquals([error.stage, error.code], ["program", "EACCES"]);
});

asRoot(
  "a number that the user database does not have takes a gid, and the error says so",
  async () => {
    const error = await assertRejects(
      () => open("true", [], { uid: 4_000_004_711 }),
      SpawnError,
      'Cannot start "true" as user 4000004711: the user database has no such number, so its group ' +
        "is not known (ENOENT): give gid, too",
    );
    assertEquals(error.stage, "user");
    await using port = await open("true", [], { uid: 4_000_004_711, gid: 4711 });
    assertEquals((await port.status).code, 0);
  },
);

asRoot("everything about another user at once, and nothing is left of it", async () => {
  await leavesNothing(async () => {
    for (let round = 0; round < 3; round++) {
      await using port = await open("sh", ["-c", "sleep 1000 & echo ready"], {
        uid: 4711,
        gid: 4711,
        umask: 0o77,
        noNewPrivs: true,
        rlimits: { core: 0, nproc: 100 },
      });
      for await (const message of port) if (message.type === "data") break;
    }
  });
});

test("an unprivileged runtime may ask for itself and for nobody else, before anything starts", async () => {
  const user = USERS.at(-1) ?? { name: "", uid: null };
  const [uid, gid] = ROOT ? [65534, 65534] : [Deno.uid() ?? 0, Deno.gid() ?? 0];
  const said = await refused([
    { uid, gid },
    { uid },
    { gid },
    { uid: uid - 1, gid },
    { uid, gid: gid - 1 },
    { uid, gid, groups: [gid - 1] },
  ], { user });
  assertEquals(said, [
    "code 0",
    "code 0",
    "code 0",
    "SpawnError uid EPERM",
    "SpawnError gid EPERM",
    "SpawnError groups EPERM",
  ]);
});

asRoot(
  "an unprivileged runtime may ask for itself by name, whatever groups the database has",
  async () => {
    using scratch = new Scratch();
    Deno.chmodSync(scratch.path, 0o755);
    await using host = Host.start(
      `
    const port = await open("sh", ["-c", "id -u; id -G; echo $HOME"], { uid: "bob" });
    say("said", (await port.text()).trim().replaceAll("\\n", " "));
    `,
      { ...withUsers(scratch), user: { name: "bob", uid: 4714 } },
    );
    assertEquals(await host.next("said"), ["4714", "4714", "/home/bob"]);
  },
);

asRoot(
  "an unprivileged runtime is itself whatever the database says of its group, and where it says nothing",
  async () => {
    for (const [uid, asked] of [[4711, "alice"], [4711, 4711], [4799, 4799]] as const) {
      using scratch = new Scratch();
      Deno.chmodSync(scratch.path, 0o755);
      // alice's group is 4712 there, and the runtime's is 4711.
      await using host = Host.start(
        `
        const said = await open("sh", ["-c", "id -u; id -G"], { uid: ${JSON.stringify(asked)} })
          .then((port) => port.text(), (error) => error.message);
        say("said", said.trim().replaceAll("\\n", " "));
        `,
        { ...withUsers(scratch), user: { name: String(uid), uid } },
      );
      assertEquals(await host.next("said"), [`${uid}`, `${uid}`], String(asked));
    }
  },
);

asRoot(
  "a user that could not be signalled afterwards is refused, unless a cgroup ends it",
  async () => {
    // Root without CAP_KILL, which may still become others.
    const under = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"];
    const other = { uid: 4711, gid: 4711 };
    const [tree, itself] = await refused([
      { ...other, containment: { kill: "tree" } },
      { gid: 4711, containment: { kill: "tree" } },
    ], { under });
    assertEquals([tree, itself], ["SpawnError reach EPERM", "code 0"]);
  },
);

skippable(
  "a cgroup without cgroup.kill (Linux before 5.14) ends nobody whom the runtime may not signal",
  ROOT && PLACE !== null ? null : "mount cgroup v2, and run scripts/test as root",
  async () => {
    using cgroup = new Cgroup();
    const under = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"];
    await using host = sabotagedHost(
      `
      const options = { uid: 4711, gid: 4711, cwd: "/", containment: { require: { kill: "cgroup2" } } };
      const port = await open("cat", [], options);
      say("with", port.containment.kill);
      await port.close();
      Deno.env.set("${STEPS}", "kill-file");
      proton.resetGuardian();
      const { name, stage, code } = await open("cat", [], options).catch((error) => error);
      say("without", name, stage, code);
      const own = await open("cat", [], { cwd: "/", gid: 4711, containment: options.containment });
      say("own", own.containment.kill);
      await own.close();
      `,
      { under, cgroup },
    );
    assertEquals(await host.next("with"), ["cgroup2"]);
    assertEquals(await host.next("without"), ["SpawnError", "reach", "EPERM"]);
    assertEquals(await host.next("own"), ["cgroup2"]);
    await host.end();
    await cgroup.leftNothing();
  },
);

test("the user database may take its time: nobody but the one who asked waits, and may stop waiting", async () => {
  await using host = sabotagedHost(`
    Deno.env.set("${STEPS}", "slow-lookup");
    const controller = new AbortController();
    const asked = open("true", [], { cwd: "/", uid: "nobody", signal: controller.signal });
    const heard = asked.then(() => "started", (error) => error.message);
    const other = await open("echo", ["still", "here"]);
    say("other", (await other.text()).trim());
    controller.abort(new Error("enough"));
    say("asked", await heard);
    Deno.env.delete("${STEPS}");
    const later = await open("true", [], { cwd: "/", uid: "nobody" }).then(() => "started", (error) => error.stage);
    say("later", later);
  `);
  assertEquals(await host.next("other"), ["still", "here"]);
  assertEquals(await host.next("asked"), ["enough"]);
  const [later] = await host.next("later");
  assert(later === (ROOT ? "started" : "uid") || later === "user", later);
});

test("an open whose owner is disposed meanwhile does not wait for the user database either", async () => {
  await using host = sabotagedHost(`
    Deno.env.set("${STEPS}", "slow-lookup");
    const owner = new Mailbox();
    const asked = open("true", [], { cwd: "/", uid: "nobody", owner });
    await owner[Symbol.asyncDispose]();
    say("asked", await asked.catch((error) => error.code));
  `);
  assertEquals(await host.next("asked"), ["ECLOSED"]);
  assertEquals((await host.end()).code, 0);
});

test("an aborted open does not keep the program alive until the user database answers", async () => {
  await using host = sabotagedHost(`
    Deno.env.set("${STEPS}", "slow-lookup");
    const controller = new AbortController();
    const asked = open("true", [], { cwd: "/", uid: "nobody", signal: controller.signal });
    controller.abort(new Error("enough"));
    say("asked", await asked.catch((error) => error.message));
  `);
  assertEquals(await host.next("asked"), ["enough"]);
  assertEquals((await host.end()).code, 0);
});
