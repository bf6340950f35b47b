// Which rows the list shows: by event type and by text.
//
// The text is looked for in what a person wrote or reads: message, names, gift name, raw type;
// every word of it has to occur, in any order, without regard to case.

import { EVENT_TYPES, type EventType, type UnifiedEvent } from "../../api/event";
import type { Row } from "./feed";

export interface Filter {
  /** Shown types; empty: all. */
  types: ReadonlySet<EventType>;
  text: string;
}

export const NO_FILTER: Filter = { types: new Set(), text: "" };

const searchTexts = new WeakMap<UnifiedEvent, string>();

/** The test for one row. A gap passes any filter: it says that something is missing. */
export function compileFilter(filter: Filter): (row: Row) => boolean {
  const words = fold(filter.text).split(/\s+/).filter(Boolean);
  const { types } = filter;
  if (types.size === 0 && words.length === 0) return () => true;
  return (row) => {
    if (row.kind === "gap") return true;
    if (types.size > 0 && !types.has(row.event.eventType)) return false;
    if (words.length === 0) return true;
    const text = searchText(row.event);
    return words.every((word) => text.includes(word));
  };
}

/** What a search looks at; made when first asked for, kept as long as the event. */
export function searchText(event: UnifiedEvent): string {
  let text = searchTexts.get(event);
  if (text === undefined) {
    text = fold(parts(event).filter(Boolean).join("\n"));
    searchTexts.set(event, text);
  }
  return text;
}

function parts(event: UnifiedEvent): (string | null | undefined)[] {
  const { user, payload } = event;
  const found = [event.eventType, payload.rawType, user?.displayName];
  if (user?.username) found.push(`@${user.username}`);
  switch (event.eventType) {
    case "CHAT":
      found.push(event.payload.message);
      for (const person of event.payload.mentions ?? []) {
        found.push(person.displayName, person.username);
      }
      break;
    case "GIFT":
      found.push(event.payload.giftName, event.payload.recipient?.displayName);
      break;
    case "BATTLE":
      for (const side of event.payload.sides ?? []) found.push(side.displayName, side.username);
      found.push(event.payload.banner?.text);
      break;
    case "STREAM_END":
      found.push(event.payload.message);
      break;
    case "CONNECTED":
    case "DISCONNECTED":
    case "ERROR":
      found.push(event.payload.reason, event.payload.detail, event.payload.title);
      break;
    default:
  }
  return found;
}

/** Case and width folded, so that fullwidth and styled letters are found by plain ones. */
function fold(text: string): string {
  return text.normalize("NFKC").toLowerCase();
}

/** The filter of `?type=CHAT,GIFT&q=hello`; unknown types are left out. */
export function filterFromUrl(params: URLSearchParams): Filter {
  const named = new Set((params.get("type") ?? "").toUpperCase().split(","));
  return {
    types: new Set(EVENT_TYPES.filter((type) => named.has(type))),
    text: params.get("q") ?? "",
  };
}
