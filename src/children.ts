// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What a supervisor can start: programs, servers, supervisors. Each runs,
 * ends, and is ended in its own way, and in one shape.
 *
 * @module
 */

import { unlessAborted } from "./aborts.ts";
import { HANDED_ON, isNormal } from "./callbacks.ts";
import { hearsBy } from "./ends.ts";
import { quote, SupervisorError, typeError } from "./errors.ts";
import { type Log, OutputLog, tellLog } from "./logging.ts";
import type { Mailbox } from "./mailbox.ts";
import { open, type Port, processOf } from "./port.ts";
import { awaitReady, type Readiness } from "./readiness.ts";
import { Server } from "./server.ts";
import type { ChildCommon, ProgramSpec, ServerSpec } from "./specs.ts";
import type { Cause } from "./status.ts";
import { deferred } from "./streams.ts";

/** How a child ended by itself. */
export interface End {
  normal: boolean;
  reason: unknown;
}

/** A child that runs. */
export interface Running {
  readonly port?: Port;
  // deno-lint-ignore no-explicit-any -- any server; who starts it has its type
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
  /** Nor is there time to end it by its `shutdown`. */
  readonly killed: AbortSignal;
}

const SHUTDOWN_MS = 5_000;

/** A start that is given up has its grace; one that is done within this is killed instead. */
const OPEN_MS = 200;
const LINE_BYTES = 8_192;

/** A program that runs and is ready. */
export async function startProgram(spec: ProgramSpec, place: Place): Promise<Running> {
  const { command, args = [], options = {} } = spec;
  const delayToSigkill = graceOf(spec);
  const terms = { id: spec.id, shutdown: spec.shutdown ?? delayToSigkill };
  const port = await unlessGivenUp(terms, place, OPEN_MS, (signal) => {
    const signals = options.signal === undefined ? [signal] : [signal, options.signal];
    const given = { ...options, delayToSigkill, owner: place.owner };
    return open(command, args, { ...given, signal: AbortSignal.any(signals) });
  });
  const output = spec.output === "keep" ? null : outputOf(spec, port, place.log);
  const stop = (how: number | "brutalKill" = delayToSigkill) => end(port, how, output, place);
  const running = { port, stop, ended: endOf(port) };
  await readyOrStopped(spec, running, place, output);
  return running;
}

async function endOf(port: Port): Promise<End> {
  const status = await processOf(port).held;
  if (status === null) return { normal: true, reason: HANDED_ON };
  const { reason, cause } = status;
  if (!(cause in ENDED_BY)) return { normal: isNormal(reason), reason };
  return { normal: false, reason: { ...reason, cause } };
}

/** SIGTERM, grace, SIGKILL. Unlike `close()` it hears what the program says at its end. */
async function end(
  port: Port,
  how: number | "brutalKill",
  output: OutputLog | null,
  { owner }: Place,
): Promise<void> {
  const process = processOf(port);
  if (process.away) return process.stop("owner", 0); // where it comes back
  if (process.mailbox !== owner) return; // another has it
  // Also where a grace is running, which a second close() would wait for.
  if (how === "brutalKill") process.stop("close", 0);
  if (how === "brutalKill" || how === 0 || output === null) {
    return await port.close({ graceMs: how === "brutalKill" ? 0 : how });
  }
  await port.kill("SIGTERM", { scope: scopeOf(port) }).catch(() => {}); // it has ended: its status says so
  const late = deferred<"late">();
  const timer = setTimeout(() => late.resolve("late"), how);
  const first = await Promise.race([process.held, late.promise]);
  clearTimeout(timer);
  if (first === "late") return await port.close({ graceMs: 0 });
  await output.done;
}

/** Whom `close()` would give the SIGTERM. */
function scopeOf(port: Port): "tree" | "group" | "child" {
  const { spec: { closeScope }, report } = processOf(port);
  return closeScope === "group" && !report.ownGroup ? "tree" : closeScope;
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
  const server = await serverOf(spec, place);
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

/** What `spec.server()` gives. What comes of one that was given up is killed. */
async function serverOf(
  spec: ServerSpec,
  place: Place,
): Promise<NonNullable<Running["server"]>> {
  return await unlessGivenUp(spec, place, 0, async (signal) => {
    hearsBy(signal);
    const starting = (async () => await spec.server(signal))();
    try {
      const server: unknown = await unlessAborted(starting, signal);
      if (server instanceof Server) return server;
    } catch (error) {
      // Nobody is left to be told of it.
      if (signal.aborted) void starting.then((late) => late.kill()).catch(() => {});
      throw error;
    }
    throw typeError(
      `Cannot start the child ${quote(spec.id)}`,
      "its server() gave no Server of this package",
      "return what startLink() returns",
    );
  });
}

/** Its signal aborts `shutdown` after nobody wants it any more, or `patienceMs` after it is to be killed. */
async function unlessGivenUp<T>(
  { id, shutdown = SHUTDOWN_MS }: ChildCommon,
  { signal, killed }: Place,
  patienceMs: number,
  start: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const given = new AbortController();
  const timers: ReturnType<typeof setTimeout>[] = [];
  const giveUpIn = (ms: number) => () => {
    if (ms === 0) given.abort(notWanted(id));
    else timers.push(setTimeout(() => given.abort(notWanted(id)), ms));
  };
  const soon = giveUpIn(shutdown === "brutalKill" ? patienceMs : shutdown);
  const now = giveUpIn(patienceMs);
  signal.addEventListener("abort", soon);
  killed.addEventListener("abort", now);
  try {
    return await start(given.signal);
  } catch (error) {
    given.abort(notWanted(id)); // and what was made with it, and is nobody's now
    throw error;
  } finally {
    timers.forEach(clearTimeout);
    signal.removeEventListener("abort", soon);
    killed.removeEventListener("abort", now);
  }
}

/** Waits until it is ready; where that is not to be, it is ended before this throws. */
async function readyOrStopped(
  spec: ProgramSpec | ServerSpec,
  running: Running,
  { signal, killed }: Place,
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
    await endEarly(running, spec.shutdown, killed);
    throw error;
  }
}

/** Ends one that nobody knows of yet, at once where all are killed. */
async function endEarly(
  running: Running,
  how: number | "brutalKill" | undefined,
  killed: AbortSignal,
): Promise<void> {
  if (killed.aborted) return await running.stop("brutalKill");
  const kill = () => void running.stop("brutalKill").catch(() => {}); // the other stop() tells it
  killed.addEventListener("abort", kill);
  await running.stop(how).finally(() => killed.removeEventListener("abort", kill));
}

function notWanted(id: string): SupervisorError {
  return new SupervisorError({
    what: `Cannot start the child ${quote(id)}`,
    why: "it is not wanted any more",
    code: "ECANCELED",
    mend: "its supervisor ends",
    op: "start",
    subject: id,
  });
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
  if (reason === HANDED_ON) return "given to another owner";
  if (typeof reason !== "object" || reason === null) return String(reason);
  const { kind, code, signal, cause } = reason as Record<string, string>;
  const by = ENDED_BY[cause as Cause];
  const what = { exitStatus: `exit code ${code}`, signal, normal: "exit code 0" }[kind ?? ""] ??
    kind;
  return by === undefined ? `${what}` : `${what}, ${by}`;
}
