// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * A cgroup v2 around a host and all that comes of it. It proves what a list of
 * pids cannot: that *nothing* is left, known or unknown. And it ends, by one
 * write, whatever a test that fails would leave behind.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { accessSync, chownSync, constants, existsSync } from "node:fs";
import type { Hierarchy } from "../src/core.ts";
import { nativeCore } from "../src/native/load.ts";
import { comm, ROOT, until } from "./helpers.ts";

/** Where cgroup v2 is mounted; null where it is not. */
export const MOUNT: string | null = mounted();

/**
 * Where cgroups for tests are made: as root right there, else beside the own
 * one, where that stands in a subtree of this user. Null where neither is to be
 * had.
 */
export const PLACE: string | null = ROOT ? MOUNT : delegated();

function mounted(): string | null {
  const lines = Deno.readTextFileSync("/proc/self/mountinfo").split("\n");
  return lines.find((line) => / - cgroup2 /.test(line))?.split(" ")[4] ?? null;
}

/**
 * The parent of the own cgroup: who moves a process has to have the right to
 * where both sides meet. One more level is made there, for a runtime right
 * below it would take what is delegated for its own.
 */
function delegated(): string | null {
  const own = Deno.readTextFileSync("/proc/self/cgroup").match(/^0::(.*)\//m)?.[1];
  if (own === undefined || MOUNT === null) return null;
  const parent = MOUNT + own;
  try {
    for (const path of [parent, `${parent}/cgroup.procs`]) accessSync(path, constants.W_OK);
  } catch {
    return null; // somebody else's
  }
  const place = `${parent}/proton_test_${Deno.pid}`;
  Deno.mkdirSync(place, { recursive: true });
  return place;
}

let count = 0;
const standing = new Set<Cgroup>();

globalThis.addEventListener("unload", () => {
  for (const cgroup of standing) cgroup.end();
  if (!ROOT && PLACE !== null) Deno.removeSync(PLACE);
});

/** A `proton_test_*` in {@link PLACE}, gone with its scope. */
export class Cgroup implements Disposable {
  readonly path: string;

  /** With `uid` it is delegated to that user. */
  constructor(uid: number | null = null) {
    if (PLACE === null) throw new Error("there is no cgroup v2 to write in: see PLACE");
    this.path = `${PLACE}/proton_test_${Deno.pid}_${++count}`;
    Deno.mkdirSync(this.path);
    standing.add(this);
    if (uid !== null) delegate(this.path, uid);
  }

  /** The folders below it, deepest first. */
  below(folder: string = this.path): string[] {
    const inner = entries(folder).filter(({ isDirectory }) => isDirectory);
    return inner.flatMap(({ name }) => [...this.below(`${folder}/${name}`), `${folder}/${name}`]);
  }

  /** The pids in it and below it; zombies do not count. */
  pids(): number[] {
    const folders = [...this.below(), this.path];
    return [...new Set(folders.flatMap((folder) => members(folder)))];
  }

  /** Waits until nobody is left, here and below. */
  async empty(): Promise<void> {
    const populated = () => lines(`${this.path}/cgroup.events`).includes("populated 1");
    const who = () => this.pids().map((pid) => `${pid} (${comm(pid)})`).join(", ");
    await until(() => !populated(), { what: () => `nobody in ${this.path}; there is ${who()}` });
  }

  /** Nobody is left, and whoever was there has left no cgroup of its own behind. */
  async leftNothing(): Promise<void> {
    await this.empty();
    assertEquals(this.below(), [], "cgroups that were left behind");
  }

  /** Ends everybody in it. */
  kill(): void {
    try {
      Deno.writeTextFileSync(`${this.path}/cgroup.kill`, "1");
    } catch {
      for (const pid of this.pids()) Deno.kill(pid, "SIGKILL"); // refused where it is threaded
    }
  }

  /** Kills and removes without asking; what is dying keeps its folder busy for a moment. */
  end(): void {
    if (!standing.delete(this) || !existsSync(this.path)) return;
    this.kill();
    const deadline = performance.now() + 5_000;
    for (const folder of [...this.below(), this.path]) {
      while (!removed(folder) && performance.now() < deadline);
    }
  }

  [Symbol.dispose](): void {
    this.end();
  }
}

/** As cgroups(7) has it: its owner may make others below it. */
export function delegate(path: string, uid: number): void {
  for (const file of ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]) {
    chownSync(`${path}/${file}`, uid, uid);
  }
}

