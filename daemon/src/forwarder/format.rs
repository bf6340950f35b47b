//! What a request carries: events of one room, in their order, in one of three forms.
//!
//! In: entries of `ttlc:events` and dead letters of ours, which have the same fields. Out: a body, its
//! type, and the key under which a receiver knows it again. The same items give the same body at each
//! attempt. An entry without a readable event is bad input, and becomes a dead letter.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use shared::event::{EventType, Payload, UnifiedEvent};
use shared::identity::EventId;
use shared::raw::Source;
use shared::streams::events;
use shared::time::Timestamp;
use uuid::Uuid;

use super::options::Format;

/// What of an event the forwarder looks at.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    pub(super) event_id: EventId,
    pub(super) event_type: EventType,
    pub(super) source: Source,
    pub(super) stream_id: String,
    pub(super) session_id: Uuid,
    pub(super) seq_no: u64,
    pub(super) timestamp: Timestamp,
    pub(super) ingested_at: Timestamp,
}

impl Head {
    /// Reads the event of an entry.
    pub(super) fn of(fields: &HashMap<String, String>) -> Result<Self, String> {
        let event = fields
            .get(events::EVENT)
            .ok_or_else(|| format!("the entry has no field {}", events::EVENT))?;
        serde_json::from_str(event).map_err(|error| format!("the event cannot be read: {error}"))
    }
}

/// The body of a request, and what it is sent with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) body: Bytes,
    pub(super) content_type: &'static str,
    /// The id of the event; of several a hash of their ids.
    pub(super) key: String,
}

/// Writes the events of `items`, at least one.
pub(super) fn message<'a>(
    format: Format,
    items: impl Iterator<Item = (&'a Head, &'a HashMap<String, String>)> + Clone,
) -> Message {
    let text =
        |fields: &'a HashMap<String, String>| fields.get(events::EVENT).map_or("", String::as_str);
    let (content_type, body) = match format {
        Format::Unified => {
            let first = items.clone().next().map_or("", |(_, fields)| text(fields));
            ("application/json", first.to_owned())
        }
        Format::Cloudevents => {
            let all: Vec<String> = items
                .clone()
                .map(|(head, fields)| cloud_event(head, text(fields)))
                .collect();
            (
                "application/cloudevents-batch+json; charset=utf-8",
                format!("[{}]", all.join(",")),
            )
        }
        Format::Euler => {
            let latest = items
                .clone()
                .map(|(head, _)| head.ingested_at.as_millis())
                .max()
                .unwrap_or(0);
            let all: Vec<Value> = items
                .clone()
                .map(|(head, fields)| euler(head, fields))
                .collect();
            (
                "application/json",
                json!({"timestamp": latest, "messages": all}).to_string(),
            )
        }
    };
    Message {
        body: body.into(),
        content_type,
        key: key(items.map(|(head, _)| head.event_id)),
    }
}

fn key(ids: impl Iterator<Item = EventId>) -> String {
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    match ids.as_slice() {
        [one] => one.clone(),
        several => hex::encode(Sha256::digest(several.join("\n"))),
    }
}

/// One `CloudEvent` 1.0 in the JSON format, with the extensions `partitionkey` and `sequence`. The
/// event stands in it as it is, not written anew.
fn cloud_event(head: &Head, event: &str) -> String {
    let attributes = json!({
        "specversion": "1.0",
        "id": head.event_id.to_string(),
        "source": format!("/tiktok/streams/{}", head.stream_id),
        "type": format!("ttlc.unified-event.v1.{}", head.event_type.as_str()),
        "time": head.timestamp,
        "datacontenttype": "application/json",
        "partitionkey": head.stream_id,
        "sequence": format!("{:016}", head.seq_no),
    })
    .to_string();
    // Up to its closing brace.
    format!("{},\"data\":{event}}}", &attributes[..attributes.len() - 1])
}

