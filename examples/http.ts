// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * A web server that streams a program's output to each client. A client that
 * goes away takes its program along, with everything that it has started.
 *
 * @module
 */

import { open, SpawnError } from "../mod.ts";

/**
 * A handler for `Deno.serve`: each request has a program of its own, but for
 * HEAD. Of that nobody would read the output, nor end the program: a signal
 * that aborts when the answer is sent is not promised.
 */
export function streaming(
  command: string,
  args: readonly string[] = [],
): (request: Request) => Promise<Response> {
  return async ({ method, signal }) => {
    if (method === "HEAD") return new Response(null);
    try {
      const port = await open(command, args, { stdin: "null", stderr: "inherit", signal });
      return new Response(port.stdout);
    } catch (error) {
      // The client was quicker than the start: nobody will read this.
      if (signal.aborted) return new Response(null, { status: 499 });
      if (!(error instanceof SpawnError)) throw error;
      return new Response(`${error.message}\n`, { status: 500 });
    }
  };
}

if (import.meta.main) {
  const [command = "ping", ...args] = Deno.args.length > 0 ? Deno.args : ["ping", "localhost"];
  Deno.serve(streaming(command, args));
}
