// What the live page holds of one stream, and which of it the list shows.
//
// In: events and gaps from the live feed, the user's filter, pause and resume. Out: a `FeedView`
// per animation frame for the list (paused: four times a second), and `FeedTotals` four times a
// second for the numbers.
// Events are taken in a batch per frame, so that a burst costs one rendering. The buffer is
// bounded: the oldest rows go, and the list says so. A paused view is frozen: what comes meanwhile
// is counted and kept, and nothing moves under the reader's eyes.

import { EVENT_TYPES, type EventType, type UnifiedEvent } from "../../api/event";
import type { Gap } from "../../api/live";
import { compileFilter, NO_FILTER, type Filter } from "./filter";
import { Ring } from "./ring";
import { Totals, type TotalsSnapshot } from "./totals";

/** How many rows are kept; the oldest go first. */
export const CAPACITY = 50_000;
/**
 * How many of them the list holds while it follows, at least; nobody sees more without scrolling.
 * It is cut back to this when it has twice as many: a cut moves every row, an addition none.
 */
export const FOLLOW_WINDOW = 500;
const TOTALS_EVERY_MS = 250;

/** One row; `n` counts up by one per row of this stream view and is its key. */
export type Row =
  { n: number; kind: "event"; event: UnifiedEvent } | { n: number; kind: "gap"; gap: Gap };

export interface FeedView {
  /** Oldest first. Following: the newest few; paused: everything up to the pause. */
  rows: readonly Row[];
  paused: boolean;
  /** Rows that came since the pause and pass the filter. */
  fresh: number;
  /** Rows that match, also those that the follow window leaves out. */
  matching: number;
  /** Rows that the buffer's bound has pushed out. */
  dropped: number;
}

export interface FeedTotals extends TotalsSnapshot {
  /** Distinct events since this view of the stream began. */
  count: number;
  counts: Readonly<Record<EventType, number>>;
  /** Rows held in the buffer now. */
  held: number;
  dropped: number;
}

type Listener = () => void;

/** Runs `task` before the next paint, or soon when the page is hidden and never painted. */
function soon(task: () => void): void {
  if (typeof document !== "undefined" && document.visibilityState === "hidden") {
    setTimeout(task, TOTALS_EVERY_MS);
  } else {
    requestAnimationFrame(task);
  }
}

/** The data of one stream view. */
export class Feed {
  readonly #capacity: number;
  readonly #schedule: (task: () => void) => void;
  readonly #totals = new Totals();
  readonly #counts = Object.fromEntries(EVENT_TYPES.map((type) => [type, 0])) as Record<
    EventType,
    number
  >;
  readonly #held: Ring<Row>;
  #matching: Ring<Row>;
  #filter: Filter = NO_FILTER;
  #passes = compileFilter(NO_FILTER);
  #incoming: Row[] = [];
  #flushDue = false;
  #nextN = 0;
  /** Matching rows since the filter was set, and the first of them that the follow window holds. */
  #matched = 0;
  #windowFrom = 0;
  #count = 0;
  #dropped = 0;
  /** While paused: the `n` from which rows are new, and the rows as they were. */
  #paused: { from: number; rows: Row[] } | undefined;
  #fresh = 0;
  #view: FeedView;
  #snapshot: FeedTotals;
  #totalsDue = false;
  readonly #viewListeners = new Set<Listener>();
  readonly #totalsListeners = new Set<Listener>();

  constructor(options: { capacity?: number; schedule?: (task: () => void) => void } = {}) {
    this.#capacity = options.capacity ?? CAPACITY;
    this.#schedule = options.schedule ?? soon;
    this.#held = new Ring(this.#capacity);
    this.#matching = new Ring(this.#capacity);
    this.#view = this.#makeView();
    this.#snapshot = this.#makeTotals();
  }

  /** Takes one event; the live feed has already dropped repeats. */
  addEvent(event: UnifiedEvent): void {
    this.#take({ n: this.#nextN++, kind: "event", event });
  }

  addGap(gap: Gap): void {
    this.#take({ n: this.#nextN++, kind: "gap", gap });
  }

  /** Server time minus ours, in ms: events per minute are counted by the server's clock. */
  set clockOffset(ms: number) {
    this.#totals.clockOffset = ms;
  }

