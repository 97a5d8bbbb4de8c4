// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Why a program did not start: the step that failed and its error number, told
 * as class, sentence and mend. One table for all.
 *
 * @module
 */

import { errnoName, errnoSentence, NativeError, quote, SpawnError } from "./errors.ts";

const NO_FILE_AT_ALL = ["no such file on PATH", "install it or give an absolute path"] as const;
const TOO_BIG = [
  "its arguments and environment together are too long",
  "pass the data on stdin or in a file",
] as const;
const LESS_NICE = "a nice value below the runtime's own takes CAP_SYS_NICE";
const NOT_MAPPED = "it is not mapped into the user namespace of this process";
const NO_DIRECTORY = ["no such directory", "create it or give another cwd"] as const;
const NOT_A_DIRECTORY = ["it is not a directory", "give a directory as cwd"] as const;
const CLOSED_DIRECTORY = [
  "it may not be entered",
  "give another cwd, or the user that it runs as the x permission on it and all directories above",
] as const;
const TOO_MANY = "wait for other processes to end, or raise the limit (ulimit -u, pids.max)";
const OUT_OF_FDS = "close ports or files, or raise the limit (ulimit -n)";

/** stage/CODE, stage, or CODE -> why and mend; the first that fits is used. A null why is the errno's own. */
const START: Readonly<Record<string, readonly [why: string | null, mend: string]>> = {
  "spec/E2BIG": TOO_BIG,
  "spec": [
    "the native library did not understand the request",
    'build it again with "scripts/build", or reinstall the package',
  ],
  "library": [
    "the native library cannot be opened to run as its guardian",
    "restart this program if the library was replaced, else build or install it again",
  ],
  "guardian/ENOEXEC": [
    "the program loader of this runtime cannot run the guardian",
    'build the native library for this machine with "scripts/build"',
  ],
  "guardian/EPIPE": ["the guardian ended meanwhile", "try again: a new one is started"],
  "guardian/ECONNRESET": ["the guardian ended meanwhile", "try again: a new one is started"],
  "guardian": [
    "its guardian could not be started",
    "let this process start others (seccomp, ulimit -u, memory) and read its own /proc",
  ],
  "keeper/EAGAIN": [
    "65,536 processes are kept already, or this user may have no more",
    `close some; ${TOO_MANY}`,
  ],
  "keeper/ECHILD": [
    "its keeper ended before it could tell whether it runs; whatever ran has been ended",
    "look what it has done before you try again, and for who killed the keeper, or for lack of descriptors or memory " +
    "(ulimit -n, dmesg)",
  ],
  "keeper/EPIPE": ["its keeper ended before it ran", "try again; if it was killed, find by whom"],
  "keeper/ECONNRESET": [
    "its keeper ended before it ran",
    "try again; if it was killed, find by whom",
  ],
  "keeper/ETIMEDOUT": [
    "its guardian does not answer",
    "look for who has stopped it (ps -o stat,pid,comm -C proton-guardian), then try again",
  ],
  "cwd/ENOENT": NO_DIRECTORY,
  "cwd/ENOTDIR": NOT_A_DIRECTORY,
  "cwd/EACCES": CLOSED_DIRECTORY,
  "chdir/ENOENT": NO_DIRECTORY,
  "chdir/ENOTDIR": NOT_A_DIRECTORY,
  "chdir/EACCES": CLOSED_DIRECTORY,
  "program/ENOENT": ["no such file", "check the path, or where it is relative, the cwd"],
  "program/EACCES": [
    "the file is there but may not be executed",
    "make it executable (chmod +x) or give another path",
  ],
  "program/EISDIR": ["it is a directory", "give the path of a program"],
  "program/ENOTDIR": [
    "something on the way to it is no directory",
    "check the path: a file stands where a directory is named, or it ends in a slash",
  ],
  "program/ELOOP": ["its symbolic links lead round in a circle", "mend the links"],
  "exec/ELOOP": [
    "its interpreter is a script, and that one's, and so on",
    "name a program in the #! line",
  ],
  "exec/E2BIG": TOO_BIG,
  "exec/ENOENT": [
    "the interpreter that the file names is missing",
    "install it, or mend the #! line of the file",
  ],
  "exec/EACCES": [
    "the file, its interpreter or its file system may not be executed",
    "make it executable (chmod +x), for the user it runs as, or move it off a noexec file system",
  ],
  "exec/ENOEXEC": [
    "it is no program for this machine and has no #! line",
    "give it a #! line, or start its interpreter with the file as argument",
  ],
  "exec/ECHILD": [
    "it was killed before it became its program",
    "try again; if nobody ended it, look for lack of memory (dmesg)",
  ],
  "exec/ETIMEDOUT": [
    "it hangs on the way to its program and cannot be killed",
    "look at the file system that the program lies on",
  ],
  "exec/ETXTBSY": [
    "the file stays open for writing",
    "start it after its writer has closed it (fuser -v)",
  ],
  "exec/EPERM": [
    "a security policy forbids it",
    "ask who set the policy (a sandbox, a nosuid mount, a security module)",
  ],
  "stdio/EBADF": [
    "a descriptor that it was to get is not open in this process",
    "give the number of one that is, in stdin, stdout, stderr or fds",
  ],
  "fds/EBADF": [
    "the number of one of its descriptors is not below its limit",
    "give a smaller number in fds, or raise rlimits.nofile",
  ],
  "fds/EINVAL": [
    "the number of one of its descriptors is too large here",
    "give a smaller number in fds",
  ],
  "rlimit/EINVAL": [
    "a soft limit is above its hard one",
    "give a hard limit, too, or a smaller soft one",
  ],
  "rlimit/EPERM": [
    "a hard limit above the runtime's own takes CAP_SYS_RESOURCE",
    "ask for no more than this process has (ulimit -H)",
  ],
  "nice/EACCES": [LESS_NICE, "give a larger nice value, or grant this process CAP_SYS_NICE"],
  "nice/EPERM": [LESS_NICE, "give a larger nice value, or grant this process CAP_SYS_NICE"],
  "oom_score_adj/EACCES": [
    "a value below the runtime's own takes CAP_SYS_RESOURCE",
    "give a larger oomScoreAdj, or grant this process CAP_SYS_RESOURCE",
  ],
  "user/ENOENT": ["there is none of this name", "give one that there is, or a number"],
  "user by number/ENOENT": [
    "the user database has no such number, so its group is not known",
    "give gid, too",
  ],
  "user by number": [null, "give gid, too: then nothing has to be looked up"],
  "user": [null, "ask who runs the user database (getent passwd), or give numbers"],
  "groups/EPERM": [
    "other groups than the runtime's own take CAP_SETGID",
    "leave groups out, or run this process as root or with CAP_SETGID",
  ],
  "gid/EPERM": [
    "another group than the runtime's own takes CAP_SETGID",
    "leave gid out, or run this process as root or with CAP_SETGID",
  ],
  "uid/EPERM": [
    "another user than the runtime's own takes CAP_SETUID",
    "leave uid out, or run this process as root or with CAP_SETUID",
  ],
  "uid/EINVAL": [NOT_MAPPED, "give one that is (/proc/self/uid_map)"],
  "gid/EINVAL": [NOT_MAPPED, "give one that is (/proc/self/gid_map)"],
  "groups/EINVAL": [NOT_MAPPED, "give those that are (/proc/self/gid_map)"],
  "uid/EAGAIN": [
    "that user may have no more processes",
    "wait for others to end, or raise the limit (ulimit -u)",
  ],
  "capabilities/EPERM": [
    "this process does not have what it is to hand on, or may not take it from others (CAP_SETPCAP)",
    "ask for what it has (capsh --print), or run it as root",
  ],
  "reach/EPERM": [
    "this process could not end it: signals to another user take CAP_KILL, and no cgroup ends it without",
    "grant this process CAP_KILL, or let it have a cgroup v2 directory of its own (Linux 5.14 or newer)",
  ],
  "terminal/ENOENT": [
    "there are no terminals to be had here",
    "mount devpts where this process runs (/dev/ptmx, /dev/pts)",
  ],
  "terminal/ENOSPC": [
    "there are as many terminals as the system may have",
    "close some, or raise kernel.pty.max",
  ],
  "cgroup": [
    "it could not enter the cgroup that was made for it",
    'open it with containment: { kill: "tree" }, or let this process write to its cgroup',
  ],
  "EAGAIN": [null, TOO_MANY],
  "EMFILE": [null, OUT_OF_FDS],
  "ENFILE": [null, OUT_OF_FDS],
  "ENOMEM": [null, "free memory or raise the limit (ulimit -v, or that of its cgroup)"],
  "ENOSYS": [null, "allow it in the sandbox of this process, or use Linux 5.4 or newer"],
  "ENAMETOOLONG": [null, "give a shorter path"],
  "ELOOP": [null, "mend the links"],
};

