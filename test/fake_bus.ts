// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * A bus of a user with a service manager behind it, as far as a scope takes
 * them: the handshake, four calls, and one signal, written and read after the
 * D-Bus Specification alone. What it "starts" is a cgroup below one of the
 * test's, into which it moves the process that the unit is named for.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { type Cgroup, delegate } from "./cgroups.ts";
import { temporary } from "./host_process.ts";

/** How it answers. */
export type Manner =
  | "well"
  | "an error"
  | "no answer"
  | "garbage"
  | "the end of the connection"
  | "no to the user"
  | "a job that failed"
  | "done, and nothing was"
  | "signals of others without end";

/** What was asked for, decoded. */
export interface Asked {
  member: string;
  arguments: unknown[];
}

/** Gone with its scope; `address` is what DBUS_SESSION_BUS_ADDRESS says. */
export class FakeBus implements Disposable {
  readonly folder: string = temporary("proton_test_bus_");
  readonly path: string = `${this.folder}/bus`;
  readonly address: string = `unix:path=${this.path},guid=00`;
  readonly asked: Asked[] = [];
  readonly #listener: Deno.UnixListener;
  readonly #connections = new Set<Deno.UnixConn>();

  /** The manager's cgroup is `slice`; what it makes there belongs to `uid`. */
  constructor(readonly manner: Manner, readonly slice: Cgroup, readonly uid: number) {
    this.#listener = Deno.listen({ transport: "unix", path: this.path });
    Deno.chmodSync(this.path, 0o666);
    void this.#serve();
  }

  async #serve(): Promise<void> {
    for await (const connection of this.#listener) {
      this.#connections.add(connection);
      this.#talk(connection).catch(() => {}); // who gave up has closed it
    }
  }

  async #talk(connection: Deno.UnixConn): Promise<void> {
    const mail = new Mail(connection);
    const uid = [...String(this.uid)].map((digit) => `3${digit}`).join("");
    assertEquals(await mail.line(), `\0AUTH EXTERNAL ${uid}`);
    if (this.manner === "no to the user") return await send(connection, "REJECTED EXTERNAL\r\n");
    await send(connection, "OK 0123456789abcdef0123456789abcdef\r\n");
    assertEquals(await mail.line(), "BEGIN");
    while (true) {
      const asked = await mail.call();
      this.asked.push(asked);
      if (asked.member === "StartTransientUnit") await this.#start(connection, asked);
    }
  }

  async #start(connection: Deno.UnixConn, { arguments: [unit] }: Asked): Promise<void> {
    if (typeof unit !== "string") throw new Error(`no name of a unit: ${unit}`);
    const removed = (of: string, result: string) =>
      write(connection, message(4, SIGNAL, ["u", 7], ["o", "/job/7"], ["s", of], ["s", result]));
    switch (this.manner) {
      case "well":
        this.#move(unit);
        await write(connection, message(2, [[5, "u", 4]], ["o", "/job/7"]));
        await removed("another.scope", "failed");
        return await removed(unit, "done");
      case "an error": {
        const name = "org.freedesktop.DBus.Error.ServiceUnknown";
        return await write(connection, message(3, [[4, "s", name], [5, "u", 4]], ["s", "none"]));
      }
      case "a job that failed":
        return await removed(unit, "failed");
      case "done, and nothing was":
        return await removed(unit, "done");
      case "garbage":
        return await send(connection, "HTTP/1.1 400 Bad Request\r\n\r\n");
      case "the end of the connection":
        return connection.close();
      case "signals of others without end":
        while (true) await removed("another.scope", "done");
    }
  }

  /** Its last number is the watchdog's. */
  #move(unit: string): void {
    const pid = unit.match(/^proton-.*\.(\d+)\.scope$/)?.[1];
    if (pid === undefined) throw new Error(`a strange unit: ${unit}`);
    Deno.mkdirSync(`${this.slice.path}/${unit}`);
    delegate(`${this.slice.path}/${unit}`, this.uid);
    Deno.chownSync(`${this.slice.path}/${unit}/cgroup.kill`, this.uid, this.uid);
    Deno.writeTextFileSync(`${this.slice.path}/${unit}/cgroup.procs`, pid);
  }

  [Symbol.dispose](): void {
    this.#listener.close();
    for (const connection of this.#connections) {
      try {
        connection.close();
      } catch {
        // It was closed as its manner is.
      }
    }
  }
}

type Field = [code: number, type: string, value: string | number];
type Argument = [type: string, value: string | number];

const MANAGER = "org.freedesktop.systemd1.Manager";
const SIGNAL: Field[] = [[1, "o", "/org/freedesktop/systemd1"], [2, "s", MANAGER], [
  3,
  "s",
  "JobRemoved",
], [7, "s", ":1.1"]];