  setFilter(filter: Filter): void {
    this.flush();
    this.#filter = filter;
    this.#passes = compileFilter(filter);
    this.#matching = new Ring(this.#capacity);
    for (const row of this.#held.filter(this.#passes)) this.#matching.push(row);
    this.#matched = this.#matching.length;
    this.#windowFrom = 0;
    if (this.#paused) {
      const { from } = this.#paused;
      const shown = this.#matching.filter((row) => row.n < from);
      this.#paused = { from, rows: shown };
      this.#fresh = this.#matching.length - shown.length;
    }
    this.#publishView();
  }

  get filter(): Filter {
    return this.#filter;
  }

  /** Freezes what is shown. */
  pause(): void {
    if (this.#paused) return;
    this.flush();
    this.#paused = { from: this.#nextN, rows: this.#matching.last(this.#matching.length) };
    this.#fresh = 0;
    this.#publishView();
  }

  /** Goes on with the newest. */
  resume(): void {
    if (!this.#paused) return;
    this.#paused = undefined;
    this.#fresh = 0;
    this.flush();
    this.#publishView();
  }

  /** Takes in what waits for the next frame. */
  flush(): void {
    this.#flushDue = false;
    if (this.#incoming.length === 0) return;
    const batch = this.#incoming;
    this.#incoming = [];
    for (const row of batch) this.#keep(row);
    // Paused, only the count of new rows changes: it goes with the numbers.
    if (!this.#paused) this.#publishView();
    this.#scheduleTotals();
  }

  // The two halves of useSyncExternalStore, for the list and for the numbers.
  readonly subscribeView = (listener: Listener): (() => void) => {
    this.#viewListeners.add(listener);
    return () => this.#viewListeners.delete(listener);
  };
  readonly view = (): FeedView => this.#view;
  readonly subscribeTotals = (listener: Listener): (() => void) => {
    this.#totalsListeners.add(listener);
    return () => this.#totalsListeners.delete(listener);
  };
  readonly totals = (): FeedTotals => this.#snapshot;

  /** Publishes the numbers again although nothing came: events per minute fall with time. */
  refreshTotals(): void {
    this.#snapshot = this.#makeTotals();
    for (const listener of this.#totalsListeners) listener();
    if (this.#paused && this.#view.fresh !== this.#fresh) this.#publishView();
  }

  #take(row: Row): void {
    this.#incoming.push(row);
    // A hidden page is asked rarely; what waits must stay bounded too.
    if (this.#incoming.length >= this.#capacity) this.flush();
    if (this.#flushDue) return;
    this.#flushDue = true;
    this.#schedule(() => {
      if (this.#flushDue) this.flush();
    });
  }

  #keep(row: Row): void {
    if (row.kind === "event") {
      this.#count += 1;
      this.#counts[row.event.eventType] = (this.#counts[row.event.eventType] ?? 0) + 1;
      this.#totals.add(row.event);
    }
    const gone = this.#held.push(row);
    if (gone) this.#dropped += 1;
    // `matching` is a part of `held` in the same order and has the same capacity: what `held`
    // pushed out is its first row or not in it at all.
    if (gone && this.#matching.at(0) === gone) this.#matching.shift();
    if (!this.#passes(row)) return;
    this.#matching.push(row);
    this.#matched += 1;
    if (this.#paused) this.#fresh += 1;
  }

  #publishView(): void {
    this.#view = this.#makeView();
    for (const listener of this.#viewListeners) listener();
  }

  #makeView(): FeedView {
    if (this.#matched - this.#windowFrom > 2 * FOLLOW_WINDOW) {
      this.#windowFrom = this.#matched - FOLLOW_WINDOW;
    }
    return {
      rows: this.#paused?.rows ?? this.#matching.last(this.#matched - this.#windowFrom),
      paused: this.#paused !== undefined,
      fresh: this.#fresh,
      matching: this.#paused?.rows.length ?? this.#matching.length,
      dropped: this.#dropped,
    };
  }

  #makeTotals(): FeedTotals {
    return {
      ...this.#totals.snapshot(),
      count: this.#count,
      counts: { ...this.#counts },
      held: this.#held.length,
      dropped: this.#dropped,
    };
  }

  #scheduleTotals(): void {
    if (this.#totalsDue) return;
    this.#totalsDue = true;
    setTimeout(() => {
      this.#totalsDue = false;
      this.refreshTotals();
    }, TOTALS_EVERY_MS);
  }
}
