// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** An error that comes of another has that one as its `cause`, down to the first. */

import { assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { ServerError, SpawnError, startLink, Supervisor, SupervisorError } from "../mod.ts";
import { test } from "./helpers.ts";
import { Host } from "./host_process.ts";

test("cause: a child that does not start is the cause of its supervisor's error, through every level", async () => {
  const children = [{ id: "db", command: "no-such-program" }];
  const error = await assertRejects(
    () => Supervisor.start({ children: [{ id: "inner", supervisor: { children } }] }),
    SupervisorError,
  );
  assertEquals([error.code, error.subject], ["ESTART", "inner"]);
  const inner = error.cause;
  assertInstanceOf(inner, SupervisorError);
  assertEquals([inner.code, inner.subject], ["ESTART", "db"]);
  assertInstanceOf(inner.cause, SpawnError);
  assertEquals([inner.cause.stage, inner.cause.code], ["program", "ENOENT"]);
});

test("cause: what a callback throws is the cause, where it starts and where it runs", async () => {
  const thrown = new Error("mine");
  const fail = () => {
    throw thrown;
  };
  const early = await assertRejects(() => startLink({ init: fail }, "cat"), ServerError);
  assertEquals([early.code, early.cause], ["ECALLBACK", thrown]);
  const module = { init: () => ({ state: 0 }), handleCall: (_: "x") => fail() };
  const server = await startLink(module, "cat");
  const late = await assertRejects(() => server.call("x"), ServerError);
  assertEquals([late.code, late.cause], ["ECALLBACK", thrown]);
});

/** The name of the cause of what `open` rejects with in a host. */
async function causeOf(options: Parameters<typeof Host.start>[1]): Promise<string> {
  await using host = Host.start(
    `say("cause", await open("true").catch((error) => error.name + " " + error.cause?.name));`,
    options,
  );
  return (await host.next("cause")).join(" ");
}

test("cause: what the runtime says when it refuses the library, or finds none", async () => {
  assertEquals(await causeOf({ allow: ["--allow-run"] }), "PermissionError NotCapable");
  const env = { PROTON_STREAM_LIBRARY: "/nonexistent/library.node" };
  assertEquals(await causeOf({ env }), "NativeError Error");
});
