// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * What a server is told, one after the other, and which callback hears of it.
 *
 * @module
 */

import type { Call } from "./calls.ts";
import type { Callbacks, Self } from "./callbacks.ts";
import type { Message } from "./mailbox.ts";

// deno-lint-ignore no-explicit-any -- any module at all; the types of one come from startLink()
export type AnyCallbacks = Callbacks<any, any, any, any, any>;

/** One thing that a server is told. */
export type Item =
  | Call
  | { kind: "port"; message: Message; consumed: () => void }
  | { kind: "cast"; request: unknown }
  | { kind: "info"; message: unknown }
  | { kind: "continue"; value: unknown }
  | { kind: "stop"; reason: unknown };

/** The callback for it, which the module may not have; null where there is none for such. */
export function callbackOf(item: Item): keyof AnyCallbacks | null {
  switch (item.kind) {
    case "call":
      return "handleCall";
    case "cast":
      return "handleCast";
    case "info":
      return "handleInfo";
    case "continue":
      return "handleContinue";
    case "port":
      return ofPort(item.message);
    case "stop":
      return null;
  }
}

function ofPort({ type }: Message): keyof AnyCallbacks | null {
  if (type === "data") return "handleStdout";
  if (type === "error") return "handleStderr";
  return type === "exit" ? "handleExit" : null;
}

/** Calls it, where the module has it. */
export function invoke(module: AnyCallbacks, item: Item, state: unknown, self: Self): unknown {
  switch (item.kind) {
    case "call":
      return module.handleCall?.(item.request, item, state, self);
    case "cast":
      return module.handleCast?.(item.request, state, self);
    case "info":
      return module.handleInfo?.(item.message, state, self);
    case "continue":
      return module.handleContinue?.(item.value, state, self);
    case "port":
      return heard(module, item.message, state, self);
    default:
      return undefined;
  }
}

function heard(module: AnyCallbacks, message: Message, state: unknown, self: Self): unknown {
  switch (message.type) {
    case "data":
      return module.handleStdout?.(message.data, state, self);
    case "error":
      return module.handleStderr?.(message.data, state, self);
    case "exit":
      return module.handleExit?.(message.reason, state, self, message.status);
    default:
      return undefined;
  }
}
