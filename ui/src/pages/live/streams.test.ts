import { expect, test } from "vitest";

import type { StreamSummary } from "../../api/generated/api";
import { choose, perCreator, wantedFromUrl } from "./streams";

const stream = (
  streamId: string,
  username: string,
  status: StreamSummary["status"],
  minute: number,
): StreamSummary => ({
  streamId,
  username,
  status,
  startedAt: "2026-11-22T15:00:00.000Z",
  lastEventAt: `2026-11-22T15:${String(minute).padStart(2, "0")}:00.000Z`,
  eventCount: 1,
});
const ALL = [
  stream("1", "ann", "ended", 59),
  stream("2", "ann", "live", 10),
  stream("3", "bob", "live", 20),
  stream("4", "cem", "disconnected", 50),
];
const none = { creator: undefined, stream: undefined };

test("without a wish: the live stream with the newest event", () => {
  expect(choose(ALL, none)?.streamId).toBe("3");
});

test("without a live one: interrupted before ended, then the newest event", () => {
  expect(choose([ALL[0]!, ALL[3]!], none)?.streamId).toBe("4");
  expect(choose([], none)).toBeUndefined();
});

test("a creator's live broadcast before the ended one, whatever the case of the name", () => {
  expect(choose(ALL, { ...none, creator: "ANN" })?.streamId).toBe("2");
  expect(choose(ALL, { ...none, creator: "nobody" })).toBeUndefined();
});

test("a creator's next broadcast takes over", () => {
  const next = stream("9", "ann", "live", 11);
  const ended: StreamSummary = { ...ALL[1]!, status: "ended" };
  expect(choose([next, ALL[0]!, ended], { ...none, creator: "ann" })?.streamId).toBe("9");
});

test("a pinned stream stays", () => {
  expect(choose(ALL, { ...none, stream: "1" })?.streamId).toBe("1");
});

test("one entry per creator, live ones first", () => {
  expect(perCreator(ALL).map((one) => one.streamId)).toEqual(["2", "3", "4"]);
});

test("the address", () => {
  const wanted = (query: string) => wantedFromUrl(new URLSearchParams(query));
  expect(wanted("creator=@ann")).toEqual({ creator: "ann", stream: undefined });
  expect(wanted("stream=12")).toEqual({ creator: undefined, stream: "12" });
  expect(wanted("creator=")).toEqual(none);
});
