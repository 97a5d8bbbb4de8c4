// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What of a port goes to another Worker: everything that is known of it on
 * this side, in a form that postMessage() takes.
 *
 * @module
 */

import type { Handle } from "./core.ts";
import { ClosedError, typeError } from "./errors.ts";
import type { Spec } from "./options.ts";
import type { MovedOutput } from "./streams.ts";

/** A port on its way; made by `port.transfer()`, for `Port.adopt()` in any Worker of this process, once. */
export interface PortTicket {
  /** Its form. */
  readonly type: "proton-stream ticket 1";
  /** What goes along; for {@link Port.adopt} alone. */
  readonly moved: unknown;
}

/** A message that nobody has taken yet. */
export interface MovedMessage {
  type: "data" | "error";
  data: Uint8Array<ArrayBuffer>;
}

/** What a port leaves its isolate with. */
export interface Moved {
  handle: Handle;
  /** What its native side hands it out for. */
  key: Uint8Array;
  spec: Spec;
  outputs: MovedOutput[];
  /** Why each input is over; null where it is not. */
  inputs: (string | null)[];
  messages: MovedMessage[];
}

/** Raised when the form of {@link Moved} changes: copies of this package may differ. */
const TYPE: PortTicket["type"] = "proton-stream ticket 1";

/** A ticket for `moved`. What cannot go along, or is nobody's business, stays behind. */
export function ticketOf(moved: Moved): PortTicket {
  const spec = { ...moved.spec, args: [], env: [], signal: null, owner: null };
  return { type: TYPE, moved: { ...moved, spec } };
}

/**
 * What a ticket carries. Whether it is one of those that were handed out its native side decides.
 *
 * @throws {TypeError} for what has not the form of one.
 */
export function movedOf(ticket: unknown): Moved {
  const { type, moved } = (typeof ticket === "object" && ticket !== null ? ticket : {}) as {
    type?: unknown;
    moved?: unknown;
  };
  if (typeof type === "string" && type !== TYPE && type.startsWith("proton-stream ticket")) {
    throw foreign();
  }
  const { handle, key, spec, outputs, inputs, messages } = (moved ?? {}) as Record<string, unknown>;
  const whole = type === TYPE && Number.isInteger(handle) && key instanceof Uint8Array &&
    typeof spec === "object" && spec !== null && [outputs, inputs, messages].every(Array.isArray);
  if (whole) return moved as Moved;
  throw typeError("Cannot adopt a port", "this is no ticket", "pass what port.transfer() returned");
}

/** It was made by another copy of this package. */
export function foreign(): ClosedError {
  return refused(
    "its ticket is of another copy of this package, or of another process",
    "EXDEV",
    "use one copy in all Workers",
  );
}

/** It names nothing that is on its way. */
export function used(): ClosedError {
  return refused(
    "its ticket was used, or its sender has ended",
    "EBADF",
    "adopt each port once, while the Worker that it comes from lives",
  );
}

function refused(why: string, code: string, mend: string): ClosedError {
  return new ClosedError({
    what: "Cannot adopt a port",
    why,
    code,
    mend,
    op: "adopt",
    subject: "ticket",
  });
}
