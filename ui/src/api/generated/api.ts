// Generated from docs/contracts/api.v1.schema.json by `npm run generate`. Do not edit.

/**
 * One event of a TikTok LIVE room.
 */
export type UnifiedEvent = {
  /**
   * `true` when it was sent before we connected: shown, but not acted upon.
   */
  backlog?: boolean;
  /**
   * The idempotency key.
   */
  eventId: EventId;
  /**
   * When we received it.
   */
  ingestedAt: Timestamp;
  /**
   * The original session, for a replay.
   */
  replayOf?: string;
  /**
   * Always `unified-event.v1`.
   */
  schemaVersion: SchemaVersion;
  /**
   * Place in the room's order: rises over the whole room, contiguous inside a session.
   */
  seqNo: number;
  /**
   * The connection or replay that brought it (uuid v7).
   */
  sessionId: string;
  /**
   * Live, or a stored session shown again.
   */
  source: Source;
  /**
   * TikTok's room id: new for every broadcast.
   */
  streamId: string;
  /**
   * When it happened, by TikTok's clock where the message has a time.
   */
  timestamp: Timestamp;
  /**
   * Who did it; left out where the message has no user.
   */
  user?: User;
} & UnifiedEvent1;
/**
 * hex(sha256(streamId + ":" + seqNo + ":" + type)): the idempotency key
 */
export type EventId = string;
/**
 * RFC 3339, UTC, milliseconds
 */
export type Timestamp = string;
/**
 * The version of the form.
 */
export type SchemaVersion = "unified-event.v1";
/**
 * Where a message comes from.
 */
export type Source = "live" | "replay";
export type UnifiedEvent1 =
  | {
      eventType: "CHAT";
      payload: Chat;
    }
  | {
      eventType: "GIFT";
      payload: Gift;
    }
  | {
      eventType: "LIKE";
      payload: Like;
    }
  | {
      eventType: "JOIN";
      payload: Join;
    }
  | {
      eventType: "FOLLOW";
      payload: Follow;
    }
  | {
      eventType: "SHARE";
      payload: Share;
    }
  | {
      eventType: "SUBSCRIBE";
      payload: Subscribe;
    }
  | {
      eventType: "EMOTE";
      payload: EmoteChat;
    }
  | {
      eventType: "BATTLE";
      payload: Battle;
    }
  | {
      eventType: "ROOM_USER";
      payload: RoomUser;
    }
  | {
      eventType: "STREAM_END";
      payload: StreamEnd;
    }
  | {
      eventType: "CONNECTED";
      payload: Connection;
    }
  | {
      eventType: "DISCONNECTED";
      payload: Connection;
    }
  | {
      eventType: "ERROR";
      payload: Connection;
    }
  | {
      eventType: "RAW";
      payload: Raw;
    };
/**
 * How far a streak is.
 */
export type StreakState = "progress" | "final" | "single";
/**
 * Who gives subscriptions away.
 */
export type SubscriptionGiver = "platform" | "viewer";
/**
 * How a subscription renews.
 */
export type SubscriptionKind = "once" | "autoRenew" | "other";
/**
 * What a banner announces.
 */
export type BannerKind =
  | "superFanJoined"
  | "superFan"
  | "subscribed"
  | "giftedSubscription"
  | "gifterLevelUp"
  | "gifterEntered"
  | "fanLevelUp"
  | "fanEntered"
  | "commerce"
  | "event"
  | "other";
/**
 * Which message a `BATTLE` event comes from.
 */
export type BattleKind = "battle" | "armies" | "barrage";
/**
 * How a battle ended for a side.
 */
export type BattleResult = "win" | "lose" | "draw";
/**
 * What happened in a battle.
 */
export type BattleStatus =
  "invited" | "rejected" | "cancelled" | "accepted" | "started" | "scores" | "finished" | "cutShort" | "other";
/**
 * A place in a room's order; opaque
 */
export type Cursor = string;
/**
 * Why events are missing in a live feed.
 */
export type GapReason = "not_stored" | "database_down" | "new_broadcast";
/**
 * What a relay is doing.
 */
export type RelayState = "starting" | "reading" | "retrying" | "misconfigured";
/**
 * Whether all is well.
 */
export type HealthStatus = "ok" | "degraded";
/**
 * A place in a list; opaque
 */
export type ListCursor = string;
/**
 * How a broadcast stands.
 */
