//! One entry of the events stream as a row of `events`, with what the other tables need of it.
//!
//! Only these fields are read from the JSON: the normalizer has validated the event, and reading
//! it whole again would cost more than storing it. Bad input: a [`Rejection`] that says what is
//! wrong; the entry goes to the dead letters.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use shared::event::{EventType, StreakState};
use shared::identity::{EventId, MAX_SEQ_NO};
use shared::raw::{Source, control};
use shared::replay::State;
use shared::streams::events;
use shared::time::Timestamp;
use uuid::Uuid;

use super::check::check;
use super::gaps::Gap;
use crate::bus::Entry;
use crate::erasure::{NO_RAW, REASON};

/// Why an entry is no row.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    /// A field of the contract is not there.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// `event` is not a UnifiedEvent.
    #[error("field `event` is wrong: {0}")]
    Event(serde_json::Error),
    /// `raw` is neither JSON nor base64.
    #[error("field `raw` is wrong: {0}")]
    Raw(base64::DecodeError),
    /// The raw data of a `ControlEvent.GAP` is not what it has to be.
    #[error("the gap is wrong: {0}")]
    Gap(serde_json::Error),
    /// The sequence number is out of range.
    #[error("seqNo {0} is above 2^53 - 1")]
    SeqNo(u64),
}

/// One row of `events`, borrowing the entry it comes from.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) event_id: EventId,
    /// The UTC day of `ingested_at`.
    pub(super) part_day: Date,
    pub(super) stream_id: Cow<'a, str>,
    pub(super) session_id: Uuid,
    pub(super) seq_no: i64,
    pub(super) event_type: Cow<'a, str>,
    pub(super) source: Source,
    pub(super) replay_of: Option<Uuid>,
    pub(super) occurred_at: jiff::Timestamp,
    pub(super) ingested_at: jiff::Timestamp,
    /// When a replay showed it: when the normalizer made it.
    pub(super) shown_at: jiff::Timestamp,
    pub(super) user: Option<Profile<'a>>,
    /// What only lifecycle events and the end of a broadcast have.
    pub(super) turn: Option<Turn>,
    /// What it adds to the statistics.
    pub(super) amounts: Amounts,
    /// What ingest tells to be lost.
    pub(super) gap: Option<Gap>,
    /// How a replay has ended: the last event of its showing says so.
    pub(super) replay_end: Option<&'static str>,
    /// The UnifiedEvent as JSON.
    pub(super) event: &'a str,
    /// `None` when it held something of a viewer who was erased.
    pub(super) raw: Option<Cow<'a, [u8]>>,
    pub(super) raw_format: &'static str,
    pub(super) raw_hash: [u8; 32],
}

/// Who did it. Empty texts are none.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Profile<'a> {
    #[serde(borrow)]
    pub(super) user_id: Cow<'a, str>,
    #[serde(default, borrow)]
    pub(super) username: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) display_name: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    pub(super) avatar_url: Option<Cow<'a, str>>,
}

/// An amount of one event above it counts as this much, so that no message can overflow a sum.
const MAX_AMOUNT: u64 = 1_000_000_000_000;

/// What an event adds to the statistics, beside being one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    /// Of a gift that counts: the last of its streak, and only that one.
    pub(super) coins: i64,
    /// Items of a gift that counts.
    pub(super) gifts: i64,
    /// Of this batch of likes.
    pub(super) likes: i64,
    /// How many are watching.
    pub(super) viewers: Option<i64>,
}

/// An event that turns the state of a room or a session.
#[derive(Debug)]
pub(super) enum Turn {
    /// We are connected.
    Connected(Connection),
    /// We no longer are, or could not be.
    Disconnected(Connection),
    /// The broadcast is over.
    Ended {
        /// TikTok's number: 3 by the creator, 4 by moderation.
        action: i64,
    },
}

/// The payload of a lifecycle event.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Connection {
    pub(super) unique_id: Option<String>,
    pub(super) provider: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) close_code: Option<i32>,
    pub(super) title: Option<String>,
    pub(super) owner_id: Option<String>,
    pub(super) owner_nickname: Option<String>,
    pub(super) started_at: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header<'a> {
    event_id: EventId,
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    source: Source,
    #[serde(borrow)]
    stream_id: Cow<'a, str>,
    session_id: Uuid,
    seq_no: u64,
    timestamp: Timestamp,
    ingested_at: Timestamp,
    #[serde(default)]
    replay_of: Option<Uuid>,
    #[serde(default, borrow)]
    user: Option<Profile<'a>>,
}

