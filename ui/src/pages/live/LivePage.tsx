// `/`: the live view of one creator.
//
// Address: `creator` follows a creator from one broadcast to the next; `stream` stays with one
// broadcast; without either, the live stream with the newest event. `after=start` (the default)
// loads the broadcast from its first event, `after=now` only what comes. `type` and `q` filter.

import { useCallback, useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { useSearchParams } from "react-router";

import type { EventType } from "../../api/event";
import { plural } from "../../components/format";
import { Icon } from "../../components/Icon";
import { usePreferences } from "../../components/preferences";
import { useShortcuts } from "../../components/shortcuts";
import { Text } from "../../components/Text";
import { TopBar } from "../../components/TopBar";
import { Announcer } from "./Announcer";
import { CreatorPicker, creatorName } from "./CreatorPicker";
import { Diagnostics } from "./Diagnostics";
import { Feed } from "./feed";
import { FeedList } from "./FeedList";
import { filterFromUrl } from "./filter";
import { Search, TypeChips } from "./Filters";
import { Numbers, TopViewers } from "./Numbers";
import { useShownStream, type Shown } from "./shownStream";
import { statusOf } from "./status";
import { StatusPill } from "./StatusPill";
import { useStreams, type StreamList } from "./streams";
import { useStreamFeed } from "./useStreamFeed";
import "./live.css";

/** Stands in until there is a stream, so that hooks always have one to look at. */
const NOTHING = new Feed();

export function LivePage() {
  const [params, setParams] = useSearchParams();
  const list = useStreams();
  const shown = useShownStream(list, params);
  const after = params.get("after") === "now" ? "now" : "start";
  const { current, state } = useStreamFeed(shown.streamId, after);
  const feed = current?.feed ?? NOTHING;
  const totals = useSyncExternalStore(feed.subscribeTotals, feed.totals);
  const paused = useSyncExternalStore(feed.subscribeView, () => feed.view().paused);
  const { announcements } = usePreferences();
  const search = useRef<HTMLInputElement>(null);

  const typeParam = params.get("type");
  const textParam = params.get("q");
  const filter = useMemo(() => {
    const from = new URLSearchParams();
    if (typeParam) from.set("type", typeParam);
    if (textParam) from.set("q", textParam);
    return filterFromUrl(from);
  }, [typeParam, textParam]);
  useEffect(() => feed.setFilter(filter), [feed, filter]);

  const change = useCallback(
    (name: string, value: string) => {
      setParams(
        (last) => {
          const next = new URLSearchParams(last);
          if (value) next.set(name, value);
          else next.delete(name);
          return next;
        },
        { replace: true },
      );
    },
    [setParams],
  );
  const setText = useCallback((text: string) => change("q", text), [change]);
  const setTypes = useCallback(
    (types: ReadonlySet<EventType>) => change("type", [...types].join(",")),
    [change],
  );

  // A pause holds the page at its broadcast; going on goes to the newest one.
  const { hold } = shown;
  useEffect(() => hold(paused), [hold, paused]);
  const { refresh } = list;
  const ended = totals.ended !== undefined;
  useEffect(() => {
    if (ended) refresh();
  }, [ended, refresh]);

  const togglePause = useCallback(() => {
    if (feed.view().paused) feed.resume();
    else feed.pause();
  }, [feed]);
  useShortcuts({
    p: togglePause,
    l: () => feed.resume(),
    "/": () => search.current?.focus(),
    c: () => document.querySelector<HTMLElement>(".picker-button")?.click(),
    f: () => document.querySelector<HTMLElement>('.feed-row[tabindex="0"]')?.focus(),
    x: () => {
      change("q", "");
      change("type", "");
    },
  });

  const now = useNow();
  const online = useOnline();
  const status = statusOf({
    feed: state,
    stream: shown.stream,
    totals: current ? totals : undefined,
    online,
    listError: list.streams ? undefined : list.error,
    now,
  });
  const name = shown.stream ? creatorName(shown.stream) : undefined;
  useEffect(() => {
    document.title = name ? `${name} · Live Console` : "Live Console";
  }, [name]);

  const filtered = filter.types.size > 0 || filter.text !== "";
  return (
    <>
      <TopBar>
        <CreatorPicker
          streams={list.streams}
          shown={shown.stream}
          wanted={shown.wantedName}
          error={list.error}
          now={now}
        />
        <StatusPill status={status} onRetry={() => current?.live.retryNow()} />
      </TopBar>
      <main id="main" className="live">
        <h1 className="hidden-visually">Live events{name ? ` of ${name}` : ""}</h1>
        <aside className="side" aria-label="Overview">
          <StreamCard shown={shown} />
          <Numbers totals={current ? totals : undefined} />
          <TopViewers totals={totals} />
          {current && <Diagnostics live={current.live} totals={totals} />}
        </aside>
        <section className="panel feed-panel" aria-label="Event feed">
          <div className="feed-bar">
            <Search value={filter.text} onChange={setText} ref={search} />
            <button
              type="button"
              className="button"
              aria-pressed={paused}
              aria-keyshortcuts="p"
              onClick={togglePause}
              disabled={!current}
            >
              <Icon name={paused ? "play" : "pause"} size={16} />
              {paused ? "Resume" : "Pause"}
            </button>
          </div>
          <TypeChips filter={filter} counts={totals.counts} onChange={setTypes} />
          {shown.next && (
            <p className="feed-notice feed-next">
              A new broadcast has begun.{" "}
              <button type="button" className="link" onClick={() => feed.resume()}>
                Go there
              </button>
            </p>
          )}
          {current ? (
            <FeedList
              key={current.streamId}
              feed={current.feed}
              empty={filtered ? "No event matches the filter." : "Nothing has happened yet."}
            />
          ) : (
            <div className="feed">
              <p className="feed-empty">{emptyText(list, shown.wantedName)}</p>
            </div>
          )}
          <p className="feed-foot">
            <span
              data-testid="feed-total"
              data-count={totals.count}
              data-stream={current?.streamId}
            >
              {plural(totals.count, "event")}
            </span>
            {filtered && <Matching feed={feed} />}
          </p>
        </section>
        {current && (
          <Announcer key={current.streamId} feed={current.feed} enabled={announcements} />
        )}
      </main>
    </>
  );
}

/** Apart, because it follows the list and not the numbers. */
function Matching({ feed }: { feed: Feed }) {
  const matching = useSyncExternalStore(feed.subscribeView, () => feed.view().matching);
  return <span>{plural(matching, "row")} shown by the filter</span>;
}

function StreamCard({ shown }: { shown: Shown }) {
  const { stream } = shown;
  if (!stream) return null;
  return (
    <section className="stream-card" aria-label="Stream">
      <p className="stream-name">
        <Text>{stream.displayName ?? creatorName(stream)}</Text>
      </p>
      {stream.title && (
        <p className="stream-title">
          <Text>{stream.title}</Text>
        </p>
      )}
    </section>
  );
}

function emptyText(list: StreamList, wanted: string | undefined): string {
  if (!list.streams) return list.error ? `No answer: ${list.error}. Trying again.` : "Loading…";
  if (wanted) return `Nothing is known of ${wanted} yet. This page shows it when it goes live.`;
  return "No stream has been recorded yet. This page shows the first one that goes live.";
}

/** The time, once a second. */
function useNow(): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1_000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

function useOnline(): boolean {
  return useSyncExternalStore(
    (listener) => {
      window.addEventListener("online", listener);
      window.addEventListener("offline", listener);
      return () => {
        window.removeEventListener("online", listener);
        window.removeEventListener("offline", listener);
      };
    },
    () => navigator.onLine,
  );
}
