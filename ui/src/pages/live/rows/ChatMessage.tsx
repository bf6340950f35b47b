// A chat message with its emotes in their places.

import type { ReactNode } from "react";

import type { Chat, Emote } from "../../../api/generated/unified-event";
import { Icon } from "../../../components/Icon";
import { Picture } from "../../../components/Picture";
import { plainPart } from "../../../components/text";

export function ChatMessage({ payload }: { payload: Pick<Chat, "message" | "emotes"> }) {
  return (
    <bdi className="message" dir="auto">
      {withEmotes(payload.message, payload.emotes ?? [])}
    </bdi>
  );
}

/** The text cut where emotes stand (UTF-16 positions); those without a place come last. */
function withEmotes(message: string, emotes: readonly Emote[]): ReactNode[] {
  const placed = emotes
    .map((emote, index) => ({
      emote,
      index,
      at: Math.min(emote.position ?? message.length, message.length),
    }))
    .toSorted((a, b) => a.at - b.at || a.index - b.index);
  const parts: ReactNode[] = [];
  let from = 0;
  for (const { emote, index, at } of placed) {
    parts.push(plainPart(message.slice(from, at)));
    parts.push(<EmoteImage key={index} emote={emote} />);
    from = at;
  }
  parts.push(plainPart(message.slice(from)));
  return parts;
}

function EmoteImage({ emote }: { emote: Emote }) {
  return (
    <span className="emote">
      <span className="hidden-visually">emote</span>
      <Picture src={emote.imageUrl} alt="" size={24} fallback={<Icon name="emote" size={20} />} />
    </span>
  );
}
