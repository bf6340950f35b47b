//! The signing endpoint: turns a room id into an address that is good for one WebSocket.
//!
//! In: `GET /webcast/rooms/{room_id}/connect` (or the older `/webcast/fetch?room_id=`). Out: a
//! bare fetch result with the address of our own socket, what goes into it, and the room's recent
//! messages as history; in the headers the cookie for the socket. Refusals as the script says.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use prost::Message;
use serde_json::json;

use crate::{
    Stage,
    euler::rest::{Level, admit},
    fault::{Refusal, RetryAfter},
    fresh,
    request::{Query, text},
    room::Room,
    trouble,
    wire::FetchResult,
};

/// What was signed: an address that may be used once, soon.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    pub(crate) room: Arc<Room>,
    pub(crate) room_id: i64,
    pub(crate) cursor: String,
    pub(crate) cookie: String,
    pub(crate) route_params: BTreeMap<String, String>,
    pub(crate) at: Instant,
    pub(crate) used: bool,
}

/// The path of our own socket, the same as TikTok's.
pub(crate) const SOCKET_PATH: &str = "/webcast/im/ws_proxy/ws_reuse_supplement/";

/// `GET /webcast/rooms/{room_id}/connect`
pub(crate) async fn connect(
    State(stage): State<Arc<Stage>>,
    Path(room_id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    sign(&stage, &room_id, &uri, &headers)
}

/// `GET /webcast/fetch?room_id=`
pub(crate) async fn fetch(
    State(stage): State<Arc<Stage>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let room_id = Query::of(&uri)
        .get("room_id")
        .unwrap_or_default()
        .to_owned();
    sign(&stage, &room_id, &uri, &headers)
}

fn sign(stage: &Stage, room_id: &str, uri: &Uri, headers: &HeaderMap) -> Response {
    stage.ledger.count(|counts| counts.signs += 1);
    check(stage, room_id, uri, headers);
    if let Err(refusal) = admit(stage, Level::Anybody, uri, headers) {
        return refuse(stage, *refusal);
    }
    let running = stage
        .room_by_id(room_id)
        .and_then(|room| room.live().map(|live| (room, live)));
    let Some((room, live)) = running.filter(|(_, live)| live.room_id.to_string() == room_id) else {
        let body = json!({ "code": 404, "message": "room not found or not live" });
        return refuse(stage, (StatusCode::NOT_FOUND, Json(body)).into_response());
    };
    stage.ledger.record_sign(&room.name);
    let refusal = room.refusal_due();
    if let Some(Refusal::Status {
        status,
        retry_after,
    }) = refusal
    {
        let retry_after = retry_after.map(RetryAfter::Seconds);
        return refuse(stage, trouble::refuse(status, retry_after, None, None));
    }

    let now = fresh::now_ms();
    let ticket = fresh::id();
    let cursor = format!("t-{now}_r-1_d-1_u-1_h-1");
    // Holds what has to be percent-encoded: `|` and `:`.
    let internal_ext = format!(
        "internal_src:dim|wss_push_room_id:{room_id}|wss_push_did:{}|first_req_ms:{now}|\
         fetch_time:{now}|seq:1|wss_info:0-{now}-0-0|wrds_v:{ticket}",
        fresh::id(),
    );
    let cookie = format!("1%7Cstand-in-{ticket}");
    let route_params = BTreeMap::from([
        ("imprp".to_owned(), format!("+/=&{ticket}")),
        ("wrss".to_owned(), format!("fx-abc_DEF~{ticket}")),
        // Must not go into the address.
        ("empty".to_owned(), String::new()),
    ]);
    let history = room.history();
    stage
        .ledger
        .count(|counts| counts.history += history.len() as u64);
    // Whoever came by way of a proxy goes on through it.
    let authority = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or(&stage.authority);
    let result = FetchResult {
        messages: history,
        cursor: match refusal {
            Some(Refusal::MissingCursor) => String::new(),
            _ => cursor.clone(),
        },
        fetch_interval: 1000,
        now,
        internal_ext: internal_ext.clone(),
        route_params: route_params.clone(),
        heartbeat_duration: 10_000,
        // It does say so, and must not be acknowledged all the same.
        need_ack: true,
        push_server: format!("ws://{authority}{SOCKET_PATH}"),
        is_first: true,
        ..FetchResult::default()
    };
    let body = match refusal {
        Some(Refusal::Garbage) => b"\xff\xff\xff no fetch result".to_vec(),
        _ => result.encode_to_vec(),
    };
    let mut response = ([(header::CONTENT_TYPE, "application/protobuf")], body).into_response();
    let out = response.headers_mut();
    stage.quota.tell(&stage.script.euler.limits, out);
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = value.parse() {
            out.insert(HeaderName::from_static(name), value);
        }
    };
    set("x-room-id", room_id);
    set("x-agent-id", "stand-in");
    set("x-request-id", &ticket.to_string());
    if !matches!(refusal, Some(Refusal::MissingCookie)) {
        set(
            "x-set-tt-cookie",
            &format!("ttwid={cookie}; Path=/; Domain=tiktok.com; HttpOnly"),
        );
    }
    if refusal.is_some() {
        stage.ledger.count(|counts| counts.signs_refused += 1);
    } else {
        let room_id = live.room_id;
        let at = Instant::now();
        let signed = Signed {
            room,
            room_id,
            cursor,
            cookie,
            route_params,
            at,
            used: false,
        };
        stage.keep_signed(internal_ext, signed);
    }
    response
}

fn check(stage: &Stage, room_id: &str, uri: &Uri, headers: &HeaderMap) {
    let query = Query::of(uri);
    let wrong = |what: &str| stage.ledger.violation("sign", room_id, what);
    if query.get("client").is_none_or(str::is_empty) {
        wrong("parameter client is missing");
    }
    if !query
        .get("user_agent")
        .is_some_and(|agent| agent.starts_with("Mozilla/"))
    {
        wrong("parameter user_agent is missing or no browser's");
    }
    if !text(headers, "accept").contains("application/protobuf") {
        wrong("header Accept does not name application/protobuf");
    }
    if query.get("session_id").is_some() || text(headers, "x-cookie-header").contains("sessionid") {
        wrong("a session cookie was sent to the sign server");
    }
    if text(headers, "cookie").contains("sessionid") {
        wrong("a session cookie was sent to the sign server in the Cookie header");
    }
}

fn refuse(stage: &Stage, refusal: Response) -> Response {
    stage.ledger.count(|counts| counts.signs_refused += 1);
    refusal
}
