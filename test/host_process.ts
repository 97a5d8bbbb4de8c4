// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Host scripts as processes of their own, run by this Deno as root or as a
 * user without privileges, so that a test can kill them.
 *
 * @module
 */

import { cpSync } from "node:fs";
import type { Cgroup } from "./cgroups.ts";
import { CHECKOUT, type Identity, identity, PROBE, ROOT, within } from "./helpers.ts";

/** Who a host runs as. */
export interface User {
  name: string;
  /** Null: who runs the tests. */
  uid: number | null;
}

const NOBODY: User = { name: "an unprivileged user", uid: 65534 };

/** Root and an unprivileged user; where the tests are not run by root, whoever runs them. */
export const USERS: readonly User[] = ROOT
  ? [{ name: "root", uid: null }, NOBODY]
  : [{ name: `user ${Deno.uid()} (run scripts/test as root to test as root too)`, uid: null }];

export interface HostOptions {
  user?: User;
  /** Permission flags; default `["--allow-all"]`. */
  allow?: readonly string[];
  /** What runs the host, such as `["env", "--ignore-signal=CHLD"]`; the command follows. */
  under?: readonly string[];
  env?: Record<string, string>;
  /** The folder whose mod.ts the script uses; default: the checkout. */
  tree?: string;
  /** Where the host starts; all that comes of it stays in or below. */
  cgroup?: Pick<Cgroup, "path"> | null;
  /** As `under`, but run by who runs the tests, before the user is taken on: such as `unshare`. */
  above?: readonly string[];
  /** What a host of another user keeps of root's capabilities, as its inheritable and ambient ones: `["kill"]`. */
  capabilities?: readonly string[];
  /** How `open` in this host has to hold a tree: it is asked for, and checked at each port. */
  kill?: Kill;
}

/** What ends a tree, as `port.containment.kill` says. */
export type Kill = "tree" | "cgroup2";

