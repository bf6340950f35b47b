// The list of events: only the rows in view exist, whatever the feed holds.
//
// Following, the newest row stays at the bottom. Scrolling up, moving with the keys or focusing a
// row pauses: nothing moves under the reader, new rows are counted, and one button goes on.

import {
  defaultRangeExtractor,
  observeElementOffset,
  useVirtualizer,
  type Range,
} from "@tanstack/react-virtual";
import {
  memo,
  useCallback,
  useEffect,
  useLayoutEffect,
  useRef,
  useState,
  useSyncExternalStore,
  type FocusEvent,
  type KeyboardEvent,
} from "react";

import { number, plural } from "../../components/format";
import { Icon } from "../../components/Icon";
import { describe, words } from "./describe";
import { CAPACITY, type Feed, type Row } from "./feed";
import { EventRow } from "./rows/EventRow";

/** Nearer to the end than this is "at the end", in px. */
const AT_END = 48;
/** Further from it than this while following means that somebody scrolled, in px. */
const LEFT_END = 160;
/** So long after a wheel or touch, what scrolls is a hand, in ms. */
const HAND_MS = 500;
const PAGE_ROWS = 10;

export function FeedList({ feed, empty }: { feed: Feed; empty: string }) {
  const view = useSyncExternalStore(feed.subscribeView, feed.view);
  const { rows, paused } = view;
  const scroller = useRef<HTMLDivElement>(null);
  const [expanded, setExpanded] = useState<ReadonlySet<number>>(new Set());
  const [opened, setOpened] = useState<number>();
  /** The row that has the tab stop; the newest when there is none. */
  const [active, setActive] = useState<number>();
  const [focusDue, setFocusDue] = useState(false);

  /** Whether scrolling paused the feed: then scrolling to the end goes on. */
  const pausedByScroll = useRef(false);
  /** When a hand last moved the list up. */
  const handAt = useRef(-Infinity);
  // Called after the virtualizer has taken note of the new offset: a pause adds the older rows
  // above, and it keeps the place that it knows.
  const onScroll = useCallback(() => {
    if (feed.view().paused) return;
    const byHand = performance.now() - handAt.current < HAND_MS;
    const below = belowView(scroller.current);
    if (below > (byHand ? 1 : LEFT_END)) {
      pausedByScroll.current = true;
      feed.pause();
    } else if (below > 1) {
      // The virtualizer has moved the list for rows that came out of another height.
      toEnd(scroller.current);
    }
  }, [feed]);

  const activeIndex = active === undefined ? -1 : indexOf(rows, active);
  const getItemKey = useCallback((index: number) => rows[index]?.n ?? index, [rows]);
  const virtualizer = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: (index) => estimate(rows[index]),
    getItemKey,
    overscan: 8,
    useFlushSync: false,
    observeElementOffset: useCallback<typeof observeElementOffset<HTMLDivElement>>(
      (instance, changed) =>
        observeElementOffset(instance, (offset, isScrolling) => {
          changed(offset, isScrolling);
          onScroll();
        }),
      [onScroll],
    ),
    anchorTo: "end",
    followOnAppend: !paused,
    scrollEndThreshold: AT_END,
    // The row with the focus stays in the document when it is scrolled out of view.
    rangeExtractor: useCallback(
      (range: Range) => {
        const shown = defaultRangeExtractor(range);
        if (activeIndex < 0 || shown.includes(activeIndex)) return shown;
        return [...shown, activeIndex].toSorted((a, b) => a - b);
      },
      [activeIndex],
    ),
  });

  // Rows that turn out higher than estimated push the end away: go there again.
  const total = virtualizer.getTotalSize();
  useLayoutEffect(() => {
    if (!paused) toEnd(scroller.current);
  }, [paused, rows, total]);

  function onWheel({ deltaY }: { deltaY: number }) {
    if (deltaY < 0) handAt.current = performance.now();
    if (deltaY > 0) resumeAtEnd();
  }

  /** Asked when a hand moves the list, never after our own scrolling. */
  function resumeAtEnd() {
    if (paused && pausedByScroll.current && belowView(scroller.current) <= AT_END) resume();
  }

  const move = (index: number) => {
    const row = rows[Math.max(0, Math.min(rows.length - 1, index))];
    if (!row) return;
    feed.pause();
    setActive(row.n);
    setFocusDue(true);
  };

  useEffect(() => {
    if (!focusDue || activeIndex < 0) return;
    virtualizer.scrollToIndex(activeIndex, { align: "auto" });
    const element = scroller.current?.querySelector<HTMLElement>(`[data-n="${active}"]`);
    if (!element) return;
    element.focus({ preventScroll: true });
    setFocusDue(false);
  }, [focusDue, active, activeIndex, virtualizer]);

  // What is opened comes into view.
  useEffect(() => {
    if (opened === undefined) return;
    const element = scroller.current?.querySelector(`[data-n="${opened}"]`);
    element?.scrollIntoView?.({ block: "nearest" });
  }, [opened]);

  const toggle = useCallback(
    (n: number) => {
      feed.pause();
      const next = new Set(expanded);
      if (!next.delete(n)) next.add(n);
      setExpanded(next);
      setOpened(next.has(n) ? n : undefined);
    },
    [feed, expanded],
  );

  /** Whoever moves into the list reads: nothing may move away from under the focus. */
  function onFocus(event: FocusEvent<HTMLElement>) {
    const n = event.target.closest<HTMLElement>("[data-n]")?.dataset["n"];
    if (n === undefined) return;
    feed.pause();
    setActive(Number(n));
  }

  function onKeyDown(event: KeyboardEvent<HTMLElement>) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target as HTMLElement;
    // Inside a row (its button, its JSON) keys have their own meaning, but for Escape.
    if (!target.hasAttribute("data-n") && event.key !== "Escape") return;
    const at = activeIndex < 0 ? rows.length - 1 : activeIndex;
    switch (event.key) {
      case "ArrowDown":
      case "j":
        move(at + 1);
        break;
      case "ArrowUp":
      case "k":
        move(at - 1);
        break;
      case "PageDown":
        move(at + PAGE_ROWS);
        break;
      case "PageUp":
        move(at - PAGE_ROWS);
        break;
      case "Home":
        move(0);
        break;
      case "End":
        move(rows.length - 1);
        break;
      case "Enter": {
        const row = rows[at];
        if (row?.kind === "event") toggle(row.n);
        break;
      }
      case "Escape":
        resume();
        break;
      default:
        return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  function resume() {
    if (scroller.current?.contains(document.activeElement)) scroller.current.focus();
    setActive(undefined);
    pausedByScroll.current = false;
    feed.resume();
  }

  // Without a row of its own, the tab stop is the newest row in view.
  const tabStop = active ?? rows[virtualizer.range?.endIndex ?? rows.length - 1]?.n;
  return (
    <div className="feed">
      {view.dropped > 0 && (
        <p className="feed-notice">
          The oldest {plural(view.dropped, "row")} made room for newer ones: this page keeps the
          last {number(CAPACITY)}.
        </p>
      )}
      <div
        ref={scroller}
        className="feed-scroller"
        onWheel={onWheel}
        onTouchMove={() => (handAt.current = performance.now())}
        onTouchEnd={resumeAtEnd}
        onFocus={onFocus}
        onKeyDown={onKeyDown}
        tabIndex={-1}
        role="presentation"
      >
        {rows.length === 0 && <p className="feed-empty">{empty}</p>}
        <div role="feed" aria-label="Live events" className="feed-rows" style={{ height: total }}>
          {virtualizer.getVirtualItems().map((item) => {
            const row = rows[item.index];
            if (!row) return null;
            return (
              <FeedRow
                key={item.key}
                row={row}
                index={item.index}
                start={item.start}
                setSize={paused ? rows.length : -1}
                tabStop={row.n === tabStop}
                expanded={expanded.has(row.n)}
                measure={virtualizer.measureElement}
                onToggle={toggle}
              />
            );
          })}
        </div>
      </div>
      {paused && (
        <button type="button" className="resume" onClick={resume}>
          <Icon name="down" size={16} />
          {view.fresh > 0 ? `${number(view.fresh)} new` : "Back to live"}
        </button>
      )}
    </div>
  );
}