#[derive(Deserialize)]
struct WithPayload<T> {
    payload: T,
}

#[derive(Deserialize)]
struct End {
    action: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    gift_count: u64,
    coins: Coins,
    streak: Streak,
}

#[derive(Deserialize)]
struct Coins {
    total: u64,
}

#[derive(Deserialize)]
struct Streak {
    state: StreakState,
}

#[derive(Deserialize)]
struct Like {
    count: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RoomUser {
    viewer_count: u64,
}

impl<'a> Row<'a> {
    /// Reads an entry. `now` stands in for `normalizedAt`, which is optional.
    pub(super) fn read(entry: &'a Entry, now: jiff::Timestamp) -> Result<Self, Rejection> {
        let event = entry
            .get(events::EVENT)
            .ok_or(Rejection::Missing(events::EVENT))?;
        let raw_text = entry
            .get(events::RAW)
            .ok_or(Rejection::Missing(events::RAW))?;
        check(event).map_err(Rejection::Event)?;
        let header: Header<'a> = serde_json::from_str(event).map_err(Rejection::Event)?;

        // As in the envelope: base64 has no brace.
        let (raw, raw_format) = if raw_text.starts_with('{') {
            (Cow::Borrowed(raw_text.as_bytes()), "json")
        } else {
            (
                Cow::Owned(STANDARD.decode(raw_text).map_err(Rejection::Raw)?),
                "protobuf",
            )
        };
        let ingested_at = header.ingested_at.to_jiff();
        Ok(Self {
            event_id: header.event_id,
            part_day: ingested_at.to_zoned(TimeZone::UTC).date(),
            stream_id: header.stream_id,
            session_id: header.session_id,
            seq_no: i64::try_from(header.seq_no)
                .ok()
                .filter(|_| header.seq_no <= MAX_SEQ_NO)
                .ok_or(Rejection::SeqNo(header.seq_no))?,
            source: header.source,
            replay_of: header.replay_of,
            occurred_at: header.timestamp.to_jiff(),
            ingested_at,
            shown_at: entry
                .get(events::NORMALIZED_AT)
                .and_then(|text| text.parse::<Timestamp>().ok())
                .map_or(now, Timestamp::to_jiff),
            user: header
                .user
                .filter(|user| !user.user_id.is_empty())
                .map(Profile::without_empty),
            turn: turn(&header.event_type, event).map_err(Rejection::Event)?,
            amounts: amounts(&header.event_type, event).map_err(Rejection::Event)?,
            gap: gap(&header.event_type, event, &raw).map_err(Rejection::Gap)?,
            replay_end: match header.source {
                Source::Live => None,
                Source::Replay => {
                    replay_end(&header.event_type, event).map_err(Rejection::Event)?
                }
            },
            event_type: header.event_type,
            event,
            raw_hash: Sha256::digest(&raw).into(),
            raw: (raw_text != NO_RAW).then_some(raw),
            raw_format,
        })
    }

    /// Roughly how many bytes it takes on the way to Postgres.
    pub(super) fn size(&self) -> usize {
        self.event.len() + self.raw.as_ref().map_or(0, |raw| raw.len()) + 300
    }

    /// Whether it stands for a message of a viewer who was erased: then it is a gap and no event.
    pub(super) fn is_erased(&self) -> bool {
        self.source == Source::Live
            && self.gap.as_ref().is_some_and(|gap| {
                gap.reason == REASON && (gap.from, gap.to) == (self.seq_no, self.seq_no)
            })
    }
}

impl Profile<'_> {
    fn without_empty(mut self) -> Self {
        for text in [
            &mut self.username,
            &mut self.display_name,
            &mut self.avatar_url,
        ] {
            *text = text.take().filter(|text| !text.is_empty());
        }
        self
    }
}

fn turn(event_type: &str, event: &str) -> Result<Option<Turn>, serde_json::Error> {
    let connection = || -> Result<Connection, serde_json::Error> {
        let mut connection = serde_json::from_str::<WithPayload<Connection>>(event)?.payload;
        for text in [
            &mut connection.unique_id,
            &mut connection.provider,
            &mut connection.reason,
            &mut connection.title,
            &mut connection.owner_id,
            &mut connection.owner_nickname,
        ] {
            *text = text.take().filter(|text| !text.is_empty());
        }
        Ok(connection)
    };
    Ok(match EventType::from_name(event_type) {
        Some(EventType::Connected) => Some(Turn::Connected(connection()?)),
        Some(EventType::Disconnected | EventType::Error) => Some(Turn::Disconnected(connection()?)),
        Some(EventType::StreamEnd) => Some(Turn::Ended {
            action: serde_json::from_str::<WithPayload<End>>(event)?
                .payload
                .action,
        }),
        _ => None,
    })
}

