// The state of the connection in words, from what the feed, the browser and the events say.

import { duration } from "../../components/format";
import type { FeedState } from "../../api/live";
import type { StreamSummary } from "../../api/generated/api";
import { words } from "./describe";
import type { TotalsSnapshot } from "./totals";

export interface Status {
  word: "Connecting" | "Live" | "Reconnecting" | "Offline";
  tone: "neutral" | "good" | "warn" | "bad";
  /** One sentence more. */
  detail: string;
}

/** After so many failures in a row, "reconnecting" would be a promise. */
const OFFLINE_AFTER = 4;

export function statusOf(from: {
  feed: FeedState | undefined;
  stream: StreamSummary | undefined;
  totals: Pick<TotalsSnapshot, "upstream" | "ended"> | undefined;
  online: boolean;
  listError: string | undefined;
  now: number;
}): Status {
  const { feed, stream, totals, online, listError, now } = from;
  if (!online) return { word: "Offline", tone: "bad", detail: "This device has no network." };
  if (!feed) {
    if (listError) return { word: "Offline", tone: "bad", detail: `${words(listError)}.` };
    return { word: "Connecting", tone: "neutral", detail: "Waiting for a stream." };
  }
  switch (feed.name) {
    case "connecting":
    case "closed":
      return { word: "Connecting", tone: "neutral", detail: "Opening the live feed." };
    case "unknown":
      return { word: "Offline", tone: "bad", detail: "The server does not know this stream." };
    case "reconnecting": {
      const wait = duration(feed.retryAt - now);
      const next = feed.retryAt > now ? `next attempt in ${wait}` : "trying now";
      const detail = `${words(feed.reason)}; ${next}.`;
      return feed.attempt >= OFFLINE_AFTER
        ? { word: "Offline", tone: "bad", detail }
        : { word: "Reconnecting", tone: "warn", detail };
    }
    case "live":
      return liveStatus(stream, totals);
  }
}

/** Our feed is open; whether the room is live is another question. */
function liveStatus(
  stream: StreamSummary | undefined,
  totals: Pick<TotalsSnapshot, "upstream" | "ended"> | undefined,
): Status {
  if (totals?.ended || stream?.status === "ended") {
    return { word: "Offline", tone: "neutral", detail: "This broadcast is over." };
  }
  const upstream = totals?.upstream;
  if (upstream && upstream.eventType !== "CONNECTED") {
    const reason = words(upstream.payload.reason);
    return {
      word: "Reconnecting",
      tone: "warn",
      detail: `The connection to TikTok was lost (${reason.toLowerCase()}).`,
    };
  }
  return { word: "Live", tone: "good", detail: "Events are shown as they come." };
}
