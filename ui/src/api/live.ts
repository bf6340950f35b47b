// The live feed of one stream over server-sent events.
//
// In: `GET /streams/{id}/events`. Out: each event once, in the server's order, gaps as gaps, and
// the state of the connection. What can go wrong and what happens:
//   connection lost, refused or silent   reconnects with backoff and resumes after the last cursor
//   cursor refused (400)                 starts over; what is already known is dropped as a repeat
//   stream unknown (404)                 says so and asks again now and then
//   event sent twice                     counted, dropped
//   data that is no event                counted, dropped, the feed goes on
//
// `fetch` instead of `EventSource`: it shows the status of a refusal, and it can be aborted when
// the server goes silent, which a browser's EventSource never notices.

import { createParser, type EventSourceMessage } from "eventsource-parser";

import { ApiError, problemOf } from "./client";
import { parseEvent, type UnifiedEvent } from "./event";
import type { Gap } from "./generated/api";

export type { Gap };

export type FeedState =
  | { name: "connecting" }
  | { name: "live" }
  /** Lost; the next attempt is at `retryAt` (ms since the epoch) and is attempt number `attempt`. */
  | { name: "reconnecting"; attempt: number; retryAt: number; reason: string }
  /** The server does not know the stream; asked again at `retryAt`. */
  | { name: "unknown"; retryAt: number; reason: string }
  | { name: "closed" };

/** What the connection has been through, for the diagnostics panel. */
export interface FeedHealth {
  /** Connections that were made. */
  connections: number;
  /** Events that came again and were dropped. */
  repeats: number;
  /** Messages that are no event. */
  malformed: number;
  gaps: number;
  /** Server time minus our time, in ms, from the last heartbeat. */
  clockOffset: number;
  lastHeartbeatAt: number | undefined;
  lastError: string | undefined;
}

export interface LiveFeedOptions {
  streamId: string;
  /** `start`: from the first stored event; `now`: only what comes from now on. */
  after: "start" | "now";
  onEvent: (event: UnifiedEvent) => void;
  onGap: (gap: Gap) => void;
  onState: (state: FeedState) => void;
  /** Prefix of the API's addresses; empty: same origin. */
  baseUrl?: string;
  fetch?: typeof fetch;
  random?: () => number;
  timing?: Partial<typeof TIMING>;
}

/** All in milliseconds. The server sends a heartbeat every 15 s. */
export const TIMING = {
  silence: 35_000,
  firstDelay: 1_000,
  maxDelay: 30_000,
  unknownDelay: 15_000,
  /** A connection that held this long and heard a heartbeat counts as good. */
  goodAfter: 10_000,
};

/** As many as the page holds, and some: a resumed feed repeats recent events, not old ones. */
const REMEMBERED_IDS = 60_000;

/** One stream's live feed; runs from construction until `close`. */
export class LiveFeed {
  readonly health: FeedHealth = {
    connections: 0,
    repeats: 0,
    malformed: 0,
    gaps: 0,
    clockOffset: 0,
    lastHeartbeatAt: undefined,
    lastError: undefined,
  };

  readonly #options: LiveFeedOptions;
  readonly #timing: typeof TIMING;
  readonly #seen = new Set<string>();
  #cursor: string | undefined;
  #failures = 0;
  #serverDelay = 0;
  #closed = false;
  #abort: AbortController | undefined;
  #wake: (() => void) | undefined;

  constructor(options: LiveFeedOptions) {
    this.#options = options;
    this.#timing = { ...TIMING, ...options.timing };
    void this.#run();
  }

  /** Ends the feed; nothing is reported afterwards. */
  close(): void {
    this.#closed = true;
    this.#abort?.abort();
    this.#wake?.();
  }

  /** Ends a wait: the network is back, or the user asks. */
  retryNow(): void {
    this.#wake?.();
  }

  async #run(): Promise<void> {
    this.#options.onState({ name: "connecting" });
    while (!this.#closed) {
      // One attempt after the other: each begins where the one before it ended.
      // oxlint-disable-next-line no-await-in-loop
      const failure = await this.#connect();
      if (this.#closed) return;
      this.health.lastError = failure.message;
      const delay = this.#delayAfter(failure);
      const retryAt = Date.now() + delay;
      this.#options.onState(
        failure.status === 404
          ? { name: "unknown", retryAt, reason: failure.message }
          : { name: "reconnecting", attempt: this.#failures, retryAt, reason: failure.message },
      );
      // oxlint-disable-next-line no-await-in-loop
      await this.#sleep(delay);
    }
  }