export type StreamStatus = "live" | "disconnected" | "ended";

/**
 * Every document of the API, so that one schema holds them all: one property for each.
 */
export interface Api {
  events: EventPage;
  gap: Gap;
  health: Health;
  heartbeat: Heartbeat;
  problem: Problem;
  session: Session;
  sessions: SessionPage;
  stream: StreamSummary;
  streams: StreamPage;
}
/**
 * `GET /sessions/{id}/events`: in the order of the room.
 *
 * `E` is the form of an event: the edge passes the stored JSON on without reading it.
 */
export interface EventPage {
  /**
   * The events.
   */
  items: UnifiedEvent[];
  /**
   * `after` of the next page; left out when there is no event yet after these.
   */
  next?: Cursor;
}
/**
 * A TikTok account as the message shows it; what the message does not say is left out.
 */
export interface User {
  /**
   * A picture; such addresses expire.
   */
  avatarUrl?: string;
  /**
   * Badges, one per scene (the highest level of each).
   */
  badges?: Badge[];
  /**
   * The shown name.
   */
  displayName?: string;
  /**
   * How many follow the account.
   */
  followerCount?: number;
  /**
   * How many the account follows.
   */
  followingCount?: number;
  /**
   * Account and creator follow each other.
   */
  friend?: boolean;
  /**
   * Level as a gifter.
   */
  gifterLevel?: number;
  /**
   * May not write in the chat at the moment.
   */
  muted?: boolean;
  /**
   * What the account is in this room.
   */
  roles: Roles;
  /**
   * TikTok's opaque id for profile links.
   */
  secUid?: string;
  /**
   * Level in the creator's fan club.
   */
  teamLevel?: number;
  /**
   * The name of the creator's fan club, where the account is in it.
   */
  teamName?: string;
  /**
   * The account's number: stays the same when names change.
   */
  userId: string;
  /**
   * The @name.
   */
  username?: string;
  /**
   * Verified by TikTok.
   */
  verified?: boolean;
}
/**
 * A badge beside a name.
 */
export interface Badge {
  /**
   * Its picture.
   */
  imageUrl?: string;
  /**
   * Its level.
   */
  level?: number;
  /**
   * TikTok's number of the scene: 1 moderator, 4 subscriber, 6 rank, 8 gifter level,
   * 10 fan club level, …
   */
  scene: number;
  /**
   * The text on it.
   */
  text?: string;
}
/**
 * What an account is in a room.
 */
export interface Roles {
  /**
   * Is the creator.
   */
  anchor: boolean;
  /**
   * Follows the creator.
   */
  follower: boolean;
  /**
   * Moderates for the creator.
   */
  moderator: boolean;
  /**
   * Pays a subscription to the creator.
   */
  subscriber: boolean;
  /**
   * Wears a rank badge of the top gifters.
   */
  topGifter: boolean;
}
/**
 * `CHAT`.
 */
export interface Chat {
  /**
   * Emotes inside the text.
   */
  emotes?: Emote[];
  /**
   * Its language code.
   */
  language?: string;
  /**
   * Accounts it mentions.
   */
  mentions?: Person[];
  /**
   * What was written.
   */
  message: string;
  /**
   * TikTok's method name.
   */
  rawType: string;
}
/**
 * One emote.
 */
export interface Emote {
  /**
   * Its id.
   */
  emoteId: string;
  /**
   * Its picture.
   */
  imageUrl?: string;
  /**
   * Where it stands in the message, in UTF-16 units.
   */
  position?: number;
}
/**
 * An account that is only mentioned: a recipient, a guest, a rank.
 */
export interface Person {
  /**
   * A picture.
   */
  avatarUrl?: string;
  /**
   * The shown name.
   */
  displayName?: string;
  /**
   * The account's number.
   */
  userId: string;
  /**
   * The @name.
   */
  username?: string;
}
/**
 * `GIFT`. A streak is several events for one gift; only the one whose state is `final` or
 * `single` counts for coins.
 */
export interface Gift {
  /**
   * What it costs.
   */
  coins: Coins;
  /**
   * How many items so far: in a streak the running total, not the increment.
   */
  giftCount: number;
  /**
   * Which gift.
   */
  giftId: string;
  /**
   * Its name, such as `Rose`.
   */
  giftName?: string;
  /**
   * Its picture.
   */
  imageUrl?: string;
  /**
   * TikTok's method name.
   */
  rawType: string;
  /**
   * Who gets it, when that is not the creator.
   */
  recipient?: Person;
  /**
   * Its place in a streak.
   */
  streak: Streak;
}
/**
 * The price of a gift.
 */
