// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The owner under a server: what its port says goes straight into the
 * server's own queue, and is acknowledged when its handler is done.
 *
 * @module
 */

import { Mailbox, type Member, type Message } from "./mailbox.ts";

/** A mailbox without a shelf. */
export class Inbox extends Mailbox {
  readonly #take: (message: Message, consumed: () => void) => void;

  constructor(take: (message: Message, consumed: () => void) => void) {
    super();
    this.#take = take;
  }

  override deliver(message: Message, consumed: () => void): void {
    if (this.disposed) return consumed();
    this.#take(message, consumed);
  }

  /** Nobody will call receive(): what it owns flows at once. */
  override join(member: Member): void {
    super.join(member);
    member.flow();
  }
}

/** An owner that wants no messages: for ports whose streams others read. */
export class Holder extends Mailbox {
  override deliver(_: Message, consumed: () => void): void {
    consumed();
  }
}
