// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What this host gives to hold trees together and to limit them, what it
 * lacks, and the command that mends it; each proven by use.
 *
 * @module
 */

import { containmentError } from "./containment_error.ts";
import type { Core, Hierarchy, Report } from "./core.ts";
import { ContainmentError } from "./errors.ts";
import type { CgroupVersion } from "./figures.ts";
import { nativeCore } from "./native/load.ts";
import { type OpenOptions, validate } from "./options.ts";
import { startError } from "./start_errors.ts";
import { type Containment, containment, type Lack } from "./status.ts";

/** Something that this host does not give, and what mends it. */
export interface Lacking {
  /** What it is that cannot be had. */
  what: string;
  /** What keeps it from being had. */
  why: string;
  /** The command, or what to change where no command does. */
  mend: string;
}

/** A controller of cgroups, as a port that asks for no place of its own would get it. */
export interface ControllerState {
  /** Such as `"memory"`. */
  name: string;
  /** 0: no hierarchy has it. */
  version: CgroupVersion;
  /** A program was started with it. */
  usable: boolean;
}

/** What {@link doctor} found. */
export interface Diagnosis {
  /** How a tree is held together here. */
  containment: Containment;
  /** Each controller that limits go by. */
  controllers: ControllerState[];
  /** Empty where nothing is lacking. */
  lacks: Lacking[];
  /** All of it, to be read by people. */
  toString(): string;
}

const CONTROLLERS = ["memory", "pids", "cpu", "cpuset", "io", "hugetlb"];

/**
 * Looks at what this host gives: starts `true` a few times, with and without
 * cgroups, and says how that went. Nothing of it stays.
 *
 * ```ts
 * import { doctor } from "@proton-stream/port";
 * import { assertEquals } from "@std/assert";
 *
 * const { containment, lacks } = await doctor();
 * assertEquals(containment.guards, "both");
 * assertEquals(lacks.every(({ mend }) => mend !== ""), true);
 * ```
 *
 * @throws {SpawnError} where not even `true` can be started.
 * @throws {NativeError} where the native library cannot be used.
 */
export async function doctor(): Promise<Diagnosis> {
  const core = nativeCore();
  const all = core.hierarchies();
  const report = await tried(core, {});
  if (report instanceof Error) throw report;
  const held = containment(report);
  const lacks = killLacks(report.cgroup.lack, held, all);
  const controllers: ControllerState[] = [];
  for (const name of CONTROLLERS) {
    const outcome = await tried(core, { cgroupControllers: [name] });
    const usable = !(outcome instanceof Error);
    // In a scope of the user's manager there may be more than in the runtime's own cgroup.
    const version = usable ? outcome.held.limits : versionOf(all, name);
    controllers.push({ name, version, usable });
    if (usable) continue;
    lacks.push({ what: `limits of ${name}`, ...reasons(outcome) });
  }
  lacks.push(...swapLack(core, all, controllers));
  const toString = () => text(held, controllers, lacks);
  return { containment: held, controllers, lacks, toString };
}

/** How `true` ended with these options, or why it did not start. */
function tried(core: Core, options: OpenOptions): Promise<Report | Error> {
  const nothing = { stdin: "null", stdout: "null", stderr: "null" } as const;
  const spec = validate("true", [], { ...nothing, ...options });
  // (Node 20 has no Promise.withResolvers.)
  let resolve!: (outcome: Report | Error) => void;
  const promise = new Promise<Report | Error>((settle) => resolve = settle);
  const over = (outcome: Report | Error) => {
    core.release(handle);
    core.unref();
    resolve(outcome);
  };
  const handle = core.spawn(spec, {
    started: ({ failure, about }) => {
      if (failure === null) return;
      over(
        containmentError({ failure, about }, spec.cgroup, spec.command, () => core.hierarchies()) ??
          startError(failure, spec),
      );
    },
    done: (report) => over(report),
    ready: () => {},
    alarm: () => {},
  });
  core.ref();
  return promise;
}

