// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * The bench: `deno task bench [--write] [ROW...]`. Prints one Markdown table of
 * all rows, or of those that are named, and with `--write` puts it into
 * bench/RESULTS.md as well, with the date and the command.
 *
 * @module
 */

import { childrenRows } from "./children.ts";
import { flowRows } from "./flow.ts";
import { killRows } from "./kill.ts";
import { limitRows } from "./limits.ts";
import { supervisionRows } from "./supervision.ts";
import { memoryRows } from "./memory.ts";
import { Bench } from "./peers.ts";
import { startRows } from "./starts.ts";
import { head, ROUNDS, type Row, run } from "./table.ts";

const RESULTS = new URL("RESULTS.md", import.meta.url).pathname;
const KILL = "kill";

const lines: string[] = [];

function say(line: string): void {
  lines.push(line);
  console.log(line);
}

/** First words of what a runtime says of its version. */
function version(command: string, ...args: string[]): string {
  const { stdout } = new Deno.Command(command, { args }).outputSync();
  return new TextDecoder().decode(stdout).trim().split("\n")[0] ?? "";
}

function machine(): string {
  const bun = version(new URL("../scripts/bun", import.meta.url).pathname, "--version");
  const versions = `Deno ${Deno.version.deno}, Node ${version("node", "--version")}, Bun ${bun}`;
  const model = Deno.readTextFileSync("/proc/cpuinfo").match(/^model name\s*: (.*)$/m)?.[1] ?? "";
  const load = Deno.loadavg()[0]?.toFixed(2) ?? "";
  return `Linux ${Deno.osRelease()}, ${navigator.hardwareConcurrency} cores${
    model && ` (${model})`
  }, ` +
    `${versions}; load ${load} at the begin. Medians of ${ROUNDS}, A B A B, one unmeasured round ` +
    "before; times and sizes, so less is better. The ratio is that of the port on Deno.";
}

async function table(bench: Bench, wanted: readonly string[]): Promise<void> {
  const all: Row[] = [
    ...startRows(bench),
    ...flowRows(bench),
    ...childrenRows(bench),
    ...memoryRows(),
    ...limitRows(),
    ...supervisionRows(),
  ];
  const ids = new Set([...all.map(({ id }) => id), KILL]);
  const unknown = wanted.find((id) => !ids.has(id));
  if (unknown !== undefined) {
    console.error(`bench: no row "${unknown}": give ${[...ids].join(", ")}, or none for all`);
    Deno.exit(2);
  }
  const chosen = (id: string) => wanted.length === 0 || wanted.includes(id);
  say(`${machine()}\n`);
  say(head());
  for (const row of all) {
    if (chosen(row.id)) say(await run(row));
    if (row.id === "heap") await bench.end("+heap");
  }
  if (!chosen(KILL)) return;
  await bench.end("");
  say("");
  for await (const row of killRows()) say(row);
}

const write = Deno.args.includes("--write");
const wanted = Deno.args.filter((arg) => arg !== "--write");
const begin = performance.now();
{
  await using bench = new Bench();
  await table(bench, wanted);
}
console.error(`${((performance.now() - begin) / 60_000).toFixed(1)} minutes`);
if (write) {
  const notice = "<!-- SPDX-License-Identifier: Apache-2.0 -->\n" +
    "<!-- SPDX-FileCopyrightText: proton-stream contributors -->\n";
  const command = ["deno task bench", ...Deno.args].join(" ");
  const date = new Date().toISOString().slice(0, 10);
  const text = `${notice}\n# Results of the bench\n\n${date}, \`${command}\`\n\n${
    lines.join("\n")
  }\n`;
  Deno.writeTextFileSync(RESULTS, text);
  await new Deno.Command(Deno.execPath(), { args: ["fmt", "--quiet", RESULTS] }).output();
}
