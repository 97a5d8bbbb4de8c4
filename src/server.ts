// SPDX-License-Identifier: Apache-2.0
// SPDX-FileCopyrightText: proton-stream contributors

/**
 * Callback mode: a server owns one program, and its module's callbacks hear of
 * everything, one at a time.
 *
 * @module
 */

import { Call, Deadlines } from "./calls.ts";
import { checkMs, checkNext, checkOutcome, HANDED_ON, isAwaited } from "./callbacks.ts";
import type { Outcome, Self } from "./callbacks.ts";
import { refuseOptions } from "./checks.ts";
import { ClosedError, quote, type ServerError, typeError } from "./errors.ts";
import { failure, isHeardBy, KILLED } from "./ends.ts";
import { Inbox } from "./inbox.ts";
import { askInit, undo } from "./init.ts";
import { type AnyCallbacks, callbackOf, invoke, type Item } from "./items.ts";
import type { OpenOptions } from "./options.ts";
import { isSaidBy, type Queued } from "./mailbox.ts";
import { open, type Port, processOf } from "./port.ts";
import type { Process } from "./process.ts";
import type { ExitStatus } from "./status.ts";
import { type Deferred, deferred } from "./streams.ts";
import { Serial } from "./serial.ts";

/** Every option of `open` but those that a server decides, and its own. */
export interface ServerOptions extends Omit<OpenOptions, "owner"> {
  /** A name to find it by with `whereis()`, given once at a time in this isolate. */
  name?: string;
  /**
   * The linked owner: told of the server's end, however it came. Without one,
   * an end that is not normal and that no caller was told of is an uncaught
   * error, and takes this program along.
   */
  onEnd?: (end: ServerEnd) => void;
}

/** How a server ended. */
export interface ServerEnd {
  /**
   * `"normal"`, `"shutdown"`, what was given as `stop`, how its program exited, or `"handedOn"`: its port was
   * given to another owner, and a server is nothing without its program.
   */
  reason: unknown;
  /** Null where it ended as it should. */
  error: ServerError | null;
  /** How its program ended; null where it has gone to another owner. */
  status: ExitStatus | null;
}

/** How {@link Server.call} waits. */
export interface CallOptions {
  /** Milliseconds, 0 or more, or Infinity; default 5,000. */
  timeoutMs?: number;
}

/** How {@link Server.stop} waits. */
export interface StopOptions {
  /** Milliseconds until it is killed, 0 or more, or Infinity; default 5,000. */
  timeoutMs?: number;
}

const CALL_MS = 5_000;

// deno-lint-ignore no-explicit-any -- any server; startLink() and whereis() know its types
type AnyServer = Server<any, any, any>;

/** The program of a server. */
export interface Program {
  command: string;
  args: readonly (string | Uint8Array)[];
  options: OpenOptions;
}

/** Who is told of a server's life before anybody else hears of it. */
export interface Registrar {
  /** It runs; its first callback after `init` is next. */
  runs(): void;
  /** It is over. */
  over(): void;
}

const secret: unique symbol = Symbol("server");

/** A server that is not started, for those who start it. */
export function serverOf(
  module: AnyCallbacks,
  command: string,
  options: ServerOptions,
  registrar: Registrar,
): AnyServer {
  return new Server(secret, module, command, options, registrar);
}

/** Starts one. Where this throws, nothing of it is left. */
export let start: (server: AnyServer, program: Program, arg: unknown) => Promise<void>;

/** The module that it was started with. */
export let moduleOf: (server: AnyServer) => AnyCallbacks;

/**
 * A program with callbacks around it. Made by `startLink()`.
 *
 * ```ts
 * import { startLink } from "@proton-stream/port";
 * import { assertEquals } from "@std/assert";
 *
 * const counter = {
 *   init: () => ({ state: 0 }),
 *   handleStdout: (data: Uint8Array, bytes: number) => ({ state: bytes + data.length }),
 *   handleExit: (_: unknown, bytes: number) => ({ state: bytes }),
 *   handleCall: (_: "bytes", __: unknown, bytes: number) => ({ reply: bytes, state: bytes }),
 * };
 * await using server = await startLink(counter, "echo", ["hello"]);
 * await server.port.drained;
 * assertEquals(await server.call("bytes"), 6);
 * ```
 */
