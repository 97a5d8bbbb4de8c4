// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Why a cgroup, or a limit in it, is not to be had, and what mends it.
 *
 * @module
 */

import { ContainmentError, errnoName, errnoSentence, quote } from "./errors.ts";
import type { CgroupVersion } from "./figures.ts";
import type { Setting, Side } from "./limits.ts";
import type { CgroupPlan } from "./plan.ts";

/** The steps of a start at which it is the containment that was not to be had. */
const STAGES: readonly string[] = ["controller", "leaf", "limit", "require"];

/** A start that failed, as the native side tells it. */
export interface FailedStart {
  failure: { stage: string; errno: number };
  about: { setting: number | null; subject: string } | null;
}

/** A hierarchy that is mounted: what a mend looks like depends on its version. */
export interface Mounted {
  version: CgroupVersion;
  mount: string;
}

/** That in which `path` lies; of several the innermost. */
function hierarchyOf(path: string, all: readonly Mounted[]): Mounted | null {
  const around = all.filter(({ mount }) => path === mount || path.startsWith(`${mount}/`));
  return around.sort((one, other) => other.mount.length - one.mount.length)[0] ?? null;
}

/** The error of a start that failed because of its cgroups; null where it failed because of something else. */
export function containmentError(
  { failure: { stage, errno }, about }: FailedStart,
  plan: CgroupPlan | null,
  command: string,
  mounted: () => readonly Mounted[],
): ContainmentError | null {
  const entered = stage === "cgroup" && plan !== null;
  if (!entered && !STAGES.includes(stage)) return null;
  const subject = about?.subject ?? "";
  const setting = plan?.settings[about?.setting ?? -1];
  const cannot = `Cannot start ${quote(command)}`;
  const base = { op: "open", subject: command, errno, code: errnoName(errno) };
  if (stage === "limit") {
    const file = subject.slice(subject.lastIndexOf("/") + 1);
    const value = valueOf(file, setting);
    return limitError({ op: "open", subject: command, path: subject, value, errno }, mounted());
  }
  if (stage === "require") {
    const asked = plan?.require[subject === "limits" ? "limits" : "kill"];
    return new ContainmentError({
      ...base,
      what: `${cannot} with containment.require.${subject} "cgroup${asked}"`,
      why: "this host gives less",
      mend: "look at what doctor() says of it, or require less",
    });
  }
  if (stage === "controller") {
    const [why, mend] = controllerReason(errnoName(errno), subject, setting, mounted());
    const what = setting === undefined ? cannot : `${cannot} with ${quote(setting.name)}`;
    return new ContainmentError({
      ...base,
      what,
      why: why ?? errnoSentence(errno),
      mend,
      file: subject,
    });
  }
  if (entered) {
    return new ContainmentError({
      ...base,
      what: `${cannot} in its cgroup`,
      why: `it does not get in: ${errnoSentence(errno)}`,
      mend:
        "let the user of this process write to cgroup.procs there, and in v2 in the one above, too",
    });
  }
  const [why, mend] = leafReason(errnoName(errno), subject, plan, mounted());
  return new ContainmentError({
    ...base,
    what: `${cannot} in the cgroup ${subject}`,
    why: why ?? errnoSentence(errno),
    mend,
    file: subject,
  });
}

/** What was to be written to `file`. */
function valueOf(file: string, setting: Setting | undefined): string | null {
  const sides = [setting?.v1, setting?.v2].filter((side): side is Side => Boolean(side));
  const write = sides.flatMap(({ writes }) => writes).find((one) => one.file === file);
  return write?.value ?? null;
}

/** The error of one file of a cgroup that did not take, or give, a value. */
export function limitError(
  { op, subject, path, value, errno }: {
    op: string;
    subject: string;
    path: string;
    value: string | null;
    errno: number;
  },
  mounted: readonly Mounted[],
): ContainmentError {
  const at = path.lastIndexOf("/");
  const [folder, file] = [path.slice(0, at), path.slice(at + 1)];
  const code = errnoName(errno);
  const [why, mend] = fileReason(code, file, folder, hierarchyOf(folder, mounted));
  return new ContainmentError({
    what: value === null
      ? `Cannot read ${file} in ${folder}`
      : `Cannot set ${file} to ${value} in ${folder}`,
    why: why ?? errnoSentence(errno),
    code,
    mend,
    op,
    subject,
    file: path,
    value,
    errno,
  });
}

function parentOf(path: string): string {
  return path.replace(/\/[^/]*$/, "");
}

type Reason = readonly [why: string | null, mend: string];

function fileReason(
  code: string,
  file: string,
  folder: string,
  hierarchy: Mounted | null,
): Reason {
  if (code === "ENOENT" && file.startsWith("memory.memsw.")) {
    return ["swap is not counted here", 'boot with "swapaccount=1", or leave "swap" out'];
  }
  switch (code) {
    case "ENOENT":
      return ["there is no such file", absentFile(file, folder, hierarchy)];
    case "EBUSY":
      return ["more than that is in use already", "give more, or free some first"];
    case "EREMOTEIO":
      return [
        "the file says something else when it is read back",
        "give a value that the cgroups above allow and that the kernel does not round",
      ];
    case "EACCES":
    case "EPERM":
      return [null, `let this user write there: sudo chown -R $(id -u) ${folder}`];
    case "EROFS":
      return [
        "the cgroup file system is read-only",
        `sudo mount -o remount,rw "$(findmnt -n -o TARGET -T ${folder})", or start the container with writable cgroups`,
      ];
    case "EINVAL":
    case "ERANGE":
    case "ENODEV":
      return [
        "the kernel does not take this value",
        "check its unit and range, and that the device is there",
      ];
    case "ENOTTY":
      return ["it is no file of a cgroup", "name a file of a mounted hierarchy"];
    case "EOPNOTSUPP":
      return [
        "the kernel has it switched off",
        "see the kernel's configuration or its command line",
      ];
    default:
      return [null, "check what this process may do there"];
  }
}

