// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The fault matrix: each case by its number, in each mode that a host of this
 * kind can show, and a written reason for each that it cannot.
 * docs/containment.md is made of these rows by scripts/matrix.ts.
 *
 * @module
 */

import { Cgroup, PLACE } from "./cgroups.ts";
import { ROOT, test } from "./helpers.ts";
import { Host, type HostOptions, type Kill, probeOf, type User } from "./host_process.ts";

/** Who runs the host, and what ends its trees. */
export interface Mode {
  name: ModeName;
  kill: Kill;
  user: User;
}

export const MODE_NAMES = [
  "tree, root",
  "tree, unprivileged",
  "cgroup2, root",
  "cgroup2, unprivileged",
] as const;

export type ModeName = typeof MODE_NAMES[number];

/**
 * A user of this test run alone: what it may have, and whom it may signal, is
 * nobody else's business. Who is not root has but one user to be.
 */
const SOMEBODY: number | null = ROOT ? 200_000 + Deno.pid : null;

const MODES: readonly Mode[] = MODE_NAMES.map((name) => ({
  name,
  kill: name.startsWith("tree") ? "tree" : "cgroup2",
  user: { name, uid: name.endsWith("root") ? null : SOMEBODY },
}));

/** One test in one mode. */
export class Run {
  /** Around everything that the case starts; null where there is none to be had. */
  readonly cgroup: Cgroup | null;

  constructor(readonly mode: Mode) {
    const owner = mode.kill === "cgroup2" ? mode.user.uid : null;
    this.cgroup = PLACE === null ? null : new Cgroup(owner);
  }

  get privileged(): boolean {
    return this.mode.name.endsWith("root");
  }

  /** The probe, where this mode's user can run it. */
  get probe(): string {
    return probeOf(this.mode.user);
  }

  /** A host in this mode. Whatever comes of it has to be gone at the end of the case. */
  start(script: string, options: HostOptions = {}): Host {
    const { user, kill } = this.mode;
    return Host.start(script, { user, kill, cgroup: this.cgroup, ...options });
  }
}

/** Why a case has no test, in all modes or by mode. */
export type Reasons = string | Partial<Record<ModeName, string>>;

/** A case as docs/containment.md shows it. */
export interface Row {
  number: string;
  title: string;
  /** By mode: the name of the test, or null where `reasons` tells why not. */
  tests: Partial<Record<ModeName, string>>;
  reasons: Reasons;
}

/** Every case that the files imported so far have registered. */
export const rows: Row[] = [];

export interface MatrixCase {
  /** `#12` of the matrix; `+` for a case beside it. */
  number: string;
  title: string;
  /** Modes in which it cannot run on a host of this kind, each with the reason. */
  not?: Partial<Record<ModeName, string>>;
  /** It sets up what only root may, in the unprivileged modes too. */
  needsRoot?: boolean;
  body: (run: Run) => Promise<void>;
}

/** Registers a test for each mode. After the body nothing at all may be left: no process, no cgroup. */
export function matrixCase({ number, title, not = {}, needsRoot = false, body }: MatrixCase): void {
  const row: Row = { number, title, tests: {}, reasons: not };
  for (const mode of MODES) {
    if (not[mode.name] !== undefined) continue;
    const name = `${number} ${mode.name}: ${title}`;
    row.tests[mode.name] = name;
    register(name, needsRoot && !ROOT ? BY_ROOT : missing(mode), mode, body);
  }
  rows.push(row);
}

function register(
  name: string,
  cure: string | null,
  mode: Mode,
  body: MatrixCase["body"],
): void {
  if (cure !== null) {
    return Deno.test({ name: `${name} (skipped: ${cure})`, ignore: true, fn() {} });
  }
  test(name, async () => {
    const run = new Run(mode);
    try {
      await body(run);
      await run.cgroup?.leftNothing();
    } finally {
      run.cgroup?.end();
    }
  });
}

const BY_ROOT = "run scripts/test as root, e.g. with sudo";

/** What this machine lacks for a mode, as the command that gives it. */
function missing({ name, kill }: Mode): string | null {
  if (!ROOT && name.endsWith("root")) return BY_ROOT;
  if (kill === "tree" || PLACE !== null) return null;
  return ROOT
    ? "mount cgroup2, e.g. on /sys/fs/cgroup/unified"
    : "run it in a cgroup below one of yours, as scripts/vm does, or as root";
}

/** A case that no test on a host of this kind can show, or that another place shows. */
export function matrixReason(number: string, title: string, why: string): void {
  rows.push({ number, title, tests: {}, reasons: why });
}
