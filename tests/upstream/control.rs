//! A small door for people and scripts: see what goes on, make something go wrong.
//!
//! - `GET /stand-in/state` shows creators (with the totals of made-up rooms), counts, open sockets
//!   of Euler's and violations as JSON.
//! - `POST /stand-in/faults/{creator}` arms the fault in the body, for example
//!   `{"playback": {"act": "drop"}}` or `{"sign": {"times": 2, "refusal": {"status": {"status":
//!   429, "retryAfter": 3}}}}`; [`Fault`] has them all. An unknown creator gets 404, a body that is
//!   no fault 422.
//! - `POST /stand-in/broadcasts/{creator}/end` and `…/start` end the broadcast and begin the next
//!   one, with a new room id. 404 for an unknown creator, 409 when it is so already or when there
//!   is nothing to play.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::{Value, json};

use crate::{Stage, fault::Fault, room::Order};

/// `GET /stand-in/state`
pub(crate) async fn state(State(stage): State<Arc<Stage>>) -> Json<Value> {
    let creators: Vec<_> = stage
        .rooms()
        .iter()
        .map(|room| {
            let live = room.live();
            let (frames, clients) = room.progress();
            let paused = live.as_ref().is_some_and(|live| live.paused);
            json!({
                "name": room.name,
                "roomId": live.as_ref().map(|live| live.room_id.to_string()),
                "title": live.map(|live| live.title),
                "frames": frames,
                "clients": clients,
                "finished": room.finished(),
                "paused": paused,
                "totals": stage.ledger.totals(&room.name),
            })
        })
        .collect();
    Json(json!({
        "creators": creators,
        "eulerSockets": stage.euler_sockets.load(Ordering::Relaxed),
        "counts": stage.ledger.counts(),
        "violations": stage.ledger.violations(),
    }))
}

/// `POST /stand-in/faults/{creator}`
pub(crate) async fn arm(
    State(stage): State<Arc<Stage>>,
    Path(creator): Path<String>,
    Json(fault): Json<Fault>,
) -> StatusCode {
    match stage.room(&creator) {
        Some(room) => {
            room.arm(fault);
            StatusCode::NO_CONTENT
        }
        None => StatusCode::NOT_FOUND,
    }
}

/// `POST /stand-in/broadcasts/{creator}/end`
pub(crate) async fn end(
    State(stage): State<Arc<Stage>>,
    Path(creator): Path<String>,
) -> StatusCode {
    order(&stage, &creator, Order::End)
}

/// `POST /stand-in/broadcasts/{creator}/start`
pub(crate) async fn start(
    State(stage): State<Arc<Stage>>,
    Path(creator): Path<String>,
) -> StatusCode {
    order(&stage, &creator, Order::Start)
}

fn order(stage: &Stage, creator: &str, order: Order) -> StatusCode {
    match stage.room(creator) {
        Some(room) if room.order(order) => StatusCode::NO_CONTENT,
        Some(_) => StatusCode::CONFLICT,
        None => StatusCode::NOT_FOUND,
    }
}
