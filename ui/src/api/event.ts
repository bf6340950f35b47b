// The events of a room as the page handles them: the generated UnifiedEvent, and the check that a
// text from the feed is one. Only what the page relies on is checked, so that additions to the
// contract, even a new event type, do not break a page that is older than the server.

import type { UnifiedEvent } from "./generated/unified-event";

export type { UnifiedEvent };
export type EventType = UnifiedEvent["eventType"];
/** The event whose `eventType` is K. */
export type EventOf<K extends EventType> = Extract<UnifiedEvent, { eventType: K }>;

/** Every type, in the order in which filters show them. */
export const EVENT_TYPES = [
  "CHAT",
  "GIFT",
  "LIKE",
  "JOIN",
  "FOLLOW",
  "SHARE",
  "SUBSCRIBE",
  "EMOTE",
  "BATTLE",
  "ROOM_USER",
  "STREAM_END",
  "CONNECTED",
  "DISCONNECTED",
  "ERROR",
  "RAW",
] as const satisfies readonly EventType[];

// A type that the contract has and the list above has not is an error here.
type Missing = Exclude<EventType, (typeof EVENT_TYPES)[number]>;
true satisfies [Missing] extends [never] ? true : Missing;

/** The event in `text`, or `undefined` when it is not one. */
export function parseEvent(text: string): UnifiedEvent | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const event = value as Record<string, unknown>;
  const whole =
    typeof event["eventId"] === "string" &&
    event["eventId"] !== "" &&
    typeof event["eventType"] === "string" &&
    typeof event["streamId"] === "string" &&
    typeof event["seqNo"] === "number" &&
    typeof event["timestamp"] === "string" &&
    typeof event["ingestedAt"] === "string" &&
    typeof event["payload"] === "object" &&
    event["payload"] !== null;
  return whole ? (value as UnifiedEvent) : undefined;
}
