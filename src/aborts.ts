// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Waits that an `AbortSignal` ends, where what is waited for cannot be told to
 * stop.
 *
 * @module
 */

import { deferred } from "./streams.ts";

/**
 * What `promise` comes to. What becomes of one that was given up is for the
 * caller to look after; its rejection is then no uncaught one.
 *
 * @throws the signal's reason where that is aborted before.
 */
export async function unlessAborted<T>(
  promise: Promise<T>,
  signal: AbortSignal | null | undefined,
): Promise<T> {
  if (!signal) return await promise;
  const aborted = deferred<never>();
  const abort = () => aborted.reject(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  if (signal.aborted) abort();
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
