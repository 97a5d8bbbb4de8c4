// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** README's promises: when the owner ends, by whatever means, every descendant ends with it. */

import { assertEquals } from "@std/assert";
import {
  assert,
  gone,
  helpers,
  identities,
  type Identity,
  identity,
  Scratch,
  test,
  until,
} from "./helpers.ts";
import { Host, USERS } from "./host_process.ts";

/**
 * A host with three ports, each a tree of a child and two double-forked
 * daemons, one of which outlives SIGTERM. `after` is what it does once told to.
 */
const THREE_TREES = (after: string) => `
const owner = new Mailbox();
const controller = new AbortController();
const options = { owner, signal: controller.signal, delayToSigkill: 50 };
const ports = [];
const pids = [];
for (let i = 0; i < 3; i++) {
  const port = await open(PROBE, ["double-fork", "2", "eof"], options);
  ports.push(port);
  const message = await owner.receive(port);
  pids.push(...new TextDecoder().decode(message.data).trim().split(" ").slice(1).map(Number));
}
say("ready", ...pids);
await hear();
${after}
`;

/** After an end that the host itself sees, it lists at once what is left: nothing may be. */
const LIST = `
say("left", ...left(pids));
say("causes", ...(await Promise.all(ports.map((port) => port.status))).map(({ cause }) => cause));
say("killed", ...(await Promise.all(ports.map((port) => port.status))).map(({ killed }) => killed));
`;

/** Ends that the host outlives: what it does, and the cause it is then told. */
const SEEN: [name: string, act: string, cause: string][] = [
  ["the mailbox is disposed", "await owner[Symbol.asyncDispose]();", "owner"],
  ["every port is closed", "await Promise.all(ports.map((port) => port.close()));", "close"],
  [
    "the scope is left by a throw",
    `try {
      await using scope = owner;
      throw new Error("away");
    } catch (error) {
      say(error.message);
    }`,
    "owner",
  ],
  [
    "its signal is aborted",
    "controller.abort(); await Promise.all(ports.map((port) => port.status));",
    "abort",
  ],
  [
    "the child exits",
    `await Promise.all(ports.map((port) => port.closeStdin()));
    await Promise.all(ports.map((port) => port.status));`,
    "exit",
  ],
];

/** Ends of the host process itself. */
const UNSEEN: [name: string, end: (host: Host) => void, after: string][] = [
  ["is killed with SIGKILL", (host) => host.kill("SIGKILL"), "await new Promise(() => {});"],
  ["is killed with SIGTERM", (host) => host.kill("SIGTERM"), "await new Promise(() => {});"],
  ["calls Deno.exit", () => {}, "Deno.exit(0);"],
  ["dies of an uncaught error", () => {}, 'throw new Error("uncaught");'],
  [
    "writes to address 0 in native code",
    () => {},
    `const libc = Deno.dlopen("libc.so.6", {
      memset: { parameters: ["pointer", "i32", "usize"], result: "pointer" },
    });
    libc.symbols.memset(null, 0, 1);`,
  ],
];

async function started(host: Host): Promise<Identity[]> {
  const pids = await host.numbers("ready");
  assertEquals(pids.length, 9, "three trees of a child and two daemons");
  return identities(pids);
}

