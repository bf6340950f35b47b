//! UnifiedEvent v1: the one form in which everything that happens in a room is stored, relayed
//! and shown. `docs/contracts/unified-event.v1.schema.json` is generated from these types.
//!
//! Rules of the form: additive changes only; camel case; absent fields are left out, never
//! `null`; every upstream id is a string, since it exceeds 2^53; `seqNo` is a number.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::identity::EventId;
use crate::raw::Source;
use crate::time::Timestamp;

/// One event of a TikTok LIVE room.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnifiedEvent {
    /// Always `unified-event.v1`.
    pub schema_version: SchemaVersion,
    /// The idempotency key.
    pub event_id: EventId,
    /// Live, or a stored session shown again.
    pub source: Source,
    /// TikTok's room id: new for every broadcast.
    #[schemars(regex(pattern = "^[0-9]{1,20}$"))]
    pub stream_id: String,
    /// The connection or replay that brought it (uuid v7).
    pub session_id: Uuid,
    /// Place in the room's order: rises over the whole room, contiguous inside a session.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_u64))]
    pub seq_no: u64,
    /// When it happened, by TikTok's clock where the message has a time.
    pub timestamp: Timestamp,
    /// When we received it.
    pub ingested_at: Timestamp,
    /// `true` when it was sent before we connected: shown, but not acted upon.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backlog: bool,
    /// The original session, for a replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<Uuid>,
    /// Who did it; left out where the message has no user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// What happened: `eventType` and `payload`.
    #[serde(flatten)]
    pub payload: Payload,
}

/// The version of the form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SchemaVersion {
    /// Version 1.
    #[default]
    #[serde(rename = "unified-event.v1")]
    V1,
}

/// What happened; `eventType` says which payload it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "eventType", content = "payload")]
pub enum Payload {
    /// A comment.
    #[serde(rename = "CHAT")]
    Chat(Chat),
    /// A gift, or one step of a gift streak.
    #[serde(rename = "GIFT")]
    Gift(Box<Gift>),
    /// A batch of likes of one viewer.
    #[serde(rename = "LIKE")]
    Like(Like),
    /// A viewer entered.
    #[serde(rename = "JOIN")]
    Join(Join),
    /// A viewer followed the creator.
    #[serde(rename = "FOLLOW")]
    Follow(Follow),
    /// A viewer shared the broadcast.
    #[serde(rename = "SHARE")]
    Share(Share),
    /// A subscription.
    #[serde(rename = "SUBSCRIBE")]
    Subscribe(Subscribe),
    /// A comment that is only emotes.
    #[serde(rename = "EMOTE")]
    Emote(EmoteChat),
    /// A battle between creators, its scores, or a banner.
    #[serde(rename = "BATTLE")]
    Battle(Box<Battle>),
    /// How many are watching, and who leads.
    #[serde(rename = "ROOM_USER")]
    RoomUser(RoomUser),
    /// The broadcast is over.
    #[serde(rename = "STREAM_END")]
    StreamEnd(StreamEnd),
    /// We are connected to the room.
    #[serde(rename = "CONNECTED")]
    Connected(Connection),
    /// The connection is over.
    #[serde(rename = "DISCONNECTED")]
    Disconnected(Connection),
    /// An attempt to connect failed.
    #[serde(rename = "ERROR")]
    Error(Connection),
    /// Everything else; nothing is lost.
    #[serde(rename = "RAW")]
    Raw(Raw),
}

/// The values of `eventType`, for filters and statistics.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(
    missing_docs,
    reason = "each is the variant of `Payload` with the same name"
)]
pub enum EventType {
    Chat,
    Gift,
    Like,
    Join,
    Follow,
    Share,
    Subscribe,
    Emote,
    Battle,
    RoomUser,
    StreamEnd,
    Connected,
    Disconnected,
    Error,
    Raw,
}

