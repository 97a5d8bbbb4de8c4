// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What comes over the helpers' sockets and is no request of the runtime's: a
 * guardian goes on, a keeper ends its own tree, and nobody is served.
 */

import { assertEquals } from "@std/assert";
import {
  assert,
  descriptors,
  gone,
  helpers,
  identities,
  left,
  statusField,
  test,
} from "./helpers.ts";
import { Host } from "./host_process.ts";

/** Sends the numbers it is told, as u32s or as so many bytes, over one of the host's descriptors. */
const SENDER = `
const libc = Deno.dlopen("libc.so.6", {
  send: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
});
function send(fd, ...words) {
  const bytes = new Uint8Array(new Uint32Array(words).buffer);
  return Number(libc.symbols.send(fd, bytes, BigInt(bytes.length), 0));
}
function sendBytes(fd, bytes) {
  return Number(libc.symbols.send(fd, new Uint8Array([...bytes, 0]), BigInt(bytes.length), 0));
}
const MIXED = (n) => Uint8Array.from({ length: n }, (_, i) => (i * 151 + n * 17) & 0xff);
`;

/** The host's end of the socket that a helper has as its first one: made just before it, it has the number before it. */
function hostsEnd(host: number, helper: number): number {
  const inode = (fd: string) => Number(fd.match(/socket:\[(\d+)\]/)?.[1]);
  const sockets = descriptors(helper)?.filter((fd) => fd.includes("socket:")) ?? [];
  const [first = ""] = sockets.toSorted((a, b) => parseInt(a) - parseInt(b));
  const theirs = inode(first);
  const all = descriptors(host)?.filter((fd) => fd.includes("socket:")) ?? [];
  const found = all.find((fd) => inode(fd) === theirs - 1);
  assert(found !== undefined, `no end of ${first} among ${all.join(", ")}`);
  return Number(found.split(" ")[0]);
}

test("a guardian hears nonsense from its own runtime, and goes on", async () => {
  await using host = Host.start(`
    ${SENDER}
    const owner = new Mailbox();
    const port = await open("cat", [], { owner });
    say("ready", port.pid);
    const fd = Number(await hear());
    let sent = 0;
    for (let n = 0; n <= 64; n++) if (sendBytes(fd, MIXED(n)) === n) sent++;
    for (const n of [65, 4096]) if (sendBytes(fd, MIXED(n)) === n) sent++;
    for (const words of [[1, 7], [2, 0xffffffff], [3, 1], [2]]) if (send(fd, ...words) > 0) sent++;
    say("sent", sent);
    // Asks the same guardian, behind all that.
    const others = await Promise.all([open("cat"), open("cat"), open("cat")]);
    await port.command("still there");
    say("answer", new TextDecoder().decode((await owner.receive()).data), others.length);
    await hear();
  `);
  const ids = identities(await host.numbers("ready"));
  const { watchdog, guardian } = helpers(host.pid);
  await host.tell(`${hostsEnd(host.pid, guardian)}\n`);
  assertEquals(await host.next("sent"), ["71"]);
  assertEquals(await host.next("answer"), ["still there", "3"].join(" ").split(" "));
  assertEquals(helpers(host.pid).guardian, guardian, "the same one");
  assertEquals(left(ids.map(({ pid }) => pid)).length, 1);
  const all = identities([watchdog, guardian]);
  host.kill();
  await gone([...ids, ...all]);
});

