import { expect, test } from "vitest";

import { EventMaker } from "../../../mock/events.js";
import { EVENT_TYPES, type UnifiedEvent } from "../../api/event";
import type { Row } from "./feed";
import { compileFilter, filterFromUrl, NO_FILTER } from "./filter";

const maker = new EventMaker({ streamId: "1" });
const ANN = { userId: "1", username: "ann.lee", displayName: "Ａｎｎ 🌸", roles: {} };
const row = (type: string, payload: object, user: object | null = ANN): Row => ({
  n: 0,
  kind: "event",
  event: maker.event(type, { rawType: "WebcastX", ...payload }, { user }) as UnifiedEvent,
});
const chat = row("CHAT", { message: "Hello wonderful World" });
const gift = row("GIFT", {
  giftId: "1",
  giftName: "Rose",
  giftCount: 1,
  coins: { unit: 1, total: 1 },
  streak: { id: "s", state: "single", inferred: false },
});
const raw = row("RAW", { rawType: "WebcastGoalUpdateMessage", raw: "" }, null);

const finds = (text: string, where: Row) => compileFilter({ types: new Set(), text })(where);

test("no filter lets everything pass", () => {
  for (const one of [chat, gift, raw]) expect(compileFilter(NO_FILTER)(one)).toBe(true);
});

test("types", () => {
  const passes = compileFilter({ types: new Set(["CHAT", "RAW"]), text: "" });
  expect([chat, gift, raw].map(passes)).toEqual([true, false, true]);
});

test.each([
  ["hello", chat],
  ["WORLD hello", chat],
  ["@ann", chat],
  ["ann.lee", gift],
  ["rose", gift],
  ["goalupdate", raw],
  // Fullwidth letters are found by plain ones.
  ["ann", gift],
])("%s is found", (text, where) => expect(finds(text, where)).toBe(true));

test.each([
  ["hello rose", chat],
  ["worlds", chat],
  ["ann", raw],
])("%s is not found", (text, where) => expect(finds(text, where)).toBe(false));

test("both have to hold", () => {
  const passes = compileFilter({ types: new Set(["GIFT"]), text: "ann" });
  expect([chat, gift, raw].map(passes)).toEqual([false, true, false]);
});

test("the address says it; what it says wrongly is left out", () => {
  const filter = filterFromUrl(new URLSearchParams("type=chat,GIFT,nonsense&q=a+b"));
  expect([...filter.types]).toEqual(["CHAT", "GIFT"]);
  expect(filter.text).toBe("a b");
  expect(filterFromUrl(new URLSearchParams()).types.size).toBe(0);
});

test("every made-up event can be searched", () => {
  const seen = new Set<string>();
  for (let i = 0; i < 2_000; i += 1) {
    const event = maker.next() as UnifiedEvent;
    seen.add(event.eventType);
    expect(finds(event.eventType.toLowerCase(), { n: i, kind: "event", event })).toBe(true);
  }
  const lifecycle = ["STREAM_END", "CONNECTED", "DISCONNECTED", "ERROR"];
  expect([...seen, ...lifecycle].toSorted()).toEqual(EVENT_TYPES.toSorted());
});