impl EventType {
    /// Every type, in the order of the contract.
    pub const ALL: [Self; 15] = [
        Self::Chat,
        Self::Gift,
        Self::Like,
        Self::Join,
        Self::Follow,
        Self::Share,
        Self::Subscribe,
        Self::Emote,
        Self::Battle,
        Self::RoomUser,
        Self::StreamEnd,
        Self::Connected,
        Self::Disconnected,
        Self::Error,
        Self::Raw,
    ];

    /// Its name in JSON, such as `ROOM_USER`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "CHAT",
            Self::Gift => "GIFT",
            Self::Like => "LIKE",
            Self::Join => "JOIN",
            Self::Follow => "FOLLOW",
            Self::Share => "SHARE",
            Self::Subscribe => "SUBSCRIBE",
            Self::Emote => "EMOTE",
            Self::Battle => "BATTLE",
            Self::RoomUser => "ROOM_USER",
            Self::StreamEnd => "STREAM_END",
            Self::Connected => "CONNECTED",
            Self::Disconnected => "DISCONNECTED",
            Self::Error => "ERROR",
            Self::Raw => "RAW",
        }
    }

    /// The type with this exact name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl Payload {
    /// Its `eventType`.
    pub fn event_type(&self) -> EventType {
        match self {
            Self::Chat(_) => EventType::Chat,
            Self::Gift(_) => EventType::Gift,
            Self::Like(_) => EventType::Like,
            Self::Join(_) => EventType::Join,
            Self::Follow(_) => EventType::Follow,
            Self::Share(_) => EventType::Share,
            Self::Subscribe(_) => EventType::Subscribe,
            Self::Emote(_) => EventType::Emote,
            Self::Battle(_) => EventType::Battle,
            Self::RoomUser(_) => EventType::RoomUser,
            Self::StreamEnd(_) => EventType::StreamEnd,
            Self::Connected(_) => EventType::Connected,
            Self::Disconnected(_) => EventType::Disconnected,
            Self::Error(_) => EventType::Error,
            Self::Raw(_) => EventType::Raw,
        }
    }
}

/// A TikTok account as the message shows it; what the message does not say is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// The account's number: stays the same when names change.
    pub user_id: String,
    /// The @name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The shown name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// A picture; such addresses expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// What the account is in this room.
    #[serde(default)]
    pub roles: Roles,
    /// Badges, one per scene (the highest level of each).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub badges: Vec<Badge>,
    /// How many follow the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follower_count: Option<u64>,
    /// How many the account follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub following_count: Option<u64>,
    /// Level as a gifter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gifter_level: Option<u32>,
    /// Level in the creator's fan club.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_level: Option<u32>,
    /// Verified by TikTok.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
    /// TikTok's opaque id for profile links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sec_uid: Option<String>,
}

/// What an account is in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "five independent facts of the contract"
)]
pub struct Roles {
    /// Moderates for the creator.
    pub moderator: bool,
    /// Pays a subscription to the creator.
    pub subscriber: bool,
    /// Follows the creator.
    pub follower: bool,
    /// Wears a rank badge of the top gifters.
    pub top_gifter: bool,
    /// Is the creator.
    pub anchor: bool,
}

/// A badge beside a name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Badge {
    /// TikTok's number of the scene: 1 moderator, 4 subscriber, 6 rank, 8 gifter level,
    /// 10 fan club level, …
    pub scene: i32,
    /// Its level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u32>,
    /// The text on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Its picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_url: Option<String>,
}

/// An account that is only mentioned: a recipient, a guest, a rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Person {
    /// The account's number.
    pub user_id: String,
    /// The @name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The shown name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// A picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

/// `CHAT`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Chat {
    /// TikTok's method name.
    pub raw_type: String,
    /// What was written.
    pub message: String,
    /// Its language code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Emotes inside the text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emotes: Vec<Emote>,
    /// Accounts it mentions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<Person>,
}

/// One emote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Emote {
    /// Its id.
    pub emote_id: String,
    /// Its picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_url: Option<String>,
    /// Where it stands in the message, in UTF-16 units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
}