test("somebody else with the socket of a guardian can end nobody by it", async () => {
  await using host = Host.start(`
    ${SENDER}
    const owner = new Mailbox();
    const port = await open("cat", [], { owner });
    say("ready", port.pid);
    const fd = Number(await hear());
    const { symbols } = Deno.dlopen("libc.so.6", {
      fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
    });
    const [F_SETFD, inherited] = [2, 0];
    symbols.fcntl(fd, F_SETFD, inherited);
    const ends = Array.from({ length: 32 }, (_, id) => "\\\\002\\\\000\\\\000\\\\000\\\\" + id.toString(8).padStart(3, "0") + "\\\\000\\\\000\\\\000");
    const script = ends.map((end) => \`printf '\${end}' >&\${fd}\`).join("; ");
    const { success } = await new Deno.Command("bash", { args: ["-c", script] }).output();
    say("sent", success);
    await Promise.all([open("true"), open("true")]);
    await port.command("still there");
    say("answer", new TextDecoder().decode((await owner.receive()).data));
    await hear(); // until it was looked at
    for (let id = 0; id < 32; id++) send(fd, 2, id);
    say("cause", (await port.status).cause);
    await hear();
  `);
  const ids = identities(await host.numbers("ready"));
  const { guardian } = helpers(host.pid);
  await host.tell(`${hostsEnd(host.pid, guardian)}\n`);
  assertEquals(await host.next("sent"), ["true"]);
  assertEquals(await host.next("answer"), ["still", "there"]);
  assertEquals(left(ids.map(({ pid }) => pid)).length, 1);
  // The runtime itself ends its keeper by the same words.
  await host.tell("go\n");
  assertEquals(await host.next("cause"), ["guardian"]);
  await gone(ids);
});

test("a keeper that hears nonsense goes on, and one whose runtime does not hear it any more is not waited for", async () => {
  await using host = Host.start(`
    ${SENDER}
    const owner = new Mailbox();
    const port = await open("cat", [], { owner });
    const other = await open("cat");
    say("ready", port.pid, other.pid);
    const fd = Number(await hear());
    let sent = 0;
    for (let n = 1; n <= 300; n += 13) if (sendBytes(fd, MIXED(n)) === n) sent++;
    say("sent", sent);
    await port.command("still there");
    say("answer", new TextDecoder().decode((await owner.receive()).data));
    const { symbols } = Deno.dlopen("libc.so.6", {
      shutdown: { parameters: ["i32", "i32"], result: "i32" },
    });
    const both = 2;
    say("cut", symbols.shutdown(fd, both));
    say("cause", (await port.status).cause);
    await hear();
  `);
  const [spoilt, other] = identities(await host.numbers("ready"));
  assert(spoilt !== undefined && other !== undefined);
  const keeper = Number(statusField(spoilt.pid, "PPid"));
  await host.tell(`${hostsEnd(host.pid, keeper)}\n`);
  assertEquals(await host.next("sent"), ["24"]);
  assertEquals(await host.next("answer"), ["still", "there"]);
  assertEquals(await host.next("cut"), ["0"]);
  assertEquals(await host.next("cause"), ["guardian"]);
  await gone([spoilt]);
  assertEquals(left([other.pid]).length, 1);
});

/** ToKeeper::Close: an abort without grace. */
const CLOSE = "2, 3, 0, 100";

test("somebody else with the socket of a keeper can end nobody by it", async () => {
  await using host = Host.start(`
    ${SENDER}
    const owner = new Mailbox();
    const port = await open("cat", [], { owner, delayToSigkill: 10 });
    say("ready", port.pid);
    const fd = Number(await hear());
    const { symbols } = Deno.dlopen("libc.so.6", {
      fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
    });
    const [F_SETFD, inherited] = [2, 0];
    symbols.fcntl(fd, F_SETFD, inherited);
    const close = [${CLOSE}].map((word) => "\\\\" + word.toString(8).padStart(3, "0") + "\\\\000\\\\000\\\\000").join("");
    const { success } = await new Deno.Command("bash", { args: ["-c", \`printf '\${close}' >&\${fd}\`] }).output();
    say("sent", success);
    await port.command("still there");
    say("answer", new TextDecoder().decode((await owner.receive()).data));
    await hear(); // until it was looked at
    send(fd, ${CLOSE});
    say("cause", (await port.status).cause);
    await hear();
  `);
  const ids = identities(await host.numbers("ready"));
  const keeper = Number(statusField(ids[0]?.pid ?? 0, "PPid"));
  await host.tell(`${hostsEnd(host.pid, keeper)}\n`);
  assertEquals(await host.next("sent"), ["true"]);
  assertEquals(await host.next("answer"), ["still", "there"]);
  assertEquals(left(ids.map(({ pid }) => pid)).length, 1);
  // The runtime itself ends its child by the same words.
  await host.tell("go\n");
  assertEquals(await host.next("cause"), ["abort"]);
  await gone(ids);
});