  /** Connects and delivers until the connection ends; answers why it ended. */
  async #connect(): Promise<ApiError> {
    const abort = new AbortController();
    this.#abort = abort;
    let silent = false;
    let watchdog: ReturnType<typeof setTimeout> | undefined;
    const heard = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => {
        silent = true;
        abort.abort();
      }, this.#timing.silence);
    };

    try {
      heard();
      const response = await (this.#options.fetch ?? fetch)(this.#url(), {
        headers: { accept: "text/event-stream" },
        cache: "no-store",
        signal: abort.signal,
      });
      if (!response.ok) return await this.#refused(response);
      if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
        return new ApiError(response.status, "the server's answer is no event stream");
      }
      if (!response.body) return new ApiError(response.status, "the server's answer is empty");
      this.health.connections += 1;
      this.#options.onState({ name: "live" });
      await this.#read(response.body, heard);
      return new ApiError(0, "the server closed the connection");
    } catch (error) {
      if (silent) {
        const seconds = Math.round(this.#timing.silence / 1000);
        return new ApiError(0, `nothing heard for ${seconds} s`);
      }
      return error instanceof ApiError ? error : new ApiError(0, "the connection was lost");
    } finally {
      clearTimeout(watchdog);
      abort.abort();
    }
  }

  async #read(body: ReadableStream<Uint8Array>, heard: () => void): Promise<void> {
    const connectedAt = Date.now();
    const parser = createParser({
      onEvent: (message) => this.#deliver(message, connectedAt),
      onRetry: (delay) => {
        this.#serverDelay = Math.min(delay, this.#timing.maxDelay);
      },
    });
    const decoder = new TextDecoder();
    const reader = body.getReader();
    for (;;) {
      // The reader gives one chunk after the other.
      // oxlint-disable-next-line no-await-in-loop
      const { done, value } = await reader.read();
      if (this.#closed) return;
      if (done) return;
      heard();
      parser.feed(decoder.decode(value, { stream: true }));
    }
  }

  #deliver(message: EventSourceMessage, connectedAt: number): void {
    if (this.#closed) return;
    switch (message.event ?? "message") {
      case "message":
        this.#deliverEvent(message);
        break;
      case "heartbeat":
        this.#heartbeat(message.data);
        if (Date.now() - connectedAt >= this.#timing.goodAfter) this.#failures = 0;
        break;
      case "gap":
        this.#deliverGap(message);
        break;
      default:
      // A kind of a newer server: not for us.
    }
  }

  #deliverEvent(message: EventSourceMessage): void {
    const event = parseEvent(message.data);
    if (!event || event.streamId !== this.#options.streamId) {
      this.health.malformed += 1;
    } else if (this.#seen.has(event.eventId)) {
      this.health.repeats += 1;
    } else {
      this.#remember(event.eventId);
      this.#failures = 0;
      this.#options.onEvent(event);
    }
    // After the event: a cursor must never be ahead of what was delivered.
    if (message.id) this.#cursor = message.id;
  }

  #deliverGap(message: EventSourceMessage): void {
    this.health.gaps += 1;
    let gap: Gap = { from: 0, to: 0, reason: "not_stored" };
    try {
      gap = { ...gap, ...(JSON.parse(message.data) as Gap) };
    } catch {
      // That something is missing is known even when it is not known what.
      this.health.malformed += 1;
    }
    this.#options.onGap(gap);
    if (message.id) this.#cursor = message.id;
  }

  #heartbeat(data: string): void {
    this.health.lastHeartbeatAt = Date.now();
    try {
      const at = Date.parse((JSON.parse(data) as { at: string }).at);
      if (Number.isFinite(at)) this.health.clockOffset = at - Date.now();
    } catch {
      // It was heard: that is what it is for.
    }
  }

  #remember(eventId: string): void {
    this.#seen.add(eventId);
    if (this.#seen.size > REMEMBERED_IDS) {
      // A Set keeps the order of insertion: the first is the oldest.
      for (const oldest of this.#seen) {
        this.#seen.delete(oldest);
        break;
      }
    }
  }

  async #refused(response: Response): Promise<ApiError> {
    const failure = await problemOf(response);
    if (failure.status === 400 && this.#cursor !== undefined) this.#cursor = "start";
    const retryAfter = Number(response.headers.get("retry-after"));
    if (retryAfter > 0) this.#serverDelay = Math.min(retryAfter * 1000, this.#timing.maxDelay);
    return failure;
  }

  #url(): string {
    const path = `${this.#options.baseUrl ?? ""}/streams/${encodeURIComponent(this.#options.streamId)}/events`;
    const after = this.#cursor ?? (this.#options.after === "start" ? "start" : undefined);
    return after === undefined ? path : `${path}?after=${encodeURIComponent(after)}`;
  }

  /** Exponential, capped, ±20 % so that a restarted server is not met by everybody at once. */
  #delayAfter(failure: ApiError): number {
    this.#failures += 1;
    const { firstDelay, maxDelay, unknownDelay } = this.#timing;
    const grown = Math.min(maxDelay, firstDelay * 2 ** Math.min(this.#failures - 1, 16));
    const base = Math.max(failure.status === 404 ? unknownDelay : grown, this.#serverDelay);
    this.#serverDelay = 0;
    return base * (0.8 + 0.4 * (this.#options.random ?? Math.random)());
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#wake = undefined;
        resolve();
      };
      const timer = setTimeout(wake, ms);
      this.#wake = wake;
    });
  }
}
