// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Why a cgroup, or a limit in it, is not to be had, and what mends it.
 *
 * @module
 */

import { ContainmentError, errnoName, errnoSentence, quote } from "./errors.ts";
import type { Setting, Side } from "./limits.ts";
import type { CgroupPlan } from "./plan.ts";

/** The steps of a start at which it is the containment that was not to be had. */
const STAGES: readonly string[] = ["controller", "leaf", "limit", "require"];

/** A start that failed, as the native side tells it. */
export interface FailedStart {
  failure: { stage: string; errno: number };
  about: { setting: number | null; subject: string } | null;
}

/** The error of a start that failed because of its cgroups; null where it failed because of something else. */
export function containmentError(
  { failure: { stage, errno }, about }: FailedStart,
  plan: CgroupPlan | null,
  command: string,
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
    return limitError({ op: "open", subject: command, path: subject, value, errno });
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
    const [why, mend] = controllerReason(errnoName(errno), subject, setting);
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
      mend: "let the user of this process write to cgroup.procs there and in the cgroup above",
    });
  }
  const [why, mend] = leafReason(errnoName(errno), subject, plan);
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
): ContainmentError {
  const at = path.lastIndexOf("/");
  const [folder, file] = [path.slice(0, at), path.slice(at + 1)];
  const code = errnoName(errno);
  const [why, mend] = fileReason(code, file, folder);
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

type Reason = readonly [why: string | null, mend: string];

function fileReason(code: string, file: string, folder: string): Reason {
  const controller = file.split(".", 1)[0] ?? "";
  if (code === "ENOENT" && file.startsWith("memory.memsw.")) {
    return ["swap is not counted here", 'boot with "swapaccount=1", or leave "swap" out'];
  }
  switch (code) {
    case "ENOENT":
      return [
        "there is no such file",
        `check the name against "ls ${
          folder.replace(/\/[^/]*$/, "")
        }"; in v2 the controller may be off there: ` +
        `echo +${controller} | sudo tee ${folder.replace(/\/[^/]*$/, "")}/cgroup.subtree_control`,
      ];
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

function controllerReason(code: string, subject: string, setting: Setting | undefined): Reason {
  const name = setting?.v2?.controller ?? setting?.v1?.controller ?? subject;
  switch (code) {
    case "EBUSY":
      return [
        `processes are in ${
          subject.replace(/\/[^/]*$/, "")
        }, and such a cgroup gives no controllers to those below it`,
        "run this program in a delegated cgroup of its own (systemd: Delegate=yes, DelegateSubgroup=main), " +
        "or let it be moved: cgroupMoveSelf: true",
      ];
    case "EOPNOTSUPP":
      return [
        setting?.v1 === null
          ? "cgroup v1, which has the controller here, has no such limit"
          : "this version of cgroups has no such limit",
        setting?.name === "swap" ? 'give "memory" too' : "leave it out, or boot with cgroup v2",
      ];
    case "ENOENT":
      return subject.startsWith("/")
        ? [`the controller ${name} is not given to it`, `echo +${name} | sudo tee ${subject}`]
        : [
          `no hierarchy has the controller ${name} for it`,
          `switch it on in the cgroup above (echo +${name} | sudo tee .../cgroup.subtree_control), or boot with it`,
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

function leafReason(code: string, subject: string, plan: CgroupPlan | null): Reason {
  const above = subject.replace(/\/[^/]*$/, "");
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
        "thaw the cgroup above it (cgroup.freeze, freezer.state)",
      ];
    case "EACCES":
    case "EPERM":
      return [
        "this user may make none there",
        `sudo chown -R $(id -u) ${above}, or run with systemd's Delegate=yes`,
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
