// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What a launch asks of cgroups: where its own are to stand, what is set in
 * them, and what it must not start without.
 *
 * @module
 */

import { isRecord, kind, refuseUnknown } from "./checks.ts";
import { nearest, quote, typeError } from "./errors.ts";
import {
  CONTROLLERS,
  controllerSetting,
  type RawSet,
  rawSettings,
  type Setting,
  settingsOf,
} from "./limits.ts";

/** What a port's containment has to be at least. */
export interface RequiredContainment {
  /** `"cgroup2"`, or `"cgroup1"`: a cgroup of either version; `"tree"` is always there. */
  kill?: "cgroup2" | "cgroup1" | "tree";
  /** `"cgroup2"`, or `"cgroup1"`: limits by a cgroup of either version. */
  limits?: "cgroup2" | "cgroup1";
}

/** A version of cgroups that is asked for at least; 0: none. */
export type Least = 0 | 1 | 2;

/** Checked, and nothing in it can change any more. */
export interface CgroupPlan {
  /** Where: below the runtime's own, below `path`, or at `path` itself. */
  readonly where: "own" | "base" | "path";
  /** From the root of each hierarchy on, without a slash in front; empty where it is the runtime's own. */
  readonly path: string;
  readonly settings: readonly Setting[];
  /** The first that is killed for want of memory ends the whole tree. */
  readonly endOnOom: boolean;
  readonly moveSelf: boolean;
  readonly require: { readonly kill: Least; readonly limits: Least };
}

/** The options that a plan is made of. */
export interface CgroupOptions {
  limits?: unknown;
  cgroupControllers?: unknown;
  cgroupBase?: unknown;
  cgroupPath?: unknown;
  cgroupSets?: unknown;
  cgroupMoveSelf?: unknown;
  containment?: unknown;
}

/**
 * What cgroups are asked for; null where none are.
 *
 * @throws {TypeError} for a wrong type, an unknown name, a path that leads
 * elsewhere, or options that exclude each other.
 * @throws {RangeError} for a value outside its range.
 */
export function planOf(given: CgroupOptions): CgroupPlan | null {
  // The way of almost every start.
  if (asksForNothing(given)) return null;
  const limits = settingsOf(given.limits);
  const sets = setsOf(given.cgroupSets);
  const controllers = controllersOf(given.cgroupControllers);
  const settings = [...controllers.map(controllerSetting), ...rawSettings(sets), ...limits];
  const { where, path } = placeOf(given, settings.length > 0);
  const require = requirement(given.containment);
  const moveSelf = moveSelfOf(given.cgroupMoveSelf);
  if (settings.length === 0 && require.kill === 0 && require.limits === 0) return null;
  const group = settings.find(({ name }) => name === "oomGroup");
  const memory = sets.some(([controller]) => controller === "memory");
  const endOnOom = group === undefined
    ? memory
    : group.v2?.writes.some(({ value }) => value === "1") ?? false;
  return Object.freeze({
    where,
    path,
    settings: Object.freeze(settings),
    endOnOom,
    moveSelf,
    require,
  });
}

/** By each name, not over a list of them: that takes several times as long. */
function asksForNothing(given: CgroupOptions): boolean {
  const { limits, cgroupControllers, cgroupBase, cgroupPath, cgroupSets, cgroupMoveSelf } = given;
  const { require } = (given.containment ?? {}) as { require?: unknown };
  return limits === undefined && cgroupControllers === undefined && cgroupBase === undefined &&
    cgroupPath === undefined && cgroupSets === undefined && cgroupMoveSelf === undefined &&
    require === undefined;
}

function controllersOf(given: unknown): string[] {
  if (given === undefined) return [];
  const what = 'Cannot use option "cgroupControllers"';
  const mend = 'give an array such as ["memory", "cpu"]';
  if (!Array.isArray(given)) throw typeError(what, `it is ${kind(given)}`, mend);
  return [...new Set(given.map((name) => controller(what, name)))];
}

/** A controller that a kernel may have; whether this one has it is seen when it is used. */
function controller(what: string, name: unknown): string {
  if (typeof name !== "string") {
    throw typeError(what, `one of it is ${kind(name)}`, "name it by a string");
  }
  if (CONTROLLERS.includes(name)) return name;
  const meant = nearest(name, CONTROLLERS);
  throw typeError(
    what,
    `there is no controller ${quote(name)}`,
    meant === null
      ? `the known ones are ${CONTROLLERS.join(", ")}`
      : `did you mean ${quote(meant)}?`,
  );
}

function setsOf(given: unknown): RawSet[] {
  if (given === undefined) return [];
  if (Array.isArray(given)) return given.map(rawSet);
  throw typeError(
    'Cannot use option "cgroupSets"',
    `it is ${kind(given)}`,
    'give an array such as [["memory", "memory.limit_in_bytes", "268435456"]]',
  );
}

