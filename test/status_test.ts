// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

import { assertEquals, assertThrows } from "@std/assert";
import {
  containment,
  type Ending,
  exitStatus,
  type Guards,
  type Lack,
  type SignalName,
  signalName,
  signalNumber,
  SIGNALS,
} from "../src/status.ts";

const ENDING: Ending = {
  wait: { code: 0 },
  cause: "exit",
  wallMs: 12.5,
  userMs: 3,
  systemMs: 1,
  maxRssBytes: 4096,
  killed: 0,
  survivors: [],
  guards: "both",
  cgroup: { lack: "nothing", errno: 0 },
  held: { kill: 0, limits: 0 },
  figures: [],
};

function ended(wait: Ending["wait"]) {
  const { reason, code, signal, success } = exitStatus({ ...ENDING, wait });
  return { reason, code, signal, success };
}

Deno.test("status: exit 0, exit 1, exit 130 and death by SIGINT are four answers", () => {
  assertEquals(ended({ code: 0 }), {
    reason: { kind: "normal" },
    code: 0,
    signal: null,
    success: true,
  });
  for (const code of [1, 130]) {
    assertEquals(ended({ code }), {
      reason: { kind: "exitStatus", code },
      code,
      signal: null,
      success: false,
    });
  }
  assertEquals(ended({ signal: 2 }), {
    reason: { kind: "signal", signal: "SIGINT", number: 2 },
    code: null,
    signal: "SIGINT",
    success: false,
  });
});

Deno.test("status: an end that nobody saw is lost, not a success", () => {
  for (const wait of ["lost", null] as const) {
    assertEquals(ended(wait), {
      reason: { kind: "lost" },
      code: null,
      signal: null,
      success: false,
    });
  }
});

Deno.test("status: the rest of the record is what was reported", () => {
  const survivors = [{ pid: 9, comm: "stuck", reason: "traced" as const, tracer: 8 }];
  const status = exitStatus({ ...ENDING, cause: "timeout", killed: 3, survivors });
  assertEquals(status.cause, "timeout");
  assertEquals(status.usage, { wallMs: 12.5, userMs: 3, systemMs: 1, maxRssBytes: 4096 });
  assertEquals([status.killed, status.survivors, status.oomKilled], [3, survivors, false]);
  assertEquals(exitStatus({ ...ENDING, cause: "oom" }).oomKilled, true);
});

Deno.test("status: a record does not change when its report does", () => {
  const report = structuredClone(ENDING);
  const status = exitStatus(report);
  report.survivors.push({ pid: 1, comm: "late", reason: "EPERM" });
  assertEquals(status.survivors, []);
});

Deno.test("status: containment never promises more than the guards that live", () => {
  const sentences = (["nothing", "unwanted"] as Lack[]).flatMap((lack) =>
    (["both", "guardian", "none"] as Guards[]).map((guards) => {
      const ending = { ...ENDING, guards, cgroup: { lack, errno: 0 } };
      const { containment: { why, ...facts } } = exitStatus(ending);
      const kill = lack === "nothing" ? "cgroup2" : "tree";
      assertEquals(facts, { kill, limits: "none", guards });
      return why;
    })
  );
  assertEquals(new Set(sentences).size, 6);
});

Deno.test("status: containment says why there is no cgroup, and which error said so", () => {
  const why = (lack: Lack, errno: number) =>
    containment({ ...ENDING, cgroup: { lack, errno } }).why;
  assertEquals(
    why("make", 30).split("; ").at(-1),
    "no cgroup: none can be made below the runtime's own (EROFS)",
  );
  const all: Lack[] = ["unwanted", "unmounted", "outside", "reserved", "make", "enter", "kill"];
  assertEquals(new Set(all.map((lack) => why(lack, 0))).size, all.length);
});

Deno.test("status: signals 1 to 64 have names that lead back to their numbers", () => {
  for (let number = 1; number <= 64; number++) {
    assertEquals(signalNumber(signalName(number)), number);
    assertEquals(signalNumber(number), number);
  }
  assertEquals([signalName(9), signalName(15), signalName(31)], ["SIGKILL", "SIGTERM", "SIGSYS"]);
  assertEquals(Object.keys(SIGNALS).length, 31);
  assertEquals([32, 34, 35, 64].map(signalName), [
    "SIG32",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+30",
  ]);
});

Deno.test("status: a signal that is none is refused with the one that was meant", () => {
  for (const meant of ["sigterm", "TERM", "SIGTERMN"]) {
    assertThrows(() => signalNumber(meant as SignalName), TypeError, 'did you mean "SIGTERM"?');
  }
  assertThrows(() => signalNumber("toString" as SignalName), TypeError, "no signal has this name");
  assertThrows(() => signalNumber(null as unknown as SignalName), TypeError);
  for (const number of [0, -9, 65, 1.5, NaN]) {
    assertThrows(() => signalNumber(number), RangeError, "give a number from 1 to 64");
  }
});
