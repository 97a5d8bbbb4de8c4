// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Cgroups while they are in use: those of a port, and any other by its path.
 *
 * @module
 */

import { limitError } from "./containment_error.ts";
import type { Core, Handle, Hierarchy, Leaf } from "./core.ts";
import { kind } from "./checks.ts";
import { ContainmentError, errnoName, quote, typeError } from "./errors.ts";
import {
  type Counters,
  countersOf,
  COUNTING,
  type Figure,
  LIVE,
  type Stats,
  statsOf,
} from "./figures.ts";
import {
  checkOf,
  CONTROLLERS,
  type Limits,
  type Setting,
  settingsOf,
  type Write,
} from "./limits.ts";
import { nativeCore } from "./native/load.ts";

const [ENOENT, EINVAL, EBUSY] = [2, 22, 16];

/** What the cgroups of a tree say in `files` at this moment. */
function figures(core: Core, port: Handle, files: readonly string[]): Figure[] {
  return core.leaves(port).leaves.flatMap(({ version, path }) =>
    files.flatMap((file) => {
      const text = core.cgroupRead(`${path}/${file}`);
      return typeof text === "string" ? [{ version, file, text }] : [];
    })
  );
}

/** What a tree uses at this moment. */
export function liveStats(core: Core, port: Handle): Stats {
  return statsOf(figures(core, port, LIVE));
}

/** What has happened to a tree's limits until now, and how often it was under pressure. */
export function liveCounters(core: Core, port: Handle): { counters: Counters; pressed: number } {
  const { pressed } = core.leaves(port);
  return { counters: countersOf(figures(core, port, COUNTING)), pressed };
}

/**
 * Changes the limits of a tree that runs, each read back.
 *
 * @throws {ContainmentError} where one is not to be had; those before it in the table are changed then.
 */
export function setLimits(core: Core, port: Handle, limits: Limits, subject: string): void {
  const { leaves } = core.leaves(port);
  // What was asked of the start is not asked again: it may have been refused there.
  const asked = settingsOf(limits).filter(({ optional }) => !optional);
  const late = asked.filter((setting) => !set(core, leaves, setting, subject, "may wait"));
  // Of memory and memory with swap each can be in the way of the other: once more, in the other order.
  for (const setting of late) set(core, leaves, setting, subject);
}

/** False where it has to wait for another one. */
function set(
  core: Core,
  leaves: readonly Leaf[],
  setting: Setting,
  subject: string,
  wait?: "may wait",
): boolean {
  for (const leaf of leaves) {
    const side = leaf.version === 1 ? setting.v1 : setting.v2;
    if (side === null) continue;
    const results = side.writes.map((write) => ({ write, errno: -put(core, leaf, write) }));
    const failed = results.find(({ errno }) => errno !== 0);
    if (failed === undefined && side.writes.length > 0) return true;
    if (failed === undefined || failed.errno === ENOENT) continue;
    const pair = failed.write.file.endsWith("limit_in_bytes");
    if (wait !== undefined && pair && [EINVAL, EBUSY].includes(failed.errno)) return false;
    const path = `${leaf.path}/${failed.write.file}`;
    const { value } = failed.write;
    const { errno } = failed;
    throw limitError({ op: "setLimits", subject, path, value, errno }, core.hierarchies());
  }
  throw new ContainmentError({
    what: `Cannot set limit ${quote(setting.name)} of ${subject}`,
    why: "none of its cgroups has the controller for it",
    code: errnoName(ENOENT),
    mend: "open the port with that limit, or with its controller in cgroupControllers",
    op: "setLimits",
    subject,
    errno: ENOENT,
  });
}

function put(core: Core, { path }: Leaf, { file, value, check }: Write): number {
  return core.cgroupWrite(`${path}/${file}`, value, check);
}

/**
 * The cgroups of this host, by controller and path; paths are given from the
 * root of the controller's hierarchy on, `""` is the root itself.
 *
 * ```ts
 * import { Cgroups } from "@proton-stream/port";
 * import { assertEquals } from "@std/assert";
 *
 * if (Cgroups.enabled()) {
 *   assertEquals(Cgroups.controllers().every((name) => typeof name === "string"), true);
 * }
 * ```
 */