function absentFile(file: string, folder: string, hierarchy: Mounted | null): string {
  const look = `check the name against "ls ${folder}"`;
  if (hierarchy?.version !== 2) return look;
  if (folder === hierarchy.mount) return `${look}; the root of v2 has no limits`;
  const [controller] = file.split(".", 1);
  const above = parentOf(folder);
  return `${look}; the controller may be off there: ` +
    `echo +${controller} | sudo tee ${above}/cgroup.subtree_control`;
}

/** How a host comes to have a controller that no hierarchy has, in the versions that are mounted. */
function absentController(
  setting: Setting | undefined,
  name: string,
  all: readonly Mounted[],
): string {
  const [v1, v2] = [setting?.v1?.controller ?? name, setting?.v2?.controller ?? name];
  const mount = `mount it in v1 (sudo mkdir -p /sys/fs/cgroup/${v1}; ` +
    `sudo mount -t cgroup -o ${v1} none /sys/fs/cgroup/${v1})`;
  const enable =
    `switch it on in the cgroup above (echo +${v2} | sudo tee .../cgroup.subtree_control)`;
  const has = (version: CgroupVersion) => all.some((one) => one.version === version);
  const ways = [...(has(1) ? [mount] : []), ...(has(2) ? [enable] : [])];
  return [...ways, "boot a kernel with it"].join(", or ");
}

function controllerReason(
  code: string,
  subject: string,
  setting: Setting | undefined,
  mounted: readonly Mounted[],
): Reason {
  const name = setting?.v2?.controller ?? setting?.v1?.controller ?? subject;
  switch (code) {
    case "EBUSY":
      return [
        `processes are in ${
          parentOf(subject)
        }, and such a cgroup gives no controllers to those below it`,
        "run this program in a delegated cgroup of its own (systemd: Delegate=yes, DelegateSubgroup=main), " +
        "or let it be moved: cgroupMoveSelf: true",
      ];
    case "EOPNOTSUPP":
      return [
        setting?.v1 === null
          ? "cgroup v1, which has the controller here, has no such limit"
          : "this version of cgroups has no such limit",
        setting?.name === "swap"
          ? 'give "memory" too'
          : `leave it out, or boot with cgroup ${setting?.v1 === null ? "v2" : "v1"}`,
      ];
    case "ENOENT":
      return subject.startsWith("/")
        ? [`the controller ${name} is not given to it`, `echo +${name} | sudo tee ${subject}`]
        : [
          `no hierarchy has the controller ${name} for it`,
          absentController(setting, name, mounted),
        ];
    case "EACCES":
    case "EPERM":
      return [
        `this user may not switch ${name} on in ${subject}`,
        `sudo chown $(id -u) ${subject}, or echo +${name} | sudo tee ${subject}`,
      ];
    default:
      return [`the system answered ${code}`, `switch it on: echo +${name} | sudo tee ${subject}`];
  }
}

function leafReason(
  code: string,
  subject: string,
  plan: CgroupPlan | null,
  mounted: readonly Mounted[],
): Reason {
  // Not a path where it is the runtime's own that cannot be used.
  if (!subject.startsWith("/")) {
    return [null, "see doctor(), or give one that can be used: cgroupBase"];
  }
  const above = parentOf(subject);
  const version = hierarchyOf(above, mounted)?.version;
  const explicit = plan !== null && plan.where !== "own";
  switch (code) {
    case "ENOENT":
      return explicit
        ? [
          `there is no cgroup ${above}`,
          `make it: sudo mkdir -p ${above} && sudo chown -R $(id -u) ${above} (or cgcreate)`,
        ]
        : [
          "this program's own cgroup cannot be used",
          "see doctor(), or give a cgroup that can be: cgroupBase",
        ];
    case "EEXIST":
      return [
        "it exists already, and others may use it",
        "give another path, or its parent as cgroupBase; where nobody does " +
        `(cat ${subject}/cgroup.procs): sudo find ${subject} -depth -type d -exec rmdir {} \\;`,
      ];
    case "EBUSY":
      return [
        "it is frozen, and nothing would start in it",
        "thaw the cgroup above it: " +
        (version === 1
          ? `echo THAWED | sudo tee ${above}/freezer.state`
          : `echo 0 | sudo tee ${above}/cgroup.freeze`),
      ];
    case "EACCES":
    case "EPERM":
      return [
        "this user may make none there",
        `sudo chown -R $(id -u) ${above}` +
        (version === 2 ? ", or run with systemd's Delegate=yes" : ""),
      ];
    case "EROFS":
      return [
        "the cgroup file system is read-only",
        `sudo mount -o remount,rw "$(findmnt -n -o TARGET -T ${above})", or start the container with writable cgroups`,
      ];
    default:
      return [null, "look at what doctor() says of this host"];
  }
}
