// How the page holds up: `npm run bench` (after `npm run build`).
//
// Sends made-up events through a real HTTP server to the built page in headless Chromium:
//   catch-up   50,000 stored events at once, as when a page is opened late
//   following  10,000 events/min, the buffer full, the list at the newest
//   reading    the same, while the list is paused and scrolled
// and reports frames, long tasks and how busy the main thread is. Fails when an event is missing,
// or when the page is too slow at 10,000 events/min.
//
// BENCH_SECONDS (20), BENCH_PER_MINUTE (10000), CHROMIUM (path), BENCH_STRICT=0: report only.

import { EventMaker } from "../mock/events.js";
import { MockServer } from "../mock/server.js";
import { openBrowser } from "./browser.js";

const SECONDS = Number(process.env.BENCH_SECONDS ?? 20);
const PER_MINUTE = Number(process.env.BENCH_PER_MINUTE ?? 10_000);
const STORED = 50_000;
const SCROLLED = 3_000;
const STREAM = "7300000000000000001";
/** A frame is 16.7 ms; one that takes longer than this was late for the next one. */
const LATE_FRAME_MS = 25;
/** Wide, for machines without a graphics card that do other work too. */
const LIMITS = { lateFrames: 0.1, busy: 0.8 };

const server = new MockServer();
const maker = new EventMaker({ streamId: STREAM });
let sent = 0;
const push = (count) => {
  for (let i = 0; i < count; i += 1) server.push(STREAM, maker.next());
  sent += count;
};

const failures = [];
server.open(STREAM);
push(STORED);
const base = await server.listen();
const browser = await openBrowser();
try {
  const page = await browser.newPage({ viewport: { width: 1360, height: 850 } });
  page.on("pageerror", (error) => failures.push(`page error: ${error.message}`));
  const cdp = await page.context().newCDPSession(page);
  await cdp.send("Performance.enable");
  await page.addInitScript(watchFrames);

  const opened = Date.now();
  await page.goto(`${base}/?after=start`);
  await counted(page, sent);
  report("catch-up", { events: STORED, seconds: (Date.now() - opened) / 1000 });
  // Start-up and catch-up are over: what follows is measured alone.
  await page.waitForTimeout(1_000);

  judge("following", await phase(page, cdp));
  await counted(page, sent);

  await page.mouse.move(500, 500);
  await page.mouse.wheel(0, -SCROLLED);
  await page.getByRole("button", { name: "Resume" }).waitFor();
  const below = await page
    .locator(".feed-scroller")
    .evaluate(
      ({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight,
    );
  // Fifty thousand rows have come above; the reader is where the wheel has led, give or take the
  // difference between estimated and measured rows.
  if (Math.abs(below - SCROLLED) > 300) failures.push(`reading: the pause led ${below} px up`);
  const before = await page.locator(".feed-scroller").evaluate((element) => element.scrollTop);
  judge("reading", await phase(page, cdp));
  const after = await page.locator(".feed-scroller").evaluate((element) => element.scrollTop);
  if (before !== after) failures.push(`reading: the list moved from ${before} to ${after}`);
  await counted(page, sent);

  await page.locator(".resume").click();
  const last = server.streams.get(STREAM).entries.at(-1);
  const { eventId } = JSON.parse(last.text);
  await page.locator(`[data-event-id="${eventId}"]`).waitFor({ timeout: 5_000 });
  report("rows in the document", await page.locator(".feed-row").count());
} finally {
  await browser.close();
  await server.close();
}
for (const failure of failures) console.error(`FAILED: ${failure}`);
process.exit(failures.length > 0 && process.env.BENCH_STRICT !== "0" ? 1 : 0);

/** Sends for SECONDS at the pace and answers what the page's main thread went through. */
async function phase(page, cdp) {
  await page.evaluate(() => globalThis.frames.reset());
  const busyBefore = await taskSeconds(cdp);
  const begun = Date.now();
  const already = sent;
  await new Promise((resolve) => {
    const timer = setInterval(() => {
      const elapsed = Date.now() - begun;
      push(Math.floor((elapsed * PER_MINUTE) / 60_000) - (sent - already));
      if (elapsed < SECONDS * 1_000) return;
      clearInterval(timer);
      resolve();
    }, 5);
  });
  const seconds = (Date.now() - begun) / 1_000;
  const { deltas, longTasks } = await page.evaluate(() => globalThis.frames.take());
  const sorted = deltas.toSorted((a, b) => a - b);
  const at = (share) => Number((sorted[Math.floor(share * (sorted.length - 1))] ?? 0).toFixed(1));
  return {
    events: sent - already,
    perMinute: Math.round(((sent - already) * 60) / seconds),
    frames: deltas.length,
    framesPerSecond: Number((deltas.length / seconds).toFixed(1)),
    frameMs: { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1) },
    lateFrames: Number(
      (deltas.filter((ms) => ms > LATE_FRAME_MS).length / deltas.length).toFixed(4),
    ),
    longTasks: { count: longTasks.length, longestMs: Math.round(Math.max(0, ...longTasks)) },
    mainThreadBusy: Number((((await taskSeconds(cdp)) - busyBefore) / seconds).toFixed(3)),
  };
}

function judge(name, result) {
  report(name, result);
  if (result.lateFrames > LIMITS.lateFrames) {
    failures.push(`${name}: ${(100 * result.lateFrames).toFixed(1)} % of the frames were late`);
  }
  if (result.mainThreadBusy > LIMITS.busy) {
    failures.push(`${name}: the main thread was busy for ${result.mainThreadBusy} of the time`);
  }
}

function report(name, result) {
  console.log(`${name}: ${JSON.stringify(result, null, 2)}`);
}

/** Seconds that the main thread has spent in tasks. */
async function taskSeconds(cdp) {
  const { metrics } = await cdp.send("Performance.getMetrics");
  return metrics.find((metric) => metric.name === "TaskDuration").value;
}

async function counted(page, count) {
  const shown = page.getByTestId("feed-total");
  const deadline = Date.now() + 60_000;
  let seen;
  while (Date.now() < deadline) {
    seen = Number(await shown.getAttribute("data-count"));
    if (seen === count) return;
    await page.waitForTimeout(50);
  }
  failures.push(`${count} events were sent, the page has ${seen}`);
}

/** Runs in the page: the time from frame to frame, and tasks above 50 ms. */
function watchFrames() {
  let deltas = [];
  let longTasks = [];
  let last;
  const tick = (now) => {
    if (last !== undefined) deltas.push(now - last);
    last = now;
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) longTasks.push(entry.duration);
  }).observe({ type: "longtask" });
  globalThis.frames = {
    reset() {
      deltas = [];
      longTasks = [];
    },
    take: () => ({ deltas, longTasks }),
  };
}
