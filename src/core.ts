// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What the native side can do for one isolate, in bytes and numbers. The only
 * seam between the TypeScript that knows promises and streams and the native
 * library that knows processes: tests hand in a fake, `native/load.ts` hands
 * in the real one.
 *
 * @module
 */

import type { Spec } from "./options.ts";
import type { CgroupVersion } from "./figures.ts";
import type { Check } from "./limits.ts";
import type { Answer } from "./privileges.ts";
import type { Cause, Ending, Guards, Survivor } from "./status.ts";

export type { Guards, Survivor };

/**
 * One of a port's streams, by its number: 0, 1 and 2 are the child's own;
 * behind them, for each of its descriptors above 2 that is piped, one to read
 * (odd) and one to write (even).
 */
export type StreamNumber = number;

/** A port on the native side. Never reused while it is valid; a stale one is an error, never another port. */
export type Handle = number;

/** Who is signalled: the child alone, its process group, or every descendant. */
export type Scope = "child" | "group" | "tree";

/** Everything the native side knows of a port; later events only add to it. */
export interface Report extends Ending {
  /** The child's process id; 0 until it runs. */
  pid: number;
  /** False where the child joined the runtime's own process group (it is in a terminal's foreground). */
  ownGroup: boolean;
  /** Why it did not start, where it did not. */
  failure: { stage: string; errno: number } | null;
  /** What the failure is about: the number of the setting in the plan, and a path. */
  about: { setting: number | null; subject: string } | null;
  /** True once the tree is proven gone, or `survivors` names what is left. */
  done: boolean;
  /** True where output was thrown away because nobody was to read it any more. */
  discarded: boolean;
}

/**
 * Called on the isolate's own thread, never from inside a call to {@link Core}.
 * A listener that throws does not disturb other ports: the error is reported
 * as uncaught.
 */
export interface PortEvents {
  /** The program runs, or `report.failure` says why not. Called exactly once. */
  started(report: Report): void;
  /** The tree is gone or `report.survivors` names what is left. Exactly once after a successful start; not after a failed one. */
  done(report: Report): void;
  /** An armed stream may be read from or written to, or one that was joined is so no more. Each `arm` is answered at most once. */
  ready(stream: StreamNumber): void;
  /** Something has happened to the tree's limits. Only after {@link Core.watch}. */
  alarm(): void;
}

/** A cgroup of a tree. */
export interface Leaf {
  version: CgroupVersion;
  path: string;
}

/** A mounted hierarchy of cgroups. */
export interface Hierarchy {
  version: CgroupVersion;
  /** Of v1: those that are bound to it. Of v2: those that the runtime's own cgroup has. */
  controllers: string[];
  mount: string;
  /** The directory of the runtime's own cgroup; null where what is mounted does not show it. */
  own: string | null;
}

/** The native side as one isolate sees it. */
export interface Core {
  /**
   * Who `spec.question` is about, from the user database. That may be a server
   * that takes its time: nothing else waits for it.
   *
   * @throws {SpawnError} where there is no such user or group.
   * @throws the reason of `spec.signal` once that is aborted.
   */
  lookup(spec: Spec): Promise<Answer>;
  /**
   * The absolute path that `spec` will execute: looked up as execvpe(3) does,
   * in the child's own PATH and working directory, and allowed by the
   * runtime's permissions.
   *
   * Starts it and returns at once; the outcome comes as `started`.
   *
   * @throws {SpawnError} when there is no such program or directory, or no guardian can be had.
   * @throws {PermissionError} when the runtime's permissions refuse it.
   * @throws {NativeError} when the library failed.
   */
  spawn(spec: Spec, events: PortEvents): Handle;
  /**
   * Reads into `into` (never empty) without waiting.
   *
   * @returns bytes read, 0 at the end of the stream, or a negative errno (-11, EAGAIN: nothing now, call {@link arm}).
   */
  read(port: Handle, stream: StreamNumber, into: Uint8Array): number;
  /**
   * As {@link read}, into a chunk of its own, where the native side can lend
   * memory: cheaper than a new buffer. Absent where it cannot.
   */
  take?(port: Handle, stream: StreamNumber): Uint8Array<ArrayBuffer> | number;
  /** Writes to one of the child's inputs without waiting. Returns bytes taken or a negative errno (-11 EAGAIN, -32 EPIPE). */
  write(port: Handle, stream: StreamNumber, bytes: Uint8Array): number;
  /**
   * Has what stdout or stderr says poured into the stdin of `to`, without a byte
   * passing through here, until one of the two ends or {@link part} is called.
   * Then one `ready(stream)` comes: a read and a write will show what it was.
   *
   * @returns 0 or a negative errno: nothing is poured then.
   */
  join(port: Handle, stream: StreamNumber, to: Handle): number;
  /** Nothing is poured any more from when this returns. Idempotent. */
  part(port: Handle, stream: StreamNumber): void;
  /** Asks for one `ready(stream)`. */
  arm(port: Handle, stream: StreamNumber): void;
  /** Closes our end of one stream: half-close for stdin, cancel for the others. Idempotent. */
  shut(port: Handle, stream: StreamNumber): void;
  /** The size of the child's terminal, in characters; negative errno (-25 ENOTTY: it has none, or no more). */
  resize(port: Handle, cols: number, rows: number): number;
  /** Signals the child, its group or its tree; resolves to 0 or a negative errno (-3 ESRCH: it is gone). */
  signal(port: Handle, signal: number, scope: Scope): Promise<number>;
  /**
   * Ends the tree: first signal, `graceMs`, SIGKILL. Idempotent; the first
   * cause wins. Unless `cause` is `"timeout"`, unread output is thrown away
   * from now on (the child's handlers may write while nobody reads).
   * After `deadlineMs` the port is done with what survives named.
   */
  close(port: Handle, cause: Cause, graceMs: number, deadlineMs: number): void;
  /** Stops the whole tree, or lets it go on; resolves to 0 or a negative errno. */
  freeze(port: Handle, on: boolean): Promise<number>;
  /** The cgroups of a tree that runs, and how often its memory was said to be under pressure. */
  leaves(port: Handle): { leaves: Leaf[]; pressed: number };
  /** From now on the port's `alarm` is called. */
  watch(port: Handle): void;
  /** What is mounted of cgroups. */
  hierarchies(): Hierarchy[];
  /** What a file of a cgroup says, or a negative errno (-25, ENOTTY: it is none). */
  cgroupRead(path: string): string | number;
  /** Writes to a file of a cgroup and reads it back; 0 or a negative errno (-121, EREMOTEIO: it does not keep the value). */
  cgroupWrite(path: string, value: string, check: Check): number;
  /** The state now. */
  report(port: Handle): Report;
  /** Gives the handle up. A port that is not done is ended as by its owner's end. Idempotent. */
  release(port: Handle): void;
  /**
   * Takes the port from this isolate: its handle is stale here, and another
   * isolate gets it for what is returned. Until then it ends with this one.
   */
  offer(port: Handle): Uint8Array;
  /**
   * Takes over a port that another isolate has offered.
   *
   * @returns 0, or a negative errno (-9 EBADF: no such offer, -18 EXDEV: of another copy of the library).
   */
  adopt(port: Handle, key: Uint8Array, events: PortEvents): number;
  /** One more reason for the event loop to stay alive. */
  ref(): void;
  /** One less. */
  unref(): void;
  /** The next spawn starts a new guardian. */
  reset(): void;
}
