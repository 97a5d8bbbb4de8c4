// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What a supervisor can start: programs, servers, supervisors. Each runs,
 * ends, and is ended in its own way, and in one shape.
 *
 * @module
 */

import { checkMs, isNormal } from "./callbacks.ts";
import { nearest, quote, SupervisorError, typeError } from "./errors.ts";
import { type Level, type Log, OutputLog, tellLog } from "./logging.ts";
import type { Mailbox } from "./mailbox.ts";
import { type OpenOptions, validate } from "./options.ts";
import { open, type Port, processOf } from "./port.ts";
import { awaitReady, checkWaitFor, type Readiness, type WaitFor } from "./readiness.ts";
import type { Restart } from "./restart.ts";
import type { Server } from "./server.ts";
import type { Cause } from "./status.ts";
import { deferred } from "./streams.ts";

/** What every child has. */
export interface ChildCommon {
  /** Given once among its siblings. */
  id: string;
  /** Default `"permanent"`. */
  restart?: Restart;
  /**
   * How it is ended: milliseconds from SIGTERM (a server's `terminate`) to
   * SIGKILL, or SIGKILL at once. Default: a program's `delayToSigkill`, else
   * 5,000; a supervisor takes as long as its children may.
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
  /** Calls `startLink()`. */
  // deno-lint-ignore no-explicit-any -- any server; who starts it has its type
  server: () => Promise<Server<any, any, any>>;
}

/** A supervisor of its own, by its options. */
export interface NestedSpec<Options> extends Omit<ChildCommon, "waitFor"> {
  /** As for `Supervisor.start()`. */
  supervisor: Options;
}

/** How a child ended by itself. */
export interface End {
  normal: boolean;
  reason: unknown;
}

/** A child that runs. */
export interface Running {
  readonly port?: Port;
  // deno-lint-ignore no-explicit-any -- as above
  readonly server?: Server<any, any, any>;
  /** Its end, however it comes; never rejects. */
  readonly ended: Promise<End>;
  /** Ends it. @throws what keeps it from ending. */
  stop(how: number | "brutalKill" | undefined): Promise<void>;
}

/** What a start needs to know of its supervisor. */
export interface Place {
  readonly owner: Mailbox;
  readonly log: Log;
  /** Nobody wants it any more. */
  readonly signal: AbortSignal;
}

const SHUTDOWN_MS = 5_000;
const LINE_BYTES = 8_192;

/** A program that runs and is ready. */
export async function startProgram(spec: ProgramSpec, place: Place): Promise<Running> {
  const { command, args = [], options = {} } = spec;
  const delayToSigkill = graceOf(spec);
  const given = { ...options, delayToSigkill, owner: place.owner };
  const port = await open(command, args, given);
  const output = spec.output === "keep" ? null : outputOf(spec, port, place.log);
  const stop = (how: number | "brutalKill" = delayToSigkill) => end(port, how, output);
  const gone = async () => {
    const { reason, cause } = await port.status;
    if (!(cause in ENDED_BY)) return { normal: reason.kind === "normal", reason };
    return { normal: false, reason: { ...reason, cause } };
  };
  const running = { port, stop, ended: gone() };
  await readyOrStopped(spec, running, place, output);
  return running;
}

/** SIGTERM, grace, SIGKILL. Unlike `close()` it hears what the program says at its end. */
async function end(
  port: Port,
  how: number | "brutalKill",
  output: OutputLog | null,
): Promise<void> {
  // Also where a grace is running, which a second close() would wait for.
  if (how === "brutalKill") processOf(port).stop("close", 0);
  if (how === "brutalKill" || how === 0 || output === null) {
    return await port.close({ graceMs: how === "brutalKill" ? 0 : how });
  }
  await port.kill("SIGTERM", { scope: "tree" }).catch(() => {}); // it has ended: its status says so
  const late = deferred<"late">();
  const timer = setTimeout(() => late.resolve("late"), how);
  const first = await Promise.race([port.status, late.promise]);
  clearTimeout(timer);
  if (first === "late") return await port.close({ graceMs: 0 });
  await output.done;
}

function graceOf({ shutdown, options }: ProgramSpec): number {
  if (shutdown === "brutalKill") return options?.delayToSigkill ?? 0;
  return shutdown ?? options?.delayToSigkill ?? SHUTDOWN_MS;
}

function outputOf(spec: ProgramSpec, port: Port, log: Log): OutputLog {
  const { id, prefix = `[${id}] `, levels, output, options } = spec;
  const level = { stdout: levels?.stdout ?? "info", stderr: levels?.stderr ?? "error" };
  const bound = options?.maxLineBytes ?? LINE_BYTES;
  return new OutputLog(processOf(port), bound, (stream, text, truncated) => {
    if (output === "drop") return;
    tellLog(log, { id, stream, level: level[stream], prefix, text, truncated });
  });
}

/** A server that runs and is ready. */
export async function startServer(spec: ServerSpec, place: Place): Promise<Running> {
  const server = await spec.server();
  const stop = async (how: number | "brutalKill" = SHUTDOWN_MS) => {
    if (how === "brutalKill") return await server.kill();
    // One that does not stop in time is killed by stop() itself.
    await server.stop("shutdown", { timeoutMs: how }).catch((error) => {
      if (!(error instanceof DOMException)) throw error;
    });
  };
  const ended = server.ended.then(
    ({ reason }) => ({ normal: isNormal(reason), reason }),
    (error) => ({ normal: false, reason: error }),
  );
  const running = { server, stop, ended };
  await readyOrStopped(spec, running, place, null);
  return running;
}

