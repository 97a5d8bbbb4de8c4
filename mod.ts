// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Launch OS processes so that nothing is ever left behind.
 *
 * ```ts
 * import { open } from "@proton-stream/port";
 * import { assertEquals } from "@std/assert";
 *
 * await using port = await open("sh", ["-c", "sleep 1000 & echo ready"]);
 * for await (const line of port.lines()) {
 *   assertEquals(line, "ready");
 *   break;
 * }
 * ```
 *
 * @module
 */

export {
  addressOf,
  type AdoptOptions,
  type CloseOptions,
  type FdStreams,
  type KillOptions,
  open,
  Port,
  type Request,
  resetGuardian,
} from "./src/port.ts";
export type {
  Answer,
  Awaitable,
  Callbacks,
  From,
  Init,
  Next,
  Self,
  Stop,
  Timeout,
} from "./src/callbacks.ts";
export { type Child, type ChildCounts, Supervisor } from "./src/supervisor.ts";
export type {
  ChildCommon,
  ChildSpec,
  NestedSpec,
  ProgramSpec,
  ServerSpec,
  SupervisorOptions,
} from "./src/specs.ts";
export type { Backoff, Restart, Strategy } from "./src/restart.ts";
export type { Check, Patience, WaitFor } from "./src/readiness.ts";
export type { Level, Log, LogLine } from "./src/logging.ts";
export {
  type CallOptions,
  Server,
  type ServerEnd,
  type ServerOptions,
  type StopOptions,
} from "./src/server.ts";
export { startLink, whereis } from "./src/start_link.ts";
export type { PortTicket } from "./src/ticket.ts";
export { cmd, type CommandOptions, type CommandResult, type Input } from "./src/command.ts";
export { Mailbox, type Match, type Message, type ReceiveOptions } from "./src/mailbox.ts";
export { Cgroups } from "./src/cgroup.ts";
export { type ControllerState, type Diagnosis, doctor, type Lacking } from "./src/doctor.ts";
export type { LimitEvent } from "./src/events.ts";
export type { CgroupVersion, Counters, Pressure, Stats } from "./src/figures.ts";
export type { DeviceLimits, Limits, RawSet, Size } from "./src/limits.ts";
export type { ContainmentOptions, OpenOptions } from "./src/options.ts";
export type { PtyOptions, PtySize, Source, Stdio } from "./src/descriptors.ts";
export type {
  Capability,
  CapabilityOptions,
  Rlimit,
  RlimitName,
  RlimitValue,
} from "./src/privileges.ts";
export type { RequiredContainment } from "./src/plan.ts";
export type {
  Cause,
  Containment,
  ExitReason,
  ExitStatus,
  Guards,
  PlainSignal,
  SignalName,
  Survivor,
  Usage,
} from "./src/status.ts";
export {
  BrokenPipeError,
  ClosedError,
  ContainmentError,
  NativeError,
  PermissionError,
  ProtonError,
  ServerError,
  SpawnError,
  SupervisorError,
  SurvivorsError,
  WindowFullError,
} from "./src/errors.ts";
