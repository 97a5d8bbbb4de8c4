// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Supervised trees at random, killed at random, beside a model of what
 * Erlang/OTP's supervisor would make of it: after each end both are to agree
 * on who runs, who was started anew, and who gave up.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import {
  type ChildSpec,
  type Port,
  type Restart,
  type Strategy,
  Supervisor,
  SupervisorError,
} from "../mod.ts";
import { assert, gone, identities, type Identity, until, within } from "./helpers.ts";
import { type Below, oneOf, random } from "./random.ts";

/** A program in the model. */
interface Leaf {
  kind: "leaf";
  id: string;
  restart: Restart;
  runs: boolean;
}

/** A supervisor in the model. */
interface Branch {
  kind: "branch";
  id: string;
  restart: Restart;
  strategy: Strategy;
  most: number;
  restarts: number;
  children: Node[];
  /** As it was made: a new one starts with all of them. */
  first: Node[];
  runs: boolean;
}

type Node = Leaf | Branch;

const RESTARTS: Restart[] = ["permanent", "permanent", "transient", "temporary"];
const STRATEGIES: Strategy[] = ["one_for_one", "one_for_all", "rest_for_one"];

function branch(below: Below, id: string, depth: number): Branch {
  const first = Array.from({ length: 1 + below(3) }, (_, at): Node => {
    const name = `${id}.${at}`;
    if (depth > 0 && below(3) === 0) return branch(below, name, depth - 1);
    return { kind: "leaf", id: name, restart: oneOf(below, RESTARTS), runs: true };
  });
  const strategy = oneOf(below, STRATEGIES);
  const restart = oneOf(below, RESTARTS);
  const [most, restarts, runs] = [below(4), 0, true];
  return {
    kind: "branch",
    id,
    restart,
    strategy,
    most,
    restarts,
    children: [...first],
    first,
    runs,
  };
}

// ---- the model

function stop(node: Node): void {
  node.runs = false;
  if (node.kind === "branch") node.children.forEach(stop);
}

/** Notes in `started` whose programs are new. */
function start(node: Node, started: Set<string>): void {
  node.runs = true;
  if (node.kind === "leaf") return void started.add(node.id);
  node.restarts = 0;
  node.children = [...node.first];
  for (const child of node.children) start(child, started);
}

/** `path`: from the root to the one that has ended by itself. */
function end(path: Node[], normal: boolean, started: Set<string>): void {
  const [node, parent] = [path.at(-1), path.at(-2)];
  assert(node !== undefined);
  stop(node);
  if (parent === undefined || parent.kind === "leaf") return; // the root
  const again = node.restart === "permanent" || (node.restart === "transient" && !normal);
  const remove = (child: Node) => {
    parent.children = parent.children.filter((other) => other !== child);
  };
  if (!again) {
    if (node.restart === "temporary") remove(node);
    return;
  }
  if (++parent.restarts > parent.most) return end(path.slice(0, -1), false, started);
  const at = parent.children.indexOf(node);
  const group = {
    one_for_one: [node],
    one_for_all: [...parent.children],
    rest_for_one: parent.children.slice(at),
  }[parent.strategy];
  for (const child of group) {
    stop(child);
    if (child.restart === "temporary") remove(child);
  }
  for (const child of group) if (child.restart !== "temporary") start(child, started);
}

/** Each program that runs, with the way to it. */
function running(path: Node[]): Node[][] {
  const node = path.at(-1);
  assert(node !== undefined);
  if (!node.runs) return [];
  if (node.kind === "leaf") return [path];
  return node.children.flatMap((child) => running([...path, child]));
}

// ---- the supervisors

function options(node: Branch): NonNullable<Parameters<typeof Supervisor.start>[0]> {
  const spec = (child: Node): ChildSpec => {
    const { id, restart } = child;
    if (child.kind === "branch") return { id, restart, supervisor: options(child) };
    // It ends with the code that it is told.
    const args = ["-c", "read code; exit $code"];
    return { id, restart, command: "sh", args, shutdown: 2_000, options: { flushMs: 0 } };
  };
  const { strategy, most } = node;
  const children = node.first.map(spec);
  return { strategy, maxRestarts: most, maxSeconds: 1e6, children, log: () => {} };
}

/** The pids of all programs that run, by id. */
function pids(supervisor: Supervisor): Map<string, number> {
  const found = new Map<string, number>();
  for (const { id, port, supervisor: nested } of supervisor.whichChildren()) {
    if (port !== undefined) found.set(id, port.pid);
    if (nested !== undefined) { for (const [id, pid] of pids(nested)) found.set(id, pid); }
  }
  return found;
}

function portOf(supervisor: Supervisor, path: Node[]): Port | undefined {
  let at = supervisor;
  for (const { id, kind } of path.slice(1)) {
    const child = at.child(id);
    if (kind === "leaf") return child?.port;
    assert(child?.supervisor !== undefined, `${id} is ${child?.state}`);
    at = child.supervisor;
  }
  return undefined;
}

/** One tree from its start to its end. */
async function tree(seed: number): Promise<void> {
  const below = random(seed);
  const root = branch(below, "root", 2);
  const supervisor = await Supervisor.start(options(root));
  const ended = supervisor.ended.then(() => null, (error) => error);
  const all: Identity[] = [...identities([...pids(supervisor).values()])];
  for (let event = 3 + below(6); event > 0 && root.runs; event--) {
    const candidates = running([root]);
    if (candidates.length === 0) break;
    const path = oneOf(below, candidates);
    const normal = below(3) === 0;
    const before = pids(supervisor);
    const port = portOf(supervisor, path);
    const told = `seed ${seed}: ${path.at(-1)?.id} of ${JSON.stringify(root.first)}`;
    assert(port !== undefined, told);
    if (normal) await port.command("0\n");
    else await port.kill("SIGKILL");
    const started = new Set<string>();
    end(path, normal, started);
    if (!root.runs) break;
    const expected = running([root]).map((path) => path.at(-1)?.id ?? "");
    await agree(supervisor, expected, before, started, told);
    all.push(...identities([...pids(supervisor).values()]));
  }
  if (root.runs) await supervisor.stop();
  const error = await within(ended, { what: `the end, seed ${seed}` });
  if (root.runs) assertEquals(error, null, `seed ${seed}`);
  else assert(error instanceof SupervisorError && error.code === "EINTENSITY", `seed ${seed}`);
  await gone(all);
}

/** Waits until those run that are to, and those alone are new that are to. */
async function agree(
  supervisor: Supervisor,
  expected: string[],
  before: Map<string, number>,
  started: Set<string>,
  told: string,
): Promise<void> {
  const wrong = () => {
    const now = pids(supervisor);
    const missing = expected.filter((id) => !now.has(id));
    const more = [...now.keys()].filter((id) => !expected.includes(id));
    const other = [...now].filter(([id, pid]) => (before.get(id) !== pid) !== started.has(id));
    return [...missing, ...more, ...other.map(([id]) => id)];
  };
  await until(() => wrong().length === 0, {
    what: () => `${told}: ${wrong()} otherwise; started ${[...started]}, to run ${expected}`,
  });
}

/** Runs `count` trees. */
export async function killInTrees(
  { seed, count, progress }: { seed: number; count: number; progress?: (done: number) => void },
): Promise<void> {
  const below = random(seed);
  for (let done = 0; done < count; done++) {
    await tree(1 + below(2 ** 31 - 1));
    progress?.(done + 1);
  }
}