/** A message of this kind. */
function message(kind: number, fields: Field[], ...given: Argument[]): Uint8Array<ArrayBuffer> {
  const body: number[] = [];
  for (const [type, value] of given) put(body, type, value);
  const signature = given.map(([type]) => type).join("");
  const all: number[] = [];
  for (const [code, type, value] of [...fields, [8, "g", signature] as Field]) {
    pad(all, 8);
    all.push(code);
    put(all, "g", type);
    put(all, type, value);
  }
  const head: number[] = [0x6c, kind, 1, 1];
  for (const n of [body.length, 99, all.length]) put(head, "u", n);
  const whole = [...head, ...all];
  pad(whole, 8);
  return new Uint8Array([...whole, ...body]);
}

function pad(bytes: number[], to: number): void {
  while (bytes.length % to !== 0) bytes.push(0);
}

function put(bytes: number[], type: string, value: string | number): void {
  if (typeof value === "number") {
    pad(bytes, 4);
    return void bytes.push(...new Uint8Array(new Uint32Array([value]).buffer));
  }
  const text = new TextEncoder().encode(value);
  if (type === "g") bytes.push(text.length);
  else put(bytes, "u", text.length);
  bytes.push(...text, 0);
}

/** What comes from one client. */
class Mail {
  #bytes = new Uint8Array();

  constructor(readonly connection: Deno.UnixConn) {}

  async #more(): Promise<void> {
    const block = new Uint8Array(4096);
    const length = await this.connection.read(block);
    if (length === null) throw new Error("the client has closed");
    this.#bytes = new Uint8Array([...this.#bytes, ...block.subarray(0, length)]);
  }

  async #take(length: number): Promise<Uint8Array> {
    while (this.#bytes.length < length) await this.#more();
    const taken = this.#bytes.slice(0, length);
    this.#bytes = this.#bytes.slice(length);
    return taken;
  }

  async line(): Promise<string> {
    let line = "";
    while (!line.endsWith("\r\n")) line += new TextDecoder().decode(await this.#take(1));
    return line.slice(0, -2);
  }

  async call(): Promise<Asked> {
    const head = await this.#take(16);
    const view = new DataView(head.buffer);
    assertEquals([head[0], head[1], head[3]], [0x6c, 1, 1], "a call, little-endian, of version 1");
    const [body, fields] = [view.getUint32(4, true), view.getUint32(12, true)];
    const rest = await this.#take(Math.ceil(fields / 8) * 8 + body);
    const header = new Values(rest.slice(0, fields));
    const known = new Map<number, unknown>();
    while (!header.atEnd) {
      header.align(8);
      const code = header.byte();
      known.set(code, header.value(header.text(header.byte())));
    }
    const values = new Values(rest.slice(rest.length - body));
    const types = split(String(known.get(8) ?? ""));
    const given = types.map((type) => values.value(type));
    assertEquals(values.atEnd, true, "nothing behind the arguments");
    return { member: String(known.get(3)), arguments: given };
  }
}

/** The complete types in a signature. */
function split(signature: string): string[] {
  const types: string[] = [];
  for (let at = 0; at < signature.length;) {
    let end = at;
    while (signature[end] === "a") end++;
    for (let depth = 0;; end++) {
      depth += signature[end] === "(" ? 1 : signature[end] === ")" ? -1 : 0;
      if (depth === 0) break;
    }
    types.push(signature.slice(at, end + 1));
    at = end + 1;
  }
  return types;
}

/** Values one behind the other. */
class Values {
  #at = 0;

  constructor(readonly bytes: Uint8Array) {}

  get atEnd(): boolean {
    return this.#at >= this.bytes.length;
  }

  align(to: number): void {
    this.#at = Math.ceil(this.#at / to) * to;
  }

  byte(): number {
    const byte = this.bytes[this.#at++];
    if (byte === undefined) throw new Error("a message that is too short");
    return byte;
  }

  u32(): number {
    this.align(4);
    return [0, 8, 16, 24].reduce((sum, shift) => sum + this.byte() * 2 ** shift, 0);
  }

  text(length: number): string {
    const text = new TextDecoder().decode(this.bytes.slice(this.#at, this.#at + length));
    this.#at += length;
    assertEquals(this.byte(), 0, `the end of ${text}`);
    return text;
  }

  value(type: string): unknown {
    switch (type[0]) {
      case "u":
        return this.u32();
      case "b":
        return this.u32() === 1;
      case "s":
      case "o":
        return this.text(this.u32());
      case "g":
        return this.text(this.byte());
      case "v":
        return this.value(this.text(this.byte()));
      case "(":
        this.align(8);
        return split(type.slice(1, -1)).map((inner) => this.value(inner));
      case "a":
        return this.#array(type.slice(1));
    }
    throw new Error(`a type that nothing here has: ${type}`);
  }

  #array(type: string): unknown[] {
    const length = this.u32();
    if (type[0] === "(") this.align(8);
    const end = this.#at + length;
    const all: unknown[] = [];
    while (this.#at < end) all.push(this.value(type));
    return all;
  }
}

async function write(
  connection: Deno.UnixConn,
  bytes: Uint8Array<ArrayBuffer>,
): Promise<void> {
  for (let rest = bytes; rest.length > 0;) rest = rest.subarray(await connection.write(rest));
}

function send(connection: Deno.UnixConn, text: string): Promise<void> {
  return write(connection, new TextEncoder().encode(text));
}