export interface Coins {
  /**
   * `unit` × `giftCount`.
   */
  total: number;
  /**
   * For one item.
   */
  unit: number;
}
/**
 * The place of a gift message in its streak.
 */
export interface Streak {
  /**
   * Names the streak: sender, gift and TikTok's group id.
   */
  id: string;
  /**
   * `true` when the end did not come and a time-out concluded it.
   */
  inferred: boolean;
  /**
   * Whether more is to come.
   */
  state: StreakState;
}
/**
 * `LIKE`.
 */
export interface Like {
  /**
   * Likes in this batch.
   */
  count: number;
  /**
   * TikTok's method name.
   */
  rawType: string;
  /**
   * Likes of the room: the highest total so far, since upstream it jumps back and forth.
   */
  total: number;
}
/**
 * `JOIN`.
 */
export interface Join {
  /**
   * TikTok's number of what happened: 1 joined, 3 subscribed; others are moderation.
   */
  action: number;
  /**
   * Viewers at that moment.
   */
  memberCount: number;
  /**
   * TikTok's method name.
   */
  rawType: string;
}
/**
 * `FOLLOW`.
 */
export interface Follow {
  /**
   * The key by which TikTok chooses the text it shows.
   */
  displayType?: string;
  /**
   * Followers of the creator after it.
   */
  followCount?: number;
  /**
   * TikTok's method name.
   */
  rawType: string;
}
/**
 * `SHARE`.
 */
export interface Share {
  /**
   * The key by which TikTok chooses the text it shows.
   */
  displayType?: string;
  /**
   * TikTok's method name.
   */
  rawType: string;
  /**
   * Shares of the room after it.
   */
  shareCount?: number;
  /**
   * Where to: `-1` or TikTok's number of a platform.
   */
  shareTarget?: string;
}
/**
 * `SUBSCRIBE`.
 */
export interface Subscribe {
  /**
   * The key by which TikTok chooses the text it shows (from social messages).
   */
  displayType?: string;
  /**
   * Whether it is the account's first.
   */
  first?: boolean;
  /**
   * `true` when it was given away, not bought for oneself. TikTok does not say in a field
   * whether the event's user gave or got it: `text` does.
   */
  gifted?: boolean;
  /**
   * Who gave it away.
   */
  giftedBy?: SubscriptionGiver;
  /**
   * Months in total.
   */
  months?: number;
  /**
   * TikTok's method name.
   */
  rawType: string;
  /**
   * What the app shows for it.
   */
  text?: string;
  /**
   * How it renews.
   */
  type?: SubscriptionKind;
}
/**
 * `EMOTE`.
 */
export interface EmoteChat {
  /**
   * The emotes, in order.
   */
  emotes: Emote[];
  /**
   * TikTok's method name.
   */
  rawType: string;
}
/**
 * `BATTLE`.
 */
export interface Battle {
  /**
   * Which banner, for a barrage.
   */
  banner?: Banner;
  /**
   * Names the battle; left out for a barrage.
   */
  battleId?: string;
  /**
   * How long it lasts, in seconds.
   */
  durationSeconds?: number;
  /**
   * Which of the three messages it is.
   */
  kind: BattleKind;
  /**
   * TikTok's method name.
   */
  rawType: string;
  /**
   * The sides with their scores.
   */
  sides?: BattleSide[];
  /**
   * When it began.
   */
  startedAt?: Timestamp;
  /**
   * What happened in the battle; left out for a barrage.
   */
  status?: BattleStatus;
}
/**
 * A banner over the picture.
 */
export interface Banner {
  /**
   * The key by which TikTok chooses the text it shows.
   */
  displayType?: string;
  /**
   * What it announces.
   */
  kind: BannerKind;
  /**
   * The level reached or worn.
   */
  level?: number;
  /**
   * TikTok's number of the banner.
   */
  number: number;
  /**
   * The text, with its places still named.
   */
  text?: string;
}
/**
 * One side of a battle: a creator and those who give for them.
 */
