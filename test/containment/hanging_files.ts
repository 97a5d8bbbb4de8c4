// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/** The probe's file system, on which whoever opens `program` or reads `data` hangs. */

import { PROBE, Scratch, within } from "../helpers.ts";

/** Mounted while it stands; what hangs fails with EIO at the latest when it goes. */
export class HangingFiles implements AsyncDisposable {
  readonly #scratch: Scratch;
  readonly #process: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  #heard = "";

  private constructor() {
    this.#scratch = new Scratch().open();
    this.#process = new Deno.Command(PROBE, {
      args: ["hanging-files", this.#scratch.path],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#writer = this.#process.stdin.getWriter();
    this.#reader = this.#process.stdout.getReader();
  }

  static async mount(): Promise<HangingFiles> {
    const files = new HangingFiles();
    await files.heard("ready");
    Deno.statSync(files.program); // the kernel knows it from now on
    return files;
  }

  get program(): string {
    return this.#scratch.file("program");
  }

  get data(): string {
    return this.#scratch.file("data");
  }

  /** `take`: who opens or reads is in uninterruptible sleep; `leave`: can be killed; `fail`: EIO for who hangs. */
  async tell(order: "take" | "leave" | "fail"): Promise<void> {
    await this.#writer.write(new TextEncoder().encode(`${order}\n`));
    await this.heard(`did ${order}`);
  }

  /** Waits for a line that begins with `words`. */
  async heard(words: string): Promise<void> {
    while (true) {
      const at = this.#heard.indexOf("\n");
      const line = this.#heard.slice(0, Math.max(at, 0));
      this.#heard = this.#heard.slice(at + 1);
      if (at >= 0 && line.startsWith(words)) return;
      if (at >= 0) continue;
      const { value, done } = await within(this.#reader.read(), { what: `"${words}"` });
      if (done) throw new Error(`the file system ended before "${words}"`);
      this.#heard += new TextDecoder().decode(value);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#writer.close();
    await this.#process.status;
    await this.#reader.cancel();
    this.#scratch[Symbol.dispose]();
  }
}
