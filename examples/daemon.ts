// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * A shell that leaves a daemon in a session of its own behind, and does not.
 *
 * @module
 */

import { open } from "../mod.ts";

const port = await open("bash", ["-c", "(setsid sleep 1000 >/dev/null 2>&1 &); echo started"]);
console.log(await port.text());
const { reason, killed } = await port.status; // resolves when the daemon is gone, too
console.log(`the shell ended (${reason.kind}), ${killed} left-over processes were killed`);
