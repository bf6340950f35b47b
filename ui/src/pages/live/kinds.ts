// How each event type is called and which icon and colour it has.

import type { EventType } from "../../api/event";
import type { IconName } from "../../components/Icon";

export interface Kind {
  /** On its filter chip. */
  label: string;
  icon: IconName;
  /** Class that sets the colour; see live.css. */
  tone: string;
}

export const KINDS: Readonly<Record<EventType, Kind>> = {
  CHAT: { label: "Chat", icon: "chat", tone: "chat" },
  GIFT: { label: "Gifts", icon: "gift", tone: "gift" },
  LIKE: { label: "Likes", icon: "like", tone: "like" },
  JOIN: { label: "Joins", icon: "join", tone: "quiet" },
  FOLLOW: { label: "Follows", icon: "follow", tone: "follow" },
  SHARE: { label: "Shares", icon: "share", tone: "share" },
  SUBSCRIBE: { label: "Subscriptions", icon: "subscribe", tone: "subscribe" },
  EMOTE: { label: "Emotes", icon: "emote", tone: "emote" },
  BATTLE: { label: "Battles", icon: "battle", tone: "battle" },
  ROOM_USER: { label: "Viewer counts", icon: "room", tone: "quiet" },
  STREAM_END: { label: "Stream end", icon: "end", tone: "bad" },
  CONNECTED: { label: "Connected", icon: "connected", tone: "good" },
  DISCONNECTED: { label: "Disconnected", icon: "disconnected", tone: "warn" },
  ERROR: { label: "Errors", icon: "error", tone: "bad" },
  RAW: { label: "Raw", icon: "raw", tone: "quiet" },
};

const UNKNOWN: Kind = { label: "Other", icon: "raw", tone: "quiet" };

/** Also for a type that only a newer server knows. */
export function kindOf(type: EventType): Kind {
  return KINDS[type] ?? UNKNOWN;
}
