// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Signals of the host: its trees end with it, in order where a supervisor has the say, and with their grace. */

import { assertEquals } from "@std/assert";
import { Host, type HostOptions } from "./host_process.ts";
import {
  alive,
  asRoot,
  assert,
  children,
  descendants,
  gone,
  identities,
  type Identity,
  Scratch,
  test,
  until,
} from "./helpers.ts";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

for (const signal of SIGNALS) {
  test(`${signal} ends the trees of a host that has no handler, with their grace`, async () => {
    using scratch = new Scratch();
    await using host = Host.start(`
      const file = ${JSON.stringify(scratch.file("notes"))};
      const port = await open(PROBE, ["obey-sigterm", file, "50"], { delayToSigkill: 2 ** 31 - 1 });
      const other = await open(PROBE, ["double-fork", "2", "stay"], { delayToSigkill: 20 });
      say("ready", ...await ready(port), ...await ready(other));
      await hear();
    `);
    const ids = identities(await host.numbers("ready"));
    host.kill(signal);
    assertEquals((await host.end()).signal, signal);
    await gone(ids);
    assertEquals(scratch.lines("notes").length, 1, "SIGTERM, and the time to obey it");
  });
}

test("with a handler of its own the program decides", async () => {
  await using host = Host.start(`
    Deno.addSignalListener("SIGTERM", () => say("heard"));
    const port = await open("cat");
    say("ready", port.pid);
    await hear();
    await port.command("still here\\n");
    for await (const { data } of port) {
      say("said", new TextDecoder().decode(data).trim());
      break;
    }
    await port.close();
    Deno.exit(9);
  `);
  const ids = identities(await host.numbers("ready"));
  host.kill("SIGTERM");
  await host.next("heard");
  await host.tell("go\n");
  assertEquals(await host.next("said"), ["still", "here"]);
  assertEquals([(await host.end()).code, ids.map(alive)], [9, [false]]);
});

/** Three programs that note in `file` what becomes of them; one needs a while to end. */
const SUPERVISED = (file: string) => `
  const note = 'echo "start $1" >> "$0"; trap \\'$2; echo "stop $1" >> "$0"; exit 0\\' TERM;' +
    'echo ready; while :; do sleep 1000 >&- 2>&- & wait; done';
  const child = (id, how = ":") => ({
    id,
    command: "sh",
    args: ["-c", note, ${JSON.stringify(file)}, id, how],
    shutdown: 2 ** 31 - 1,
    waitFor: { line: /^ready$/ },
  });
  // A shell that waits without a program of its own, which would be signalled, too.
  const slow = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
  const late = { check: () => { say("ready"); return true; } };
  await proton.Supervisor.run({
    children: [
      child("a"),
      { id: "inner", supervisor: { children: [child("b", slow)] } },
      child("c"),
      { id: "last", command: "sleep", args: ["1000"], waitFor: late },
    ],
    log: () => {},
  });
`;

const STARTS = ["start a", "start b", "start c"];
const STOPS = ["stop c", "stop b", "stop a"];

/** A host that does {@link SUPERVISED}, once all of it runs. */
async function supervised(
  scratch: Scratch,
  options: HostOptions = {},
): Promise<[Host, Identity[]]> {
  const host = Host.start(SUPERVISED(scratch.file("notes")), options);
  await host.next("ready");
  assertEquals(scratch.lines("notes"), STARTS);
  return [host, identities(descendants(host.pid))];
}

for (const signal of SIGNALS) {
  test(`Supervisor.run: ${signal} ends all in reverse order, and the program by ${signal}`, async () => {
    using scratch = new Scratch();
    const [running, ids] = await supervised(scratch);
    await using host = running;
    host.kill(signal);
    assertEquals((await host.end()).signal, signal);
    assertEquals(scratch.lines("notes").slice(3), STOPS);
    await gone(ids);
  });
}

