// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** Pids that are used again under everybody's hands. */

import { assertEquals } from "@std/assert";
import { assert } from "../helpers.ts";
import { matrixCase } from "../matrix.ts";

/** How often the pids begin anew before it is enough. */
const TURNS = 5;

matrixCase({
  number: "#32",
  title:
    "512 pids, used again and again by trees that reap behind our back: no stranger is signalled",
  needsRoot: true,
  body: async (run) => {
    // A namespace has its own end of the pids since Linux 6.14; older kernels have one for all.
    using _ = restored("/proc/sys/kernel/pid_max");
    const namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    const few = ["sh", "-c", `echo 512 > /proc/sys/kernel/pid_max; "$@"; exit $?`, "sh"];
    await using host = run.start(
      `
      const bystanders = new Deno.Command(PROBE, { args: ["bystanders", "4"], stdin: "piped", stdout: "piped" }).spawn();
      const ends = [];
      let last = 0;
      for (let i = 0, turns = 0; turns < ${TURNS} && i < 2_000; i++) {
        const port = await open(PROBE, ["churn"], { delayToSigkill: i % 2 === 0 ? 0 : 2 });
        await ready(port);
        if (port.pid < last) turns++;
        last = port.pid;
        await port.kill("SIGCONT", { scope: "tree" });
        await port.close();
        const kills = Array.from({ length: 100 }, (_, j) =>
          port.kill("SIGKILL", { scope: ["child", "tree"][j % 2] }).then(() => "sent", (error) => error.code));
        ends.push(...await Promise.all(kills));
      }
      await bystanders.stdin.close();
      const { stdout } = await bystanders.output();
      const lines = new TextDecoder().decode(stdout).trim().split("\\n").slice(1);
      say("ends", ends.length, ...new Set(ends));
      say("struck", ...lines.filter((line) => !line.startsWith("unharmed")));
      say("lived", lines.at(-1).split(" ")[1]);
      await hear();
      `,
      { above: [...namespace, ...few] },
    );
    assertEquals((await host.next("ends")).slice(1), ["ESRCH"]);
    assertEquals(await host.next("struck"), []);
    const [lived = 0] = await host.numbers("lived");
    assert(lived > 0, "strangers lived meanwhile");
    host.kill();
    await run.cgroup?.empty();
    run.cgroup?.below().forEach((folder) => Deno.removeSync(folder)); // the namespace took its watchdog along
  },
});

/** A setting that is as it was when the scope is left. */
function restored(path: string): Disposable {
  const before = Deno.readTextFileSync(path);
  return {
    [Symbol.dispose]() {
      if (Deno.readTextFileSync(path) !== before) Deno.writeTextFileSync(path, before);
    },
  };
}
