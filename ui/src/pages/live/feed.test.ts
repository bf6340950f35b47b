import { beforeEach, describe, expect, test, vi } from "vitest";

import { EventMaker } from "../../../mock/events.js";
import type { UnifiedEvent } from "../../api/event";
import { Feed, FOLLOW_WINDOW } from "./feed";
import { NO_FILTER } from "./filter";
import { Ring } from "./ring";

let maker: EventMaker;
/** What waits for the next frame. */
let frames: (() => void)[];

beforeEach(() => {
  maker = new EventMaker({ streamId: "1" });
  frames = [];
});

const makeFeed = (capacity?: number) =>
  new Feed({
    ...(capacity === undefined ? {} : { capacity }),
    schedule: (task) => frames.push(task),
  });
const frame = () => frames.splice(0).forEach((task) => task());
const chat = (message = "hi") =>
  maker.event("CHAT", { rawType: "WebcastChatMessage", message }) as UnifiedEvent;
const join = () =>
  maker.event("JOIN", {
    rawType: "WebcastMemberMessage",
    memberCount: 1,
    action: 1,
  }) as UnifiedEvent;
const add = (feed: Feed, events: readonly UnifiedEvent[]) => {
  for (const event of events) feed.addEvent(event);
};
const shown = (feed: Feed) =>
  feed.view().rows.map((row) => (row.kind === "event" ? row.event.eventId : "gap"));

describe("batches", () => {
  test("many events cost one frame and one notification", () => {
    const feed = makeFeed();
    const heard = vi.fn<() => void>();
    feed.subscribeView(heard);
    const events = Array.from({ length: 500 }, () => chat());
    add(feed, events);
    expect(frames).toHaveLength(1);
    expect(feed.view().rows).toHaveLength(0);
    frame();
    expect(heard).toHaveBeenCalledTimes(1);
    expect(shown(feed)).toEqual(events.map((event) => event.eventId));
  });

  test("the view is the same object until something changes", () => {
    const feed = makeFeed();
    const before = feed.view();
    feed.flush();
    expect(feed.view()).toBe(before);
    add(feed, [chat()]);
    frame();
    expect(feed.view()).not.toBe(before);
  });

  test("a page that never paints still keeps within the bound", () => {
    const feed = makeFeed(10);
    add(
      feed,
      Array.from({ length: 35 }, () => chat()),
    );
    frame();
    feed.refreshTotals();
    expect(feed.totals()).toMatchObject({ count: 35, held: 10, dropped: 25 });
  });
});

describe("the bound", () => {
  test("drops the oldest rows and says how many; the count goes on", () => {
    const feed = makeFeed(100);
    const events = Array.from({ length: 250 }, () => chat());
    add(feed, events);
    frame();
    expect(shown(feed)).toEqual(events.slice(150).map((event) => event.eventId));
    expect(feed.view()).toMatchObject({ dropped: 150, matching: 100 });
    feed.refreshTotals();
    expect(feed.totals()).toMatchObject({ count: 250, held: 100 });
  });

  test("with a filter, what left the buffer leaves the list too", () => {
    const feed = makeFeed(10);
    feed.setFilter({ types: new Set(["JOIN"]), text: "" });
    const joins = Array.from({ length: 4 }, join);
    add(feed, joins);
    frame();
    expect(feed.view().matching).toBe(4);
    add(
      feed,
      Array.from({ length: 8 }, () => chat()),
    );
    frame();
    expect(shown(feed)).toEqual(joins.slice(2).map((event) => event.eventId));
  });

  test("following, the list holds the newest window only", () => {
    const feed = makeFeed();
    const events = Array.from({ length: FOLLOW_WINDOW + 300 }, () => chat());
    add(feed, events);
    frame();
    expect(feed.view().rows).toHaveLength(FOLLOW_WINDOW + 300);
    events.push(...Array.from({ length: FOLLOW_WINDOW }, () => chat()));
    add(feed, events.slice(-FOLLOW_WINDOW));
    frame();
    expect(shown(feed)).toEqual(events.slice(-FOLLOW_WINDOW).map((event) => event.eventId));
    expect(feed.view().matching).toBe(events.length);
    feed.pause();
    expect(shown(feed)).toEqual(events.map((event) => event.eventId));
  });
});