/** Waits until it is ready; where that is not to be, it is ended before this throws. */
async function readyOrStopped(
  spec: ProgramSpec | ServerSpec,
  running: Running,
  { signal }: Place,
  output: OutputLog | null,
): Promise<void> {
  if (spec.waitFor === undefined) return;
  const starting = { output, gone: running.ended, signal };
  try {
    const readiness = await awaitReady(spec.waitFor, starting);
    if (readiness === "ready") return;
    // What it said at last is in its pipes yet, or on its way.
    if (readiness === "gone") await output?.done;
    throw await notReady(spec, readiness, running, output);
  } catch (error) {
    await running.stop(spec.shutdown);
    throw error;
  }
}

async function notReady(
  { id }: ChildCommon,
  readiness: Readiness,
  running: Running,
  output: OutputLog | null,
): Promise<SupervisorError> {
  const why = {
    gone: async () => `it ended before it was ready (${inWords((await running.ended).reason)})`,
    late: () => "it was not ready in time",
    aborted: () => "it is not wanted any more",
    ready: () => "",
  }[readiness];
  const said = output === null || output.tail === "" ? "" : `; its last output: ${output.tail}`;
  return new SupervisorError({
    what: `Cannot start the child ${quote(id)}`,
    why: `${await why()}${said}`,
    code: { gone: "EENDED", late: "ETIMEDOUT", aborted: "ECANCELED", ready: "" }[readiness],
    mend: "look at its output, or wait for something else",
    op: "start",
    subject: id,
    lastOutput: output?.tail ?? null,
  });
}

/** What has ended a child that nobody wanted to end, however it went then. */
const ENDED_BY: Readonly<Partial<Record<Cause, string>>> = {
  oom: "out of memory",
  timeout: "timeoutMs were over",
  limit: "a limit was reached",
  guardian: "its helpers were killed",
};

/** A reason in a few words. */
export function inWords(reason: unknown): string {
  if (reason instanceof Error) return reason.message;
  if (typeof reason !== "object" || reason === null) return String(reason);
  const { kind, code, signal, cause } = reason as Record<string, string>;
  const by = ENDED_BY[cause as Cause];
  const what = { exitStatus: `exit code ${code}`, signal, normal: "exit code 0" }[kind ?? ""] ??
    kind;
  return by === undefined ? `${what}` : `${what}, ${by}`;
}

const RESTARTS: readonly unknown[] = ["permanent", "transient", "temporary"];
const OUTPUTS: readonly unknown[] = ["log", "drop", "keep"];
const LEVELS: readonly unknown[] = ["debug", "info", "warn", "error"];
const KNOWN: Readonly<Record<"program" | "server" | "supervisor", readonly string[]>> = {
  program: ["command", "args", "options", "output", "prefix", "levels", "waitFor"],
  server: ["server", "waitFor"],
  supervisor: ["supervisor"],
};

/**
 * Refuses what is no child; a nested supervisor's own options are not looked at.
 *
 * @throws {TypeError} or {RangeError}.
 */
export function checkChild(spec: unknown): "program" | "server" | "supervisor" {
  if (typeof spec !== "object" || spec === null) {
    throw typeError("Cannot use a child", "it is no object", "give { id, command }");
  }
  const given = spec as Record<string, unknown>;
  const { id, restart, shutdown, waitFor } = given;
  if (typeof id !== "string" || id === "") {
    throw typeError("Cannot use a child", "it has no id", "give each one a name of its own");
  }
  const what = `Cannot use the child ${quote(id)}`;
  const kinds = (["command", "server", "supervisor"] as const).filter((name) => name in given);
  const [first] = kinds;
  if (first === undefined || kinds.length > 1) {
    const has = kinds.length === 0 ? "nothing to start" : kinds.join(" and ");
    throw typeError(what, `it has ${has}`, "give one of command, server and supervisor");
  }
  const kind = first === "command" ? "program" : first;
  refuseUnknown(what, given, ["id", "restart", "shutdown", ...KNOWN[kind]]);
  oneOf(what, "restart", restart, RESTARTS);
  if (shutdown !== "brutalKill" && shutdown !== undefined) checkMs(`shutdown of ${id}`, shutdown);
  if (kind === "server" && typeof given.server !== "function") {
    throw typeError(what, "server is no function", "give one that calls startLink()");
  }
  if (kind === "program") checkProgram(what, given);
  if (waitFor !== undefined) checkWaitFor(waitFor, kind === "program" && given.output !== "keep");
  return kind;
}

function checkProgram(what: string, given: Record<string, unknown>): void {
  oneOf(what, "output", given.output, OUTPUTS);
  for (const level of Object.values(given.levels ?? {})) oneOf(what, "level", level, LEVELS);
  if (given.prefix !== undefined && typeof given.prefix !== "string") {
    throw typeError(what, "prefix is no text", "give a string");
  }
  const options = (given.options ?? {}) as OpenOptions;
  validate(given.command as string, given.args as string[] ?? [], options);
  if (options.owner === undefined) return;
  throw typeError(what, "its options name an owner", "leave it out: the supervisor is");
}

function oneOf(what: string, name: string, value: unknown, known: readonly unknown[]): void {
  if (value === undefined || known.includes(value)) return;
  const is = typeof value === "string" ? quote(value) : `a ${typeof value}`;
  throw typeError(what, `its ${name} is ${is}`, `give ${known.map(String).join(", ")}`);
}

/** @throws {TypeError} for a name that nobody knows. */
export function refuseUnknown(what: string, given: object, known: readonly string[]): void {
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue;
    const meant = nearest(name, known);
    const mend = meant === null
      ? `the known ones are ${known.join(", ")}`
      : `did you mean ${meant}?`;
    throw typeError(what, `nobody knows its ${quote(name)}`, mend);
  }
}
