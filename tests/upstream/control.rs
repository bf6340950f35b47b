//! A small door for people and scripts: see what goes on, make something go wrong.
//!
//! `GET /stand-in/state` shows creators, counts and violations as JSON.
//! `POST /stand-in/faults/{creator}` arms the fault in the body, for example
//! `{"playback": {"act": "drop"}}` or `{"sign": {"times": 2, "refusal": {"status": {"status": 429,
//! "retryAfter": 3}}}}`. An unknown creator gets 404, a body that is no fault 422.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::{Value, json};

use crate::{Stage, script::Fault};

/// `GET /stand-in/state`
pub(crate) async fn state(State(stage): State<Arc<Stage>>) -> Json<Value> {
    let creators: Vec<_> = stage
        .rooms()
        .iter()
        .map(|room| {
            let live = room.live();
            let (frames, clients) = room.progress();
            json!({
                "name": room.name,
                "roomId": live.as_ref().map(|live| live.room_id.to_string()),
                "title": live.map(|live| live.title),
                "frames": frames,
                "clients": clients,
                "finished": room.finished(),
            })
        })
        .collect();
    Json(json!({
        "creators": creators,
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
