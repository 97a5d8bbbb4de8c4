// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

// host.mjs KIND MODULE PROBE: a process with ports, to be killed or to end.

import process from "node:process";
import { ready } from "./shared.mjs";

const [kind, module, probe] = process.argv.slice(2);
const { open, Supervisor } = await import(module);
const say = (...words) => process.stdout.write(`${words.join(" ")}\n`);

async function tree() {
  const port = await open(probe, ["double-fork", "2", "stay"], { delayToSigkill: 20 });
  const pids = await ready(port);
  return { port, pids };
}

switch (kind) {
  case "three-trees": {
    const trees = [await tree(), await tree(), await tree()];
    say("ready", ...trees.flatMap(({ pids }) => pids));
    break;
  }
  case "ref":
  case "unref": {
    const { port, pids } = await tree();
    say("ready", ...pids);
    await new Promise((resolve) => process.stdin.once("data", resolve));
    process.stdin.destroy();
    port.status.then(({ signal }) => say("status", signal));
    if (kind === "unref") port.unref();
    say("last");
    break;
  }
  case "supervised": {
    const child = (id) => ({
      id,
      command: "sh",
      args: [
        "-c",
        `trap 'echo stop ${id}; exit 0' TERM; echo ready; while :; do sleep 1000 >&- 2>&- & wait; done`,
      ],
      waitFor: { line: /^ready$/ },
      shutdown: 2 ** 31 - 1,
    });
    const last = () => {
      say("ready");
      return true;
    };
    await Supervisor.run({
      children: [
        child("a"),
        child("b"),
        { id: "last", command: "sleep", args: ["1000"], waitFor: last },
      ],
      log: ({ text }) => text.startsWith("stop") && say("noted", text),
    });
    break;
  }
  default:
    throw new Error(`unknown kind of host: ${kind}`);
}
