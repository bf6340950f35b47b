//! One event of every type, for readers: `snapshots/` shows what the normalizer publishes.

use serde_json::{Value, json};
use shared::raw::{RawData, control};

use super::fixtures::{capture, envelope, payload};
use crate::normalizer::{Contract, normalize};

fn published(envelope: &shared::raw::Envelope) -> Value {
    let event = normalize(envelope).unwrap();
    serde_json::from_str(&Contract::new().unwrap().json(&event).unwrap()).unwrap()
}

/// Compares with `snapshots/{name}.snap`.
fn shows(name: &str, value: &Value) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_json_snapshot!(name.replace(' ', "_"), value));
}

#[test]
fn one_of_each_encoded() {
    for (name, file) in [
        ("chat", "payload-chat-moderator-subscriber.bin"),
        ("chat with an emote", "payload-chat-emotes.bin"),
        ("gift in a streak", "payload-gift-streak-5.bin"),
        (
            "gift at the end of a streak",
            "payload-gift-streak-5-end.bin",
        ),
        ("gift that stands alone", "payload-gift-single-type4.bin"),
        ("like", "payload-like.bin"),
        ("join", "payload-member-join.bin"),
        ("follow", "payload-social-follow.bin"),
        ("share", "payload-social-share.bin"),
        ("repost", "payload-social-repost.bin"),
        ("subscribe", "payload-sub-first.bin"),
        ("emote", "payload-emote.bin"),
        ("battle opens", "payload-battle-open.bin"),
        ("battle scores", "payload-armies.bin"),
        ("barrage", "payload-barrage-superfan-joined.bin"),
        ("room user", "payload-room-user-seq.bin"),
        ("stream end", "payload-control-end.bin"),
        ("pause", "payload-control-pause.bin"),
        ("poll", "payload-poll-start.bin"),
        ("caption", "payload-caption.bin"),
        ("rank text", "payload-rank-text.bin"),
        ("future type", "payload-odd-future-type.bin"),
    ] {
        shows(name, &published(&payload(file).envelope));
    }
}

#[test]
fn a_finished_team_battle() {
    let case = capture("mixed")
        .into_iter()
        .find(|case| case.expected["i"] == 344)
        .unwrap();
    shows("battle of teams", &published(&case.envelope)["payload"]);
}

#[test]
fn a_goal() {
    let case = capture("mixed")
        .into_iter()
        .find(|case| case.envelope.kind == "WebcastGoalUpdateMessage")
        .unwrap();
    shows("goal", &published(&case.envelope)["payload"]["decoded"]);
}

#[test]
fn our_own() {
    let data = json!({
        "uniqueId": "ada.live", "provider": "direct", "attempt": 1, "reason": "start",
        "title": "Evening stream", "ownerId": "6900000000001000003", "ownerNickname": "Ada LIVE",
    });
    let data = RawData::Json(data.as_object().unwrap().clone());
    shows(
        "connected",
        &published(&envelope(control::CONNECTED, data, 1)),
    );
}