describe("pause", () => {
  test("freezes the rows, counts what comes, and shows it on resume", () => {
    const feed = makeFeed();
    const before = [chat(), chat()];
    add(feed, before);
    frame();
    feed.pause();
    const rows = feed.view().rows;
    const after = [chat(), join(), chat()];
    add(feed, after);
    frame();
    feed.refreshTotals();
    expect(feed.view()).toMatchObject({ paused: true, fresh: 3 });
    expect(feed.view().rows).toBe(rows);
    feed.resume();
    expect(feed.view()).toMatchObject({ paused: false, fresh: 0 });
    expect(shown(feed)).toEqual([...before, ...after].map((event) => event.eventId));
  });

  test("counts only what passes the filter", () => {
    const feed = makeFeed();
    feed.setFilter({ types: new Set(["CHAT"]), text: "" });
    feed.pause();
    add(feed, [chat(), join(), join()]);
    frame();
    feed.refreshTotals();
    expect(feed.view().fresh).toBe(1);
  });

  test("a filter that changes meanwhile applies to both sides of the pause", () => {
    const feed = makeFeed();
    const early = [chat("one"), join()];
    add(feed, early);
    frame();
    feed.pause();
    add(feed, [chat("two"), join(), join()]);
    frame();
    feed.setFilter({ types: new Set(["JOIN"]), text: "" });
    expect(shown(feed)).toEqual([early[1]?.eventId]);
    expect(feed.view().fresh).toBe(2);
    feed.setFilter(NO_FILTER);
    expect(shown(feed)).toEqual(early.map((event) => event.eventId));
    expect(feed.view().fresh).toBe(3);
  });

  test("frozen rows stay although the buffer has let them go", () => {
    const feed = makeFeed(5);
    const early = Array.from({ length: 5 }, () => chat());
    add(feed, early);
    frame();
    feed.pause();
    add(
      feed,
      Array.from({ length: 20 }, () => chat()),
    );
    frame();
    expect(shown(feed)).toEqual(early.map((event) => event.eventId));
  });
});

test("a gap is a row between events and passes every filter", () => {
  const feed = makeFeed();
  const [one, two] = [chat(), join()];
  add(feed, [one]);
  feed.addGap({ from: 1, to: 9, reason: "not_stored" });
  add(feed, [two]);
  frame();
  expect(shown(feed)).toEqual([one.eventId, "gap", two.eventId]);
  feed.setFilter({ types: new Set(["CHAT"]), text: "" });
  expect(shown(feed)).toEqual([one.eventId, "gap"]);
  feed.refreshTotals();
  expect(feed.totals().count).toBe(2);
});

test("counts per type, also of a type that only a newer server knows", () => {
  const feed = makeFeed();
  add(feed, [chat(), chat(), join(), { ...chat(), eventType: "NEW" } as unknown as UnifiedEvent]);
  frame();
  feed.refreshTotals();
  expect(feed.totals().counts).toMatchObject({ CHAT: 2, JOIN: 1, GIFT: 0, NEW: 1 });
});

test("the ring keeps its order around the turn", () => {
  const ring = new Ring<number>(3);
  const gone = [1, 2, 3, 4, 5].map((n) => ring.push(n));
  expect(gone).toEqual([undefined, undefined, undefined, 1, 2]);
  expect(ring.last(9)).toEqual([3, 4, 5]);
  expect(ring.shift()).toBe(3);
  ring.push(6);
  expect(ring.last(2)).toEqual([5, 6]);
  expect([ring.at(0), ring.at(2), ring.at(3), ring.at(-1)]).toEqual([4, 6, undefined, undefined]);
  expect(ring.filter((n) => n % 2 === 0)).toEqual([4, 6]);
});
