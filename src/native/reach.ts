// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Whether something is there already: a file, or somebody who listens.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { connect } from "node:net";

/** How long one try may take. */
const TRY_MS = 1_000;

/** Where somebody may listen. */
export type Place = { port: number; host: string } | { path: string };

/** Whether a file is there. */
export function fileIsThere(path: string): boolean {
  return existsSync(path);
}

/**
 * Whether somebody takes a connection there. It is closed at once.
 *
 * @throws where the runtime's permissions refuse it.
 */
export function listens(place: Place): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(place);
    const answer = (is: boolean) => {
      socket.destroy();
      resolve(is);
    };
    socket.setTimeout(TRY_MS, () => answer(false));
    socket.once("connect", () => answer(true));
    socket.once("error", (error: Error) => {
      if (error.name === "NotCapable") reject(error);
      answer(false);
    });
  });
}