export interface BattleSide {
  /**
   * A picture.
   */
  avatarUrl?: string;
  /**
   * Who gave, with their points.
   */
  contributors?: Contributor[];
  /**
   * The shown name.
   */
  displayName?: string;
  /**
   * How it ended for this side.
   */
  result?: BattleResult;
  /**
   * Points; left out where the message has none.
   */
  score?: number;
  /**
   * The team, in team battles.
   */
  teamId?: string;
  /**
   * The account's number.
   */
  userId: string;
  /**
   * The @name.
   */
  username?: string;
}
/**
 * Somebody who gave for a side.
 */
export interface Contributor {
  /**
   * A picture.
   */
  avatarUrl?: string;
  /**
   * The shown name.
   */
  displayName?: string;
  /**
   * Points.
   */
  score: number;
  /**
   * The account's number.
   */
  userId: string;
  /**
   * The @name.
   */
  username?: string;
}
/**
 * `ROOM_USER`.
 */
export interface RoomUser {
  /**
   * Watching without an account.
   */
  anonymousViewers?: number;
  /**
   * TikTok's method name.
   */
  rawType: string;
  /**
   * The leaders by coins.
   */
  topViewers?: TopViewer[];
  /**
   * Since the broadcast began.
   */
  totalViewers: number;
  /**
   * Watching now.
   */
  viewerCount: number;
}
/**
 * A place in the ranking of a room.
 */
export interface TopViewer {
  /**
   * A picture.
   */
  avatarUrl?: string;
  /**
   * Coins given.
   */
  coins: number;
  /**
   * The shown name.
   */
  displayName?: string;
  /**
   * From 1.
   */
  rank: number;
  /**
   * The account's number.
   */
  userId: string;
  /**
   * The @name.
   */
  username?: string;
}
/**
 * `STREAM_END`.
 */
export interface StreamEnd {
  /**
   * TikTok's number: 3 ended by the creator, 4 ended by moderation.
   */
  action: number;
  /**
   * The text that came with it.
   */
  message?: string;
  /**
   * TikTok's method name.
   */
  rawType: string;
}
/**
 * `CONNECTED`, `DISCONNECTED`, `ERROR`: the life of our connection to the room.
 */
export interface Connection {
  /**
   * How many attempts in a row this is, from 1.
   */
  attempt: number;
  /**
   * The WebSocket close code, when there was one.
   */
  closeCode?: number;
  /**
   * More about it, free of secrets.
   */
  detail?: string;
  /**
   * The creator's account number (`CONNECTED`).
   */
  ownerId?: string;
  /**
   * The creator's shown name (`CONNECTED`).
   */
  ownerNickname?: string;
  /**
   * Who delivers: `direct` or `euler`.
   */
  provider: string;
  /**
   * `ControlEvent.` and the event type.
   */
  rawType: string;
  /**
   * A category, such as `start`, `reconnect`, `stream_end`, `closed`, `silent`, `sign_refused`.
   */
  reason: string;
  /**
   * When the broadcast began, as TikTok says (`CONNECTED`).
   */
  startedAt?: Timestamp;
  /**
   * The title of the broadcast (`CONNECTED`).
   */
  title?: string;
  /**
   * The creator's @name, as TikTok spells it.
   */
  uniqueId?: string;
}
/**
 * `RAW`: a message that has no event type of its own.
 */
export interface Raw {
  /**
   * Its typed content, where we can read the type: poll, goal, caption, question, pin, ….
   */
  decoded?: {
    [k: string]: unknown | undefined;
  };
  /**
   * Its data untouched: base64 of the protobuf bytes, or the JSON object.
   */
  raw: {
    [k: string]: unknown | undefined;
  };
  /**
   * TikTok's method name.
   */
  rawType: string;
}
/**
 * `data` of the live feed's `event: gap`: what could not be delivered.
 */
export interface Gap {
  /**
   * `seqNo` of the last event before the gap; 0 when there was none.
   */
  from: number;
  /**
   * Why.
   */
  reason: GapReason;
  /**
   * `seqNo` of the first event after it; 0 when that is not known yet.
   */
  to: number;
}
/**
 * `GET /health`: 200 when everything is up, else 503 with the same document.
 */
export interface Health {
  /**
   * When it was looked at.
   */
  at: Timestamp;
  /**
   * Postgres, asked just now.
   */
  database: DatabaseHealth;
  /**
   * The relays that bring live events from Redis, one per shard.
   */
  relays: RelayHealth[];
  /**
   * `ok` when every part below is up.
   */
  status: HealthStatus;
  /**
   * The version of the edge.
   */
  version: string;
}
/**
 * Whether Postgres answers.
 */