/** The host lacks something for now: not the library's fault, wherever it is found. */
const STARVED: readonly string[] = ["EAGAIN", "EMFILE", "ENFILE", "ENOMEM"];

/** What was to be started, as far as a message needs it. */
export interface Launch {
  command: string;
  cwd: string | null;
  /** Another user whom it is to run as. */
  identity?: { readonly uid: string | number | null };
}

/** What of a program's arguments and environment is too long, and both figures in bytes. */
export interface TooMuch {
  what: "all" | "argument" | "variable";
  /** By its place in argv or in the environment. */
  at: number;
  bytes: number;
  most: number;
}

/** A step that failed, and what is known of it beside its error number. */
export interface Failure {
  stage: string;
  errno: number;
  tooMuch?: TooMuch | null;
  /** The user or group that was looked up, such as `user "alice"`. */
  who?: string;
  /** That was a number: it was looked up for its group alone. */
  byNumber?: boolean;
  /** The file that the user whom it is to run as may not execute, or a directory on the way to it. */
  refused?: string | null;
}

function figures({ what, at, bytes, most }: TooMuch): string {
  const figure = (n: number) => n.toLocaleString("en-US");
  const subject = {
    all: "its arguments and environment together take",
    argument: `argument ${at} (the command is 0) takes`,
    variable: `variable ${at + 1} of its environment takes`,
  }[what];
  return `${subject} ${figure(bytes)} bytes, and the system takes ${figure(most)} at most`;
}

