// An event in words: the label of its row and what a screen reader hears.

import type { EventOf, UnifiedEvent } from "../../api/event";
import { number, plural } from "../../components/format";
import { plain } from "../../components/text";

type Named = { userId: string; displayName?: string; username?: string };

/** The name to show for an account: shown name, else @name, else its number. */
export function nameOf(person: Named | undefined): string {
  if (!person) return "Somebody";
  const shown = plain(person.displayName);
  if (shown) return shown;
  const handle = plain(person.username);
  if (handle) return `@${handle}`;
  return person.userId && person.userId !== "0" ? `viewer ${plain(person.userId)}` : "Somebody";
}

/** `Alice: hello`, `Alice sent Rose × 5, 5 coins`, … */
export function describe(event: UnifiedEvent): string {
  const who = nameOf(event.user);
  switch (event.eventType) {
    case "CHAT":
      return `${who}: ${plain(event.payload.message)}`;
    case "GIFT": {
      const { giftCount, coins, streak } = event.payload;
      const state =
        streak.state === "progress" ? ", streak goes on" : `, ${plural(coins.total, "coin")}`;
      return `${who} sent ${giftName(event)} × ${number(giftCount)}${state}`;
    }
    case "LIKE":
      return `${who} sent ${plural(event.payload.count, "like")}`;
    case "JOIN":
      return `${who} ${joinVerb(event.payload.action)}`;
    case "FOLLOW":
      return `${who} followed`;
    case "SHARE":
      return `${who} shared the stream`;
    case "SUBSCRIBE": {
      const { months } = event.payload;
      return `${who} subscribed${months ? `, ${plural(months, "month")}` : ""}`;
    }
    case "EMOTE":
      return `${who} sent ${plural(event.payload.emotes.length, "emote")}`;
    case "BATTLE":
      return describeBattle(event);
    case "ROOM_USER":
      return `${plural(event.payload.viewerCount, "viewer")} watching`;
    case "STREAM_END":
      return event.payload.action === 4 ? "Stream ended by moderation" : "Stream ended";
    case "CONNECTED":
      return `Connected to TikTok${event.payload.reason === "reconnect" ? " again" : ""}`;
    case "DISCONNECTED":
      return `Disconnected from TikTok: ${words(event.payload.reason)}`;
    case "ERROR":
      return `Could not connect to TikTok: ${words(event.payload.reason)}`;
    case "RAW":
      return `${rawName(event.payload.rawType)} message`;
    default:
      // A type of a newer server.
      return words((event as UnifiedEvent).eventType);
  }
}

export function giftName(event: EventOf<"GIFT">): string {
  return plain(event.payload.giftName) || `gift ${plain(event.payload.giftId)}`;
}

/** TikTok's number of what a member message is about. */
export function joinVerb(action: number): string {
  switch (action) {
    case 1:
      return "joined";
    case 3:
      return "subscribed";
    default:
      return "entered";
  }
}

const BATTLE_WORDS = {
  invited: "Battle invitation",
  rejected: "Battle declined",
  cancelled: "Battle cancelled",
  accepted: "Battle accepted",
  started: "Battle started",
  scores: "Battle scores",
  finished: "Battle finished",
  cutShort: "Battle cut short",
  other: "Battle",
} as const;

const BANNER_WORDS = {
  superFanJoined: "became a super fan",
  superFan: "is a super fan",
  subscribed: "subscribed",
  giftedSubscription: "gave subscriptions away",
  gifterLevelUp: "reached a gifter level",
  gifterEntered: "entered as a high-level gifter",
  fanLevelUp: "reached a fan-club level",
  fanEntered: "entered as a fan-club member",
  commerce: "Shopping banner",
  event: "Event banner",
  other: "Banner",
} as const;

export function battleTitle(event: EventOf<"BATTLE">): string {
  return BATTLE_WORDS[event.payload.status ?? "other"] ?? "Battle";
}

/** A banner is about somebody or about nobody; level where it has one. */
export function bannerText(event: EventOf<"BATTLE">): string {
  const banner = event.payload.banner;
  const kind = BANNER_WORDS[banner?.kind ?? "other"] ?? "Banner";
  const level = banner?.level ? ` (level ${number(banner.level)})` : "";
  return `${kind}${level}`;
}

function describeBattle(event: EventOf<"BATTLE">): string {
  if (event.payload.kind === "barrage") {
    const text = bannerText(event);
    return event.user ? `${nameOf(event.user)} ${lowerFirst(text)}` : text;
  }
  const sides = (event.payload.sides ?? [])
    .map((side) => `${nameOf(side)} ${side.score === undefined ? "" : number(side.score)}`.trim())
    .join(", ");
  return sides ? `${battleTitle(event)}: ${sides}` : battleTitle(event);
}

/** `WebcastGoalUpdateMessage` → `Goal update`. */
export function rawName(rawType: string): string {
  const name = plain(rawType)
    .replace(/^(Webcast|ControlEvent\.)/, "")
    .replace(/(Message|Method)$/, "");
  return words(name.replace(/([\p{Ll}\d])(\p{Lu})/gu, "$1 $2")) || "Unknown";
}

/** `sign_refused` → `Sign refused`. */
export function words(text: string): string {
  const spaced = plain(text).replaceAll("_", " ").toLowerCase();
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
}

function lowerFirst(text: string): string {
  return text.charAt(0).toLowerCase() + text.slice(1);
}