for (const user of USERS) {
  for (const [name, act, cause] of SEEN) {
    test(`as ${user.name}: when ${name}, all is gone by the time that is told`, async () => {
      await using host = Host.start(THREE_TREES(act + LIST + "await hear();"), { user });
      const ids = await started(host);
      await host.tell("go\n");
      assertEquals(await host.next("left"), []);
      assertEquals(await host.next("causes"), [cause, cause, cause]);
      // In each tree one daemon outlives SIGTERM; those that obey are not killed.
      assertEquals(await host.next("killed"), ["1", "1", "1"]);
      await gone(ids);
    });
  }

  for (const [name, end, after] of UNSEEN) {
    test(`as ${user.name}: when the host ${name}, all is gone, its helpers too`, async () => {
      const under = ["prlimit", "--core=0"];
      await using host = Host.start(THREE_TREES(after), { user, under });
      const ids = await started(host);
      const { watchdog, guardian, keepers } = helpers(host.pid);
      assertEquals(keepers.length, 3);
      const ours = identities([watchdog, guardian, ...keepers]);
      await host.tell("go\n");
      end(host);
      await host.end();
      await gone([...ids, ...ours]);
    });
  }

  test(`as ${user.name}: onOwnerDeath "graceful" lets a child put its house in order, "kill" does not`, async () => {
    using scratch = new Scratch().open();
    const [kept, cut] = [scratch.file("graceful"), scratch.file("kill")];
    await using host = Host.start(
      `
      const graceful = await open(PROBE, ["obey-sigterm", ${JSON.stringify(kept)}]);
      const kill = await open(PROBE, ["obey-sigterm", ${
        JSON.stringify(cut)
      }], { onOwnerDeath: "kill" });
      say("ready", ...await ready(graceful), ...await ready(kill));
      await hear();
      `,
      { user },
    );
    const ids = identities(await host.numbers("ready"));
    host.kill("SIGKILL");
    await gone(ids);
    assertEquals([scratch.lines("graceful"), scratch.lines("kill")], [["TERM"], []]);
  });
}

test("one tree's end leaves the others alone", async () => {
  await using host = Host.start(THREE_TREES(`
    await ports[0].close();
    say("left", ...left(pids));
    await hear();
  `));
  const ids = await started(host);
  await host.tell("go\n");
  assertEquals(await host.numbers("left"), ids.slice(3).map(({ pid }) => pid));
  host.kill();
  await gone(ids);
});

test("what ignores SIGTERM is sent it first, and SIGKILL after delayToSigkill", async () => {
  using scratch = new Scratch();
  const file = scratch.file("notes");
  await using host = Host.start(`
    const port = await open(PROBE, ["ignore-sigterm", ${
    JSON.stringify(file)
  }], { delayToSigkill: 100 });
    const pids = await ready(port);
    await port.close();
    const { cause, killed, signal, usage } = await port.status;
    say("ended", cause, killed, signal, left(pids).length);
  `);
  assertEquals(await host.next("ended"), ["close", "1", "SIGKILL", "0"]);
  assertEquals(scratch.lines("notes"), ["TERM"], "one SIGTERM came before");
});

test("what obeys SIGTERM is not killed, however long delayToSigkill is", async () => {
  using scratch = new Scratch();
  const file = scratch.file("notes");
  // It takes a while to obey: a SIGKILL right behind SIGTERM would be faster.
  await using host = Host.start(`
    const options = { delayToSigkill: 2_000_000_000 };
    const port = await open(PROBE, ["obey-sigterm", ${JSON.stringify(file)}, "300"], options);
    await ready(port);
    await port.close();
    const { cause, killed, code } = await port.status;
    say("ended", cause, killed, code);
  `);
  assertEquals(await host.next("ended"), ["close", "0", "7"]);
  assertEquals(scratch.lines("notes"), ["TERM"]);
});

test("close({ graceMs: 0 }) and delayToSigkill: 0 send SIGKILL and nothing before", async () => {
  using scratch = new Scratch();
  const [first, second] = [scratch.file("first"), scratch.file("second")];
  await using host = Host.start(`
    const one = await open(PROBE, ["obey-sigterm", ${JSON.stringify(first)}]);
    const two = await open(PROBE, ["obey-sigterm", ${
    JSON.stringify(second)
  }], { delayToSigkill: 0 });
    await ready(one);
    await ready(two);
    await Promise.all([one.close({ graceMs: 0 }), two.close()]);
    say("ended", (await one.status).signal, (await two.status).signal);
  `);
  assertEquals(await host.next("ended"), ["SIGKILL", "SIGKILL"]);
  assertEquals([scratch.lines("first"), scratch.lines("second")], [[], []]);
});