function versionOf(all: readonly Hierarchy[], name: string): CgroupVersion {
  const old = name === "io" ? "blkio" : name;
  if (all.some((one) => one.version === 1 && one.controllers.includes(old))) return 1;
  return all.some((one) => one.version === 2 && one.controllers.includes(name)) ? 2 : 0;
}

/** The clauses of a message: *what: why (CODE): mend*. */
function reasons(error: Error): Pick<Lacking, "why" | "mend"> {
  const parts = /^.*?: (.*? \([A-Z0-9]+\)): (.*)$/s.exec(error.message);
  const [why, mend] = [parts?.[1], parts?.[2]];
  if (error instanceof ContainmentError && why !== undefined && mend !== undefined) {
    return { why, mend };
  }
  return { why: error.message, mend: "see the message" };
}

/** What keeps a tree from having a cgroup v2 of its own. */
function killLacks(lack: Lack, { why }: Containment, all: readonly Hierarchy[]): Lacking[] {
  const v2 = all.find(({ version }) => version === 2);
  const own = v2?.own ?? v2?.mount ?? "/sys/fs/cgroup";
  const delegated =
    "run it in a delegated cgroup: systemd-run --user --scope -p Delegate=yes COMMAND";
  const mends: Readonly<Record<Lack, string | null>> = {
    nothing: null,
    unwanted: null,
    // Where v1's are mounted, they are below that: beside them.
    unmounted:
      (all.length === 0
        ? "sudo mount -t cgroup2 none /sys/fs/cgroup"
        : "sudo mkdir -p /sys/fs/cgroup/unified && sudo mount -t cgroup2 none /sys/fs/cgroup/unified") +
      ", or boot with systemd.unified_cgroup_hierarchy=1",
    outside:
      "start the container with its own cgroup visible: --cgroupns=private, or mount the hierarchy",
    reserved: "systemd-run --scope -p Delegate=yes COMMAND",
    make: why.includes("EROFS")
      ? `sudo mount -o remount,rw ${v2?.mount ?? "/sys/fs/cgroup"}`
      : `${delegated}, or: sudo chown $(id -u) ${own} ${own}/cgroup.procs ${own}/cgroup.subtree_control`,
    enter: `sudo chown $(id -u) ${own}/cgroup.procs`,
    kill: "boot Linux 5.2 or newer",
    scope: `look at the user's service manager (systemctl --user status), or ${delegated}`,
  };
  const mend = mends[lack];
  const because = why.slice(why.lastIndexOf("; ") + 2);
  return mend === null ? [] : [{ what: "a cgroup v2 for each tree", why: because, mend }];
}

/** v1 counts swap only where it was asked to at boot. */
function swapLack(
  core: Core,
  all: readonly Hierarchy[],
  controllers: readonly ControllerState[],
): Lacking[] {
  const memory = controllers.find(({ name }) => name === "memory");
  const v1 = all.find(({ version, controllers }) =>
    version === 1 && controllers.includes("memory")
  );
  if (!memory?.usable || v1?.own === undefined || v1.own === null) return [];
  const file = `${v1.own}/memory.memsw.limit_in_bytes`;
  if (typeof core.cgroupRead(file) === "string") return [];
  return [{
    what: "limits of swap",
    why: `there is no ${file} (ENOENT)`,
    mend: "boot with swapaccount=1",
  }];
}

function text(
  { kill, limits: _, guards, why }: Containment,
  controllers: readonly ControllerState[],
  lacks: readonly Lacking[],
): string {
  const limits = controllers.map(({ name, version, usable }) =>
    `  ${name.padEnd(8)} ${usable ? `cgroup${version}` : "not to be had"}`
  );
  const missing = lacks.flatMap(({ what, why, mend }) => [`  ${what}: ${why}`, `    ${mend}`]);
  return [
    `A tree is held by: ${kill} (guards: ${guards})`,
    `  ${why}`,
    "Limits, below the runtime's own cgroup:",
    ...limits,
    lacks.length === 0 ? "Nothing is lacking." : "What is lacking, and what mends it:",
    ...missing,
  ].join("\n");
}
