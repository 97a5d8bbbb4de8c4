// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** What becomes of the trees when a runtime in watch mode runs a changed file again (docs/watch-modes.md). */

import { assertEquals } from "@std/assert";
import { existsSync } from "node:fs";
import {
  assert,
  CHECKOUT,
  gone,
  identities,
  output,
  PROBE,
  Scratch,
  test,
  until,
} from "./helpers.ts";
import { endMarked, MARK, marked, newMark } from "./marks.ts";

/** One run of the file: its process, and the pids of its tree. */
interface Run {
  host: number;
  tree: number[];
}

/** A runtime that watches a file with a tree. */
class Watch implements AsyncDisposable {
  readonly #scratch = new Scratch();
  readonly #mark = newMark();
  readonly #file = this.#scratch.file("watched.mjs");
  readonly #process: Deno.ChildProcess;
  #changes = 0;

  constructor([command = "", ...args]: readonly string[], module: string) {
    this.#write();
    this.#process = new Deno.Command(command, {
      args: [...args, this.#file],
      cwd: this.#scratch.path,
      stdin: "null",
      stdout: "null",
      stderr: "null",
      env: {
        [MARK]: this.#mark,
        PROTON_TEST_MODULE: module,
        PROTON_TEST_PROBE: PROBE,
        PROTON_TEST_LINES: this.#scratch.file("lines"),
        DENO_NO_UPDATE_CHECK: "1",
      },
    }).spawn();
  }

  get pid(): number {
    return this.#process.pid;
  }

  #write(): void {
    const text = Deno.readTextFileSync(`${CHECKOUT}test/fixtures/watched.mjs`);
    Deno.writeTextFileSync(this.#file, `${text}// change ${this.#changes++}\n`);
  }

  get runs(): Run[] {
    return this.#scratch.lines("lines").map((line) => {
      const [host = 0, ...tree] = line.split(" ").map(Number);
      return { host, tree };
    });
  }

  async first(): Promise<Run> {
    return await until(() => this.runs[0], { what: "the first run" });
  }

  /** Changes the file, and again where that came before the runtime had begun to watch it. */
  async again(): Promise<Run> {
    const before = this.runs.length;
    let changed = -Infinity;
    return await until(() => {
      if (performance.now() - changed > 5_000) {
        this.#write();
        changed = performance.now();
      }
      return this.runs[before];
    }, { what: "a run after the change", deadlineMs: 60_000 });
  }

  /** The pids of every program that any run has started and that is still there, in order. */
  get trees(): number[] {
    const probes = marked(this.#mark).filter((pid) => isProbe(pid));
    return probes.sort((one, other) => one - other);
  }

  kill(): void {
    this.#process.kill("SIGKILL");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    endMarked(this.#mark); // the runtimes themselves, too
    await this.#process.status;
    this.#scratch[Symbol.dispose]();
  }
}

function isProbe(pid: number): boolean {
  try {
    return Deno.readLinkSync(`/proc/${pid}/exe`) === PROBE;
  } catch {
    return false; // ended meanwhile
  }
}

const inOrder = ({ tree }: Run) => tree.toSorted((one, other) => one - other);

/** The first run's tree ends, and the last one's is there. */
async function replaced(watch: Watch): Promise<{ first: Run; last: Run }> {
  const first = await watch.first();
  const old = identities(first.tree);
  await watch.again();
  await gone(old);
  const last = () => watch.runs.at(-1) ?? first;
  await until(() => `${watch.trees}` === `${inOrder(last())}`, {
    what: () => `${inOrder(last())} alone, not ${watch.trees}`,
  });
  return { first, last: last() };
}

const PACKAGE = `${CHECKOUT}.cache/package/dist/mod.mjs`;
const BUN = `${CHECKOUT}scripts/bun`;

/** A test that needs the package for Node and Bun, and says how to get it. */
function withPackage(name: string, body: () => Promise<void>): void {
  if (existsSync(PACKAGE)) return test(name, body);
  Deno.test({ name: `${name} (skipped: run scripts/npm)`, ignore: true, fn: body });
}

test("deno run --watch: the old trees end, in the same process", async () => {
  const deno = [Deno.execPath(), "run", "--watch", "--no-config", "--no-lock", "--allow-all"];
  await using watch = new Watch(deno, `${CHECKOUT}mod.ts`);
  const { first, last } = await replaced(watch);
  assertEquals([first.host, last.host], [watch.pid, watch.pid]);
  watch.kill();
  await until(() => watch.trees.length === 0, { what: "the end of the last tree" });
});

withPackage("node --watch: the old trees end with the old process", async () => {
  await using watch = new Watch(["node", "--watch"], PACKAGE);
  const { first, last } = await replaced(watch);
  assert(first.host !== last.host && last.host !== watch.pid, "each run is a child of its own");
  Deno.kill(last.host, "SIGKILL");
  await until(() => watch.trees.length === 0, { what: "the end of the last tree" });
});

withPackage("bun --watch: the old trees end, though the process executes itself anew", async () => {
  await output(BUN, "--version"); // the first use of a checkout fetches it
  await using watch = new Watch([BUN, "--watch"], PACKAGE);
  const { first, last } = await replaced(watch);
  assertEquals([first.host, last.host], [watch.pid, watch.pid]);
  watch.kill();
  await until(() => watch.trees.length === 0, { what: "the end of the last tree" });
});

withPackage("bun --hot: the old trees live on, and end with the process", async () => {
  await output(BUN, "--version"); // as above
  await using watch = new Watch([BUN, "--hot"], PACKAGE);
  const first = await watch.first();
  await watch.again();
  const all = () => watch.runs.flatMap(({ tree }) => tree).sort((one, other) => one - other);
  await until(() => `${watch.trees}` === `${all()}`, {
    what: () => `${all()}, not ${watch.trees}`,
  });
  assertEquals(new Set(watch.runs.map(({ host }) => host)), new Set([watch.pid]));
  assert(watch.trees.includes(first.tree[0] ?? 0));
  watch.kill();
  await until(() => watch.trees.length === 0, { what: "the end of every tree" });
});