export class Server<Request = never, Reply = never, Cast = never> implements AsyncDisposable {
  /** How it ended. Rejects with a {@link ServerError} where that was not normal. */
  readonly ended: Promise<ServerEnd>;
  /** The name it is registered under; null where it has none. */
  readonly name: string | null;
  readonly #module: AnyCallbacks;
  readonly #onEnd: ((end: ServerEnd) => void) | null;
  readonly #registrar: Registrar;
  readonly #subject: string;
  readonly #end: Deferred<ServerEnd> = deferred();
  readonly #killed: Deferred<void> = deferred();
  readonly #turns: Serial<Item> = new Serial<Item>({
    handle: (item) => this.#handle(item),
    failed: (error, item) => this.#failed(error, item),
    slow: (item) => {
      if (item instanceof Call) this.#calls.watch(item);
    },
    idle: () => this.#idle(),
  });
  readonly #calls: Deadlines = new Deadlines();
  readonly #inbox: Inbox;
  readonly #self: Self;
  #port: Port | null = null;
  #state: unknown;
  #ending = false;
  #killing = false;
  #over = false;
  /** Somebody was told of its end, or waits for it. */
  #told = false;
  #idleMs: number | undefined;
  #idleTimer: ReturnType<typeof setTimeout> | undefined;

  static {
    moduleOf = (server) => server.#module;
    start = (server, program, arg) => server.#start(program, arg);
  }

  /** Servers come from `startLink()` only. */
  constructor(
    key: typeof secret,
    module: AnyCallbacks,
    command: string,
    options: ServerOptions,
    registrar: Registrar,
  ) {
    if (key !== secret) {
      throw typeError("Cannot make a Server", "it stands for a program", "use startLink()");
    }
    this.#module = module;
    this.#registrar = registrar;
    this.#subject = quote(command);
    this.name = options.name ?? null;
    this.#onEnd = options.onEnd ?? null;
    this.#told = isHeardBy(options.signal);
    this.#inbox = new Inbox({
      take: (message, consumed) => this.#put({ kind: "port", message, consumed }),
      withdraw: (port) => this.#withdraw(port),
    });
    this.ended = this.#end.promise.then((end) => {
      if (end.error !== null) throw end.error;
      return end;
    });
    const port = () => this.port;
    this.#self = {
      name: this.name,
      get port() {
        return port();
      },
      send: (message) => this.send(message),
    };
  }

  /**
   * Its program. Its messages go to the callbacks: it can neither be iterated nor read.
   *
   * @throws {ClosedError} where it was never started.
   */
  get port(): Port {
    if (this.#port === null) throw this.#closed("use the port of");
    return this.#port;
  }

  async #start({ command, args, options }: Program, arg: unknown): Promise<void> {
    const starting = { module: this.#module, subject: this.#subject, self: this.#self };
    const outcome = await askInit(starting, arg, options.signal);
    this.#state = outcome.state;
    try {
      this.#port = await open(command, args, { ...options, owner: this.#inbox });
    } catch (error) {
      await undo(starting, this.#state, error);
      throw error;
    }
    void processOf(this.#port).held.then((status) => {
      if (status === null) this.#put({ kind: "stop", reason: HANDED_ON });
    });
    this.#registrar.runs();
    // From here on it lives, and what fails is its end: nobody else would have the program.
    this.#follow(outcome);
    this.#turns.begin();
  }

  /**
   * Asks, and waits for the answer of `handleCall`.
   *
   * @throws {ClosedError} where it has ended, or ends before it answers.
   * @throws {ServerError} where it ends because of an error, which is the `cause`.
   * @throws {DOMException} `TimeoutError` after `timeoutMs`; the callback runs nevertheless when its turn comes.
   */
  // Without await: an answer that is there takes no other turn.
  // deno-lint-ignore require-await -- what it throws is to reject
  async call(request: Request, options?: CallOptions): Promise<Reply> {
    if (options !== undefined) refuseOptions("call()", options, ["timeoutMs"]);
    const timeoutMs = options?.timeoutMs ?? CALL_MS;
    if (timeoutMs !== CALL_MS) checkMs("timeoutMs", timeoutMs, "or never");
    this.#mustTake("handleCall", "call");
    const call = new Call(request, timeoutMs);
    if (this.#idleTimer !== undefined) this.#stopIdling();
    if (!this.#turns.now(call)) {
      if (this.#turns.busy) this.#calls.watch(call);
      this.#put(call);
    }
    return (call.replied ? call.value : call.answer) as Reply | Promise<Reply>;
  }

  /**
   * Tells, and does not wait.
   *
   * @throws {ClosedError} where it has ended.
   */
  cast(request: Cast): void {
    this.#mustTake("handleCast", "cast to");
    this.#put({ kind: "cast", request });
  }

  /**
   * A message for `handleInfo`.
   *
   * @throws {ClosedError} where it has ended.
   */
  send(message: unknown): void {
    this.#mustTake("handleInfo", "send to");
    this.#put({ kind: "info", message });
  }

  #mustTake(callback: keyof AnyCallbacks, doing: string): void {
    if (this.#ending) throw this.#closed(doing);
    if (this.#module[callback] !== undefined) return;
    throw typeError(
      `Cannot ${doing} the server of ${this.#subject}`,
      `its module has no ${callback}()`,
      "give it one",
    );
  }

  /**
   * Ends it behind everything that waits: `terminate`, then its tree. Resolves when that is gone.
   *
   * @param reason default `"normal"`.
   * @throws {ServerError} where it ended because of an error instead.
   * @throws {DOMException} `TimeoutError` where it had to be killed after `timeoutMs`.
   */
  async stop(reason: unknown = "normal", options: StopOptions = {}): Promise<void> {
    refuseOptions("stop()", options, ["timeoutMs"]);
    const timeoutMs = options.timeoutMs ?? CALL_MS;
    checkMs("timeoutMs", timeoutMs, "or never");
    if (this.#over) return;
    this.#told = true;
    this.#put({ kind: "stop", reason });
    let late = false;
    const kill = () => {
      late = true;
      void this.kill();
    };
    const timer = timeoutMs === Infinity ? undefined : setTimeout(kill, timeoutMs);
    const { error, reason: why } = await this.#end.promise;
    clearTimeout(timer);
    if (late) throw new DOMException(`Not stopped within ${timeoutMs} ms, killed`, "TimeoutError");
    const asked = error?.code === "ESTOP" && why === reason;
    if (error !== null && !asked) throw error;
  }

  /** Ends it at once: no callback is called any more, its tree gets SIGKILL. Resolves when that is gone. */
  async kill(): Promise<void> {
    this.#told = this.#killing = true;
    this.#killed.resolve();
    this.#mine?.stop("owner", 0);
    void this.#finish(KILLED, []);
    await this.#end.promise;
  }

  /** Its program, as long as that was not given to another owner for good. */
  get #mine(): Process | null {
    const process = this.#port === null ? null : processOf(this.#port);
    return process?.mailbox === this.#inbox ? process : null;
  }

  /** As {@link Server.stop}. One that has ended already has told whom it had to tell. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  // ---- one at a time

  #put(item: Item): void {
    if (this.#ending) return this.#drop(item);
    if (this.#idleTimer !== undefined) this.#stopIdling();
    this.#turns.put(item);
  }

  /** Nobody handles it any more. */
  #drop(item: Item | null): void {
    if (item?.kind === "port") item.consumed();
  }

  /** What its program has said and no callback has heard, for whoever gets the port. */
  #withdraw(port: Port): Queued[] {
    const said = (item: Item) => item.kind === "port" && isSaidBy(port, item.message);
    return this.#turns.withdraw(said).filter((item) => item.kind === "port");
  }

  #handle(item: Item): void | Promise<void> {
    if (item.kind === "stop") return void this.#finish(item.reason, []);
    const callback = callbackOf(item);
    if (callback === null || this.#module[callback] === undefined) return this.#unheard(item);
    const answer = invoke(this.#module, item, this.#state, this.#self);
    if (!isAwaited(answer)) return this.#apply(item, callback, answer);
    return Promise.resolve(answer).then((value) => this.#apply(item, callback, value));
  }

  /** What the program says, and no callback is for: its end is the server's then. */
  #unheard(item: Item): void {
    this.#drop(item);
    if (item.kind !== "port" || item.message.type !== "exit") return;
    void this.#finish(item.message.reason, []);
  }

  #idle(): void {
    if (this.#idleMs === undefined || this.#ending) return;
    const timeout = () => {
      this.#idleTimer = undefined;
      this.#put({ kind: "info", message: { type: "timeout" } });
    };
    this.#idleTimer = setTimeout(timeout, this.#idleMs);
  }

  #stopIdling(): void {
    clearTimeout(this.#idleTimer);
    this.#idleTimer = undefined;
  }

  /** A callback threw, or answered what is no answer. */
  #failed(error: unknown, item: Item): void {
    this.#unanswered(item);
    this.#drop(item);
    void this.#finish(error, [error]);
  }

  /** Its turn has come, and gave no answer: it is refused with all that wait, where they are not yet. */
  #unanswered(item: Item): void {
    if (!(item instanceof Call)) return;
    if (this.#over) item.refuse(this.#closed("call"));
    else this.#calls.watch(item);
  }

  #apply(item: Item, callback: string, answer: unknown): void {
    this.#drop(item);
    if (this.#ending) return this.#unanswered(item); // killed meanwhile
    const outcome = checkOutcome(callback, answer);
    if (item instanceof Call) {
      if ("reply" in outcome) item.reply(outcome.reply);
      else this.#calls.watch(item);
    }
    this.#state = outcome.state;
    if ("stop" in outcome) return void this.#finish(outcome.stop, []);
    this.#idleMs = undefined;
    // Mostly nothing more is asked for: a call costs less than to look for what is not there.
    if (outcome.timeoutMs === undefined && outcome.continue === undefined) return;
    checkNext(callback, outcome, this.#module);
    this.#follow(outcome);
  }

  /** What an answer asks for beside the next message. */
  #follow({ timeoutMs, continue: value }: Outcome<unknown>): void {
    this.#idleMs = timeoutMs;
    if (value !== undefined) this.#turns.putFirst({ kind: "continue", value });
  }

  // ---- the end

  /** `terminate`, then the tree, then those who wait. */
  async #finish(reason: unknown, thrown: unknown[]): Promise<void> {
    if (this.#ending) return;
    this.#ending = true;
    this.#stopIdling();
    for (const item of this.#turns.close()) {
      if (item instanceof Call) this.#calls.watch(item);
      else this.#drop(item);
    }
    const errors = [...thrown];
    await this.#terminate(reason).catch((error) => errors.push(error));
    await this.#inbox[Symbol.asyncDispose]().catch((error) => errors.push(error));
    const mine = this.#mine;
    // Who is away may come back, and ends then: nobody waits for that.
    const status = mine === null || mine.away ? null : await mine.held;
    const why = this.#killing && errors.length === 0 ? KILLED : reason;
    this.#tell({ reason: why, error: failure(this.#subject, why, errors), status });
  }

  /** Not for one that is killed, and no longer than until it is. */
  async #terminate(reason: unknown): Promise<void> {
    if (this.#killing) return;
    const terminated = async () => {
      await this.#module.terminate?.(reason, this.#state, this.#self);
    };
    await Promise.race([terminated(), this.#killed.promise]);
  }

  #tell(end: ServerEnd): void {
    this.#over = true;
    this.#registrar.over();
    const waiting = this.#calls.take();
    for (const call of waiting) call.refuse(end.error ?? this.#closed("call"));
    if (this.#told || this.#onEnd !== null || waiting.length > 0) this.ended.catch(() => {});
    this.#end.resolve(end);
    // What an owner throws is its own error, and nobody else's end.
    if (this.#onEnd !== null) queueMicrotask(() => this.#onEnd?.(end));
  }

  #closed(doing: string): ClosedError {
    return new ClosedError({
      what: `Cannot ${doing} the server of ${this.#subject}`,
      why: "it has ended, or is ending",
      code: "ECLOSED",
      mend: "start another",
      op: "call",
      subject: this.#subject,
    });
  }
}
