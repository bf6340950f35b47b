// Chooses whose stream the page shows. The choice is a link, so it lives in the address.

import { useId, useRef } from "react";
import { Link } from "react-router";

import type { StreamSummary } from "../../api/generated/api";
import { duration, plural } from "../../components/format";
import { Icon } from "../../components/Icon";
import { initial } from "../../components/text";
import { Text } from "../../components/Text";
import { perCreator } from "./streams";

export function CreatorPicker(props: {
  streams: readonly StreamSummary[] | undefined;
  shown: StreamSummary | undefined;
  /** What the address names, for when the list does not have it. */
  wanted: string | undefined;
  error: string | undefined;
  now: number;
}) {
  const id = useId();
  const panel = useRef<HTMLElement>(null);
  const { shown } = props;
  const creators = perCreator(props.streams ?? []);
  const live = creators.filter((stream) => stream.status === "live").length;
  return (
    <div className="picker">
      <button type="button" className="picker-button" popoverTarget={id}>
        <span className="avatar-letter picker-letter" aria-hidden="true">
          {initial(shown?.displayName ?? shown?.username ?? props.wanted ?? "?")}
        </span>
        <span className="picker-current">
          <span className="hidden-visually">Creator: </span>
          <Text>{shown ? creatorName(shown) : (props.wanted ?? "Choose a creator")}</Text>
        </span>
        <Icon name="chevron" size={16} />
      </button>
      <nav id={id} ref={panel} popover="auto" className="picker-panel" aria-label="Creators">
        <p className="picker-head">
          {plural(creators.length, "creator")}, {live} live
        </p>
        {props.error && (
          <p className="picker-error" role="alert">
            The list could not be renewed: {props.error}.
          </p>
        )}
        {creators.length === 0 && !props.error && (
          <p className="picker-empty">No stream has been recorded yet.</p>
        )}
        <ul>
          {creators.map((stream) => {
            const current =
              shown !== undefined &&
              (stream.username
                ? stream.username === shown.username
                : stream.streamId === shown.streamId);
            return (
              <li key={stream.username ?? stream.streamId}>
                <Link
                  to={
                    stream.username
                      ? `/?creator=${encodeURIComponent(stream.username)}`
                      : `/?stream=${encodeURIComponent(stream.streamId)}`
                  }
                  aria-current={current ? "true" : undefined}
                  onClick={() => panel.current?.hidePopover()}
                >
                  <span className="avatar-letter" aria-hidden="true">
                    {initial(stream.displayName ?? stream.username ?? "?")}
                  </span>
                  <span className="picker-text">
                    <span className="picker-name">
                      <Text>{creatorName(stream)}</Text>
                    </span>
                    <span className="picker-title">
                      {stream.title ? (
                        <Text>{stream.title}</Text>
                      ) : (
                        plural(stream.eventCount, "event")
                      )}
                    </span>
                  </span>
                  <StreamState stream={stream} now={props.now} />
                </Link>
              </li>
            );
          })}
        </ul>
      </nav>
    </div>
  );
}

export function creatorName(stream: StreamSummary): string {
  return stream.username ? `@${stream.username}` : `Room ${stream.streamId}`;
}

function StreamState({ stream, now }: { stream: StreamSummary; now: number }) {
  switch (stream.status) {
    case "live":
      return <span className="pill tone-good">Live</span>;
    case "disconnected":
      return <span className="pill tone-warn">Interrupted</span>;
    case "ended":
      return (
        <span className="pill tone-quiet">
          {duration(now - Date.parse(stream.endedAt ?? stream.lastEventAt))} ago
        </span>
      );
  }
}
