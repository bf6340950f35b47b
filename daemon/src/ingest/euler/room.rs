//! `roomInfo`: the room that a socket shows.
//!
//! In: the `data` of the message. Out: the room, or that there is no broadcast. It is the only sure
//! source of the room's id: headers of older schemas have none, and others name other rooms (fact
//! sheet §2).

use serde_json::{Map, Value};
use shared::identity::is_stream_id;

use crate::ingest::direct::http::tame;
use crate::ingest::direct::room::{ENDED, PAUSED, filled, time};
use crate::ingest::provider::Room;
use crate::ingest::session::{field, integer};

/// What it says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    Live(Room),
    Offline,
}

/// Reads it; an error says what is missing.
pub(super) fn read(data: &Map<String, Value>) -> Result<News, String> {
    let object = |name| field(data, name).and_then(Value::as_object);
    let info = object("roomInfo").unwrap_or(data);
    let text = |object: Option<&Map<String, Value>>, names: &[&str]| {
        let object = object?;
        names
            .iter()
            .find_map(|name| field(object, name).and_then(filled))
    };
    let status = field(info, "status").and_then(integer);
    let live = field(info, "isLive").and_then(Value::as_bool);
    // A paused broadcast may not count as live, so the status has the last word.
    if status == Some(ENDED) || status.is_none() && live == Some(false) {
        return Ok(News::Offline);
    }
    let id = text(Some(info), &["id", "roomId", "idStr"]).unwrap_or_default();
    if !is_stream_id(&id) || id.bytes().all(|byte| byte == b'0') {
        return Err(format!("roomInfo with the room id {:?}", tame(&id)));
    }
    let user = object("user");
    Ok(News::Live(Room {
        id,
        unique_id: text(Some(data), &["uniqueId"]).or_else(|| text(user, &["uniqueId"])),
        owner_id: text(user, &["numericUid", "userId", "id"]),
        owner_nickname: text(user, &["nickname"]),
        title: text(Some(info), &["title"]),
        started_at: field(info, "startTime").and_then(time),
        paused: status == Some(PAUSED),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn news(data: &Value) -> Result<News, String> {
        read(data.as_object().unwrap())
    }

    #[test]
    fn a_room_is_read_with_all_that_is_told() {
        let Ok(News::Live(room)) = news(&json!({
            "uniqueId": "ada.live",
            "roomInfo": {"id": "7164879801181075400", "isLive": true, "title": " Quiz ", "startTime": 1_763_800_000, "status": 2},
            "user": {"uniqueId": "ada.live", "nickname": "Ada", "numericUid": "6900000000001000003"},
        })) else {
            panic!("no room")
        };
        assert_eq!(room.id, "7164879801181075400");
        assert_eq!(room.unique_id.as_deref(), Some("ada.live"));
        assert_eq!(room.owner_id.as_deref(), Some("6900000000001000003"));
        assert_eq!(room.owner_nickname.as_deref(), Some("Ada"));
        assert_eq!(room.title.as_deref(), Some("Quiz"));
        assert_eq!(room.started_at.unwrap().as_millis(), 1_763_800_000_000);
        assert!(!room.paused);
    }

    #[test]
    fn a_number_is_an_id_too_and_what_is_absent_is_absent() {
        let Ok(News::Live(room)) =
            news(&json!({"roomInfo": {"id": 7_164_879_801_181_075_401_i64, "isLive": true}}))
        else {
            panic!("no room")
        };
        let bare = Room {
            id: "7164879801181075401".to_owned(),
            ..Room::default()
        };
        assert_eq!(room, bare);
    }

    #[test]
    fn paused_is_live_and_ended_is_not() {
        let with = |status: Value, live: Value| {
            news(&json!({"roomInfo": {"id": "7", "status": status, "isLive": live}}))
        };
        assert!(matches!(with(3.into(), false.into()), Ok(News::Live(room)) if room.paused));
        assert!(matches!(with(2.into(), true.into()), Ok(News::Live(_))));
        assert!(matches!(with("2".into(), Value::Null), Ok(News::Live(_))));
        assert_eq!(with(4.into(), true.into()), Ok(News::Offline));
        assert_eq!(with(Value::Null, false.into()), Ok(News::Offline));
    }

    #[test]
    fn without_a_sure_id_there_is_no_room() {
        for data in [
            json!({}),
            json!({"roomInfo": {}}),
            json!({"roomInfo": {"id": "0"}}),
            json!({"roomInfo": {"id": "../7"}}),
            json!({"roomInfo": {"id": 7.5e18}}),
            json!({"roomInfo": {"id": null, "title": "x"}}),
        ] {
            assert!(news(&data).is_err(), "{data}");
        }
    }
}
