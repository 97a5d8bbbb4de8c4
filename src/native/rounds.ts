// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The rounds of the event loop: promises alone never let it go on.
 *
 * @module
 */

import { setImmediate } from "node:timers";

/** Calls `body` when timers and events had their turn. */
export function nextRound(body: () => void): void {
  setImmediate(body);
}
