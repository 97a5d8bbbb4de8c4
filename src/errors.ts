// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Every error this package makes, and the one grammar of their messages:
 * *what: why (CODE): mend*. A class for each different reaction of the caller.
 *
 * @module
 */

/** What an error is made of; the message is put together from it. */
export interface Fault {
  /** What could not be done, as a sentence without its end: `Cannot start "frobnicate"`. */
  what: string;
  why: string;
  /** An errno name such as `"ENOENT"`, or a name of ours such as `"ECLOSED"`. */
  code: string;
  /** What the caller can do about it. */
  mend: string;
  /** The call that failed, such as `"open"`. */
  op: string;
  /** What it was done to: a command, a path, a stream. */
  subject: string;
  cause?: unknown;
}

/** What all error classes of this package have in common. */
export abstract class ProtonError extends Error {
  /** The call that failed, such as `"open"`. */
  readonly op: string;
  /** What it was done to: a command, a path, a stream. */
  readonly subject: string;
  /** An errno name such as `"ENOENT"`, or a name of ours such as `"ECLOSED"`. */
  readonly code: string;

  /** Put together from its parts. */
  constructor(fault: Fault) {
    const { what, why, code, mend, op, subject, cause } = fault;
    super(`${what}: ${why} (${code}): ${mend}`, cause === undefined ? undefined : { cause });
    this.op = op;
    this.subject = subject;
    this.code = code;
  }
}

/**
 * The program did not start, and nothing of it is left behind.
 *
 * ```ts
 * import { open, SpawnError } from "@proton-stream/port";
 * import { assertEquals } from "@std/assert";
 *
 * const error = await open("no-such-program").catch((error) => error);
 * assertEquals(error instanceof SpawnError, true);
 * assertEquals([error.stage, error.code], ["program", "ENOENT"]);
 * ```
 */
export class SpawnError extends ProtonError {
  /** The step that failed, by its name in docs/abi.md: `"program"`, `"cwd"`, `"exec"`, ... */
  readonly stage: string;
  /** The system's error number; `code` is its name. */
  readonly errno: number;

  /** Put together from its parts. */
  constructor(fault: Fault & { stage: string; errno: number }) {
    super(fault);
    this.stage = fault.stage;
    this.errno = fault.errno;
  }

  static {
    this.prototype.name = "SpawnError";
  }
}

/** A containment that was asked for cannot be had on this host; nothing was started, or changed. */
export class ContainmentError extends ProtonError {
  /** The file of a cgroup that did not take its value, or the cgroup that is not to be had; null where it is neither. */
  readonly file: string | null;
  /** What was to be written there. */
  readonly value: string | null;
  /** The system's error number; `code` is its name. */
  readonly errno: number;

  /** Put together from its parts. */
  constructor(fault: Fault & { file?: string | null; value?: string | null; errno?: number }) {
    super(fault);
    this.file = fault.file ?? null;
    this.value = fault.value ?? null;
    this.errno = fault.errno ?? 0;
  }

  static {
    this.prototype.name = "ContainmentError";
  }
}

/** Something was used after its end (`ECLOSED`), or by another than its owner (`ENOTOWNER`). */
export class ClosedError extends ProtonError {
  /** The bytes that were to be sent and were not, where there are any. */
  readonly unsent: Uint8Array | null;

  /** Put together from its parts. */
  constructor(fault: Fault & { unsent?: Uint8Array | null }) {
    super(fault);
    this.unsent = fault.unsent ?? null;
  }

  static {
    this.prototype.name = "ClosedError";
  }
}

/** A selective `receive` waits for a message that a full window keeps from coming. */
export class WindowFullError extends ProtonError {
  static {
    this.prototype.name = "WindowFullError";
  }
}

/** The child no longer reads its stdin. */
export class BrokenPipeError extends ProtonError {
  static {
    this.prototype.name = "BrokenPipeError";
  }
}

/** The runtime's own permissions refuse it. */
export class PermissionError extends ProtonError {
  static {
    this.prototype.name = "PermissionError";
  }
}

/** The native library is missing, is not the one this code was made for, or failed. */
export class NativeError extends ProtonError {
  static {
    this.prototype.name = "NativeError";
  }
}

/**
 * A server did not start, or ended other than normally. What a callback threw
 * is its `cause`; `EIGNORE` is the code where `init` chose not to start.
 */
export class ServerError extends ProtonError {
  /** Why it ended: what was given as `stop`, how its program exited, or what was thrown. */
  readonly reason: unknown;

  /** Put together from its parts. */
  constructor(fault: Fault & { reason: unknown }) {
    super(fault);
    this.reason = fault.reason;
  }

  static {
    this.prototype.name = "ServerError";
  }
}

/**
 * A supervisor could not start a child (`ESTART`), gave up after too many
 * restarts (`EINTENSITY`), could not end one (`ESHUTDOWN`), or was asked for
 * what its children do not allow (`EEXIST`, `ENOENT`, `EBUSY`).
 */
export class SupervisorError extends ProtonError {
  /** The last lines of a program that was not ready, where its supervisor reads them. */
  readonly lastOutput: string | null;

