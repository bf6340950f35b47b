//! Connections that drop, close and fall silent: new sessions, no hole, nothing twice.

use std::time::Duration;

use anyhow::ensure;
use upstream::{Act, Fault, Script};

use crate::{
    product::{Product, creator},
    rows::{Row, check_all, messages},
    stores::Stores,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_lost_connection_is_made_again_without_loss_or_repeat() {
    let at = |after_frames, act| Fault::Playback { after_frames, act };
    let room_b = creator("room-b")
        .fault(at(8, Act::Drop))
        .fault(at(
            16,
            Act::Close {
                code: 1011,
                reason: "internal".to_owned(),
            },
        ))
        .fault(at(24, Act::Hang))
        .fault(at(
            32,
            Act::Close {
                code: 1000,
                reason: "payload_handler_hb".to_owned(),
            },
        ));
    let settings = [("SILENT_SOCKET_SECONDS", "3")];
    let script = Script::new().creator(room_b);
    let mut product = Product::start_with(script, Stores::start().await, &[], &settings).await;
    product.played("room-b").await;
    let rows = product
        .settled(|rows| {
            let goodbyes = rows
                .iter()
                .filter(|row| row.event_type == "DISCONNECTED")
                .count();
            ensure!(messages(rows) >= 210, "{} of 210", messages(rows));
            ensure!(goodbyes >= 5, "{goodbyes} of 5 connections are over");
            Ok(())
        })
        .await;
    // Among others: no message twice, seqNo contiguous in each session.
    check_all(&rows);
    assert_eq!(messages(&rows), 210);
    let counts = product.upstream.counts();
    assert!(
        counts.history >= 20,
        "the stand-in did send messages again: {counts:?}"
    );
    assert_eq!(
        (counts.connections, counts.signs),
        (5, 5),
        "each connection has its own address"
    );

    let life =
        |kind: &str| -> Vec<&Row> { rows.iter().filter(|row| row.event_type == kind).collect() };
    let (hellos, goodbyes) = (life("CONNECTED"), life("DISCONNECTED"));
    assert_eq!((hellos.len(), goodbyes.len()), (5, 5));
    let mut sessions: Vec<_> = hellos.iter().map(|row| row.session_id).collect();
    let of_goodbyes: Vec<_> = goodbyes.iter().map(|row| row.session_id).collect();
    assert_eq!(
        sessions, of_goodbyes,
        "rows are in the order of seqNo: each says both, in turn"
    );
    for (hello, goodbye) in hellos.iter().zip(&goodbyes) {
        assert!(hello.seq_no < goodbye.seq_no);
    }
    sessions.dedup();
    assert_eq!(sessions.len(), 5, "a new session for each connection");
    let how: Vec<_> = goodbyes
        .iter()
        .map(|row| &row.payload()["closeCode"])
        .collect();
    assert_eq!((how[1], how[3]), (&1011.into(), &1000.into()), "{how:?}");
    let reasons: Vec<_> = goodbyes
        .iter()
        .map(|row| &row.payload()["reason"])
        .collect();
    assert_eq!(reasons[2], "silent", "{reasons:?}");
    product.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_a_quiet_connection() {
    // One frame now, the next ones 12 s later: only heartbeats in between.
    let mut script = Script::new().creator(creator("room-d"));
    script.pace = upstream::Pace::Every(Duration::from_secs(12));
    script.heartbeat_timeout = Duration::from_secs(11);
    let settings = [("SILENT_SOCKET_SECONDS", "60")];
    let mut product = Product::start_with(script, Stores::start().await, &[], &settings).await;
    product
        .settled(|rows| {
            let frames = moments(rows);
            ensure!(frames >= 2, "{frames} of 2 frames");
            Ok(())
        })
        .await;
    let counts = product.upstream.counts();
    assert_eq!(counts.connections, 1);
    assert!(counts.heartbeats >= 2, "{counts:?}");
    product.stop();
}

/// How many times something arrived, seconds apart: each a frame.
fn moments(rows: &[Row]) -> usize {
    let mut seconds: Vec<_> = rows
        .iter()
        .filter(|row| row.is_message())
        .map(|row| row.event["ingestedAt"].as_str().unwrap_or_default()[..19].to_owned())
        .collect();
    seconds.sort();
    seconds.dedup();
    seconds.len()
}
