//! What each type of event carries: the shape of `payload`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Person;
use crate::time::Timestamp;

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
    /// Likes of the room: the highest total so far, since upstream it jumps back and forth.
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
    /// `true` when it was given away, not bought for oneself. TikTok does not say in a field
    /// whether the event's user gave or got it: `text` does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gifted: bool,
    /// Who gave it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gifted_by: Option<SubscriptionGiver>,
    /// What the app shows for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Who gives subscriptions away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SubscriptionGiver {
    /// TikTok itself.
    Platform,
    /// A viewer.
    Viewer,
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
