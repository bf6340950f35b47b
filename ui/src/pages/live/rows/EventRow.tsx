// One event as a row: time, picture, what happened, and on request its JSON.
// Rendered again only when its own event or state changes.

import { memo, type ReactNode } from "react";

import type { EventOf, UnifiedEvent } from "../../../api/event";
import { fullTime, number, plural, shortNumber, timeOfDay } from "../../../components/format";
import { Icon } from "../../../components/Icon";
import { Picture } from "../../../components/Picture";
import { initial, jsonText } from "../../../components/text";
import { Text } from "../../../components/Text";
import {
  bannerText,
  battleTitle,
  describe,
  giftName,
  joinVerb,
  nameOf,
  rawName,
  words,
} from "../describe";
import { kindOf } from "../kinds";
import { Battle } from "./Battle";
import { ChatMessage } from "./ChatMessage";

export const EventRow = memo(function EventRow(props: {
  n: number;
  event: UnifiedEvent;
  expanded: boolean;
  onToggle: (n: number) => void;
}) {
  const { n, event, expanded, onToggle } = props;
  const kind = kindOf(event.eventType);
  const raw = event.eventType === "RAW";
  return (
    <div className={`row tone-${kind.tone} type-${event.eventType}`}>
      <time className="row-time" dateTime={event.timestamp} title={fullTime(event.timestamp)}>
        {timeOfDay(event.timestamp)}
      </time>
      <Who event={event} />
      <div className="row-body">
        <Body event={event} />
      </div>
      <button
        type="button"
        className={`row-inspect ${raw ? "row-inspect-always" : ""}`}
        aria-expanded={expanded}
        aria-label={expanded ? "Hide the data" : "Show the data"}
        title={expanded ? "Hide the data" : "Show the data"}
        tabIndex={-1}
        onClick={() => onToggle(n)}
      >
        {raw && <span>{expanded ? "Hide JSON" : "JSON"}</span>}
        <Icon name="chevron" size={14} />
      </button>
      {expanded && <Details event={event} />}
    </div>
  );
});

/** The picture of who did it, with the kind's icon; the icon alone where nobody did. */
function Who({ event }: { event: UnifiedEvent }) {
  const icon = kindOf(event.eventType).icon;
  if (!event.user) {
    return (
      <span className="row-icon">
        <Icon name={icon} />
      </span>
    );
  }
  const letter = <span className="avatar-letter">{initial(nameOf(event.user))}</span>;
  return (
    <span className="row-who" aria-hidden="true">
      <Picture src={event.user.avatarUrl} alt="" size={30} className="avatar" fallback={letter} />
      {event.eventType !== "CHAT" && (
        <span className="row-badge">
          <Icon name={icon} size={11} />
        </span>
      )}
    </span>
  );
}

function Body({ event }: { event: UnifiedEvent }): ReactNode {
  switch (event.eventType) {
    case "CHAT":
      return (
        <>
          <Name event={event} /> <ChatMessage payload={event.payload} />
        </>
      );
    case "GIFT":
      return <Gift event={event} />;
    case "LIKE":
      return (
        <>
          <Name event={event} /> sent{" "}
          <strong className="tone">{plural(event.payload.count, "like")}</strong>
        </>
      );
    case "JOIN":
      return (
        <>
          <Name event={event} /> {joinVerb(event.payload.action)}
        </>
      );
    case "FOLLOW":
      return (
        <>
          <Name event={event} /> <strong className="tone">followed</strong>
          {event.payload.followCount ? (
            <Note>{plural(event.payload.followCount, "follower")}</Note>
          ) : null}
        </>
      );
    case "SHARE":
      return (
        <>
          <Name event={event} /> <strong className="tone">shared</strong> the stream
          {event.payload.shareCount ? (
            <Note>{plural(event.payload.shareCount, "share")}</Note>
          ) : null}
        </>
      );
    case "SUBSCRIBE":
      return (
        <>
          <Name event={event} /> <strong className="tone">subscribed</strong>
          {event.payload.months ? <Note>{plural(event.payload.months, "month")}</Note> : null}
          {event.payload.type === "autoRenew" && <Note>renews</Note>}
        </>
      );
    case "EMOTE":
      return (
        <>
          <Name event={event} />{" "}
          <ChatMessage payload={{ message: "", emotes: event.payload.emotes }} />
        </>
      );
    case "BATTLE":
      if (event.payload.kind === "barrage") return <Banner event={event} />;
      return <Battle title={battleTitle(event)} payload={event.payload} />;
    case "ROOM_USER":
      return (
        <>
          <strong>{plural(event.payload.viewerCount, "viewer")}</strong> watching
          {event.payload.totalViewers > 0 && (
            <Note>{shortNumber(event.payload.totalViewers)} so far</Note>
          )}
        </>
      );
    case "STREAM_END":
      return (
        <>
          <strong className="tone">{describe(event)}</strong>
          {event.payload.message && (
            <Note>
              <Text>{event.payload.message}</Text>
            </Note>
          )}
        </>
      );
    case "CONNECTED":
    case "DISCONNECTED":
    case "ERROR":
      return <Connection event={event} />;
    case "RAW":
      return <Raw event={event} />;
    default:
      // A type of a newer server: shown by name, its data on request.
      return <strong>{words((event as UnifiedEvent).eventType)}</strong>;
  }
}

