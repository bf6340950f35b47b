//! TikTok's web side: the live page of a creator and the room APIs.
//!
//! In: a name or a room id. Out: what TikTok answers for somebody who is live, offline, unknown,
//! or hidden behind a captcha. Requests that a browser would not send like that are noted as
//! violations and answered all the same.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{
    Stage,
    request::{Query, check_web},
    room::{Broadcast, Room},
    script::Show,
};

const LIVE: u8 = 2;
const PAUSED: u8 = 3;
const ENDED: u8 = 4;

/// `GET /@{name}/live`: the page, with its state as JSON inside.
pub(crate) async fn live_page(
    State(stage): State<Arc<Stage>>,
    Path(handle): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Some(name) = handle.strip_prefix('@') else {
        return StatusCode::NOT_FOUND.into_response();
    };
    stage.ledger.count(|counts| counts.lookups += 1);
    check_web(&stage, name, &uri, &headers);
    let Some(room) = stage.room(name) else {
        return page(&json!({ "UserPage": { "statusCode": 10202 } }));
    };
    if captcha(&room) {
        return Html("<!doctype html><title>Verify to continue</title><div id=captcha></div>")
            .into_response();
    }
    let (user, live_room) = describe(&room);
    page(&json!({
        "LiveRoom": {
            "loadingState": { "getRecommendLive": 0, "getUserInfo": 0, "getUserStat": 0 },
            "needLogin": matches!(room.show, Show::LoginWanted(_)),
            "liveRoomStatus": 0,
            "liveRoomUserInfo": {
                "user": user,
                "stats": { "followerCount": 1234, "followingCount": 12 },
                "liveRoom": live_room,
            },
        },
    }))
}

/// `GET /api-live/user/room/`: the same by API.
pub(crate) async fn user_room(
    State(stage): State<Arc<Stage>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let query = Query::of(&uri);
    let Some(name) = query.get("uniqueId").filter(|name| !name.is_empty()) else {
        return Json(json!({ "statusCode": 10201, "message": "params_error", "data": null }))
            .into_response();
    };
    stage.ledger.count(|counts| counts.lookups += 1);
    check_web(&stage, name, &uri, &headers);
    if query.get("sourceType") != Some("54") {
        stage
            .ledger
            .violation("web", name, "/api-live/user/room/: sourceType is not 54");
    }
    let Some(room) = stage.room(name) else {
        return Json(json!({
            "statusCode": 19_881_007, "message": "user_not_found", "data": null,
        }))
        .into_response();
    };
    if captcha(&room) {
        return StatusCode::OK.into_response();
    }
    let (user, live_room) = describe(&room);
    Json(json!({
        "statusCode": 0,
        "message": "",
        "data": {
            "user": user,
            "stats": { "followerCount": 1234, "followingCount": 12 },
            "liveRoom": live_room,
        },
    }))
    .into_response()
}

/// `GET /webcast/room/info/`: by room id, of running and past broadcasts.
pub(crate) async fn room_info(
    State(stage): State<Arc<Stage>>,
    uri: Uri,
    headers: HeaderMap,
) -> Json<Value> {
    let query = Query::of(&uri);
    let id = query.get("room_id").unwrap_or_default().to_owned();
    stage.ledger.count(|counts| counts.lookups += 1);
    check_web(&stage, &id, &uri, &headers);
    let Some(room) = stage.room_by_id(&id) else {
        return Json(json!({
            "status_code": 4_003_003, "data": { "message": "room not found", "prompts": "" },
        }));
    };
    let live = room.live();
    // What a visitor without a session gets.
    let closed = match room.show {
        Show::AgeRestricted(_) => Some((4_003_110, "this room is restricted by age")),
        Show::LoginWanted(_) => Some((20_003, "log in first")),
        _ => None,
    };
    if let Some((code, prompts)) = closed {
        return Json(json!({
            "status_code": code, "data": { "message": prompts, "prompts": prompts },
        }));
    }
    Json(json!({
        "status_code": 0,
        "data": {
            "id_str": id,
            "status": status(live.as_ref()),
            "title": live.as_ref().map_or("", |live| &live.title),
            "create_time": live.as_ref().map_or(0, |live| live.started),
            "owner": {
                "id_str": room.owner_id.to_string(),
                "display_id": room.name,
                "nickname": nickname(&room),
            },
            "user_count": 17,
            "stats": { "total_user": 170, "like_count": 3 },
        },
    }))
}

/// `GET /webcast/room/check_alive/`: several rooms at once.
pub(crate) async fn check_alive(
    State(stage): State<Arc<Stage>>,
    uri: Uri,
    headers: HeaderMap,
) -> Json<Value> {
    let query = Query::of(&uri);
    stage.ledger.count(|counts| counts.lookups += 1);
    check_web(&stage, "", &uri, &headers);
    let ids = query.get("room_ids").unwrap_or_default();
    let data: Vec<_> = ids
        .split(',')
        .filter(|id| !id.is_empty())
        .map(|id| {
            let alive = stage
                .room_by_id(id)
                .and_then(|room| room.live())
                .is_some_and(|live| live.room_id.to_string() == id);
            json!({ "alive": alive, "room_id_str": id })
        })
        .collect();
    Json(json!({ "status_code": 0, "data": data }))
}

fn status(live: Option<&Broadcast>) -> u8 {
    match live {
        None => ENDED,
        Some(live) if live.paused => PAUSED,
        Some(_) => LIVE,
    }
}

fn captcha(room: &Room) -> bool {
    matches!(room.show, Show::Captcha) || room.captcha_due()
}

fn nickname(room: &Room) -> String {
    format!("{} (stand-in)", room.name)
}

/// `user` and `liveRoom`, the same in the page and in the API.
fn describe(room: &Room) -> (Value, Value) {
    let live = room.live();
    let status = status(live.as_ref());
    let room_id = room
        .shown_room()
        .map(|id| id.to_string())
        .unwrap_or_default();
    let user = json!({
        "id": room.owner_id.to_string(),
        "uniqueId": room.name,
        "nickname": nickname(room),
        "avatarLarger": "",
        "roomId": room_id,
        "status": status,
    });
    let live_room = json!({
        "status": status,
        "title": live.as_ref().map_or("", |live| &live.title),
        "startTime": live.as_ref().map_or(0, |live| live.started),
        "liveRoomStats": { "userCount": 17, "enterCount": 170 },
    });
    (user, live_room)
}

fn page(state: &Value) -> Response {
    let html = format!(
        "<!doctype html><html><head><title>TikTok LIVE (stand-in)</title></head><body>\
         <script id=\"SIGI_STATE\" type=\"application/json\">{state}</script></body></html>"
    );
    // The page hands out a `ttwid` of its own; the one of the signing answer has to replace it.
    let cookie = HeaderValue::from_static("ttwid=from-the-page; Path=/; HttpOnly");
    ([(header::SET_COOKIE, cookie)], Html(html)).into_response()
}
