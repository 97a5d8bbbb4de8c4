// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The owner under a server: what its port says goes straight into the
 * server's own queue, and is acknowledged when its handler is done.
 *
 * @module
 */

import { Mailbox, type Member, type Message, type Queued } from "./mailbox.ts";
import type { Port } from "./port.ts";

/** The queue of a server. */
export interface Shelf {
  take(message: Message, consumed: () => void): void;
  /** What a port's program has said, and no handler has heard. */
  withdraw(port: Port): Queued[];
}

/** A mailbox whose shelf is another's. */
export class Inbox extends Mailbox {
  readonly #shelf: Shelf;

  constructor(shelf: Shelf) {
    super();
    this.#shelf = shelf;
  }

  override withdraw(port: Port): Queued[] {
    return this.#shelf.withdraw(port);
  }

  override deliver(message: Message, consumed: () => void): void {
    if (this.disposed) return consumed();
    this.#shelf.take(message, consumed);
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
