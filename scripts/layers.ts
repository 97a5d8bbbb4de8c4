// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The layer tables: which file may import which. `scripts/check` holds the
 * tree to them. A row may import the rows below it; files of one row never
 * import each other; a file in no row is an error, an absent file is not.
 *
 * @module
 */

/** Rows from top to bottom; each names the files that stand side by side. */
export type Rows = readonly (readonly string[])[];

/** The TypeScript side, one column. */
export const typescript: Rows = [
  ["mod.ts"],
  ["src/supervisor.ts"],
  ["src/family.ts"],
  ["src/children.ts", "src/spec_checks.ts", "src/waits.ts"],
  ["src/specs.ts"],
  ["src/readiness.ts", "src/restart.ts"],
  ["src/logging.ts"],
  ["src/lines.ts"],
  ["src/start_link.ts"],
  ["src/server.ts"],
  ["src/init.ts"],
  ["src/items.ts"],
  ["src/calls.ts", "src/ends.ts", "src/inbox.ts", "src/names.ts", "src/serial.ts", "src/aborts.ts"],
  ["src/deque.ts"],
  ["src/callbacks.ts"],
  ["src/command.ts"],
  ["src/port.ts"],
  ["src/events.ts"],
  ["src/process.ts", "src/address.ts"],
  ["src/ticket.ts"],
  ["src/moved.ts"],
  ["src/messages.ts", "src/join.ts"],
  ["src/mailbox.ts"],
  ["src/streams.ts", "src/cgroup.ts", "src/doctor.ts"],
  ["src/turns.ts"],
  ["src/native/load.ts", "src/native/reach.ts", "src/native/rounds.ts", "src/native/signals.ts"],
  ["src/native/isolate.ts"],
  ["src/native/deno.ts", "src/native/napi.ts"],
  ["src/native/bindings.ts"],
  ["src/native/abi.ts"],
  ["src/core.ts"],
  ["src/options.ts"],
  ["src/containment_error.ts"],
  ["src/plan.ts"],
  ["src/limits.ts", "src/descriptors.ts", "src/privileges.ts"],
  ["src/checks.ts"],
  ["src/status.ts", "src/start_errors.ts"],
  ["src/figures.ts"],
  ["src/errors.ts"],
];

/** Files that only the named ones may import, however high others stand. */
export const reserved: Readonly<Record<string, readonly string[]>> = {
  "src/native/bindings.ts": ["src/native/deno.ts"],
};

/** Edges of types alone that point up: a message names the port it comes from. */
export const upward: Readonly<Record<string, readonly string[]>> = {
  "src/mailbox.ts": ["src/port.ts"],
  "src/process.ts": ["src/port.ts"],
};

/** Where `Deno`, `Bun`, `node:` and `bun:` may be named. */
export const runtimeFolder = "src/native/";

/**
 * The Rust side, by modules below `ffi/src`; a module stands for its folder,
 * too. What runs in the runtime and what runs in the helper processes are two
 * columns that never import each other; both stand on the kernel.
 */
export const rust: { columns: readonly Rows[]; base: Rows } = {
  columns: [
    [
      ["doors/abi", "doors/chunk"],
      ["doors/napi"],
      ["doors/call"],
      ["runtime/launch", "runtime/calls", "runtime/users"],
      ["runtime/reactor"],
      ["runtime/pair", "runtime/remains", "runtime/deadlines"],
      ["runtime/handle", "runtime/port", "runtime/descriptors"],
      [
        "runtime/environment",
        "runtime/inherit",
        "runtime/credentials",
        "runtime/weight",
        "runtime/pipe",
        "runtime/alarms",
      ],
      ["runtime/blocks", "runtime/transit", "runtime/rights", "runtime/silence"],
    ],
    [
      ["doors/entry"],
      ["guard/watchdog"],
      ["guard/guardian"],
      ["guard/spare"],
      ["guard/keeper"],
      ["guard/rooms", "guard/record"],
      ["guard/place", "guard/child", "guard/hurry", "guard/oom", "guard/table"],
      ["guard/scope", "guard/owner", "guard/proof"],
    ],
  ],
  base: [
    ["kernel/tree", "kernel/cgroup"],
    ["kernel/procfs", "kernel/socket", "kernel/dbus"],
    ["kernel/sys"],
    ["kernel/sabotage"],
    ["kernel/wire"],
  ],
};

/** Rust files that stand outside the tables: the module list and the programs. */
export const rustFree: readonly string[] = ["ffi/src/lib.rs", "ffi/src/bin/"];

/** Where the keyword `unsafe` may stand. */
export const unsafePlaces: readonly string[] = [
  "ffi/src/doors/",
  "ffi/src/guard/child.rs",
  "ffi/src/guard/child/",
  "ffi/src/kernel/sys.rs",
  "ffi/src/kernel/sys/",
];
