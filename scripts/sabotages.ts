// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * THE table of sabotages: a step that is left out (ffi/src/kernel/sabotage.rs),
 * the test that is then red, and what that says.
 *
 * @module
 */

/** One row. */
export interface Sabotage {
  step: string;
  /** Other steps that have to be left out with it, as they do the same work a second time. */
  with?: readonly string[];
  file: string;
  /** The test's name, which is red without the step. */
  test: string;
  /** What it says then. */
  says: RegExp;
  /** How long the test waits in vain, in milliseconds, where it takes longer than 8,000 without the sabotage. */
  deadlineMs?: number;
  /** Whether the ordinary gate does this row. */
  slice?: true;
}

const STEPS = "test/steps_test.ts";
const NOT_GONE = /not in \d+ ms: the end of /;
const DEATHS = "test/containment/deaths_test.ts";
const GUARDS = "test/containment/guards_test.ts";
const TREES = "test/containment/trees_test.ts";
const INHERIT = "test/inherit_test.ts";
const GARBAGE = "test/garbage_test.ts";

export const SABOTAGES: readonly Sabotage[] = [
  {
    step: "keeper-subreaper",
    file: TREES,
    test: "#2 tree, root: the child leaves setsid daemons and exits: they end, its code is told",
    says: /Values are not equal/,
    slice: true,
  },
  {
    step: "guardian-subreaper",
    file: DEATHS,
    test: "#8 tree, root: a keeper is killed: its tree ends, the others live",
    says: NOT_GONE,
  },
  {
    step: "watchdog-subreaper",
    file: DEATHS,
    test: "#11 tree, root: guardian and all keepers are killed at one instant",
    says: NOT_GONE,
  },
  {
    step: "watchdog",
    file: DEATHS,
    test: "#11 tree, root: guardian and all keepers are killed at one instant",
    says: NOT_GONE,
    slice: true,
  },
  {
    step: "guardian-sweep",
    file: DEATHS,
    test: "#8 tree, root: a keeper is killed: its tree ends, the others live",
    says: NOT_GONE,
  },
  {
    step: "leash",
    file: DEATHS,
    test:
      "+ tree, root: watchdog and guardian are killed at one instant: every keeper ends its own tree",
    says: NOT_GONE,
  },
  {
    step: "pdeathsig",
    file: DEATHS,
    test: "+ tree, root: all four die at one instant: the trees of living keepers end",
    says: NOT_GONE,
    slice: true,
  },
  {
    step: "guardian-end",
    file: GUARDS,
    test:
      "#14 tree, root: a keeper is stopped, its port is closed: the guardian ends keeper and tree",
    says: /not in \d+ ms: ..ended/,
  },
  {
    step: "ignored-signals",
    file: GUARDS,
    test: "+ tree, root: SIGTERM, SIGHUP, SIGINT and others to every helper change nothing",
    says: /Values are not equal|not in/,
  },
  {
    step: "cgroup-kill",
    file: DEATHS,
    test: "#8 cgroup2, root: a keeper is killed: its tree ends, the others live",
    // A place is tried before anything is entrusted to it.
    says: /contained by tree: .* cgroup.kill does not end what is in it/,
  },
  {
    step: "first-signal",
    file: TREES,
    test:
      "#17 tree, root: a child that outlives every signal and one that blocks all: SIGTERM, then SIGKILL",
    says: /Values are not equal/,
  },
  {
    step: "signals",
    file: INHERIT,
    test: "a child starts with default dispositions, an empty mask and no descriptor above 2",
    says: /SigIgn/,
    slice: true,
  },
  {
    step: "descriptors",
    file: INHERIT,
    test: "a child starts with default dispositions, an empty mask and no descriptor above 2",
    says: /Values are not equal/,
    slice: true,
  },
  {
    step: "identity",
    file: INHERIT,
    test: "no_new_privs set in the runtime after the guardian started is the child's",
    says: /Values are not equal/,
  },
  {
    step: "flush",
    file: STEPS,
    test: "daemons that do not hold the output are ended at once, however long flushMs is",
    says: /not in \d+ ms: ..ended/,
  },
  {
    step: "runtime-pidfd",
    file: STEPS,
    test:
      "a runtime that has leaked its sockets to a process that lives on is seen to end all the same",
    says: NOT_GONE,
    slice: true,
  },
  {
    step: "eof",
    file: STEPS,
    test: "a runtime that becomes another program by execve has ended: its trees go",
    says: NOT_GONE,
  },
  {
    step: "hold",
    file: STEPS,
    test: "the zombie of a child keeps its pid for as long as something of its tree is left",
    says: /Values are not equal/,
    slice: true,
  },
  {
    step: "kill-order",
    file: STEPS,
    test: "a process is signalled before its children are read: what it forks meanwhile is found",
    says: /Values are not equal/,
    slice: true,
  },
  {
    step: "reap-last",
    file: STEPS,
    test: "what has been killed is not reaped before a walk has found nobody new",
    says: /Values are not equal/,
  },
  {
    step: "threads",
    file: STEPS,
    test: "a signal to the tree reaches what another thread than the first has started",
    says: /not in \d+ ms: SIGHUP at the probe/,
  },
  {
    step: "parent-check",
    file: STEPS,
    test: "no signal reaches a stranger that has got the number of a process of the tree",
    says: /HUP/,
  },
  {
    step: "continue",
    file: GUARDS,
    test:
      "+ tree, root: a guardian or a keeper that is stopped goes on at once: its parent sees to it",
    says: /not in \d+ ms: \\"ended/,
    slice: true,
  },
  {
    step: "stuck-guardian",
    file: GUARDS,
    test:
      "+ tree, root: helpers are held so that they cannot go on: every promise is answered, and the next one up ends the tree",
    says: /Values are not equal/,
    deadlineMs: 30_000,
  },
  {
    step: "credentials",
    file: GARBAGE,
    test: "somebody else with the socket of a keeper can end nobody by it",
    says: /Values are not equal|not in \d+ ms|the host ended before/,
    slice: true,
  },
  {
    step: "dumpable",
    file: INHERIT,
    test: "nobody without privileges may look into a helper",
    says: /Values are not equal/,
  },
  {
    step: "watchdog-reap",
    file: STEPS,
    test: "a watchdog that has been given up leaves no zombie behind",
    says: NOT_GONE,
  },
];
