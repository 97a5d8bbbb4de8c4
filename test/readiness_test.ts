// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** A start is done when the program is ready; one that ends before that has not started, and says what it said. */

import { assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { type ProgramSpec, startLink, Supervisor, SupervisorError, type WaitFor } from "../mod.ts";
import { assert, Echo, leavesNothing, Scratch, stat, test, until } from "./helpers.ts";

const sleeper = { id: "a", command: "sleep", args: ["1000"] };

function start(child: ProgramSpec): Promise<Supervisor> {
  return Supervisor.start({ children: [child], log: () => {} });
}

/** What each kind waits for, and what makes that true. */
const KINDS: [
  name: string,
  (scratch: Scratch) => Promise<[WaitFor, () => AsyncDisposable | void]>,
][] = [
  // deno-lint-ignore require-await -- one shape for all
  ["a file", async (scratch) => {
    const file = scratch.file("ready");
    return [{ file }, () => Deno.writeTextFileSync(file, "")];
  }],
  // deno-lint-ignore require-await -- as above
  ["a Unix socket", async (scratch) => {
    const path = scratch.file("socket");
    return [{ unix: path }, () => closing(Deno.listen({ transport: "unix", path }))];
  }],
  // deno-lint-ignore require-await -- as above
  ["a TCP port", async () => {
    const first = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = first.addr as Deno.NetAddr;
    first.close();
    return [{ port }, () => closing(Deno.listen({ hostname: "127.0.0.1", port }))];
  }],
  // deno-lint-ignore require-await -- as above
  ["a function", async () => {
    let is = false;
    return [() => is, () => void (is = true)];
  }],
  // deno-lint-ignore require-await -- as above
  ["an async function, with a time", async () => {
    let is = false;
    const check = () => Promise.resolve(is);
    return [{ check, timeoutMs: 2 ** 31 - 1 }, () => void (is = true)];
  }],
];

function closing(listener: Deno.Listener): AsyncDisposable {
  const taking = (async () => {
    for await (const connection of listener) connection.close();
  })();
  return {
    async [Symbol.asyncDispose]() {
      listener.close();
      await taking;
    },
  };
}

for (const [name, make] of KINDS) {
  test(`a start waits for ${name}`, async () => {
    using scratch = new Scratch();
    const [waitFor, act] = await make(scratch);
    let done = false;
    const starting = start({ ...sleeper, waitFor });
    void starting.then(() => done = true);
    // As many turns as it has time to be wrong in.
    await using echo = await Echo.start();
    for (let i = 0; i < 20; i++) await echo.turn();
    assertEquals(done, false);
    await using _ = act() ?? null;
    await using supervisor = await starting;
    assertEquals(supervisor.child("a")?.state, "running");
  });
}

test("a line of stderr is as good, also for a global expression, and each restart waits anew", async () => {
  const script = "echo up >&2; exec sleep 1000";
  const lines: string[] = [];
  await using supervisor = await Supervisor.start({
    children: [
      { id: "a", command: "sh", args: ["-c", script], waitFor: { line: /^up$/g } },
      { id: "b", command: "sh", args: ["-c", script], waitFor: { line: /^up$/g } },
    ],
    strategy: "one_for_all",
    log: ({ id, text, stream }) => stream === "stderr" && lines.push(`${id} ${text}`),
  });
  assertEquals(lines, ["a up", "b up"]);
  await supervisor.child("b")?.port?.kill("SIGKILL");
  await until(() => lines.length === 4, { what: "the restart" });
  assertEquals(lines.slice(2), ["a up", "b up"]);
});

test("one that ends before it is ready: the error has its last output", async () => {
  const script = "echo starting; seq 200000; echo no such database; exit 3";
  const error = await assertRejects(() =>
    start({ id: "db", command: "sh", args: ["-c", script], waitFor: { line: /never/ } })
  );
  assertInstanceOf(error, SupervisorError);
  assertEquals([error.code, error.subject], ["ESTART", "db"]);
  assert(error.message.includes("exit code 3"), error.message);
  assert(error.message.includes("no such database"), error.message);
  assert(error.lastOutput?.includes("no such database"));
  assert(error.lastOutput?.split("\n").length === 20, "the last lines only");
  assertInstanceOf(error.cause, SupervisorError);
  assertEquals(error.cause.code, "EENDED");
});

test("one that is not ready in time is ended", async () => {
  const patience = { timeoutMs: 5 };
  const kinds: WaitFor[] = [
    { line: /never/, ...patience },
    { file: "/no/such/file", ...patience },
    { unix: "/no/such/socket", ...patience },
    { check: () => false, ...patience },
    { check: () => new Promise<boolean>(() => {}), ...patience },
  ];
  await leavesNothing(async () => {
    for (const waitFor of kinds) {
      const error = await assertRejects(() => start({ ...sleeper, waitFor }));
      assertInstanceOf(error, SupervisorError);
      assertInstanceOf(error.cause, SupervisorError);
      assertEquals(error.cause.code, "ETIMEDOUT");
    }
  });
});

test("what the function throws fails the start", async () => {
  const original = new Error("the original");
  const fail = () => {
    throw original;
  };
  await leavesNothing(async () => {
    for (const check of [fail, () => Promise.reject(original)]) {
      const error = await assertRejects(() => start({ ...sleeper, waitFor: check }));
      assertInstanceOf(error, SupervisorError);
      assert(error.cause === original);
    }
  });
});

test("a server may be waited for, too, and one that is not ready is ended", async () => {
  const pids: number[] = [];
  const module = { init: () => ({ state: null }) };
  const server = async () => {
    const server = await startLink(module, "cat");
    pids.push(server.port.pid);
    return server;
  };
  const startWith = (waitFor: WaitFor) =>
    Supervisor.start({ children: [{ id: "server", server, waitFor }], log: () => {} });
  let asked = 0;
  await using _ = await startWith(() => ++asked === 2);
  assertEquals([asked, pids.map(isThere)], [2, [true]]);
  const late = { check: () => false, timeoutMs: 5 };
  await assertRejects(() => startWith(late), SupervisorError, "not ready in time");
  assertEquals(pids.map(isThere), [true, false]);
});

const isThere = (pid: number) => stat(pid) !== null;