/** The mounted hierarchies, as the library sees them. */
const HIERARCHIES: readonly Hierarchy[] = nativeCore().hierarchies();

/** v2's names of controllers that v1 calls otherwise. */
const IN_V1: Readonly<Record<string, string>> = { io: "blkio" };

/** Which version has this controller here; null where none has. */
export function versionOf(controller: string): 1 | 2 | null {
  const old = IN_V1[controller] ?? controller;
  if (HIERARCHIES.some((one) => one.version === 1 && one.controllers.includes(old))) return 1;
  const v2 = lines(`${MOUNT}/cgroup.controllers`).flatMap((line) => line.split(" "));
  return v2.includes(controller) ? 2 : null;
}

/**
 * A `proton_test_*` of the same path in each hierarchy that has one of the
 * controllers: what `cgroupBase` takes. Gone with its scope.
 */
export class Ground implements Disposable {
  /** From the root of each hierarchy on. */
  readonly path: string = `proton_test_${Deno.pid}_${++count}`;
  readonly folders: string[] = [];

  /** With `uid` it belongs to that user, as after `cgcreate -a`. */
  constructor(controllers: readonly string[], uid: number | null = null) {
    for (const { version, mount, controllers: bound } of HIERARCHIES) {
      const here = controllers.filter((name) =>
        version === 1 ? bound.includes(IN_V1[name] ?? name) : versionOf(name) === 2
      );
      if (here.length === 0) continue;
      if (version === 2) switchOn(mount, here);
      const folder = `${mount}/${this.path}`;
      Deno.mkdirSync(folder);
      this.folders.push(folder);
      if (version === 1 && here.includes("cpuset")) {
        for (const file of ["cpuset.cpus", "cpuset.mems"]) {
          Deno.writeTextFileSync(`${folder}/${file}`, Deno.readTextFileSync(`${mount}/${file}`));
        }
      }
      if (uid === null) continue;
      for (const { name } of [...entries(folder), { name: "" }]) {
        chownSync(`${folder}/${name}`, uid, uid);
      }
    }
  }

  /** The cgroups below it, in any hierarchy. */
  leaves(): string[] {
    return this.folders.flatMap((folder) =>
      entries(folder).filter(({ isDirectory }) => isDirectory).map(({ name }) =>
        `${folder}/${name}`
      )
    );
  }

  /** Waits until whoever used it has left nothing there. */
  async empty(): Promise<void> {
    await until(() => this.leaves().length === 0, {
      what: () => `no cgroup below ${this.folders}: ${this.leaves()}`,
    });
  }

  [Symbol.dispose](): void {
    const deadline = performance.now() + 5_000;
    const all = this.folders.flatMap((folder) => [...nested(folder), folder]);
    for (const folder of all) {
      for (const pid of members(folder)) Deno.kill(pid, "SIGKILL");
      // In v1 nobody dies who is frozen.
      const state = `${folder}/freezer.state`;
      if (existsSync(state)) Deno.writeTextFileSync(state, "THAWED");
    }
    for (const folder of all) while (!removed(folder) && performance.now() < deadline);
  }
}

/** The folders below one, deepest first. */
function nested(folder: string): string[] {
  const inner = entries(folder).filter(({ isDirectory }) => isDirectory);
  return inner.flatMap(({ name }) => [...nested(`${folder}/${name}`), `${folder}/${name}`]);
}

function switchOn(mount: string, controllers: readonly string[]): void {
  for (const name of controllers) {
    Deno.writeTextFileSync(`${mount}/cgroup.subtree_control`, `+${name}`);
  }
}

/** The processes of a cgroup; a threaded one names only its threads, of which one has the process's pid. */
function members(folder: string): number[] {
  const threaded = lines(`${folder}/cgroup.type`).includes("threaded");
  const all = lines(`${folder}/${threaded ? "cgroup.threads" : "cgroup.procs"}`).map(Number);
  return threaded ? all.filter((tid) => existsSync(`/proc/${tid}/task/${tid}`)) : all;
}

function removed(folder: string): boolean {
  try {
    Deno.removeSync(folder);
    return true;
  } catch {
    return !existsSync(folder); // busy
  }
}

function entries(folder: string): Deno.DirEntry[] {
  try {
    return [...Deno.readDirSync(folder)];
  } catch {
    return []; // removed meanwhile
  }
}

function lines(path: string): string[] {
  try {
    return Deno.readTextFileSync(path).split("\n").filter((line) => line !== "");
  } catch {
    return []; // removed meanwhile
  }
}
