// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * How servers are started, and found by their names.
 *
 * @module
 */

import { type Callbacks, checkModule } from "./callbacks.ts";
import { quote, typeError } from "./errors.ts";
import { Names } from "./names.ts";
import { validate } from "./options.ts";
import { moduleOf, type Server, serverOf, type ServerOptions, start } from "./server.ts";

// deno-lint-ignore no-explicit-any -- any server; whereis() looks at the module that gives its types
const servers: Names<Server<any, any, any>> = new Names();

/**
 * Starts a server: `init(initArg)` first, then the program, then its
 * callbacks. Resolves when the program runs; what a callback throws from then
 * on, the `handleContinue` of `init` included, is the end of the server.
 *
 * ```ts
 * import { type From, type Self, startLink } from "@proton-stream/port";
 * import { assertEquals } from "@std/assert";
 *
 * type State = From<string>[];
 * const calculator = {
 *   init: () => ({ state: [] as State }),
 *   async handleCall(term: string, from: From<string>, state: State, self: Self) {
 *     await self.port.command(`${term}\n`);
 *     return { state: [...state, from] };
 *   },
 *   handleStdout(data: Uint8Array, [first, ...others]: State) {
 *     first?.reply(new TextDecoder().decode(data).trim());
 *     return { state: others };
 *   },
 * };
 * await using bc = await startLink(calculator, "bc", ["-q"], undefined, { name: "bc" });
 * assertEquals(await bc.call("6 * 7"), "42");
 * ```
 *
 * @param module its callbacks.
 * @param initArg what `init` is given.
 * @throws {ServerError} where `init` threw (`cause`), stopped (`reason`) or ignored (`EIGNORE`); nothing was started.
 * @throws {ServerError} (EEXIST) where the name is taken.
 * @throws {SpawnError} and whatever else `open` rejects with, after `terminate`; where that throws as well, a
 * {@link ServerError} (ECALLBACK) with both.
 * @throws the reason of `signal` where that is aborted before the program runs; an `init` that is not done by then
 * is not waited for.
 * @throws {TypeError} for a module without `init`, or without the callback that the answer of `init` asks for.
 */
export async function startLink<
  State,
  Arg = undefined,
  Request = never,
  Reply = never,
  Cast = never,
>(
  module: Callbacks<State, Arg, Request, Reply, Cast>,
  command: string,
  args: readonly (string | Uint8Array)[] = [],
  initArg?: Arg,
  options: ServerOptions = {},
): Promise<Server<Request, Reply, Cast>> {
  checkModule(module);
  if (typeof options !== "object" || options === null || Array.isArray(options)) {
    throw typeError("Cannot start a server", "its options are no object", "give { name }, or none");
  }
  const { name, onEnd, ...others } = options;
  if (onEnd !== undefined && typeof onEnd !== "function") {
    throw typeError('Cannot use option "onEnd"', "it is no function", "give a function");
  }
  if ("owner" in others) {
    throw typeError('Cannot use option "owner"', "the server is the owner", "leave it out");
  }
  validate(command, args, others); // before init() makes anything
  others.signal?.throwIfAborted();
  if (name !== undefined) servers.take(name);
  const server: Server<Request, Reply, Cast> = serverOf(module, command, options, {
    runs: () => name !== undefined && servers.set(name, server),
    over: () => name !== undefined && servers.free(name),
  });
  try {
    await start(server, { command, args, options: others }, initArg);
  } catch (error) {
    if (name !== undefined) servers.free(name);
    throw error;
  }
  return server;
}

/**
 * The server of that name in this isolate; null where there is none. The
 * module gives its type, and is checked.
 *
 * @throws {TypeError} where a server of that name has another module.
 */
export function whereis<State, Arg, Request, Reply, Cast>(
  name: string,
  module: Callbacks<State, Arg, Request, Reply, Cast>,
): Server<Request, Reply, Cast> | null {
  const server = servers.get(name);
  if (server === null || moduleOf(server) === module) return server;
  throw typeError(
    `Cannot use the server ${quote(name)}`,
    "it has another module",
    "give the module that it was started with",
  );
}
