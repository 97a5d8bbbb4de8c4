// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Rows of the bench: every column of a row in turn, round after round (A B A
 * B), medians, and a verdict that counts only outside the spread of the same
 * against itself.
 *
 * @module
 */

/** The ways that are compared, in the order of the table. */
export const COLUMNS = {
  limit: "C limit",
  own: "own path in C",
  base: "what it stands on",
  command: "Deno.Command",
  node: "Node child_process",
  bun: "Bun.spawn",
  execa: "execa on Node",
  ours: "port on Deno",
  oursNode: "port on Node",
  oursBun: "port on Bun",
} as const;

export type Column = keyof typeof COLUMNS;

export const ROUNDS = 5;

/** One measured time or size: less is better. */
export type Measure = () => Promise<number>;

/** What is compared in a row, and what must be reached. */
export interface Row {
  /** By which it is chosen on the command line. */
  id: string;
  work: string;
  /** Of the numbers in the cells. */
  unit: string;
  cells: Partial<Record<Column, Measure>>;
  /** `most` times column `of` is what `ours` may take; without `of` it is a number of `unit`. None: only shown. */
  target?: { most: number; of?: Column; is?: string };
}

type Taken = Partial<Record<Column, number[]>>;

/** Runs a row and returns its line. */
export async function run({ work, unit, cells, target }: Row): Promise<string> {
  const taken = await rounds(cells);
  const medians = Object.fromEntries(
    Object.entries(taken).map(([column, values]) => [column, median(values)]),
  ) as Partial<Record<Column, number>>;
  const shown = (Object.keys(COLUMNS) as Column[]).map((column) => figure(medians[column]));
  const noise = Math.max(
    spread(taken.ours ?? []),
    spread(target?.of ? taken[target.of] ?? [] : []),
  );
  const of = target?.of === undefined ? 1 : medians[target.of] ?? NaN;
  const ratio = (medians.ours ?? NaN) / of;
  const rest = [
    target?.of === undefined ? "-" : `${ratio.toFixed(2)}x`,
    `${((noise - 1) * 100).toFixed(0)} %`,
    target === undefined ? "-" : goal(target, unit),
    target === undefined ? "-" : verdict(ratio, target.most, noise),
  ];
  return `| ${[`${work}, ${unit}`, ...shown, ...rest].join(" | ")} |`;
}

/** The two lines above the rows. */
export function head(): string {
  const titles = ["work", ...Object.values(COLUMNS), "ratio", "spread", "target", "met"];
  return `| ${titles.join(" | ")} |\n|${titles.map(() => "---").join("|")}|`;
}

/** Once unmeasured, then as often as it takes. */
async function rounds(cells: Row["cells"]): Promise<Taken> {
  const taken: Taken = {};
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [column, measure] of Object.entries(cells) as [Column, Measure][]) {
      const value = await measure();
      if (!(value >= 0)) throw new Error(`${COLUMNS[column]} gave ${value}`);
      if (round > 0) (taken[column] ??= []).push(value);
    }
  }
  return taken;
}

function figure(value: number | undefined): string {
  if (value === undefined) return "-";
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function goal({ most, of, is }: NonNullable<Row["target"]>, unit: string): string {
  return is ?? (of === undefined ? `<= ${most} ${unit}` : `<= ${most.toFixed(2)}x ${COLUMNS[of]}`);
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((one, other) => one - other);
  const middle = sorted.length >> 1;
  const [low = NaN, high = NaN] = [sorted[middle - 1], sorted[middle]];
  return sorted.length % 2 === 0 ? (low + high) / 2 : high;
}

/** How far the two halves of one series lie apart, as a ratio of at least 1. */
function spread(values: readonly number[]): number {
  const even = median(values.filter((_, at) => at % 2 === 0));
  const odd = median(values.filter((_, at) => at % 2 === 1));
  const apart = Math.max(even / odd, odd / even);
  return apart >= 1 && apart < Infinity ? apart : 1;
}

export function verdict(value: number, most: number, noise: number): string {
  if (value * noise <= most) return "met";
  return value / noise > most ? "missed" : "within the spread";
}
