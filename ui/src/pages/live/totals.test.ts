import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { EventMaker } from "../../../mock/events.js";
import type { UnifiedEvent } from "../../api/event";
import { Totals } from "./totals";

const NOW = Date.parse("2026-11-22T15:00:30.000Z");
let maker: EventMaker;
let totals: Totals;

beforeEach(() => {
  vi.useFakeTimers({ now: NOW });
  maker = new EventMaker({ streamId: "1" });
  totals = new Totals();
});
afterEach(() => vi.useRealTimers());

const add = (type: string, payload: object, at = NOW) =>
  totals.add(maker.event(type, { rawType: "x", ...payload }, { at }) as UnifiedEvent);
const gift = (state: string, count: number, unit: number, inferred = false) =>
  add("GIFT", {
    giftId: "5655",
    giftCount: count,
    coins: { unit, total: unit * count },
    streak: { id: "s", state, inferred },
  });

test("a streak counts once, by the event that concludes it", () => {
  gift("progress", 1, 5);
  gift("progress", 7, 5);
  gift("final", 11, 5);
  expect(totals.snapshot()).toMatchObject({ coins: 55, gifts: 11 });
});

test("a gift that cannot streak counts at once", () => {
  gift("single", 2, 30);
  expect(totals.snapshot()).toMatchObject({ coins: 60, gifts: 2 });
});

test("an inferred end counts; the real end that comes later is stored as progress", () => {
  gift("progress", 3, 1);
  gift("final", 3, 1, true);
  gift("progress", 3, 1);
  expect(totals.snapshot().coins).toBe(3);
});

test("likes are the highest total: upstream it jumps back and forth", () => {
  expect(totals.snapshot().likes).toBeUndefined();
  for (const total of [100, 140, 120]) add("LIKE", { count: 1, total });
  expect(totals.snapshot().likes).toBe(140);
});

test("viewers come from the room's count; joins only stand in before it", () => {
  add("JOIN", { memberCount: 40, action: 1 });
  expect(totals.snapshot().viewers).toBe(40);
  add("ROOM_USER", { viewerCount: 55, totalViewers: 100 });
  add("JOIN", { memberCount: 41, action: 1 });
  expect(totals.snapshot().viewers).toBe(55);
});

test("events per minute: of the last 60 s, by the server's clock", () => {
  for (let i = 0; i < 10; i += 1) add("SHARE", {}, NOW - 61_000);
  for (let i = 0; i < 20; i += 1) add("SHARE", {}, NOW - 59_000);
  for (let i = 0; i < 5; i += 1) add("SHARE", {}, NOW);
  expect(totals.snapshot().eventsPerMinute).toBe(25);
  vi.setSystemTime(NOW + 30_000);
  expect(totals.snapshot().eventsPerMinute).toBe(5);
  // Our clock is an hour ahead of the server's.
  vi.setSystemTime(NOW + 3_600_000);
  totals.clockOffset = -3_600_000;
  expect(totals.snapshot().eventsPerMinute).toBe(25);
});

test("an event of long ago does not disturb the count of now", () => {
  add("SHARE", {}, NOW);
  add("SHARE", {}, NOW - 60_000 * 5);
  totals.add({ ...(maker.next(NOW) as UnifiedEvent), ingestedAt: "garbage" });
  expect(totals.snapshot().eventsPerMinute).toBe(1);
});

test("remembers the last lifecycle event and the end", () => {
  totals.add(maker.connected() as UnifiedEvent);
  add("DISCONNECTED", { provider: "direct", attempt: 1, reason: "silent" });
  expect(totals.snapshot().upstream?.eventType).toBe("DISCONNECTED");
  totals.add(maker.end() as UnifiedEvent);
  expect(totals.snapshot().ended?.eventType).toBe("STREAM_END");
});
