// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Ports for a mailbox in another Worker, over a MessagePort between both: a
 * ticket goes there, and whether it was taken comes back.
 *
 * @module
 */

import { deferred } from "./streams.ts";
import type { PortTicket } from "./ticket.ts";

/** How long the other side may take to answer. It may be gone, and nobody would tell. */
const ANSWER_MS = 10_000;

interface Offer {
  offer: string;
  ticket: PortTicket;
}

/** Null where the port was taken, else why not. */
interface Answer {
  /** Null: whatever is offered. */
  answer: string | null;
  refused: string | null;
}

/** Hands what comes to `take`, and says whether that threw. */
export function answerAt(side: MessagePort, take: (ticket: PortTicket) => void): void {
  side.onmessage = ({ data }: MessageEvent<Offer>) => {
    let refused: string | null = null;
    try {
      take(data.ticket);
    } catch (error) {
      refused = error instanceof Error ? error.message : String(error);
    }
    side.postMessage({ answer: data.offer, refused } satisfies Answer);
  };
}

/** No more answers: whoever asks is told, as far as a message still gets there. */
export function closeAt(side: MessagePort): void {
  side.postMessage({ answer: null, refused: "its mailbox has ended" } satisfies Answer);
  side.close();
}

/** Sends `ticket` there. Null where it was taken, else why not. */
export async function sendTo(address: MessagePort, ticket: PortTicket): Promise<string | null> {
  const offer = crypto.randomUUID();
  const { promise, resolve } = deferred<string | null>();
  const answered = ({ data }: MessageEvent<Answer>) => {
    if (data.answer === offer || data.answer === null) resolve(data.refused);
  };
  address.addEventListener("message", answered);
  address.start();
  const timer = setTimeout(() => resolve("nobody answers there"), ANSWER_MS);
  try {
    address.postMessage({ offer, ticket } satisfies Offer);
    return await promise;
  } finally {
    clearTimeout(timer);
    address.removeEventListener("message", answered);
  }
}
