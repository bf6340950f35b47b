import { expect, test } from "vitest";

import { EventMaker } from "../../../mock/events.js";
import { statusOf } from "./status";
import type { TotalsSnapshot } from "./totals";

const NOW = 1_000_000;
const maker = new EventMaker({ streamId: "1" });
const usual = {
  feed: { name: "live" } as const,
  stream: undefined,
  totals: { upstream: undefined, ended: undefined },
  online: true,
  listError: undefined,
  now: NOW,
};
const word = (change: Partial<Parameters<typeof statusOf>[0]>) =>
  statusOf({ ...usual, ...change }).word;
const lost = (attempt: number) =>
  ({
    name: "reconnecting",
    attempt,
    retryAt: NOW + 4_000,
    reason: "the connection was lost",
  }) as const;

test("one word for each state", () => {
  expect(word({})).toBe("Live");
  expect(word({ feed: { name: "connecting" } })).toBe("Connecting");
  expect(word({ feed: undefined })).toBe("Connecting");
  expect(word({ feed: lost(1) })).toBe("Reconnecting");
  expect(word({ feed: lost(4) })).toBe("Offline");
  expect(word({ online: false })).toBe("Offline");
  expect(word({ feed: undefined, listError: "x" })).toBe("Offline");
  expect(word({ feed: { name: "unknown", retryAt: NOW, reason: "" } })).toBe("Offline");
});

test("says when it tries again", () => {
  expect(statusOf({ ...usual, feed: lost(1) }).detail).toBe(
    "The connection was lost; next attempt in 4 s.",
  );
});

test("an open feed of a room that is gone is not live", () => {
  const ended = maker.end() as TotalsSnapshot["ended"];
  expect(word({ totals: { upstream: undefined, ended } })).toBe("Offline");
  const upstream = maker.event("DISCONNECTED", {
    rawType: "ControlEvent.DISCONNECTED",
    provider: "direct",
    attempt: 1,
    reason: "silent",
  }) as TotalsSnapshot["upstream"];
  expect(word({ totals: { upstream, ended: undefined } })).toBe("Reconnecting");
});