  /** Put together from its parts. */
  constructor(fault: Fault & { lastOutput?: string | null }) {
    super(fault);
    this.lastOutput = fault.lastOutput ?? null;
  }

  static {
    this.prototype.name = "SupervisorError";
  }
}

/** A process that a teardown could not end. */
export interface Survivor {
  /** Its process id. */
  pid: number;
  /** The kernel's name of the process, at most 15 bytes. */
  comm: string;
  /** What keeps it: it may not be signalled, is stuck in the kernel, or is held by a debugger. */
  reason: "EPERM" | "uninterruptible" | "traced";
  /** The process that traces it, where `reason` is `"traced"`. */
  tracer?: number;
}

/** `close` could not end every process of the tree within its deadline. */
export class SurvivorsError extends ProtonError {
  /** The processes that are left, with the reason for each. */
  readonly survivors: readonly Survivor[];

  /** Put together from its parts. */
  constructor(fault: Fault & { survivors: readonly Survivor[] }) {
    super(fault);
    this.survivors = fault.survivors;
  }

  static {
    this.prototype.name = "SurvivorsError";
  }
}

/** An argument of the wrong kind, told in the grammar; it has no errno. */
export function typeError(what: string, why: string, mend: string): TypeError {
  return new TypeError(`${what}: ${why}: ${mend}`);
}

/** An argument of the right kind outside its range, told in the grammar. */
export function rangeError(what: string, why: string, mend: string): RangeError {
  return new RangeError(`${what}: ${why}: ${mend}`);
}

/** The most of a name that a message holds. */
const QUOTED_MAX = 200;

/** `name` quoted for a message, so that spaces and line ends in it are seen; a long one is cut. */
export function quote(name: string): string {
  if (name.length <= QUOTED_MAX) return JSON.stringify(name);
  return `${JSON.stringify(name.slice(0, QUOTED_MAX))}... (${name.length} characters)`;
}

/** The one of `known` that `name` was most likely meant to be; null when none is near. */
export function nearest(name: string, known: readonly string[]): string | null {
  const plain = (s: string) => s.toLowerCase().replaceAll(/[-_]/g, "");
  let best: string | null = null;
  let least = Math.max(2, Math.floor(name.length / 2)) + 1;
  for (const candidate of known) {
    const distance = editDistance(plain(name), plain(candidate));
    if (distance < least) [best, least] = [candidate, distance];
  }
  return best;
}

/** Letters to insert, drop or change until `a` reads `b`. */
export function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

/** Linux's error numbers (x86-64 and aarch64 agree) from 1 on; `-` where a number has no name. */
const NAMES: readonly string[] = `
  EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK
  EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE
  EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ELOOP - ENOMSG EIDRM
  ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI EL2HLT EBADE EBADR EXFULL ENOANO EBADRQC
  EBADSLT - EBFONT ENOSTR ENODATA ETIME ENOSR ENONET ENOPKG EREMOTE ENOLINK EADV ESRMNT ECOMM EPROTO
  EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG ELIBACC ELIBBAD ELIBSCN ELIBMAX
  ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT
  EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL
  ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN
  ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EUCLEAN
  ENOTNAM ENAVAIL EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED
  EKEYREVOKED EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL EHWPOISON
`.trim().split(/\s+/);

/** What a native call answers when its code panicked; no error number of the system. */
export const PANIC: number = 4095;

/** The name of an error number: `2` is `"ENOENT"`. */
export function errnoName(errno: number): string {
  if (errno === PANIC) return "EPANIC";
  const name = NAMES[errno - 1];
  return name === undefined || name === "-" ? `E${errno}` : name;
}

/** What an error number says by itself, where no better sentence is at hand. */
const SENTENCES: Readonly<Record<string, string>> = {
  EPERM: "the system does not permit it",
  ENOENT: "there is no such file or directory",
  ESRCH: "there is no such process",
  EINTR: "it was interrupted",
  EIO: "the device or file system failed",
  ENXIO: "there is no such device",
  EBADF: "it is closed or was never open",
  ECHILD: "there is no such child",
  EAGAIN: "a limit on processes or memory is reached for now",
  ENOMEM: "there is not enough memory",
  EACCES: "permission is refused",
  EBUSY: "it is in use",
  EEXIST: "it exists already",
  ENODEV: "there is no such device",
  ENOTDIR: "a part of the path is not a directory",
  EISDIR: "it is a directory",
  EINVAL: "the system does not accept it",
  ENFILE: "the system has no file descriptors left",
  EMFILE: "this process has no file descriptors left",
  ENOSPC: "there is no space left",
  EROFS: "the file system is read-only",
  EPIPE: "the other end is closed",
  ENAMETOOLONG: "the name is too long",
  ENOSYS: "this kernel, or its sandbox, does not know the system call",
  ELOOP: "too many symbolic links follow one another",
  ECONNRESET: "the other end is gone",
  ETIMEDOUT: "it took too long",
  ECONNREFUSED: "nobody answers",
  EPANIC: "the native library failed inside",
};

/** What an error number says by itself, as a clause for a message. */
export function errnoSentence(errno: number): string {
  return SENTENCES[errnoName(errno)] ?? `the system answered with error ${errno}`;
}