/// The raw type of an event that has none of ours.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind<'a> {
    #[serde(borrow)]
    raw_type: Cow<'a, str>,
}

/// Whether an event is `RAW` and of this raw type.
fn is_raw(event_type: &str, event: &str, kind: &str) -> Result<bool, serde_json::Error> {
    // Few events are RAW, fewer mention it, and only one of these is it.
    if EventType::from_name(event_type) != Some(EventType::Raw) || !event.contains(kind) {
        return Ok(false);
    }
    let payload = serde_json::from_str::<WithPayload<Kind<'_>>>(event)?.payload;
    Ok(payload.raw_type == kind)
}

fn gap(event_type: &str, event: &str, raw: &[u8]) -> Result<Option<Gap>, serde_json::Error> {
    is_raw(event_type, event, control::GAP)?
        .then(|| Gap::read(raw))
        .transpose()
}

fn replay_end(event_type: &str, event: &str) -> Result<Option<&'static str>, serde_json::Error> {
    #[derive(Deserialize)]
    struct End {
        raw: Told,
    }
    #[derive(Deserialize)]
    struct Told {
        state: State,
    }
    if !is_raw(event_type, event, control::REPLAY_END)? {
        return Ok(None);
    }
    let end = serde_json::from_str::<WithPayload<End>>(event)?.payload;
    Ok(Some(end.raw.state.as_str()))
}

