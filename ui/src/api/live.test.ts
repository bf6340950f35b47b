// @vitest-environment node
// The live feed against a real HTTP server that can be told to misbehave.

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

import { EventMaker } from "../../mock/events.js";
import { MockServer } from "../../mock/server.js";
import type { UnifiedEvent } from "./event";
import { LiveFeed, type FeedState, type Gap, type LiveFeedOptions } from "./live";

const STREAM = "7300000000000000001";
const QUICK = { silence: 300, firstDelay: 20, maxDelay: 100, unknownDelay: 20, goodAfter: 50 };

let server: MockServer;
let base: string;
let maker: EventMaker;
let feed: LiveFeed | undefined;
let events: UnifiedEvent[];
let gaps: Gap[];
let states: FeedState[];

beforeEach(async () => {
  server = new MockServer();
  server.heartbeatMs = 50;
  base = await server.listen();
  server.open(STREAM);
  maker = new EventMaker({ streamId: STREAM });
  events = [];
  gaps = [];
  states = [];
});

afterEach(async () => {
  feed?.close();
  await server.close();
});

function start(options: Partial<LiveFeedOptions> = {}): LiveFeed {
  feed = new LiveFeed({
    streamId: STREAM,
    after: "start",
    baseUrl: base,
    onEvent: (event) => events.push(event),
    onGap: (gap) => gaps.push(gap),
    onState: (state) => states.push(state),
    timing: QUICK,
    ...options,
  });
  return feed;
}

function push(count: number): UnifiedEvent[] {
  return Array.from({ length: count }, () => {
    const event = maker.next() as UnifiedEvent;
    server.push(STREAM, event);
    return event;
  });
}

const ids = (list: readonly UnifiedEvent[]) => list.map((event) => event.eventId);
const soon = (check: () => void) => vi.waitFor(check, { timeout: 5_000, interval: 5 });
const lastState = () => states.at(-1)?.name;

describe("delivery", () => {
  test("delivers what was stored, then what comes, in order", async () => {
    const stored = push(5);
    start();
    await soon(() => expect(ids(events)).toEqual(ids(stored)));
    const fresh = push(3);
    await soon(() => expect(ids(events)).toEqual(ids([...stored, ...fresh])));
    expect(states.map((state) => state.name)).toEqual(["connecting", "live"]);
    expect(server.requests).toEqual(["start"]);
  });

  test("`now` leaves out what was stored", async () => {
    push(5);
    start({ after: "now" });
    await soon(() => expect(lastState()).toBe("live"));
    const fresh = push(2);
    await soon(() => expect(ids(events)).toEqual(ids(fresh)));
    expect(server.requests).toEqual([null]);
  });

  test("an event that is cut into many chunks arrives whole", async () => {
    start();
    await soon(() => expect(lastState()).toBe("live"));
    const event = maker.event("CHAT", { rawType: "WebcastChatMessage", message: "süß 🌸 مرحبا" });
    const bytes = Buffer.from(`id: x\ndata: ${JSON.stringify(event)}\n\n`);
    for (const byte of bytes) server.write(STREAM, Buffer.from([byte]));
    await soon(() => expect(events[0]?.payload).toMatchObject({ message: "süß 🌸 مرحبا" }));
  });

  test("a repeat is counted and dropped", async () => {
    start();
    await soon(() => expect(lastState()).toBe("live"));
    const [event] = push(1);
    server.push(STREAM, event);
    const [next] = push(1);
    await soon(() => expect(ids(events)).toEqual(ids([event!, next!])));
    expect(feed?.health.repeats).toBe(1);
  });

  test("what cannot be read is counted, and the feed goes on", async () => {
    start();
    await soon(() => expect(lastState()).toBe("live"));
    server.write(STREAM, "data: {not json\n\n");
    server.write(STREAM, "data: null\n\n");
    server.write(STREAM, 'data: {"eventId":"e"}\n\n');
    const other = new EventMaker({ streamId: "42" }).next();
    server.write(STREAM, `data: ${JSON.stringify(other)}\n\n`);
    server.write(STREAM, "event: of-the-future\ndata: x\n\n");
    const good = push(1);
    await soon(() => expect(ids(events)).toEqual(ids(good)));
    expect(feed?.health.malformed).toBe(4);
    expect(lastState()).toBe("live");
  });

  test("a gap is handed on in its place", async () => {
    start();
    await soon(() => expect(lastState()).toBe("live"));
    const gap = { from: 10, to: 20, reason: "not_stored" };
    server.write(STREAM, `event: gap\ndata: ${JSON.stringify(gap)}\n\n`);
    server.write(STREAM, "event: gap\ndata: {oops\n\n");
    await soon(() => expect(gaps).toEqual([gap, { from: 0, to: 0, reason: "not_stored" }]));
    expect(feed?.health.gaps).toBe(2);
  });
});