export interface DatabaseHealth {
  /**
   * A category when it did not: `unreachable`, `refused`, `not_migrated`, `failed`.
   */
  reason?: string;
  /**
   * It answered a query.
   */
  up: boolean;
}
/**
 * How one relay is doing.
 */
export interface RelayHealth {
  /**
   * Connections made since it woke up.
   */
  connections: number;
  /**
   * Entries handed on since it woke up.
   */
  delivered: number;
  /**
   * When Redis last answered.
   */
  lastAnswerAt?: Timestamp;
  /**
   * When the last entry came.
   */
  lastEntryAt?: Timestamp;
  /**
   * Why it is not reading, free of secrets.
   */
  reason?: string;
  /**
   * Which shard it reads, from 0.
   */
  shard: number;
  /**
   * Since when it has been doing that.
   */
  since: Timestamp;
  /**
   * What it is doing.
   */
  state: RelayState;
}
/**
 * `data` of the live feed's `event: heartbeat`.
 */
export interface Heartbeat {
  /**
   * The server's time.
   */
  at: Timestamp;
}
/**
 * An answer that is an error: RFC 9457, `application/problem+json`.
 */
export interface Problem {
  /**
   * What is wrong this time.
   */
  detail: string;
  /**
   * The parameter that is wrong, where it is one.
   */
  field?: string;
  /**
   * The HTTP status.
   */
  status: number;
  /**
   * The kind in words; the same for each problem of the kind.
   */
  title: string;
  /**
   * Stable name of the kind of problem, such as `urn:ttlc:problem:not-found`.
   */
  type: string;
}
/**
 * One connection to a room, or one replay of such.
 */
export interface Session {
  /**
   * The WebSocket close code, when there was one.
   */
  closeCode?: number;
  /**
   * Why it was over, such as `stream_end`, `closed`, `silent`, `lost`; of a replay `done`, `cancelled`, `failed`.
   */
  endReason?: string;
  /**
   * When it was over; left out while it lasts.
   */
  endedAt?: Timestamp;
  /**
   * Events stored under it; a replay stores none.
   */
  eventCount: number;
  /**
   * Its first `seqNo`, once an event is stored.
   */
  firstSeqNo?: number;
  /**
   * When we received its newest event.
   */
  lastEventAt: Timestamp;
  /**
   * Its last `seqNo`.
   */
  lastSeqNo?: number;
  /**
   * Who delivers: `direct` or `euler`; left out for a replay.
   */
  provider?: string;
  /**
   * The original session, for a replay.
   */
  replayOf?: string;
  /**
   * Its id (uuid v7).
   */
  sessionId: string;
  /**
   * Live, or a stored session shown again.
   */
  source: Source;
  /**
   * When we received its first event; for a replay, when that was shown.
   */
  startedAt: Timestamp;
  /**
   * The room.
   */
  streamId: string;
  /**
   * The creator's @name, without the @.
   */
  username?: string;
}
/**
 * `GET /sessions`: newest first.
 */
export interface SessionPage {
  /**
   * The sessions.
   */
  items: Session[];
  /**
   * `after` of the next page; left out on the last one.
   */
  next?: ListCursor;
}
/**
 * One broadcast of a creator.
 */
export interface StreamSummary {
  /**
   * The creator's shown name.
   */
  displayName?: string;
  /**
   * How it ended: `creator`, `moderation`, `offline` (found to be over) or `superseded` (the
   * creator's next broadcast began).
   */
  endReason?: string;
  /**
   * When we learned that it is over.
   */
  endedAt?: Timestamp;
  /**
   * Events stored.
   */
  eventCount: number;
  /**
   * When we received its newest stored event.
   */
  lastEventAt: Timestamp;
  /**
   * When it began, as TikTok says; when TikTok did not say, our first event of it.
   */
  startedAt: Timestamp;
  /**
   * How it stands.
   */
  status: StreamStatus;
  /**
   * TikTok's room id: new for every broadcast.
   */
  streamId: string;
  /**
   * The title of the broadcast.
   */
  title?: string;
  /**
   * The creator's @name, without the @.
   */
  username?: string;
}
/**
 * `GET /streams`: newest first.
 */
export interface StreamPage {
  /**
   * The streams.
   */
  items: StreamSummary[];
  /**
   * `after` of the next page; left out on the last one.
   */
  next?: ListCursor;
}
