// The whole page against a real HTTP server: what a user sees and does.

import { cleanup, render, screen, waitFor, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { MemoryRouter } from "react-router";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { EventMaker } from "../../../mock/events.js";
import { MockServer } from "../../../mock/server.js";
import { App } from "../../routes";

const ANN = "7300000000000000001";
const BOB = "7300000000000000002";

let server: MockServer;
const makers = new Map<string, EventMaker>();

beforeEach(async () => {
  server = new MockServer();
  const base = await server.listen();
  const realFetch = fetch;
  // The page asks its own origin; here that is the mock server.
  vi.stubGlobal("fetch", (path: string, init?: RequestInit) => realFetch(base + path, init));
  // jsdom lays nothing out: give the list a height, so that rows are "in view".
  vi.spyOn(Element.prototype, "clientHeight", "get").mockReturnValue(600);
  vi.spyOn(Element.prototype, "clientWidth", "get").mockReturnValue(800);
  HTMLElement.prototype.hidePopover = () => {};
  HTMLDialogElement.prototype.showModal = function showModal() {
    this.setAttribute("open", "");
  };
  open(ANN, { username: "ann", displayName: "Ann" });
  open(BOB, { username: "bob", lastEventAt: "2020-01-01T00:00:00.000Z" });
});

afterEach(async () => {
  cleanup();
  await server.close();
  vi.unstubAllGlobals();
  localStorage.clear();
});

function open(streamId: string, summary: object) {
  makers.set(streamId, new EventMaker({ streamId }));
  server.open(streamId, summary);
}

function push(streamId: string, type: string, payload: object) {
  const event = makers.get(streamId)?.event(type, { rawType: "WebcastX", ...payload });
  server.push(streamId, event);
}
const chat = (streamId: string, message: string) => push(streamId, "CHAT", { message });
const join = (streamId: string) => push(streamId, "JOIN", { memberCount: 1, action: 1 });

const page = (address = "/") =>
  render(
    <MemoryRouter initialEntries={[address]}>
      <App />
    </MemoryRouter>,
  );
const total = () => screen.getByTestId("feed-total");
const counted = (count: number) =>
  waitFor(() => expect(total().dataset["count"]).toBe(String(count)), { timeout: 5_000 });
const feed = () => screen.getByRole("feed", { name: "Live events" });
const rows = () => within(feed()).queryAllByRole("article").length;
const state = () => screen.getByTestId("connection-state").textContent;

test("shows the live stream with the newest event from its first event on", async () => {
  for (const message of ["one", "two"]) chat(ANN, message);
  page();
  await counted(2);
  expect(total().dataset["stream"]).toBe(ANN);
  expect(await screen.findByText("two")).toBeTruthy();
  expect(state()).toBe("Live");
  chat(ANN, "three");
  await counted(3);
  expect(await screen.findByText("three")).toBeTruthy();
  const ids = within(feed())
    .getAllByRole("article")
    .map((row) => row.dataset["eventId"]);
  expect(new Set(ids).size).toBe(3);
  expect(document.title).toBe("@ann · Live Console");
});

test("the address chooses the creator", async () => {
  chat(BOB, "from bob");
  page("/?creator=BOB&after=start");
  await counted(1);
  expect(await screen.findByText("from bob")).toBeTruthy();
});

test("a creator nobody knows: says so and waits", async () => {
  page("/?creator=nobody");
  expect(await screen.findByText(/Nothing is known of @nobody yet/)).toBeTruthy();
  open("7300000000000000009", { username: "nobody" });
  chat("7300000000000000009", "here I am");
  expect(await screen.findByText("here I am", {}, { timeout: 8_000 })).toBeTruthy();
}, 15_000);

test("follows the creator to the next broadcast", async () => {
  chat(ANN, "old show");
  page("/?creator=ann");
  await counted(1);
  server.push(ANN, makers.get(ANN)?.end());
  server.end(ANN);
  await waitFor(() => expect(state()).toBe("Offline"));
  open("7300000000000000003", { username: "ann" });
  chat("7300000000000000003", "new show");
  expect(await screen.findByText("new show", {}, { timeout: 8_000 })).toBeTruthy();
  expect(screen.queryByText("old show")).toBeNull();
  await counted(1);
}, 15_000);

test("paused, it stays at the old broadcast until the reader goes on", async () => {
  chat(ANN, "old show");
  page("/?creator=ann");
  await counted(1);
  await userEvent.click(screen.getByRole("button", { name: "Pause" }));
  server.end(ANN);
  open("7300000000000000003", { username: "ann" });
  chat("7300000000000000003", "new show");
  await userEvent.click(
    await screen.findByRole("button", { name: "Go there" }, { timeout: 8_000 }),
  );
  expect(await screen.findByText("new show")).toBeTruthy();
}, 15_000);

test("pause holds the rows and counts what is new", async () => {
  chat(ANN, "before");
  page();
  await screen.findByText("before");
  await userEvent.keyboard("p");
  chat(ANN, "after");
  const resume = await screen.findByRole("button", { name: "1 new" });
  expect(screen.queryByText("after")).toBeNull();
  await counted(2);
  await userEvent.click(resume);
  expect(await screen.findByText("after")).toBeTruthy();
});

test("filters by type and text", async () => {
  chat(ANN, "apples");
  chat(ANN, "pears");
  join(ANN);
  page();
  await counted(3);
  await waitFor(() => expect(rows()).toBe(3));
  const chip = screen.getByRole("button", { name: "Chat, 2" });
  await userEvent.click(chip);
  await waitFor(() => expect(rows()).toBe(2));
  expect(chip.getAttribute("aria-pressed")).toBe("true");
  await userEvent.type(screen.getByRole("searchbox"), "PEAR");
  await waitFor(() => expect(rows()).toBe(1));
  expect(screen.getByText("1 row shown by the filter")).toBeTruthy();
  await userEvent.keyboard("{Escape}");
  await waitFor(() => expect(rows()).toBe(2));
  await userEvent.click(screen.getByRole("button", { name: "All" }));
  await waitFor(() => expect(rows()).toBe(3));
  expect(total().dataset["count"]).toBe("3");
});

test("the feed by keyboard: move, open, leave", async () => {
  for (const message of ["one", "two", "three"]) chat(ANN, message);
  page();
  await screen.findByText("three");
  await userEvent.keyboard("f");
  expect(document.activeElement?.getAttribute("aria-label")).toContain("three");
  expect(screen.getByRole("button", { name: "Resume" })).toBeTruthy();
  await userEvent.keyboard("{ArrowUp}");
  await waitFor(() => expect(document.activeElement?.getAttribute("aria-label")).toContain("two"));
  await userEvent.keyboard("{Home}");
  await waitFor(() => expect(document.activeElement?.getAttribute("aria-label")).toContain("one"));
  await userEvent.keyboard("{Enter}");
  expect((await screen.findByLabelText("Data of this event")).textContent).toContain('"one"');
  await userEvent.keyboard("{Escape}");
  expect(screen.getByRole("button", { name: "Pause" })).toBeTruthy();
});

test("single keys do nothing while text is typed, or when switched off", async () => {
  chat(ANN, "one");
  page();
  await screen.findByText("one");
  await userEvent.type(screen.getByRole("searchbox"), "p");
  expect(screen.getByRole("button", { name: "Pause" })).toBeTruthy();
  await userEvent.clear(screen.getByRole("searchbox"));
  await userEvent.click(screen.getByRole("button", { name: "Keyboard and settings" }));
  await userEvent.click(screen.getByRole("checkbox", { name: "Single-key shortcuts" }));
  screen.getByRole("main").focus();
  (document.activeElement as HTMLElement).blur();
  await userEvent.keyboard("p");
  expect(screen.getByRole("button", { name: "Pause" })).toBeTruthy();
  await userEvent.click(screen.getByRole("checkbox", { name: "Single-key shortcuts" }));
});

test("the theme is chosen and remembered", async () => {
  page("/about");
  const root = document.documentElement;
  await userEvent.click(screen.getByRole("button", { name: /^Theme: system/ }));
  expect(root.dataset["theme"]).toBe("dark");
  await userEvent.click(screen.getByRole("button", { name: /^Theme: dark/ }));
  expect(root.dataset["theme"]).toBe("light");
  expect(JSON.parse(localStorage.getItem("preferences.v1") ?? "{}")).toMatchObject({
    theme: "light",
  });
  await userEvent.click(screen.getByRole("button", { name: /^Theme: light/ }));
  expect(root.dataset["theme"]).toBeUndefined();
});

test("landmarks, and who is not behind this", async () => {
  page();
  await waitFor(() => expect(state()).toBe("Live"));
  for (const role of ["banner", "main", "complementary", "contentinfo"]) {
    expect(screen.getByRole(role)).toBeTruthy();
  }
  expect(screen.getByRole("heading", { level: 1 }).textContent).toBe("Live events of @ann");
  expect(screen.getByRole("contentinfo").textContent).toContain(
    "Not affiliated with TikTok or Euler Stream",
  );
});

test("the server is away: says so", async () => {
  await server.close();
  page();
  expect(await screen.findByText(/No answer: the server does not answer/)).toBeTruthy();
  expect(state()).toBe("Offline");
  server = new MockServer();
  await server.listen();
});