/** A host script that runs; its end, and everything it leaves, is the test's business. */
export class Host implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #said: WritableStreamDefaultWriter<Uint8Array>;
  readonly #errors: Promise<string>;
  readonly #folder: string;
  readonly id: Identity;

  private constructor(process: Deno.ChildProcess, folder: string) {
    this.#process = process;
    this.#folder = folder;
    this.id = identity(process.pid);
    this.#lines = lines(process.stdout).getReader();
    this.#said = process.stdin.getWriter();
    this.#errors = new Response(process.stderr).text();
  }

  /** Runs `script`; in it are `open`, `Mailbox` and all else of mod.ts as `proton`, PROBE, TREE, say, hear, ready, left. */
  static start(script: string, options: HostOptions = {}): Host {
    const { user, allow = ["--allow-all"], env = {} } = options;
    const uid = user?.uid ?? null;
    const place = {
      ...placeOf(uid),
      ...(options.tree === undefined ? {} : { tree: options.tree }),
    };
    const folder = Deno.makeTempDirSync({ prefix: "proton_test_host_" });
    Deno.writeTextFileSync(`${folder}/host.ts`, PRELUDE(place, options.kill) + script);
    if (uid !== null) chownAll(folder, uid);
    const run = ["--quiet", "--no-config", "--no-lock", "--no-check", "--no-prompt", ...allow];
    const deno = [place.deno, "run", ...run, `${folder}/host.ts`];
    const [command = "", ...args] = [...around(options), ...deno];
    const process = new Deno.Command(command, {
      args,
      cwd: folder,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      env: {
        DENO_DIR: denoDir(uid),
        DENO_NO_UPDATE_CHECK: "1",
        ...env,
      },
    }).spawn();
    return new Host(process, folder);
  }

  get pid(): number {
    return this.id.pid;
  }

  /** Its working directory. */
  get folder(): string {
    return this.#folder;
  }

  /** The words after `word` in the next line that has it; other lines are passed over. */
  async next(word: string): Promise<string[]> {
    const passed: string[] = [];
    while (true) {
      const line = await within(this.#lines.read(), {
        what: `"${word}" after ${JSON.stringify(passed)}`,
      });
      if (line.done) {
        throw new Error(`the host ended before "${word}": ${passed} ${await this.#errors}`);
      }
      // A terminal echoes what is typed in front of what is said.
      const words = line.value.replaceAll("^C", "").trim().split(" ");
      if (words.includes(word)) return words.slice(words.indexOf(word) + 1);
      passed.push(line.value);
    }
  }

  /** As {@link next}, as numbers. */
  async numbers(word: string): Promise<number[]> {
    return (await this.next(word)).map(Number);
  }

  /** The lines that are left once it has ended. */
  async rest(): Promise<string[]> {
    const rest: string[] = [];
    while (true) {
      const line = await within(this.#lines.read(), { what: "the end of the host's output" });
      if (line.done) return rest;
      rest.push(line.value);
    }
  }

  async tell(text: string): Promise<void> {
    await this.#said.write(new TextEncoder().encode(text));
  }

  kill(signal: Deno.Signal = "SIGKILL"): void {
    this.#process.kill(signal);
  }

  /** How it ended, and what it wrote to stderr. */
  async end(): Promise<Deno.CommandStatus & { stderr: string }> {
    const status = await within(this.#process.status, { what: `the end of host ${this.pid}` });
    return { ...status, stderr: await this.#errors };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#process.kill("SIGKILL");
    } catch {
      // It ended by itself, as most do.
    }
    await this.#process.status;
    await Promise.allSettled([this.#lines.cancel(), this.#said.abort(), this.#errors]);
    Deno.removeSync(this.#folder, { recursive: true });
  }
}

/** The commands that run one another, the innermost the host. */
function around(
  { user, cgroup, above = [], under = [], capabilities = [] }: HostOptions,
): string[] {
  const join = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', cgroup?.path ?? ""];
  const uid = user?.uid ?? null;
  const sets = ["-all", ...capabilities.map((name) => `+${name}`)].join();
  const keep = capabilities.length > 0 ? [`--inh-caps=${sets}`, `--ambient-caps=${sets}`] : [];
  const drop = ["setpriv", `--reuid=${uid}`, `--regid=${uid}`, "--clear-groups", ...keep];
  return [...(cgroup ? join : []), ...above, ...(uid === null ? [] : drop), ...under];
}

function lines(bytes: ReadableStream<Uint8Array>): ReadableStream<string> {
  let rest = "";
  const decoder = new TextDecoder();
  return bytes.pipeThrough(
    new TransformStream<Uint8Array, string>({
      transform(chunk, controller): void {
        const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
        rest = parts.pop() ?? "";
        for (const part of parts) controller.enqueue(part);
      },
    }),
  );
}

/** Where a host finds what it runs. */
interface Place {
  /** With mod.ts, src, npm/native and test/fixtures below it; ends with a slash. */
  tree: string;
  deno: string;
  probe: string;
}

const PRELUDE = ({ tree, probe }: Place, kill?: Kill): string => `
import * as proton from "${tree}mod.ts";
import { hear, left, ready, readyWords, say } from "${tree}test/fixtures/host.ts";
const { Mailbox } = proton;
const open = ${kill === undefined ? "proton.open" : OPEN(kill)};
const PROBE = ${JSON.stringify(probe)};
const TREE = ${JSON.stringify(tree)};
void [hear, left, ready, readyWords, say, open, Mailbox, PROBE, TREE];
`;

const OPEN = (kill: Kill): string =>
  `async (command, args = [], options = {}) => {
  const containment = { kill: "${kill === "tree" ? "tree" : "auto"}" };
  const port = await proton.open(command, args, { containment, ...options });
  const { kill, why } = port.containment;
  if (kill !== "${kill}") throw new Error("contained by " + kill + ": " + why);
  return port;
}`;

const caches = new Map<number | null, string>();

/** One compile cache for all hosts of one user. */
function denoDir(uid: number | null): string {
  const path = caches.get(uid) ?? temporary("proton_test_deno_");
  if (uid !== null) Deno.chownSync(path, uid, uid);
  caches.set(uid, path);
  return path;
}

function placeOf(uid: number | null): Place {
  return uid === null ? { tree: CHECKOUT, deno: Deno.execPath(), probe: PROBE } : readableByAll();
}

/** The probe, where that user can run it. */
export function probeOf(user: User): string {
  return placeOf(user.uid).probe;
}

let copied: Place | undefined;

/** The checkout may lie where only its owner can read: a copy that everybody can. */
function readableByAll(): Place {
  if (copied !== undefined) return copied;
  const tree = `${temporary("proton_test_tree_")}/`;
  copyTree(tree);
  Deno.copyFileSync(Deno.execPath(), `${tree}deno`);
  Deno.copyFileSync(PROBE, `${tree}probe`);
  return copied = { tree, deno: `${tree}deno`, probe: `${tree}probe` };
}

/** What hosts import beside mod.ts. */
const HOSTS_OWN = ["test/fixtures/host.ts", "test/random.ts", "test/soak"];

/** What a program needs of the checkout to use mod.ts, copied into `folder` (which ends with a slash). */
export function copyTree(folder: string): void {
  for (const part of ["mod.ts", "src", "npm/native", ...HOSTS_OWN]) {
    cpSync(CHECKOUT + part, folder + part, { recursive: true });
  }
}

/** A folder that everybody may read, gone when the tests of this file are done. */
export function temporary(prefix: string): string {
  const path = Deno.makeTempDirSync({ prefix });
  Deno.chmodSync(path, 0o755);
  globalThis.addEventListener("unload", () => Deno.removeSync(path, { recursive: true }));
  return path;
}

function chownAll(folder: string, uid: number): void {
  for (
    const path of [
      folder,
      ...[...Deno.readDirSync(folder)].map(({ name }) => `${folder}/${name}`),
    ]
  ) {
    Deno.chownSync(path, uid, uid);
  }
}
