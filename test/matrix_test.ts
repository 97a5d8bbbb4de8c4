// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** The page of the fault matrix is the one that the tests make, and no case of it is missing. */

import { assertEquals } from "@std/assert";
import { CHECKOUT, test, textOf } from "./helpers.ts";

/** How many cases the matrix has. */
const CASES = 44;

test("docs/containment.md is what the tests register", async () => {
  const args = ["run", "--quiet", "--allow-all", `${CHECKOUT}scripts/matrix.ts`, "--check"];
  const { success, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
  assertEquals([textOf(stderr), success], ["", true]);
});

Deno.test("docs/containment.md has a row for each case of the matrix", () => {
  const page = Deno.readTextFileSync(`${CHECKOUT}docs/containment.md`);
  const numbers = new Set([...page.matchAll(/^\| #(\d+) /gm)].map(([, number]) => Number(number)));
  const all = Array.from({ length: CASES }, (_, at) => at + 1);
  assertEquals(all.filter((number) => !numbers.has(number)), []);
});