describe("reconnecting", () => {
  test("resumes after the last cursor: nothing lost, nothing twice", async () => {
    const before = push(4);
    start();
    await soon(() => expect(events).toHaveLength(4));
    server.drop();
    const meanwhile = push(3);
    await soon(() => expect(ids(events)).toEqual(ids([...before, ...meanwhile])));
    const after = push(2);
    await soon(() => expect(ids(events)).toEqual(ids([...before, ...meanwhile, ...after])));
    const cursor = Buffer.from(`1.${STREAM}.${before.at(-1)?.seqNo}`).toString("base64url");
    expect(server.requests).toEqual(["start", cursor]);
    expect(feed?.health).toMatchObject({ connections: 2, repeats: 0 });
    expect(states.map((state) => state.name)).toEqual([
      "connecting",
      "live",
      "reconnecting",
      "live",
    ]);
  });

  test("a silent connection is given up and made again", async () => {
    push(1);
    start();
    await soon(() => expect(events).toHaveLength(1));
    server.mute();
    await soon(() => expect(states.some((state) => state.name === "reconnecting")).toBe(true));
    const lost = states.find((state) => state.name === "reconnecting");
    expect(lost).toMatchObject({ reason: "nothing heard for 0 s" });
    server.mute(false);
    const [event] = push(1);
    await soon(() => expect(ids(events)).toContain(event?.eventId));
    expect(events).toHaveLength(2);
  });

  test("heartbeats alone keep it alive and tell the server's time", async () => {
    start();
    await soon(() => expect(lastState()).toBe("live"));
    // Three times the time after which silence would have been noticed.
    await new Promise((resolve) => setTimeout(resolve, QUICK.silence * 3));
    expect(states.map((state) => state.name)).toEqual(["connecting", "live"]);
    expect(feed?.health.lastHeartbeatAt).toBeGreaterThan(0);
    expect(Math.abs(feed?.health.clockOffset ?? Infinity)).toBeLessThan(1_000);
  });

  test("waits longer each time, within the jitter, and at most the maximum", async () => {
    server.refuse(503);
    start({ random: () => 0.5 });
    const waits = () => states.filter((state) => state.name === "reconnecting");
    await soon(() => expect(waits().length).toBeGreaterThanOrEqual(5));
    expect(waits().map((state) => state.attempt)).toEqual(waits().map((_, i) => i + 1));
    server.refuse(undefined);
    await soon(() => expect(lastState()).toBe("live"));
  });

  test.each([
    [0, 0.8],
    [1, 1.2],
  ])("jitter: random %d gives %d of the delay", async (random, factor) => {
    server.refuse(503);
    const before = Date.now();
    start({ random: () => random, timing: { ...QUICK, firstDelay: 10_000, maxDelay: 40_000 } });
    await soon(() => expect(lastState()).toBe("reconnecting"));
    const state = states.at(-1) as Extract<FeedState, { name: "reconnecting" }>;
    expect(state.retryAt - before).toBeGreaterThanOrEqual(10_000 * factor);
    expect(state.retryAt - before).toBeLessThan(10_000 * factor + 2_000);
    expect(state.reason).toBe("refused by the test");
  });

  test("Retry-After is honoured", async () => {
    server.refuse(429, { "retry-after": "7" });
    start({ random: () => 0.5, timing: { ...QUICK, maxDelay: 30_000 } });
    await soon(() => expect(lastState()).toBe("reconnecting"));
    const state = states.at(-1) as Extract<FeedState, { name: "reconnecting" }>;
    expect(state.retryAt - Date.now()).toBeGreaterThan(5_000);
  });

  test("`retryNow` ends the wait", async () => {
    server.refuse(503);
    start({ timing: { ...QUICK, firstDelay: 60_000, maxDelay: 60_000 } });
    await soon(() => expect(lastState()).toBe("reconnecting"));
    server.refuse(undefined);
    feed?.retryNow();
    await soon(() => expect(lastState()).toBe("live"));
  });

  test("a refused cursor starts over and drops what is known", async () => {
    const before = push(2);
    start();
    await soon(() => expect(events).toHaveLength(2));
    server.write(STREAM, "id: no-such-cursor\nevent: gap\ndata: {}\n\n");
    await soon(() => expect(gaps).toHaveLength(1));
    server.drop();
    const fresh = push(1);
    await soon(() => expect(ids(events)).toEqual(ids([...before, ...fresh])));
    expect(server.requests).toEqual(["start", "no-such-cursor", "start"]);
    expect(feed?.health.repeats).toBe(2);
  });

  test("an unknown stream is said to be unknown, and found when it comes to be", async () => {
    server.streams.delete(STREAM);
    start();
    await soon(() => expect(lastState()).toBe("unknown"));
    expect(states.at(-1)).toMatchObject({ reason: "no such stream" });
    server.open(STREAM);
    const fresh = push(1);
    await soon(() => expect(ids(events)).toEqual(ids(fresh)));
  });

  test("an answer that is no event stream is refused", async () => {
    start({
      fetch: async () => new Response("<html>", { headers: { "content-type": "text/html" } }),
    });
    await soon(() => expect(lastState()).toBe("reconnecting"));
    expect(states.at(-1)).toMatchObject({ reason: "the server's answer is no event stream" });
  });

  test("closing ends it: no state and no event afterwards", async () => {
    start();
    await soon(() => expect(lastState()).toBe("live"));
    feed?.close();
    const seen = states.length;
    push(2);
    await soon(() => expect(server.streams.get(STREAM)?.clients.size).toBe(0));
    expect(states).toHaveLength(seen);
    expect(events).toHaveLength(0);
  });
});