test("Supervisor.run: a second signal does not wait for anybody's grace", async () => {
  await using host = Host.start(`
    const probe = { command: PROBE, waitFor: { line: /^ready/ }, shutdown: 2 ** 31 - 1 };
    await proton.Supervisor.run({
      children: [
        { id: "a", ...probe, args: ["ignore-sigterm"] },
        { id: "b", ...probe, args: ["ignore-sigterm", "notes"] },
      ],
      log: ({ text }) => say(text),
    });
  `);
  const ids = identities([...await host.numbers("ready"), ...await host.numbers("ready")]);
  host.kill("SIGINT");
  // Two at the same moment would be one.
  const notes = () => Deno.readTextFileSync(`${host.folder}/notes`);
  await until(() => notes().includes("\n"), { what: "SIGTERM at b" });
  host.kill("SIGINT");
  assertEquals((await host.end()).signal, "SIGINT");
  await gone(ids);
});

test("Supervisor.run: a signal in the middle of the start ends what has started", async () => {
  using scratch = new Scratch();
  await using host = Host.start(`
    await proton.Supervisor.run({
      children: [
        { id: "a", command: PROBE, args: ["obey-sigterm", ${JSON.stringify(scratch.file("a"))}] },
        { id: "b", command: PROBE, args: ["ready"], waitFor: { line: /never/ } },
      ],
      log: ({ text }) => say(text),
    });
  `);
  const ids = identities([...await host.numbers("ready"), ...await host.numbers("ready")]);
  host.kill("SIGTERM");
  assertEquals((await host.end()).signal, "SIGTERM");
  await gone(ids);
  assertEquals(scratch.lines("a").length, 1);
});

test("Supervisor.run: one that gives up is an error of the program", async () => {
  await using host = Host.start(`
    await proton.Supervisor.run({
      children: [{ id: "bad", command: "false" }],
      log: () => {},
    });
  `);
  const { code, stderr } = await host.end();
  assertEquals(code, 1);
  assert(/SupervisorError: .*EINTENSITY/.test(stderr), stderr);
});

test("as a service with KillMode=mixed: SIGTERM to the runtime alone", async () => {
  using scratch = new Scratch();
  const [running, ids] = await supervised(scratch, { under: ["setsid"] });
  await using host = running;
  host.kill("SIGTERM");
  assertEquals((await host.end()).signal, "SIGTERM");
  await gone(ids);
  assertEquals(scratch.lines("notes"), [...STARTS, ...STOPS]);
});

test("as a service with KillMode=control-group: SIGTERM to all at once keeps the grace", async () => {
  using scratch = new Scratch();
  const [running, ids] = await supervised(scratch, { under: ["setsid"] });
  await using host = running;
  const all = [host.id, ...ids, ...identities(descendants(host.pid))];
  // Those that know no grace first: a helper that obeyed would cut everybody else's short.
  for (const { pid } of all.toReversed()) {
    try {
      Deno.kill(pid, "SIGTERM");
    } catch {
      // It has ended by what was sent before.
    }
  }
  assertEquals((await host.end()).signal, "SIGTERM");
  await gone(all);
  const notes = scratch.lines("notes");
  assertEquals(notes.slice(0, 3), STARTS);
  // systemd has signalled all of them itself: the order is no longer ours. Each had its time,
  // and one that ended before the runtime knew may have come back before it, too, ended.
  const count = (line: string) => notes.filter((other) => other === line).length;
  for (const id of ["a", "b", "c"]) {
    assertEquals(count(`stop ${id}`), count(`start ${id}`), `${id}: ${notes}`);
  }
});

const CONTAINER = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];

asRoot("process 1 without a handler does not hear SIGTERM: its ports live on", async () => {
  await using host = Host.start(
    `
    const port = await open("cat");
    say("ready", port.pid);
    await hear();
    await port.command("still here\\n");
    await port.closeStdin();
    say("said", (await port.text()).trim());
    `,
    { above: CONTAINER },
  );
  await host.next("ready");
  const [runtime = 0] = children(host.pid);
  Deno.kill(runtime, "SIGTERM");
  await host.tell("go\n");
  assertEquals(await host.next("said"), ["still", "here"]);
});

asRoot("as process 1 of a container: SIGTERM, the grace, the order, and 143", async () => {
  using scratch = new Scratch();
  const [running, ids] = await supervised(scratch, { above: CONTAINER });
  await using host = running;
  const [runtime = 0] = children(host.pid);
  Deno.kill(runtime, "SIGTERM");
  assertEquals((await host.end()).code, 143, "as unshare(1) passes it on");
  await gone(ids);
  assertEquals(scratch.lines("notes"), [...STARTS, ...STOPS]);
});
