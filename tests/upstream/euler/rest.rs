//! Euler's REST routes beside signing, and TikTok's gift list.
//!
//! In: requests with or without a key. Out: JSON in the shapes of the API's description, refusals
//! with `code`, `message` and `limit_label` in the body and the limits in the headers.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::Plan;
use crate::{
    Stage,
    fault::RetryAfter,
    load::messages::GIFTS,
    request::{Query, check_web, text},
    trouble::refuse,
};

/// Who may use a route.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Anybody, a wrong key excepted.
    Anybody,
    /// Whoever has a key.
    Public,
    /// Paid plans.
    Pro,
}

/// Checks key and plan, and counts the request; the error is the answer.
pub(crate) fn admit(
    stage: &Stage,
    level: Level,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), Box<Response>> {
    let query = Query::of(uri);
    let euler = &stage.script.euler;
    let key = query
        .get("apiKey")
        .unwrap_or_else(|| text(headers, "x-api-key"));
    let jwt = text(headers, "x-jwt-key");
    let good = |known: bool, any: bool| known || any;
    let known = if key.is_empty() {
        good(
            euler.tokens.iter().any(|one| one.jwt == jwt),
            euler.tokens.is_empty(),
        )
    } else {
        good(
            euler.keys.iter().any(|one| one == key),
            euler.keys.is_empty(),
        )
    };
    let anonymous = key.is_empty() && jwt.is_empty();
    if (anonymous && level != Level::Anybody) || (!anonymous && !known) {
        return Err(refuse(401, None, None, None).into());
    }
    if level == Level::Pro && euler.plan == Plan::Community {
        return Err(refuse(403, None, None, None).into());
    }
    stage.quota.take(&euler.limits).map_err(|exceeded| {
        let wait = Some(RetryAfter::Seconds(exceeded.wait));
        refuse(429, wait, Some(exceeded.label), None).into()
    })
}

/// `GET /webcast/anchors/{unique_id}/room_id`
pub(crate) async fn room_id_of(
    State(stage): State<Arc<Stage>>,
    Path(name): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    stage.ledger.count(|counts| counts.lookups += 1);
    if let Err(refusal) = admit(&stage, Level::Pro, &uri, &headers) {
        return *refusal;
    }
    let Some(room) = stage.room(&name) else {
        let body = json!({ "code": 404, "ok": false, "message": "user not found" });
        return (StatusCode::NOT_FOUND, Json(body)).into_response();
    };
    Json(json!({
        "code": 200,
        "ok": true,
        "message": "ok",
        "is_live": room.live().is_some(),
        "room_id": room.shown_room().map(|id| id.to_string()),
        "source": "stand-in",
        "routes_attempted": [],
    }))
    .into_response()
}

/// `GET /accounts/me/rate_limits`: asking costs nothing.
pub(crate) async fn rate_limits(State(stage): State<Arc<Stage>>) -> Json<Value> {
    Json(stage.quota.describe(&stage.script.euler.limits))
}

/// `GET /webcast/gifts`: the catalogue.
pub(crate) async fn gifts(
    State(stage): State<Arc<Stage>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if let Err(refusal) = admit(&stage, Level::Public, &uri, &headers) {
        return *refusal;
    }
    let mut answer = Json(json!({
        "code": 200,
        "response": { "data": { "gifts": catalogue() } },
    }))
    .into_response();
    stage
        .quota
        .tell(&stage.script.euler.limits, answer.headers_mut());
    answer
}

/// `GET /webcast/gift/list/`: TikTok's own. It has to be signed; unsigned, the answer is empty.
pub(crate) async fn gift_list(
    State(stage): State<Arc<Stage>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let query = Query::of(&uri);
    let room = query.get("room_id").unwrap_or_default();
    check_web(&stage, room, &uri, &headers);
    let signed = ["X-Bogus", "X-Gnarly"];
    if !signed.iter().any(|name| query.get(name).is_some()) {
        stage
            .ledger
            .violation("web", room, "/webcast/gift/list/: not signed");
        return StatusCode::OK.into_response();
    }
    Json(json!({ "status_code": 0, "data": { "gifts": catalogue() } })).into_response()
}

fn catalogue() -> Vec<Value> {
    let urls = |id| {
        vec![format!(
            "https://p16-sign.tiktokcdn.example/img/gift-{id}.webp"
        )]
    };
    GIFTS
        .iter()
        .map(|gift| {
            json!({
                "id": gift.id,
                "name": gift.name,
                "describe": format!("sent {}", gift.name),
                "diamond_count": gift.coins,
                "type": if gift.streaks { 1 } else { 2 },
                "combo": gift.streaks,
                "image": { "url_list": urls(gift.id), "uri": format!("img/gift-{}", gift.id) },
                "icon": { "url_list": urls(gift.id) },
            })
        })
        .collect()
}