function Name({ event }: { event: UnifiedEvent }) {
  const { user } = event;
  const name = nameOf(user);
  const handle = user?.username ? `@${user.username}` : undefined;
  const roles = user?.roles;
  return (
    <span className="name">
      <bdi className="name-text" title={handle}>
        {name}
      </bdi>
      {roles?.anchor && <span className="role role-anchor">Host</span>}
      {roles?.moderator && <span className="role role-moderator">Mod</span>}
      {roles?.subscriber && <span className="role role-subscriber">Sub</span>}
      {roles?.topGifter && <span className="role role-gifter">Top</span>}
    </span>
  );
}

function Note({ children }: { children: ReactNode }) {
  return <span className="note">{children}</span>;
}

const STREAK_WORDS = { progress: "streak", final: "streak ended", single: "" } as const;

function Gift({ event }: { event: EventOf<"GIFT"> }) {
  const { giftCount, coins, streak, imageUrl, recipient } = event.payload;
  const progress = streak.state === "progress";
  const state = streak.inferred ? "streak timed out" : (STREAK_WORDS[streak.state] ?? "");
  return (
    <span className="gift">
      <span>
        <Name event={event} /> sent <bdi className="tone gift-name">{giftName(event)}</bdi>
        {recipient && (
          <>
            {" "}
            to <bdi>{nameOf(recipient)}</bdi>
          </>
        )}
      </span>
      <span className="gift-facts">
        <Picture
          src={imageUrl}
          alt=""
          size={28}
          className="gift-image"
          fallback={<Icon name="gift" />}
        />
        <strong className="gift-count">×{number(giftCount)}</strong>
        <span
          className={`coins ${progress ? "coins-pending" : ""}`}
          title={progress ? "Counts when the streak ends" : `${number(coins.unit)} each`}
        >
          {plural(coins.total, "coin")}
        </span>
        {state && <span className="streak">{state}</span>}
      </span>
    </span>
  );
}

function Banner({ event }: { event: EventOf<"BATTLE"> }) {
  const text = bannerText(event);
  return (
    <>
      {event.user ? (
        <>
          <Name event={event} /> <strong className="tone">{text}</strong>
        </>
      ) : (
        <strong className="tone">{text}</strong>
      )}
      {event.payload.banner?.text && (
        <Note>
          <Text>{event.payload.banner.text}</Text>
        </Note>
      )}
    </>
  );
}

function Connection({ event }: { event: EventOf<"CONNECTED" | "DISCONNECTED" | "ERROR"> }) {
  const { title, detail, attempt, provider } = event.payload;
  return (
    <>
      <strong className="tone">{describe(event)}</strong>
      {title && (
        <Note>
          <Text>{title}</Text>
        </Note>
      )}
      {detail && (
        <Note>
          <Text>{detail}</Text>
        </Note>
      )}
      {attempt > 1 && <Note>attempt {number(attempt)}</Note>}
      {provider !== "direct" && (
        <Note>
          via <Text>{provider}</Text>
        </Note>
      )}
    </>
  );
}

function Raw({ event }: { event: EventOf<"RAW"> }) {
  const { rawType } = event.payload;
  return (
    <>
      {event.user && (
        <>
          <Name event={event} />{" "}
        </>
      )}
      <span className="raw-name">{rawName(rawType)}</span>{" "}
      <code className="raw-type">
        <Text>{rawType}</Text>
      </code>
    </>
  );
}

function Details({ event }: { event: UnifiedEvent }) {
  return (
    // A region that scrolls by itself must be reachable by keyboard.
    // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex
    <pre className="row-json" dir="ltr" tabIndex={0} aria-label="Data of this event">
      {jsonText(event)}
    </pre>
  );
}
