// What a screen reader hears of the feed: every few seconds one sentence about what came, never
// each event. Off while paused, and by preference.

import { useEffect, useState } from "react";

import { EVENT_TYPES, type EventType } from "../../api/event";
import { plural } from "../../components/format";
import { describe } from "./describe";
import type { Feed, FeedTotals } from "./feed";
import { KINDS } from "./kinds";

const EVERY_MS = 12_000;
/** So many kinds are named, the most frequent first. */
const NAMED = 3;

export function Announcer({ feed, enabled }: { feed: Feed; enabled: boolean }) {
  const [text, setText] = useState("");
  useEffect(() => {
    if (!enabled) return;
    let last = feed.totals();
    const timer = setInterval(() => {
      const now = feed.totals();
      if (!feed.view().paused) setText(summary(last, now));
      last = now;
    }, EVERY_MS);
    return () => clearInterval(timer);
  }, [feed, enabled]);
  return (
    <output className="hidden-visually" aria-live="polite">
      {enabled ? text : ""}
    </output>
  );
}

/** `42 new events: 20 chat, 12 likes, 6 joins. Latest: Alice: hello` */
export function summary(last: FeedTotals, now: FeedTotals): string {
  const came = now.count - last.count;
  if (came <= 0) return "";
  const grown = (type: EventType) => now.counts[type] - last.counts[type];
  const kinds = EVENT_TYPES.filter((type) => grown(type) > 0)
    .toSorted((a, b) => grown(b) - grown(a))
    .slice(0, NAMED)
    .map((type) => `${grown(type)} ${KINDS[type].label.toLowerCase()}`);
  const latest = now.latest ? ` Latest: ${describe(now.latest).slice(0, 200)}` : "";
  return `${plural(came, "new event")}: ${kinds.join(", ")}.${latest}`;
}