/** One place in the list; rendered again only when something of its own has changed. */
const FeedRow = memo(function FeedRow({
  row,
  index,
  start,
  setSize,
  tabStop,
  expanded,
  measure,
  onToggle,
}: {
  row: Row;
  index: number;
  start: number;
  setSize: number;
  tabStop: boolean;
  expanded: boolean;
  measure: (element: Element | null) => void;
  onToggle: (n: number) => void;
}) {
  const event = row.kind === "event" ? row.event : undefined;
  return (
    <article
      ref={measure}
      className="feed-row"
      style={{ transform: `translateY(${start}px)` }}
      data-index={index}
      data-n={row.n}
      data-event-id={event?.eventId}
      data-event-type={event?.eventType}
      aria-posinset={index + 1}
      aria-setsize={setSize}
      aria-label={row.kind === "event" ? describe(row.event) : gapText(row)}
      // The feed pattern: articles take the focus, one of them holds the tab stop.
      // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex
      tabIndex={tabStop ? 0 : -1}
    >
      {row.kind === "event" ? (
        <EventRow n={row.n} event={row.event} expanded={expanded} onToggle={onToggle} />
      ) : (
        <div className="row row-gap">
          <span className="row-icon">
            <Icon name="gap" />
          </span>
          <div className="row-body">{gapText(row)}</div>
        </div>
      )}
    </article>
  );
});

const GAP_WORDS = {
  not_stored: "they were not stored in time",
  database_down: "the database did not answer",
  new_broadcast: "a new broadcast began",
} as const;

function gapText(row: Extract<Row, { kind: "gap" }>): string {
  const { from, to, reason } = row.gap;
  const range =
    from > 0 && to > 0
      ? `between events ${from} and ${to}`
      : from > 0
        ? `after event ${from}`
        : to > 0
          ? `before event ${to}`
          : "here";
  const why = GAP_WORDS[reason] ?? words(String(reason)).toLowerCase();
  return `Events may be missing ${range}: ${why}.`;
}

/** Row heights before they are measured, in px; near enough that the end hardly moves. */
function estimate(row: Row | undefined): number {
  if (row?.kind !== "event") return 40;
  switch (row.event.eventType) {
    case "JOIN":
    case "LIKE":
    case "ROOM_USER":
    case "RAW":
      return 32;
    case "BATTLE":
      return row.event.payload.kind === "barrage" ? 40 : 90;
    default:
      return 40;
  }
}

/** Rows are in the order of `n`. */
function indexOf(rows: readonly Row[], n: number): number {
  let low = 0;
  let high = rows.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const at = (rows[middle] as Row).n;
    if (at === n) return middle;
    if (at < n) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}

function toEnd(element: HTMLElement | null): void {
  if (element) element.scrollTop = element.scrollHeight;
}

/** How much of the list is below what is in view, in px. */
function belowView(element: HTMLElement | null): number {
  return element ? element.scrollHeight - element.scrollTop - element.clientHeight : 0;
}