fn amounts(event_type: &str, event: &str) -> Result<Amounts, serde_json::Error> {
    // Fits after the limit: the fallback is never taken.
    let limited = |amount: u64| i64::try_from(amount.min(MAX_AMOUNT)).unwrap_or(0);
    let mut amounts = Amounts::default();
    match EventType::from_name(event_type) {
        Some(EventType::Gift) => {
            let gift = serde_json::from_str::<WithPayload<Given>>(event)?.payload;
            // Steps of a streak, and an end that comes after its time-out, are progress.
            if gift.streak.state != StreakState::Progress {
                amounts.coins = limited(gift.coins.total);
                amounts.gifts = limited(gift.gift_count);
            }
        }
        Some(EventType::Like) => {
            let like = serde_json::from_str::<WithPayload<Like>>(event)?.payload;
            amounts.likes = limited(like.count);
        }
        Some(EventType::RoomUser) => {
            let room = serde_json::from_str::<WithPayload<RoomUser>>(event)?.payload;
            amounts.viewers = Some(limited(room.viewer_count));
        }
        _ => {}
    }
    Ok(amounts)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entry(event: &Value, raw: &str) -> Entry {
        let fields = [
            ("event", event.to_string()),
            ("raw", raw.to_owned()),
            ("normalizedAt", "2026-11-22T23:59:59.999Z".to_owned()),
        ];
        Entry {
            id: "1-0".into(),
            fields: fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            deliveries: 0,
        }
    }

    fn event() -> Value {
        json!({
            "schemaVersion": "unified-event.v1",
            "eventId": EventId::new("7301234567890123456", 5, "WebcastChatMessage").to_string(),
            "eventType": "CHAT", "source": "live",
            "streamId": "7301234567890123456", "sessionId": Uuid::from_u128(7), "seqNo": 5,
            "timestamp": "2026-11-22T23:59:58.000Z", "ingestedAt": "2026-11-23T00:00:00.000Z",
            "user": {"userId": "12", "username": "ann\u{e9}\"", "displayName": "", "roles": {}},
            "payload": {"rawType": "WebcastChatMessage", "message": "hi"}
        })
    }

    #[test]
    fn an_entry_is_read() {
        let entry = entry(&event(), "AAEC");
        let row = Row::read(&entry, jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(
            row.part_day,
            jiff::civil::date(2026, 11, 23),
            "the day of reception"
        );
        assert_eq!(row.shown_at.to_string(), "2026-11-22T23:59:59.999Z");
        assert_eq!(
            (row.raw.as_deref().unwrap(), row.raw_format),
            ([0, 1, 2].as_slice(), "protobuf")
        );
        let user = row.user.unwrap();
        assert_eq!(user.username.as_deref(), Some("ann\u{e9}\""));
        assert_eq!(user.display_name, None, "empty is none");
        assert!(row.turn.is_none());
    }

    #[test]
    fn json_stays_as_it_is() {
        let entry = entry(&event(), "{\"b\": 1,  \"a\":2}");
        let row = Row::read(&entry, jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(
            (row.raw.as_deref().unwrap(), row.raw_format),
            (b"{\"b\": 1,  \"a\":2}".as_slice(), "json")
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let read = |entry: &Entry| {
            Row::read(entry, jiff::Timestamp::UNIX_EPOCH)
                .unwrap_err()
                .to_string()
        };
        for field in ["event", "raw"] {
            let mut entry = entry(&event(), "AAEC");
            entry.fields.remove(field);
            assert_eq!(read(&entry), format!("field `{field}` is missing"));
        }
        assert!(read(&entry(&event(), "not base64!")).starts_with("field `raw` is wrong"));
        for (field, wrong) in [
            ("eventId", json!("9f2c")),
            ("source", json!("tape")),
            ("sessionId", json!(7)),
            ("seqNo", json!(-1)),
            ("ingestedAt", json!("today")),
        ] {
            let mut event = event();
            event[field] = wrong;
            assert!(
                read(&entry(&event, "AAEC")).starts_with("field `event` is wrong"),
                "{field}"
            );
            event.as_object_mut().unwrap().remove(field);
            assert!(read(&entry(&event, "AAEC")).contains(field), "{field}");
        }
        let mut event = event();
        event["seqNo"] = json!(MAX_SEQ_NO + 1);
        assert_eq!(
            read(&entry(&event, "AAEC")),
            "seqNo 9007199254740992 is above 2^53 - 1"
        );
    }

    #[test]
    fn the_end_of_a_broadcast_and_lifecycle_events_turn_it() {
        let mut event = event();
        event["eventType"] = json!("STREAM_END");
        event["payload"] = json!({"rawType": "WebcastControlMessage", "action": 4});
        let end = entry(&event, "AAEC");
        let row = Row::read(&end, jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert!(matches!(row.turn, Some(Turn::Ended { action: 4 })));

        event["eventType"] = json!("CONNECTED");
        event["payload"] = json!({"rawType": "ControlEvent.CONNECTED", "uniqueId": "ann", "provider": "direct",
            "attempt": 1, "reason": "start", "title": "", "startedAt": "2026-11-22T23:00:00.000Z"});
        let connected = entry(&event, "{}");
        let row = Row::read(&connected, jiff::Timestamp::UNIX_EPOCH).unwrap();
        let Some(Turn::Connected(connection)) = row.turn else {
            panic!("{:?}", row.turn)
        };
        assert_eq!(connection.unique_id.as_deref(), Some("ann"));
        assert_eq!(connection.title, None, "empty is none");
    }

    #[test]
    fn only_the_last_gift_of_a_streak_counts() {
        let amounts_of = |event_type: &str, payload: Value| {
            let mut event = event();
            event["eventType"] = json!(event_type);
            event["payload"] = payload;
            let entry = entry(&event, "AAEC");
            Row::read(&entry, jiff::Timestamp::UNIX_EPOCH).map(|row| row.amounts)
        };
        let gift = |state: &str| {
            json!({"rawType": "WebcastGiftMessage", "giftId": "5655", "giftCount": 7,
                "coins": {"unit": 10, "total": 70}, "streak": {"id": "s", "state": state, "inferred": false}})
        };
        assert_eq!(
            amounts_of("GIFT", gift("progress")).unwrap(),
            Amounts::default()
        );
        for state in ["final", "single"] {
            let amounts = amounts_of("GIFT", gift(state)).unwrap();
            assert_eq!((amounts.coins, amounts.gifts), (70, 7), "{state}");
        }
        let likes = amounts_of("LIKE", json!({"count": 15, "total": 1})).unwrap();
        assert_eq!(likes.likes, 15);
        let room = amounts_of(
            "ROOM_USER",
            json!({"viewerCount": u64::MAX, "totalViewers": 1}),
        );
        assert_eq!(room.unwrap().viewers, Some(1_000_000_000_000), "limited");
        assert_eq!(
            amounts_of("CHAT", json!({"count": 3})).unwrap(),
            Amounts::default()
        );
        let broken = amounts_of("GIFT", json!({"rawType": "WebcastGiftMessage"})).unwrap_err();
        assert!(broken.to_string().contains("giftCount"), "{broken}");
    }
}
