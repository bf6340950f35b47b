//! UnifiedEvent v1: the one form in which everything that happens in a room is stored, relayed
//! and shown. `docs/contracts/unified-event.v1.schema.json` is generated from these types.
//!
//! Rules of the form: additive changes only; camel case; absent fields are left out, never
//! `null`; every upstream id is a string, since it exceeds 2^53; `seqNo` is a number.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

mod payload;

pub use payload::*;

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
    /// The name of the creator's fan club, where the account is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_name: Option<String>,
    /// Account and creator follow each other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub friend: bool,
    /// May not write in the chat at the moment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub muted: bool,
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

/// The JSON Schema of a [`UnifiedEvent`], as committed under `docs/contracts/`.
pub fn json_schema() -> Value {
    crate::schema::of::<UnifiedEvent>("unified-event.v1")
}

#[cfg(test)]
mod tests;
