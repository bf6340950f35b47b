//! HTTP answers that go wrong, for requests of any kind.
//!
//! In: a request, before anything else has seen it. Out: the trouble that is armed for its creator
//! and place, or the request's way to its handler. Every request is written down here first, so
//! that tests can ask what arrived. A WebSocket handshake is a request like any other.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{Html, IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;

use crate::{
    Stage,
    door::Cut,
    euler::options::plain,
    fault::{Place, RetryAfter, Trouble},
    fresh,
    ledger::Provider,
    request::Query,
    room::Room,
    script::Record,
    sign::SOCKET_PATH,
};

/// The largest answer of ours that is held whole to be slowed down or cut in half.
const LARGEST: usize = 16 << 20;

/// The way of every request.
pub(crate) async fn pass(
    State(stage): State<Arc<Stage>>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    request: Request,
    next: Next,
) -> Response {
    if stage.script.record != Record::Counts {
        stage.ledger.record_request(&request);
    }
    let Some((place, room)) = target(&stage, &request) else {
        return next.run(request).await;
    };
    match place {
        Place::Socket => stage.ledger.record_attempt(&room.name, Provider::Direct),
        Place::EulerSocket => stage.ledger.record_attempt(&room.name, Provider::Euler),
        _ => {}
    }
    let Some(trouble) = room.trouble_due(place) else {
        return next.run(request).await;
    };
    if !matches!(trouble, Trouble::Slow { .. } | Trouble::Reset) {
        // Its handler will not see it.
        count(&stage, place, &room);
    }
    tracing::info!(path = request.uri().path(), ?trouble, "fault");
    stage.ledger.count(|counts| counts.troubles += 1);
    match trouble {
        Trouble::Status {
            status,
            retry_after,
            label,
            body,
        } => refuse(status, retry_after, label.as_deref(), body),
        Trouble::Empty => StatusCode::OK.into_response(),
        Trouble::Html => {
            Html("<!doctype html><title>Please wait</title><p>Nothing here").into_response()
        }
        Trouble::Verify => (
            StatusCode::FOUND,
            [(
                header::LOCATION,
                format!("http://{}/verify", stage.authority),
            )],
        )
            .into_response(),
        Trouble::BrokenJson => (
            [(header::CONTENT_TYPE, "application/json")],
            r#"{"statusCode":0,"data":{"user":{"roomId":"73"#,
        )
            .into_response(),
        Trouble::Stall => std::future::pending().await,
        Trouble::Slow { ms } => slow(next.run(request).await, Duration::from_millis(ms)).await,
        Trouble::Reset => half(next.run(request).await, cut).await,
    }
}

/// Counts a request that gets no further.
fn count(stage: &Stage, place: Place, room: &Room) {
    if place == Place::Sign {
        stage.ledger.record_sign(&room.name);
    }
    stage.ledger.count(|counts| match place {
        Place::Page | Place::Api | Place::RoomInfo | Place::RoomId => counts.lookups += 1,
        Place::Sign => {
            counts.signs += 1;
            counts.signs_refused += 1;
        }
        Place::Socket | Place::EulerSocket => counts.handshakes_refused += 1,
    });
}

/// `GET /verify`: where [`Trouble::Verify`] leads to.
pub(crate) async fn verify() -> Html<&'static str> {
    Html("<!doctype html><title>Verify to continue</title><div id=captcha></div>")
}

/// What a request is about: a place, and the creator that it names.
fn target(stage: &Stage, request: &Request) -> Option<(Place, Arc<Room>)> {
    let query = Query::of(request.uri());
    let path = request.uri().path();
    let name = |name: &str| stage.room(plain(name));
    let id = |id: Option<&str>| stage.room_by_id(id.unwrap_or_default());
    if path == "/" {
        Some((Place::EulerSocket, name(query.get("uniqueId")?)?))
    } else if path == SOCKET_PATH {
        Some((Place::Socket, id(query.get("room_id"))?))
    } else if path == "/api-live/user/room/" {
        Some((Place::Api, name(query.get("uniqueId")?)?))
    } else if path == "/webcast/room/info/" {
        Some((Place::RoomInfo, id(query.get("room_id"))?))
    } else if path == "/webcast/fetch" {
        Some((Place::Sign, id(query.get("room_id"))?))
    } else if let Some(rest) = path.strip_prefix("/webcast/rooms/") {
        Some((Place::Sign, id(rest.strip_suffix("/connect"))?))
    } else if let Some(rest) = path.strip_prefix("/webcast/anchors/") {
        Some((Place::RoomId, name(rest.strip_suffix("/room_id")?)?))
    } else {
        let handle = path.strip_prefix("/@")?.strip_suffix("/live")?;
        Some((Place::Page, name(handle)?))
    }
}

/// An error as Euler's API words it: status, body, and headers about limits.
pub(crate) fn refuse(
    status: u16,
    retry_after: Option<RetryAfter>,
    label: Option<&str>,
    body: Option<String>,
) -> Response {
    let label = label.or((status == 429).then_some("rate_limit_account_minute"));
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = if let Some(body) = body {
        (code, body).into_response()
    } else {
        let mut body = json!({
            "code": status,
            "message": code.canonical_reason().unwrap_or("refused by the script"),
        });
        if let Some(label) = label {
            body["limit_label"] = json!(label);
        }
        (code, Json(body)).into_response()
    };
    if let Some(retry_after) = retry_after {
        let (RetryAfter::Seconds(seconds) | RetryAfter::Date { date: seconds }) = retry_after;
        let reset = fresh::now_ms() / 1000 + i64::from(seconds);
        let value = match retry_after {
            RetryAfter::Seconds(seconds) => seconds.into(),
            RetryAfter::Date { .. } => http_date(reset),
        };
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, value);
        headers.insert("x-ratelimit-reset", reset.into());
        headers.insert("x-ratelimit-remaining", 0.into());
    }
    response
}

fn http_date(unix_seconds: i64) -> HeaderValue {
    let at = jiff::Timestamp::from_second(unix_seconds).unwrap_or_default();
    let text = at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("0"))
}

/// The answer, one byte at a time.
async fn slow(response: Response, gap: Duration) -> Response {
    let (head, body) = response.into_parts();
    let bytes = to_bytes(body, LARGEST).await.unwrap_or_default();
    let drip = stream::unfold(bytes, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(gap).await;
        Some((Ok::<_, std::io::Error>(rest.split_to(1)), rest))
    });
    Response::from_parts(head, Body::from_stream(drip))
}

/// The first half of the answer; then the connection is reset.
async fn half(response: Response, cut: Cut) -> Response {
    let (mut head, body) = response.into_parts();
    let bytes = to_bytes(body, LARGEST).await.unwrap_or_default();
    head.headers
        .insert(header::CONTENT_LENGTH, (bytes.len() + 1).into());
    let first = bytes.slice(..bytes.len() / 2);
    let parts = stream::unfold(Some(first), move |part| {
        let cut = cut.clone();
        async move {
            if let Some(part) = part {
                return Some((Ok::<Bytes, std::io::Error>(part), None));
            }
            // What was written has to be on its way before the reset.
            tokio::time::sleep(Duration::from_millis(20)).await;
            cut.pull();
            let error = std::io::ErrorKind::ConnectionReset.into();
            Some((Err(error), None))
        }
    });
    Response::from_parts(head, Body::from_stream(parts))
}