/**
 * The error for a start that failed at `stage` (docs/abi.md). Its class is
 * {@link NativeError} where the library is at fault, else {@link SpawnError}.
 */
export function startError(
  failure: Failure,
  { command, cwd, identity }: Launch,
): SpawnError | NativeError {
  const { stage, errno, tooMuch, who, byNumber, refused } = failure;
  const code = errnoName(errno);
  const [why, mend] = refused
    ? notTheirs(refused, identity?.uid ?? null)
    : startReason(byNumber ? `${stage} by number` : stage, code, command);
  const fault = {
    what: `Cannot start ${quote(command)}${startPlace(stage, cwd)}${
      who === undefined ? "" : ` as ${who}`
    }`,
    why: tooMuch ? figures(tooMuch) : why ?? `${errnoSentence(errno)}, at the step ${quote(stage)}`,
    code,
    mend,
    op: "open",
    subject: command,
  };
  const unfit = stage === "library" || (stage === "spec" && code !== "E2BIG");
  const ours = code === "EPANIC" || (unfit && !STARVED.includes(code));
  return ours ? new NativeError(fault) : new SpawnError({ ...fault, stage, errno });
}

function notTheirs(path: string, uid: string | number | null): readonly [string, string] {
  if (uid === null) {
    return [
      `${quote(path)} may not be searched`,
      "give this program's user the x permission on it, or name another program",
    ];
  }
  const whom = typeof uid === "string" ? `user ${quote(uid)}` : `user ${uid}`;
  return [
    `${quote(path)} is not for ${whom} to execute, or to search`,
    "give that user the x permission on it, or name another program",
  ];
}

function startReason(
  stage: string,
  code: string,
  command: string,
): readonly [why: string | null, mend: string] {
  if (code === "EPANIC") return [null, "report it with what it was asked to do"];
  if (stage === "program" && code === "ENOENT" && !command.includes("/")) return NO_FILE_AT_ALL;
  return START[`${stage}/${code}`] ?? START[code] ?? START[stage] ??
    [null, "check what this process may do (its limits, its sandbox)"];
}

/** Only where the directory is what failed does the message name it. */
function startPlace(stage: string, cwd: string | null): string {
  if (stage !== "cwd" && stage !== "chdir") return "";
  return cwd === null ? " in the working directory of this process" : ` in ${quote(cwd)}`;
}
