// Joins the live feed of one stream to the data the page shows; both begin anew with the stream.

import { useEffect, useState } from "react";

import { LiveFeed, type FeedState } from "../../api/live";
import { Feed } from "./feed";

/** How often the numbers are looked at when nothing comes, in ms. */
const REFRESH_MS = 1_000;

export interface StreamFeed {
  streamId: string;
  feed: Feed;
  live: LiveFeed;
}

/** The feed of `streamId`, none while it is undefined. */
export function useStreamFeed(
  streamId: string | undefined,
  after: "start" | "now",
): { current: StreamFeed | undefined; state: FeedState | undefined } {
  const [current, setCurrent] = useState<StreamFeed>();
  const [state, setState] = useState<FeedState>();

  useEffect(() => {
    if (streamId === undefined) return;
    const feed = new Feed();
    const live = new LiveFeed({
      streamId,
      after,
      onEvent: (event) => feed.addEvent(event),
      onGap: (gap) => feed.addGap(gap),
      onState: setState,
    });
    // The connection is the outside world; the state names the one that this effect has opened.
    // oxlint-disable-next-line react/set-state-in-effect
    setCurrent({ streamId, feed, live });
    const timer = setInterval(() => {
      feed.clockOffset = live.health.clockOffset;
      feed.refreshTotals();
    }, REFRESH_MS);
    const retry = () => live.retryNow();
    window.addEventListener("online", retry);
    return () => {
      window.removeEventListener("online", retry);
      clearInterval(timer);
      live.close();
      setCurrent(undefined);
      setState(undefined);
    };
  }, [streamId, after]);

  return { current, state };
}