function rawSet(given: unknown, index: number): RawSet {
  const what = `Cannot use entry ${index} of option "cgroupSets"`;
  if (!Array.isArray(given) || given.length !== 3) {
    throw typeError(what, `it is ${kind(given)}`, "give [controller, file, value]");
  }
  const [name, file, value] = given;
  const own = controller(what, name);
  if (typeof file !== "string" || !new RegExp(`^${own}\\.[a-zA-Z0-9_.]+$`).test(file)) {
    const is = typeof file === "string" ? quote(file) : kind(file);
    throw typeError(what, `${is} is no file of ${own}`, `its files begin with "${own}."`);
  }
  if (typeof value !== "string" || !/^[^\0\n]{1,4000}$/.test(value)) {
    const is = typeof value === "string" ? quote(value) : kind(value);
    throw typeError(what, `the value is ${is}`, "give one line of text, as it is to be written");
  }
  return [own, file, value];
}

function placeOf(
  { cgroupBase, cgroupPath }: CgroupOptions,
  needed: boolean,
): Pick<CgroupPlan, "where" | "path"> {
  if (cgroupBase === undefined && cgroupPath === undefined) return { where: "own", path: "" };
  if (cgroupBase !== undefined && cgroupPath !== undefined) {
    throw typeError(
      'Cannot use option "cgroupPath"',
      '"cgroupBase" is given too',
      "give the one, below which a cgroup is made, or the other, which is made",
    );
  }
  const [where, name, path] = cgroupBase === undefined
    ? ["path", "cgroupPath", cgroupPath] as const
    : ["base", "cgroupBase", cgroupBase] as const;
  if (!needed) {
    throw typeError(
      `Cannot use option "${name}"`,
      "no controller says in which hierarchy",
      'give "cgroupControllers", "cgroupSets" or "limits", too',
    );
  }
  return { where, path: pathOf(name, path) };
}

function pathOf(name: string, path: unknown): string {
  const what = `Cannot use option "${name}"`;
  if (typeof path !== "string") {
    throw typeError(what, `it is ${kind(path)}`, 'give a string such as "mycgroup/part"');
  }
  const is = quote(path);
  if (path.startsWith("/")) {
    throw typeError(
      what,
      `${is} begins with a slash`,
      'give it from the root of the hierarchy on: "mycgroup", without the place where that is mounted',
    );
  }
  if (path.split("/").some((step) => step === "" || step === "." || step === "..")) {
    throw typeError(what, `${is} holds an empty step, "." or ".."`, "give the plain path");
  }
  if (/[\0\n]/.test(path) || !path.isWellFormed() || path.length > 2000) {
    throw typeError(what, `${is} cannot be the path of a cgroup`, "give a shorter, plain path");
  }
  return path;
}

function moveSelfOf(given: unknown): boolean {
  if (given === undefined) return false;
  if (typeof given === "boolean") return given;
  throw typeError(
    'Cannot use option "cgroupMoveSelf"',
    `it is ${kind(given)}`,
    "give true or false",
  );
}

const VERSIONS: Readonly<Record<string, Least>> = { tree: 0, cgroup1: 1, cgroup2: 2 };

/** What `containment` requires; the rest of it is looked at elsewhere. */
function requirement(containment: unknown): CgroupPlan["require"] {
  const none = { kill: 0, limits: 0 } as const;
  if (typeof containment !== "object" || containment === null) return none;
  const { require, kill: how } = containment as { require?: unknown; kill?: unknown };
  if (require === undefined) return none;
  if (!isRecord(require)) {
    throw typeError(
      'Cannot use option "containment.require"',
      `it is ${kind(require)}`,
      'give an object such as { kill: "cgroup2" }',
    );
  }
  refuseUnknown("required containment", require, ["kill", "limits"]);
  const wanted = require as { kill?: unknown; limits?: unknown };
  const all = {
    kill: least("kill", wanted.kill, ["cgroup2", "cgroup1", "tree"]),
    limits: least("limits", wanted.limits, ["cgroup2", "cgroup1"]),
  };
  if (how !== "tree" || all.kill === 0) return Object.freeze(all);
  throw typeError(
    'Cannot use option "containment"',
    `kill is "tree", and require.kill ${quote(String(wanted.kill))}`,
    "leave one of them out",
  );
}

function least(name: string, value: unknown, choices: readonly string[]): Least {
  if (value === undefined) return 0;
  if (typeof value === "string" && choices.includes(value)) return VERSIONS[value] ?? 0;
  throw typeError(
    `Cannot use option "containment.require.${name}"`,
    `it is ${typeof value === "string" ? quote(value) : kind(value)}`,
    `give ${choices.map(quote).join(" or ")}`,
  );
}