/// `GIFT`. A streak is several events for one gift; only the one whose state is `final` or
/// `single` counts for coins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gift {
    /// TikTok's method name.
    pub raw_type: String,
    /// Which gift.
    pub gift_id: String,
    /// Its name, such as `Rose`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gift_name: Option<String>,
    /// How many items so far: in a streak the running total, not the increment.
    pub gift_count: u64,
    /// What it costs.
    pub coins: Coins,
    /// Its picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_url: Option<String>,
    /// Its place in a streak.
    pub streak: Streak,
    /// Who gets it, when that is not the creator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<Person>,
}

/// The price of a gift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Coins {
    /// For one item.
    pub unit: u64,
    /// `unit` × `giftCount`.
    pub total: u64,
}

/// The place of a gift message in its streak.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Streak {
    /// Names the streak: sender, gift and TikTok's group id.
    pub id: String,
    /// Whether more is to come.
    pub state: StreakState,
    /// `true` when the end did not come and a time-out concluded it.
    pub inferred: bool,
}

/// How far a streak is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StreakState {
    /// More may come; counts for nothing yet.
    Progress,
    /// The streak is over; counts.
    Final,
    /// A gift that cannot streak; counts.
    Single,
}

/// `LIKE`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Like {
    /// TikTok's method name.
    pub raw_type: String,
    /// Likes in this batch.
    pub count: u64,
    /// Likes of the room, as this message says; upstream it jumps back and forth.
    pub total: u64,
}

/// `JOIN`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Join {
    /// TikTok's method name.
    pub raw_type: String,
    /// Viewers at that moment.
    pub member_count: u64,
    /// TikTok's number of what happened: 1 joined, 3 subscribed; others are moderation.
    pub action: i64,
}

/// `FOLLOW`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Follow {
    /// TikTok's method name.
    pub raw_type: String,
    /// The key by which TikTok chooses the text it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_type: Option<String>,
    /// Followers of the creator after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow_count: Option<u64>,
}

/// `SHARE`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// TikTok's method name.
    pub raw_type: String,
    /// The key by which TikTok chooses the text it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_type: Option<String>,
    /// Shares of the room after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_count: Option<u64>,
    /// Where to: `-1` or TikTok's number of a platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_target: Option<String>,
}

/// `SUBSCRIBE`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subscribe {
    /// TikTok's method name.
    pub raw_type: String,
    /// The key by which TikTok chooses the text it shows (from social messages).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_type: Option<String>,
    /// Months in total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub months: Option<u64>,
    /// How it renews.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<SubscriptionKind>,
    /// Whether it is the account's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<bool>,
}

/// How a subscription renews.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SubscriptionKind {
    /// Bought once.
    Once,
    /// Renews by itself.
    AutoRenew,
    /// TikTok says neither.
    Other,
}

/// `EMOTE`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmoteChat {
    /// TikTok's method name.
    pub raw_type: String,
    /// The emotes, in order.
    pub emotes: Vec<Emote>,
}

/// `BATTLE`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Battle {
    /// TikTok's method name.
    pub raw_type: String,
    /// Which of the three messages it is.
    pub kind: BattleKind,
    /// Names the battle; left out for a barrage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub battle_id: Option<String>,
    /// What happened in the battle; left out for a barrage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<BattleStatus>,
    /// The sides with their scores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sides: Vec<BattleSide>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// How long it lasts, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<u64>,
    /// Which banner, for a barrage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub banner: Option<Banner>,
}

/// Which message a `BATTLE` event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BattleKind {
    /// `WebcastLinkMicBattle`: begin and end.
    Battle,
    /// `WebcastLinkMicArmies`: scores.
    Armies,
    /// `WebcastBarrageMessage`: a banner; it has nothing to do with battles.
    Barrage,
}

/// What happened in a battle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum BattleStatus {
    /// One creator asks another.
    Invited,
    /// The other said no.
    Rejected,
    /// Taken back before it began.
    Cancelled,
    /// The other said yes.
    Accepted,
    /// It begins.
    Started,
    /// The scores moved.
    Scores,
    /// It is over.
    Finished,
    /// It ended before its time.
    CutShort,
    /// TikTok sent a number that we do not know.
    Other,
}

