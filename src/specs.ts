// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What a supervisor is made of, as its user gives it.
 *
 * @module
 */

import type { Level, Log } from "./logging.ts";
import type { OpenOptions } from "./options.ts";
import type { WaitFor } from "./readiness.ts";
import type { Backoff, Restart, Strategy } from "./restart.ts";
import type { Server } from "./server.ts";

/** What every child has. */
export interface ChildCommon {
  /** Given once among its siblings. */
  id: string;
  /** Default `"permanent"`. */
  restart?: Restart;
  /**
   * How it is ended: milliseconds from SIGTERM (a server's `terminate`) to
   * SIGKILL, or SIGKILL at once. Default: a program's `delayToSigkill`, else
   * 5,000; a supervisor takes as long as its children may. A start
   * that is not done when its supervisor stops is given up after as long.
   */
  shutdown?: number | "brutalKill";
  /** When its start is done; default: when it runs. */
  waitFor?: WaitFor;
}

/** A program. */
export interface ProgramSpec extends ChildCommon {
  /** A name to look up on its PATH, or a path. */
  command: string;
  /** What follows argv[0]; default: nothing. */
  args?: readonly (string | Uint8Array)[];
  /** As for `open`. */
  options?: Omit<OpenOptions, "owner">;
  /**
   * What becomes of stdout and stderr: their lines are logged (the default),
   * read to nothing, or left to whoever reads `port.stdout` and `port.stderr`.
   */
  output?: "log" | "drop" | "keep";
  /** In front of each of its lines; default `[id] `. */
  prefix?: string;
  /** How its lines are logged; default `info` and `error`. */
  levels?: { stdout?: Level; stderr?: Level };
}

/** A server: a function that starts it, anew for each restart. */
export interface ServerSpec extends ChildCommon {
  /**
   * Calls `startLink()`. Its signal aborts where the start is given up: as an
   * option of `startLink()` it ends an `init` that hangs, and the server of a
   * start that fails behind it. What comes of a start that was given up is killed.
   * It must not wait for calls to its own supervisor, which are done one after the
   * other: such a wait ends when the start is given up.
   */
  // deno-lint-ignore no-explicit-any -- any server; who starts it has its type
  server: (signal: AbortSignal) => Promise<Server<any, any, any>>;
}

/** A supervisor of its own, by its options. */
export interface NestedSpec extends Omit<ChildCommon, "waitFor"> {
  /** As for `Supervisor.start()`. */
  supervisor: SupervisorOptions;
}

/** A program, a server or a supervisor, and how it is supervised. */
export type ChildSpec = ProgramSpec | ServerSpec | NestedSpec;

/** What a supervisor is made of. */
export interface SupervisorOptions {
  /** Started in this order, each when the one before is ready. */
  children?: readonly ChildSpec[];
  /** Default `"one_for_one"`. */
  strategy?: Strategy;
  /** More restarts than this within `maxSeconds` end the supervisor; 0 or more, default 3. */
  maxRestarts?: number;
  /** Seconds, more than 0; default 5. */
  maxSeconds?: number;
  /** Default: restarts do not wait. One that waits holds up nothing else. */
  backoff?: Backoff;
  /**
   * Gets the lines of its programs, and what becomes of its children; default:
   * the console, which also tells of one that throws, once. Nested ones inherit it.
   */
  log?: Log;
}
