// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The tickets of ports that go to another Worker, in a form that
 * postMessage() takes.
 *
 * @module
 */

import { ClosedError, typeError } from "./errors.ts";
import { type Moved, movedOr, specOf } from "./moved.ts";

/** A port on its way; made by `port.transfer()`, for `Port.adopt()` in any Worker of this process, once. */
export interface PortTicket {
  /** Its form. */
  readonly type: "proton-stream ticket 1";
  /** What goes along; for {@link Port.adopt} alone. */
  readonly moved: unknown;
}

/** Raised when the form of {@link Moved} changes: copies of this package may differ. */
const TYPE: PortTicket["type"] = "proton-stream ticket 1";

/** A ticket for `moved`. What cannot go along, or is nobody's business, stays behind. */
export function ticketOf(moved: Moved): PortTicket {
  return { type: TYPE, moved: { ...moved, spec: specOf(moved.spec) } };
}

/**
 * What a ticket carries. Whether it is one of those that were handed out its native side decides, which then gives
 * the port out: nothing may be wrong with it behind that.
 *
 * @throws {TypeError} for what has not the form of one, in any part.
 */
export function movedOf(ticket: unknown): Moved {
  const { type, moved } = (typeof ticket === "object" && ticket !== null ? ticket : {}) as {
    type?: unknown;
    moved?: unknown;
  };
  if (typeof type === "string" && type !== TYPE && type.startsWith("proton-stream ticket")) {
    throw foreign();
  }
  const whole = type === TYPE ? movedOr(moved) : null;
  if (whole !== null) return whole;
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