/** A host with a tree and an echo, which takes a turn at each line it hears. */
const ECHOES = `
const tree = await open(PROBE, ["double-fork", "2", "stay"], { delayToSigkill: 50 });
say("ready", ...await ready(tree));
tree.status.then(({ reason, cause }) => say("tree", reason.kind, cause, left([tree.pid]).length));
for (let line = await hear(); line !== null; line = await hear()) {
  await using echo = await open("cat");
  await echo.command(line);
  for await (const { data } of echo) {
    say("echo", new TextDecoder().decode(data), tree.containment.guards, echo.containment.guards);
    break;
  }
}
`;

test("signals to watchdog, guardian and keepers change nothing", async () => {
  await using host = Host.start(ECHOES);
  const ids = identities(await host.numbers("ready"));
  const { watchdog, guardian, keepers } = helpers(host.pid);
  const ours = identities([watchdog, guardian, ...keepers]);
  for (const signal of ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2"] as const) {
    for (const { pid } of ours) Deno.kill(pid, signal);
    await host.tell(`${signal}\n`);
    assertEquals(await host.next("echo"), [signal, "both", "both"]);
    const now = helpers(host.pid);
    assertEquals([now.watchdog, now.guardian], [watchdog, guardian]);
    assertEquals([...ids, ...ours], [...ids, ...ours].map(({ pid }) => identity(pid)));
  }
});

test("the guardian is killed: its trees end, the cause says so, the next open works", async () => {
  await using host = Host.start(ECHOES);
  const ids = identities(await host.numbers("ready"));
  const { guardian, keepers } = helpers(host.pid);
  const ours = identities([guardian, ...keepers]);
  Deno.kill(guardian, "SIGKILL");
  const [, cause, remains] = await host.next("tree");
  assertEquals([cause, remains], ["guardian", "0"]);
  await gone([...ids, ...ours]);
  await host.tell("again\n");
  const [echoed, , guards] = await host.next("echo");
  assertEquals([echoed, guards], ["again", "both"]);
});

test("a keeper is killed: its tree ends, the other ports live", async () => {
  await using host = Host.start(ECHOES);
  const ids = identities(await host.numbers("ready"));
  const { watchdog, guardian, keepers } = helpers(host.pid);
  const [keeper = 0] = keepers;
  Deno.kill(keeper, "SIGKILL");
  assertEquals(await host.next("tree"), ["lost", "guardian", "0"]);
  await gone(ids);
  await host.tell("again\n");
  assertEquals((await host.next("echo"))[0], "again");
  const now = helpers(host.pid);
  assertEquals([now.watchdog, now.guardian], [watchdog, guardian]);
});

test("the watchdog is killed: ports live on and say so, the next open has a new pair", async () => {
  await using host = Host.start(ECHOES);
  const ids = identities(await host.numbers("ready"));
  const { watchdog } = helpers(host.pid);
  const old = identity(watchdog);
  Deno.kill(watchdog, "SIGKILL");
  await gone([old]);
  const turn = async (): Promise<string[]> => {
    await host.tell("again\n");
    return await host.next("echo");
  };
  await until(async () => (await turn()).join(" ") === "again guardian both", {
    what: "a port guarded by the guardian alone beside one with both",
  });
  assertEquals(ids, ids.map(({ pid }) => identity(pid)), "the tree lives on");
  host.kill();
  await gone(ids);
});

test("a signal that stops the guardian does not stop the end of the host's trees", async () => {
  await using host = Host.start(ECHOES);
  const ids = identities(await host.numbers("ready"));
  const { guardian } = helpers(host.pid);
  const ours = identity(guardian);
  Deno.kill(guardian, "SIGSTOP");
  host.kill();
  await gone(ids);
  await gone([ours]);
  assert(true);
});