/// One message of Euler's envelope. `data` is the provider's JSON where that is what we received;
/// for TikTok's own protobuf it is made from the event, with `raw` (base64) as Euler adds it on
/// request, and the whole event as `unifiedEvent`.
fn euler(head: &Head, fields: &HashMap<String, String>) -> Value {
    let text = fields.get(events::EVENT).map_or("", String::as_str);
    let whole: Value = serde_json::from_str(text).unwrap_or_default();
    let raw_type = whole["payload"]["rawType"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let kind = match head.event_type {
        EventType::Connected => "tiktok.connect",
        EventType::Disconnected => "tiktok.disconnect",
        _ => &raw_type,
    };
    let raw = fields.get(events::RAW).map(String::as_str);
    let data = match raw.and_then(|raw| serde_json::from_str::<Map<String, Value>>(raw).ok()) {
        Some(json) if !json.is_empty() => Value::Object(json),
        _ => euler_data(head, &raw_type, whole, raw),
    };
    json!({"type": kind, "data": data})
}

fn euler_data(head: &Head, raw_type: &str, whole: Value, raw: Option<&str>) -> Value {
    let mut data = Map::new();
    data.insert(
        "common".to_owned(),
        json!({"method": raw_type, "roomId": head.stream_id, "createTime": head.timestamp.as_millis().to_string()}),
    );
    if let Some(user) = whole.get("user") {
        let mut known = Map::new();
        for (ours, theirs) in [
            ("userId", "userId"),
            ("username", "uniqueId"),
            ("displayName", "nickname"),
            ("secUid", "secUid"),
        ] {
            if let Some(value) = user.get(ours) {
                known.insert(theirs.to_owned(), value.clone());
            }
        }
        data.insert("user".to_owned(), Value::Object(known));
    }
    if let Ok(event) = serde_json::from_value::<UnifiedEvent>(whole.clone()) {
        let more = match event.payload {
            Payload::Chat(chat) => json!({"comment": chat.message, "content": chat.message}),
            Payload::Gift(gift) => json!({
                "giftId": gift.gift_id,
                "repeatCount": gift.gift_count,
                "repeatEnd": i32::from(gift.streak.state != shared::event::StreakState::Progress),
                "gift": {"id": gift.gift_id, "name": gift.gift_name, "diamondCount": gift.coins.unit},
            }),
            Payload::Like(like) => json!({"count": like.count, "total": like.total.to_string()}),
            Payload::Join(join) => json!({"memberCount": join.member_count, "action": join.action}),
            Payload::Follow(follow) => json!({"action": "1", "followCount": follow.follow_count}),
            Payload::Share(share) => json!({"action": "3", "shareCount": share.share_count}),
            Payload::RoomUser(users) => {
                json!({"total": users.viewer_count.to_string(), "totalUser": users.total_viewers.to_string()})
            }
            _ => Value::Null,
        };
        if let Value::Object(more) = more {
            data.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
        }
    }
    // What stands for the message of an event that no message causes has nothing to show.
    if let Some(raw) = raw.filter(|raw| *raw != "{}") {
        data.insert("raw".to_owned(), raw.into());
    }
    data.insert("unifiedEvent".to_owned(), whole);
    Value::Object(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(seq_no: u64, raw: &str) -> HashMap<String, String> {
        let event = json!({
            "schemaVersion": "unified-event.v1",
            "eventId": EventId::new("7301", seq_no, "WebcastChatMessage"),
            "eventType": "CHAT", "source": "live", "streamId": "7301",
            "sessionId": Uuid::from_u128(7), "seqNo": seq_no,
            "timestamp": "2026-11-22T15:04:05.678Z", "ingestedAt": "2026-11-22T15:04:05.912Z",
            "user": {"userId": "68", "username": "alice", "displayName": "Alice"},
            "payload": {"rawType": "WebcastChatMessage", "message": "hi \"you\""},
        });
        HashMap::from([
            ("event".to_owned(), event.to_string()),
            ("raw".to_owned(), raw.to_owned()),
        ])
    }

    fn written(format: Format, entries: &[HashMap<String, String>]) -> (Message, Value) {
        let heads: Vec<Head> = entries
            .iter()
            .map(|fields| Head::of(fields).unwrap())
            .collect();
        let message = message(format, heads.iter().zip(entries));
        let value = serde_json::from_slice(&message.body).unwrap();
        (message, value)
    }

    #[test]
    fn unified_is_the_event_as_it_is() {
        let entry = fields(12, "AA==");
        let (message, _) = written(Format::Unified, std::slice::from_ref(&entry));
        assert_eq!(message.body, entry["event"]);
        assert_eq!(
            message.key,
            EventId::new("7301", 12, "WebcastChatMessage").to_string()
        );
        assert_eq!(message.content_type, "application/json");
    }

    /// The required attributes and the rules of names and types of `CloudEvents` 1.0.
    #[test]
    fn cloud_events_keep_to_their_specification() {
        let entries = [fields(12, "AA=="), fields(13, "AA==")];
        let (message, value) = written(Format::Cloudevents, &entries);
        assert!(
            message
                .content_type
                .starts_with("application/cloudevents-batch+json")
        );
        let batch = value.as_array().unwrap();
        assert_eq!(batch.len(), 2);
        for (event, entry) in batch.iter().zip(&entries) {
            assert_eq!(event["specversion"], "1.0");
            for required in ["id", "source", "type"] {
                assert!(!event[required].as_str().unwrap().is_empty());
            }
            event["time"]
                .as_str()
                .unwrap()
                .parse::<jiff::Timestamp>()
                .unwrap();
            for name in event.as_object().unwrap().keys() {
                assert!(
                    name.len() <= 20
                        && name
                            .chars()
                            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
                );
            }
            assert_eq!(
                event["data"],
                serde_json::from_str::<Value>(&entry["event"]).unwrap()
            );
            assert_eq!(event["id"], event["data"]["eventId"]);
        }
        assert!(batch[0]["sequence"].as_str() < batch[1]["sequence"].as_str());
    }

    #[test]
    fn euler_has_the_providers_json_where_there_is_some() {
        let entries = [fields(12, r#"{"comment":"theirs"}"#), fields(13, "AAEC")];
        let (_, value) = written(Format::Euler, &entries);
        assert_eq!(value["timestamp"], 1_795_359_845_912_i64);
        let messages = &value["messages"];
        assert_eq!(
            messages[0],
            json!({"type": "WebcastChatMessage", "data": {"comment": "theirs"}})
        );
        let data = &messages[1]["data"];
        assert_eq!(data["comment"], "hi \"you\"");
        assert_eq!(data["user"]["uniqueId"], "alice");
        assert_eq!(data["raw"], "AAEC");
        assert_eq!(data["common"]["roomId"], "7301");
        assert_eq!(data["unifiedEvent"]["seqNo"], 13);
    }

    #[test]
    fn a_batch_is_known_by_all_its_events() {
        let (one, two, three) = (fields(1, ""), fields(2, ""), fields(3, ""));
        let key = |entries: &[HashMap<String, String>]| written(Format::Cloudevents, entries).0.key;
        let pair = key(&[one.clone(), two.clone()]);
        assert_eq!(pair.len(), 64);
        assert_eq!(pair, key(&[one.clone(), two.clone()]));
        assert_ne!(pair, key(&[two, one.clone()]));
        assert_ne!(pair, key(&[one, three]));
    }

    #[test]
    fn an_entry_without_a_readable_event_is_told() {
        assert!(Head::of(&HashMap::new()).is_err());
        let wrong = HashMap::from([("event".to_owned(), "{}".to_owned())]);
        assert!(Head::of(&wrong).unwrap_err().contains("eventId"));
    }
}