/// One side of a battle: a creator and those who give for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BattleSide {
    /// The creator.
    #[serde(flatten)]
    pub host: Person,
    /// Points; left out where the message has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<u64>,
    /// How it ended for this side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<BattleResult>,
    /// The team, in team battles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<String>,
    /// Who gave, with their points.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contributors: Vec<Contributor>,
}

/// How a battle ended for a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BattleResult {
    /// Won.
    Win,
    /// Lost.
    Lose,
    /// Neither.
    Draw,
}

/// Somebody who gave for a side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Contributor {
    /// Who.
    #[serde(flatten)]
    pub person: Person,
    /// Points.
    pub score: u64,
}

/// A banner over the picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Banner {
    /// What it announces.
    pub kind: BannerKind,
    /// TikTok's number of the banner.
    pub number: i64,
    /// The key by which TikTok chooses the text it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_type: Option<String>,
    /// The text, with its places still named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The level reached or worn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u32>,
}

/// What a banner announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum BannerKind {
    /// Somebody became a super fan.
    SuperFanJoined,
    /// Another super fan notice.
    SuperFan,
    /// Somebody subscribed.
    Subscribed,
    /// Somebody gave subscriptions away.
    GiftedSubscription,
    /// A gifter reached a level.
    GifterLevelUp,
    /// A gifter of high level entered.
    GifterEntered,
    /// A fan-club member reached a level.
    FanLevelUp,
    /// A fan-club member entered.
    FanEntered,
    /// Shopping.
    Commerce,
    /// A scheduled event.
    Event,
    /// Something else; see `number` and `displayType`.
    Other,
}

/// `ROOM_USER`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoomUser {
    /// TikTok's method name.
    pub raw_type: String,
    /// Watching now.
    pub viewer_count: u64,
    /// Since the broadcast began.
    pub total_viewers: u64,
    /// Watching without an account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anonymous_viewers: Option<u64>,
    /// The leaders by coins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_viewers: Vec<TopViewer>,
}

/// A place in the ranking of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopViewer {
    /// Who; two thirds of the entries are an id and nothing else.
    #[serde(flatten)]
    pub person: Person,
    /// From 1.
    pub rank: u64,
    /// Coins given.
    pub coins: u64,
}

/// `STREAM_END`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamEnd {
    /// TikTok's method name.
    pub raw_type: String,
    /// TikTok's number: 3 ended by the creator, 4 ended by moderation.
    pub action: i64,
    /// The text that came with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// `CONNECTED`, `DISCONNECTED`, `ERROR`: the life of our connection to the room.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// `ControlEvent.` and the event type.
    pub raw_type: String,
    /// The creator's @name, as TikTok spells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_id: Option<String>,
    /// Who delivers: `direct` or `euler`.
    pub provider: String,
    /// How many attempts in a row this is, from 1.
    pub attempt: u32,
    /// A category, such as `start`, `reconnect`, `stream_end`, `closed`, `silent`, `sign_refused`.
    pub reason: String,
    /// The WebSocket close code, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close_code: Option<u16>,
    /// More about it, free of secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The title of the broadcast (`CONNECTED`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The creator's account number (`CONNECTED`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_id: Option<String>,
    /// The creator's shown name (`CONNECTED`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_nickname: Option<String>,
    /// When the broadcast began, as TikTok says (`CONNECTED`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
}

/// `RAW`: a message that has no event type of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Raw {
    /// TikTok's method name.
    pub raw_type: String,
    /// Its data untouched: base64 of the protobuf bytes, or the JSON object.
    pub raw: Value,
    /// Its typed content, where we can read the type: poll, goal, caption, question, pin, ….
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoded: Option<Value>,
}

/// The JSON Schema of a [`UnifiedEvent`], as committed under `docs/contracts/`.
pub fn json_schema() -> Value {
    crate::schema::of::<UnifiedEvent>("unified-event.v1")
}

#[cfg(test)]
mod tests;