export const Cgroups: {
  /** Whether any hierarchy of cgroups is mounted here. */
  enabled(): boolean;
  /** The controllers that a cgroup of this runtime can have, in either version. */
  controllers(): string[];
  /**
   * What a file of a cgroup says, without the last line's end.
   *
   * @throws {TypeError} for an unknown controller, a file that is not its, or a path that leads elsewhere.
   * @throws {ContainmentError} where it cannot be read.
   */
  get(controller: string, path: string, variable: string): string;
  /**
   * Writes to a file of a cgroup. A limit that the table knows is read back.
   *
   * @throws as {@link Cgroups.get}, and where the kernel does not take or keep the value.
   */
  set(controller: string, path: string, variable: string, value: string): void;
} = {
  enabled: () => nativeCore().hierarchies().length > 0,
  controllers: () => controllersOf(nativeCore()),
  get(controller, path, variable) {
    const core = nativeCore();
    const at = fileOf(core, "get", controller, path, variable);
    const text = core.cgroupRead(at);
    if (typeof text === "string") return text.replace(/\n$/, "");
    const fault = { op: "get", subject: at, path: at, value: null, errno: -text };
    throw limitError(fault, core.hierarchies());
  },
  set(controller, path, variable, value) {
    const core = nativeCore();
    const at = fileOf(core, "set", controller, path, variable);
    if (typeof value !== "string" || !/^[^\0\n]{1,4000}$/.test(value)) {
      throw typeError(
        `Cannot set ${variable}`,
        `the value is ${typeof value === "string" ? quote(value) : kind(value)}`,
        "give one line of text",
      );
    }
    const errno = -core.cgroupWrite(at, value, checkOf(controller, variable, value));
    const fault = { op: "set", subject: at, path: at, value, errno };
    if (errno !== 0) throw limitError(fault, core.hierarchies());
  },
};

function controllersOf(core: Core): string[] {
  const all = core.hierarchies().flatMap(({ controllers }) => controllers);
  return [...new Set(all)].filter((name) => !name.startsWith("name=")).sort();
}

function fileOf(
  core: Core,
  op: string,
  controller: string,
  path: string,
  variable: string,
): string {
  const what = `Cannot ${op} a file of a cgroup`;
  for (const [name, value] of Object.entries({ controller, path, variable })) {
    if (typeof value !== "string") {
      throw typeError(what, `${name} is ${kind(value)}`, "give a string");
    }
  }
  if (!CONTROLLERS.includes(controller)) {
    throw typeError(
      what,
      `there is no controller ${quote(controller)}`,
      `the known ones are ${CONTROLLERS.join(", ")}`,
    );
  }
  if (!new RegExp(`^(${controller}|cgroup)\\.[a-zA-Z0-9_.]+$`).test(variable)) {
    throw typeError(
      what,
      `${quote(variable)} is no file of ${controller}`,
      `its files begin with "${controller}." or "cgroup."`,
    );
  }
  const steps = path.split("/");
  if (path !== "" && steps.some((step) => step === "" || step === "." || step === "..")) {
    throw typeError(
      what,
      `${quote(path)} leads elsewhere, or holds an empty step`,
      "give the plain path from the root of the hierarchy on",
    );
  }
  const found = hierarchyOf(core.hierarchies(), controller);
  if (found !== undefined) return `${found.mount}/${path === "" ? "" : `${path}/`}${variable}`;
  throw new ContainmentError({
    what,
    why: `no hierarchy has the controller ${controller} here`,
    code: errnoName(ENOENT),
    mend: `the ones there are: ${controllersOf(core).join(", ") || "none"}`,
    op,
    subject: controller,
    errno: ENOENT,
  });
}

/** v1's where it is bound to one: then v2 cannot have it. */
function hierarchyOf(all: readonly Hierarchy[], controller: string): Hierarchy | undefined {
  const bound = all.find((one) => one.version === 1 && one.controllers.includes(controller));
  return bound ?? all.find(({ version }) => version === 2);
}
