// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * `pipeTo` from one port's output to another's stdin: the native side moves
 * the pages from pipe to pipe, and no byte passes through JavaScript.
 *
 * That goes on until something happens that is more than bytes: an end, an
 * error, an abort, the end of a tree. Then the web's own `pipeTo` takes over,
 * and does with it what it does anywhere. Every other consumer never sees
 * this: `pipeThrough`, `tee` and readers do not call the method.
 *
 * @module
 */

import { deferred, type Input, type Output } from "./streams.ts";

/** Streams of stdins, and what they write to. */
const inputs = new WeakMap<object, Input>();

/** The stream over a stdin. */
export function sink(input: Input): WritableStream<Uint8Array> {
  const stream = input.stream();
  inputs.set(stream, input);
  return stream;
}

/** The stream over an output, whose `pipeTo` knows the streams of stdins. */
export function source(
  output: Output,
  highWaterMark: number,
): ReadableStream<Uint8Array<ArrayBuffer>> {
  const stream = output.stream(highWaterMark);
  const copy = stream.pipeTo;
  const pipeTo = async (
    destination: WritableStream<Uint8Array>,
    options?: StreamPipeOptions,
  ): Promise<void> => {
    const input = inputs.get(destination);
    const signal = options?.signal;
    if (input !== undefined && fine(signal) && free(stream, output) && !destination.locked) {
      // Locked as pipeTo locks them; nobody comes in between this and the web's own.
      const [reader, writer] = [stream.getReader(), destination.getWriter()];
      try {
        // Anything but 1: a chunk stands in its queue, or it has ended or failed.
        if (writer.desiredSize === 1) await joined(output, input, signal);
      } finally {
        reader.releaseLock();
        writer.releaseLock();
      }
    }
    return await copy.call(stream, destination, options);
  };
  return Object.defineProperty(stream, "pipeTo", {
    value: pipeTo,
    configurable: true,
    writable: true,
  });
}

/** What is wrong with the call is for the web's own to say. */
function fine(signal: unknown): boolean {
  return signal === undefined || signal instanceof AbortSignal && !signal.aborted;
}

/** Nobody else reads it in any way, and nothing that was read waits in it. */
function free(stream: ReadableStream, output: Output): boolean {
  const { claimedBy, streamName, idle } = output;
  return !stream.locked && idle && (claimedBy === null || claimedBy === streamName);
}

/** Joins the two behind what was to be written before; resolves when they are joined no more. */
async function joined(
  output: Output,
  input: Input,
  signal: AbortSignal | undefined,
): Promise<void> {
  const aborted = deferred<void>();
  const abort = () => {
    output.part();
    aborted.resolve();
  };
  signal?.addEventListener("abort", abort);
  output.claim(output.streamName);
  try {
    await Promise.race([input.settled(), aborted.promise]);
    if (!signal?.aborted) await output.join(input);
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}
