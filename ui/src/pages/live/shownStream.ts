// Which stream the page shows now: the choice in the address, or a first choice of its own, carried
// through the list as creators end one broadcast and begin the next.

import { useMemo, useState } from "react";

import type { StreamSummary } from "../../api/generated/api";
import { choose, wantedFromUrl, type StreamList, type Wanted } from "./streams";

export interface Shown {
  streamId: string | undefined;
  /** What the list says of it; a pinned stream may be too old for the list. */
  stream: StreamSummary | undefined;
  /** A newer broadcast of the creator, while it waits for the end of a pause. */
  next: string | undefined;
  /** The choice in words, for when there is nothing to show. */
  wantedName: string | undefined;
  /** While held, a newer broadcast of the same creator waits. */
  hold: (held: boolean) => void;
}

export function useShownStream(list: StreamList, params: URLSearchParams): Shown {
  const fromUrl = wantedFromUrl(params);
  const { creator, stream } = fromUrl;
  // Without a choice in the address, whoever was chosen first stays.
  const [own, setOwn] = useState<Wanted>({ creator: undefined, stream: undefined });
  const wanted = useMemo<Wanted>(
    () => (creator || stream ? { creator, stream } : own),
    [creator, stream, own],
  );
  const chosen = wanted.creator !== undefined || wanted.stream !== undefined;
  const [held, hold] = useState(false);
  const [shown, setShown] = useState<{ streamId: string | undefined; wanted: Wanted }>({
    streamId: undefined,
    wanted,
  });

  const { streams } = list;
  const target = useMemo(() => (streams ? choose(streams, wanted) : undefined), [streams, wanted]);
  if (!chosen && target) {
    setOwn({
      creator: target.username,
      stream: target.username === undefined ? target.streamId : undefined,
    });
  }

  // A stream that the list does not hold is asked for by its id all the same.
  const targetId = target?.streamId ?? (streams ? wanted.stream : undefined);
  const sameChoice = shown.wanted === wanted;
  const waits = held && sameChoice && targetId !== undefined && shown.streamId !== undefined;
  if (!waits && !(sameChoice && shown.streamId === targetId)) {
    setShown({ streamId: targetId, wanted });
  }

  return {
    streamId: shown.streamId,
    stream: streams?.find((one) => one.streamId === shown.streamId),
    next: shown.streamId !== undefined && targetId !== shown.streamId ? targetId : undefined,
    wantedName: wanted.creator ? `@${wanted.creator}` : wanted.stream && `room ${wanted.stream}`,
    hold,
  };
}
