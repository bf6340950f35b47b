// Which stream the page shows: the list of streams, asked for every few seconds, and the choice.
//
// Each broadcast of a creator has its own stream id. The page follows a creator: when the newest
// broadcast is another one, the page goes on there.

import { useCallback, useEffect, useRef, useState } from "react";

import { fetchStreams } from "../../api/client";
import type { StreamSummary } from "../../api/generated/api";

const POLL_MS = 4_000;
const HIDDEN_POLL_MS = 30_000;

export interface StreamList {
  /** `undefined` until the first answer. */
  streams: readonly StreamSummary[] | undefined;
  /** Why the last question had no answer; the list is the last known one then. */
  error: string | undefined;
  /** Asks again at once. */
  refresh: () => void;
}

/** The newest streams, kept up to date. */
export function useStreams(): StreamList {
  const [streams, setStreams] = useState<readonly StreamSummary[]>();
  const [error, setError] = useState<string>();
  const pollNow = useRef<() => void>(undefined);
  const refresh = useCallback(() => pollNow.current?.(), []);

  useEffect(() => {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    let asking = false;
    async function poll() {
      if (asking) return;
      asking = true;
      clearTimeout(timer);
      try {
        const next = await fetchStreams(abort.signal);
        setStreams((last) => (JSON.stringify(last) === JSON.stringify(next) ? last : next));
        setError(undefined);
      } catch (failure) {
        if (abort.signal.aborted) return;
        setError(failure instanceof Error ? failure.message : String(failure));
      }
      asking = false;
      timer = setTimeout(poll, document.visibilityState === "hidden" ? HIDDEN_POLL_MS : POLL_MS);
    }
    function onVisible() {
      if (document.visibilityState === "visible") void poll();
    }
    pollNow.current = () => void poll();
    void poll();
    document.addEventListener("visibilitychange", onVisible);
    return () => {
      abort.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", onVisible);
    };
  }, []);

  return { streams, error, refresh };
}

/** What the address asks for; at most one of the two counts, a stream before a creator. */
export interface Wanted {
  creator: string | undefined;
  stream: string | undefined;
}

export function wantedFromUrl(params: URLSearchParams): Wanted {
  const creator = params.get("creator")?.trim().replace(/^@/, "");
  const stream = params.get("stream")?.trim();
  return { creator: creator || undefined, stream: stream || undefined };
}

/** The stream to show, or `undefined` when the list has none that fits. */
export function choose(
  streams: readonly StreamSummary[],
  wanted: Wanted,
): StreamSummary | undefined {
  if (wanted.stream !== undefined) {
    return streams.find((stream) => stream.streamId === wanted.stream);
  }
  if (wanted.creator !== undefined) {
    const name = wanted.creator.toLowerCase();
    return best(streams.filter((stream) => stream.username?.toLowerCase() === name));
  }
  return best(streams);
}

/** One entry per creator, with the broadcast that `choose` would show; live ones first. */
export function perCreator(streams: readonly StreamSummary[]): StreamSummary[] {
  const groups = new Map<string, StreamSummary[]>();
  for (const stream of streams) {
    const key = stream.username ?? stream.streamId;
    groups.set(key, [...(groups.get(key) ?? []), stream]);
  }
  return [...groups.values()]
    .map((group) => best(group) as StreamSummary)
    .toSorted(
      (a, b) =>
        rank(b) - rank(a) || (a.username ?? a.streamId).localeCompare(b.username ?? b.streamId),
    );
}

function best(streams: readonly StreamSummary[]): StreamSummary | undefined {
  return streams.toSorted(
    (a, b) => rank(b) - rank(a) || Date.parse(b.lastEventAt) - Date.parse(a.lastEventAt),
  )[0];
}

/** Live before interrupted before ended. */
function rank(stream: StreamSummary): number {
  return stream.status === "live" ? 2 : stream.status === "disconnected" ? 1 : 0;
}
