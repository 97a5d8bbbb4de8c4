// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Ports with limits, one after the other and then many at once: no cgroup and
 * no descriptor of theirs stays.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { type Limits, open } from "../../mod.ts";
import { Ground, versionOf } from "../cgroups.ts";
import { descriptors, until } from "../helpers.ts";

const LIMITS: Limits = { memory: "64MiB", pids: 32 };

/** The controllers that this takes. */
export const CONTROLLERS: readonly string[] = ["memory", "pids"];

/** `count` in a row, `crowd` of them at once. */
export async function limitedPorts(
  { count, crowd, progress }: {
    count: number;
    crowd: number;
    progress?: (done: number) => void;
  },
): Promise<void> {
  if (CONTROLLERS.some((name) => versionOf(name) === null)) {
    throw new Error(`this kernel has no ${CONTROLLERS}: run it where there are (scripts/vm)`);
  }
  using ground = new Ground(CONTROLLERS);
  const one = async () => {
    await using port = await open("true", [], { cgroupBase: ground.path, limits: LIMITS });
    assertEquals((await port.status).success, true);
  };
  // First as many that nothing new is needed any more.
  await Promise.all(Array.from({ length: crowd }, one));
  await ground.empty();
  const held = () => descriptors(Deno.pid)?.length ?? 0;
  const before = held();
  for (let done = 0; done < count; done++) {
    await one();
    progress?.(done);
  }
  await Promise.all(Array.from({ length: crowd }, one));
  await ground.empty();
  // At some time Deno opens a socket pair for itself, with or without this library.
  await until(() => held() <= before + 2, {
    what: () => `${before} descriptors: ${descriptors(Deno.pid)}`,
  });
}
