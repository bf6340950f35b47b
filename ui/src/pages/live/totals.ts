// The numbers above the feed, kept up event by event.

import type { EventOf, UnifiedEvent } from "../../api/event";

export interface TotalsSnapshot {
  /** Watching now; unknown until the room has said so. */
  viewers: number | undefined;
  /** The highest total that the room has named: upstream it jumps back and forth. */
  likes: number | undefined;
  /** Coins of concluded gifts. */
  coins: number;
  /** Concluded gifts, by item. */
  gifts: number;
  /** By the time of reception, over the last 60 s. */
  eventsPerMinute: number;
  /** The room's own ranking, newest. */
  topViewers: EventOf<"ROOM_USER">["payload"]["topViewers"];
  /** The last word on the connection between server and TikTok. */
  upstream: EventOf<"CONNECTED" | "DISCONNECTED" | "ERROR"> | undefined;
  /** Set when the broadcast has ended. */
  ended: EventOf<"STREAM_END"> | undefined;
  /** The newest event. */
  latest: UnifiedEvent | undefined;
}

const WINDOW_S = 60;

/** Of one stream view. */
export class Totals {
  /** Server time minus ours, in ms. */
  clockOffset = 0;
  #viewers: number | undefined;
  #roomHasSpoken = false;
  #likes: number | undefined;
  #coins = 0;
  #gifts = 0;
  #topViewers: TotalsSnapshot["topViewers"] = [];
  #upstream: TotalsSnapshot["upstream"];
  #ended: TotalsSnapshot["ended"];
  #latest: UnifiedEvent | undefined;
  // One bucket a second: which second it stands for, and how many events came in it.
  readonly #seconds = new Float64Array(WINDOW_S);
  readonly #perSecond = new Uint32Array(WINDOW_S);

  add(event: UnifiedEvent): void {
    this.#latest = event;
    this.#countInWindow(event.ingestedAt);
    switch (event.eventType) {
      case "ROOM_USER":
        this.#roomHasSpoken = true;
        this.#viewers = event.payload.viewerCount;
        if (event.payload.topViewers?.length) this.#topViewers = event.payload.topViewers;
        break;
      case "JOIN":
        // A stopgap until the room's own count comes.
        if (!this.#roomHasSpoken && event.payload.memberCount > 0) {
          this.#viewers = event.payload.memberCount;
        }
        break;
      case "LIKE":
        this.#likes = Math.max(this.#likes ?? 0, event.payload.total);
        break;
      case "GIFT":
        if (counts(event)) {
          this.#coins += event.payload.coins.total;
          this.#gifts += event.payload.giftCount;
        }
        break;
      case "CONNECTED":
      case "DISCONNECTED":
      case "ERROR":
        this.#upstream = event;
        break;
      case "STREAM_END":
        this.#ended = event;
        break;
      default:
    }
  }

  snapshot(): TotalsSnapshot {
    return {
      viewers: this.#viewers,
      likes: this.#likes,
      coins: this.#coins,
      gifts: this.#gifts,
      eventsPerMinute: this.#rate(),
      topViewers: this.#topViewers,
      upstream: this.#upstream,
      ended: this.#ended,
      latest: this.#latest,
    };
  }

  #countInWindow(ingestedAt: string): void {
    const second = Math.floor(Date.parse(ingestedAt) / 1000);
    if (!Number.isFinite(second)) return;
    const slot = ((second % WINDOW_S) + WINDOW_S) % WINDOW_S;
    const held = this.#seconds[slot] as number;
    if (second < held) return;
    if (second > held) {
      this.#seconds[slot] = second;
      this.#perSecond[slot] = 0;
    }
    this.#perSecond[slot] = (this.#perSecond[slot] as number) + 1;
  }

  #rate(): number {
    const now = Math.floor((Date.now() + this.clockOffset) / 1000);
    let sum = 0;
    for (let slot = 0; slot < WINDOW_S; slot += 1) {
      if ((this.#seconds[slot] as number) > now - WINDOW_S) sum += this.#perSecond[slot] as number;
    }
    return sum;
  }
}

/** Whether a gift event counts: a streak is many events, exactly one of them concludes it. */
export function counts(event: EventOf<"GIFT">): boolean {
  return event.payload.streak.state !== "progress";
}
