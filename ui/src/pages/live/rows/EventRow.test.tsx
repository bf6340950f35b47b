// Each kind of row, from events that are valid against the contract.

import { cleanup, render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import Ajv2020 from "ajv/dist/2020.js";
import { afterEach, expect, test, vi } from "vitest";

import schema from "../../../../../docs/contracts/unified-event.v1.schema.json";
import { EventMaker } from "../../../../mock/events.js";
import { EVENT_TYPES, type UnifiedEvent } from "../../../api/event";
import { describe as inWords } from "../describe";
import { EventRow } from "./EventRow";

const valid = new Ajv2020({ strict: false, validateFormats: false, allErrors: true }).compile(
  schema,
);
const maker = new EventMaker({ streamId: "7300000000000000001" });
const ALICE = {
  userId: "1",
  username: "alice",
  displayName: "Alice",
  avatarUrl: "https://avatar.invalid/1.webp",
  roles: { moderator: true, subscriber: true, follower: true, topGifter: false, anchor: false },
};

afterEach(cleanup);

function show(type: string, payload: object, user: object | null = ALICE, expanded = false) {
  const event = maker.event(type, { rawType: "WebcastX", ...payload }, { user }) as UnifiedEvent;
  if (!valid(event)) throw new Error(JSON.stringify(valid.errors, null, 2));
  const onToggle = vi.fn<(n: number) => void>();
  const { container } = render(
    <EventRow n={7} event={event} expanded={expanded} onToggle={onToggle} />,
  );
  const body = container.querySelector(".row-body");
  return { event, container, onToggle, text: body?.textContent ?? "" };
}

const rose = (change: object = {}) => ({
  giftId: "5655",
  giftName: "Rose",
  giftCount: 3,
  coins: { unit: 1, total: 3 },
  imageUrl: "https://gift.invalid/rose.webp",
  streak: { id: "s", state: "progress", inferred: false },
  ...change,
});

test("the made-up events are valid against the contract", () => {
  for (let i = 0; i < 1_000; i += 1) {
    const event = maker.next();
    if (!valid(event)) throw new Error(JSON.stringify([event, valid.errors], null, 2));
  }
  expect(valid(maker.connected())).toBe(true);
  expect(valid(maker.end())).toBe(true);
});

test("chat: name, roles, message", () => {
  const { text, container } = show("CHAT", { message: "hello" });
  expect(text).toBe("AliceModSub hello");
  expect(container.querySelector("bdi.message")?.getAttribute("dir")).toBe("auto");
});

test("chat: markup and direction overrides of a stranger do nothing", () => {
  const user = { ...ALICE, displayName: "\u202eevil<script>" };
  const { container } = show("CHAT", { message: "<img src=x onerror=alert(1)>\u202e!" }, user);
  expect(container.querySelector("script, img[src='x']")).toBeNull();
  expect(container.querySelector(".name-text")?.textContent).toBe("evil<script>");
  expect(container.querySelector(".message")?.textContent).toBe("<img src=x onerror=alert(1)>!");
});

test("chat: emotes stand in their places", () => {
  const emotes = [
    { emoteId: "2", position: 6 },
    { emoteId: "1", position: 0 },
    { emoteId: "3", position: 999 },
  ];
  const { container } = show("CHAT", { message: "hello world", emotes });
  const parts = [...(container.querySelector(".message")?.childNodes ?? [])].map((node) =>
    node instanceof Element ? "E" : node.textContent,
  );
  expect(parts.filter(Boolean)).toEqual(["E", "hello ", "E", "world", "E"]);
});

test("gift: a streak that goes on does not count yet", () => {
  const { text, container } = show("GIFT", rose());
  expect(text).toContain("Alice");
  expect(text).toContain("sent Rose");
  expect(text).toContain("×33 coinsstreak");
  expect(container.querySelector(".coins-pending")).not.toBeNull();
});

test.each([
  [{ state: "final", inferred: false }, "streak ended"],
  [{ state: "final", inferred: true }, "streak timed out"],
])("gift: the end of a streak %j", (streak, words) => {
  const { text, container } = show("GIFT", rose({ streak: { id: "s", ...streak } }));
  expect(text.endsWith(words)).toBe(true);
  expect(container.querySelector(".coins-pending")).toBeNull();
});

test("gift: recipient, and a gift without a name", () => {
  const recipient = { userId: "9", displayName: "Guest" };
  const { text } = show("GIFT", rose({ giftName: undefined, recipient }));
  expect(text).toContain("sent gift 5655 to Guest");
});

test("battle: sides with scores", () => {
  const sides = [
    { userId: "1", displayName: "Host", score: 1200, result: "win" },
    { userId: "2", username: "guest", score: 300, result: "lose" },
    { userId: "3" },
  ];
  const { container, event } = show("BATTLE", { kind: "battle", status: "finished", sides }, null);
  const rows = [...container.querySelectorAll(".battle-sides li")].map((li) => li.textContent);
  expect(rows[0]).toContain("Host");
  expect(rows[0]).toContain("won");
  expect(rows[0]).toContain("1,200");
  expect(rows[1]).toContain("@guest");
  expect(rows[2]).toBe("viewer 3");
  expect(inWords(event)).toBe("Battle finished: Host 1,200, @guest 300, viewer 3");
});

test("battle: a barrage says which banner it is", () => {
  const banner = { kind: "superFanJoined", number: 6, level: 3 };
  const { text } = show("BATTLE", { kind: "barrage", banner });
  expect(text).toContain("became a super fan (level 3)");
});

test.each([
  ["LIKE", { count: 15, total: 400 }, "sent 15 likes"],
  ["JOIN", { memberCount: 4, action: 1 }, "joined"],
  ["FOLLOW", { followCount: 1 }, "followed1 follower"],
  ["SHARE", { shareCount: 2 }, "shared the stream2 shares"],
  ["SUBSCRIBE", { months: 2, type: "autoRenew" }, "subscribed2 monthsrenews"],
  ["EMOTE", { emotes: [{ emoteId: "1" }] }, "emote"],
])("%s", (type, payload, words) => {
  const { text } = show(type, payload);
  expect(text).toContain("Alice");
  expect(text).toContain(words);
});

test.each([
  ["ROOM_USER", { viewerCount: 1200, totalViewers: 0 }, "1,200 viewers watching"],
  ["STREAM_END", { action: 4 }, "Stream ended by moderation"],
  ["CONNECTED", { provider: "direct", attempt: 1, reason: "start", title: "Hi" }, "to TikTokHi"],
  ["DISCONNECTED", { provider: "direct", attempt: 1, reason: "silent" }, "from TikTok: Silent"],
  ["ERROR", { provider: "direct", attempt: 3, reason: "sign_refused" }, "Sign refusedattempt 3"],
])("%s", (type, payload, words) => {
  expect(show(type, payload, null).text).toContain(words);
});

test("raw: its type, and its JSON on request", async () => {
  const payload = { rawType: "WebcastGoalUpdateMessage", raw: { a: "\u202e" } };
  const closed = show("RAW", payload, null);
  expect(closed.text).toBe("Goal update WebcastGoalUpdateMessage");
  const button = screen.getByRole("button", { name: "Show the data" });
  expect(button.getAttribute("aria-expanded")).toBe("false");
  await userEvent.click(button);
  expect(closed.onToggle).toHaveBeenCalledWith(7);
  cleanup();
  show("RAW", payload, null, true);
  const json = screen.getByLabelText("Data of this event");
  expect(json.textContent).toContain('"rawType": "WebcastGoalUpdateMessage"');
  expect(json.textContent).toContain("\\u202e");
});

test("pictures: nothing is asked for before the row has stayed for a while", () => {
  vi.useFakeTimers();
  try {
    const { container } = show("GIFT", rose());
    expect(container.querySelector("img")).toBeNull();
    vi.advanceTimersByTime(100);
    expect(container.querySelector("img")).toBeNull();
  } finally {
    vi.useRealTimers();
  }
});

test("pictures: https only, no referrer, and a letter when it fails", async () => {
  const { container } = show("CHAT", { message: "x" }, { ...ALICE, avatarUrl: "http://a.b/c" });
  expect(container.querySelector(".avatar-letter")?.textContent).toBe("A");
  cleanup();
  const shown = show("CHAT", { message: "x" }).container;
  const img = await vi.waitFor(() => {
    const found = shown.querySelector("img");
    if (!found) throw new Error("not yet");
    return found;
  });
  expect(img.getAttribute("referrerpolicy")).toBe("no-referrer");
  expect(img.getAttribute("loading")).toBe("lazy");
  img.dispatchEvent(new Event("error"));
  await vi.waitFor(() => expect(shown.querySelector("img")).toBeNull());
  expect(shown.querySelector(".avatar-letter")?.textContent).toBe("A");
});

test("a type of a newer server is shown by name", () => {
  const event = { ...(maker.end() as object), eventType: "HYPE_TRAIN" } as unknown as UnifiedEvent;
  render(<EventRow n={1} event={event} expanded={false} onToggle={() => {}} />);
  expect(screen.getByText("Hype train")).toBeTruthy();
  expect(EVENT_TYPES).not.toContain("HYPE_TRAIN");
});
