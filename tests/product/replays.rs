//! Sessions that were played live are shown again by the running product: the same events, and
//! nothing stored, counted or lost by it.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, ensure};
use redis::AsyncCommands;
use serde_json::{Value, json};
use shared::replay::{Progress, State};
use upstream::{Pace, Script};
use uuid::Uuid;

use crate::{
    daemon::PATIENCE,
    faults::generous,
    product::{Product, creator},
    rows::{Row, check_all},
    stores::until,
};

/// All that is stored, but for the sessions of replays.
const SNAPSHOT: &str = "SELECT json_build_object(
    'events', (SELECT json_agg(to_jsonb(e) ORDER BY stream_id, seq_no, event_id) FROM events e),
    'streams', (SELECT json_agg(to_jsonb(s) ORDER BY stream_id) FROM streams s),
    'sessions', (SELECT json_agg(to_jsonb(s) ORDER BY session_id) FROM sessions s WHERE source = 'live'),
    'users', (SELECT json_agg(to_jsonb(u) ORDER BY user_id) FROM users u),
    'stats', (SELECT json_agg(to_jsonb(s) ORDER BY session_id, event_type) FROM session_stats s),
    'minutes', (SELECT json_agg(to_jsonb(m) ORDER BY stream_id, minute, event_type) FROM stream_minute_stats m),
    'viewers', (SELECT json_agg(to_jsonb(v) ORDER BY session_id, user_id) FROM session_users v),
    'gaps', (SELECT count(*) FROM gaps), 'dead', (SELECT count(*) FROM dead_letters))";

/// Sessions whose statistics are not those of their events.
const MISCOUNTED: &str = "WITH recount AS (
        SELECT session_id, event_type, count(*) AS events,
            coalesce(sum((event #>> '{payload,coins,total}')::bigint)
                FILTER (WHERE event #>> '{payload,streak,state}' <> 'progress'), 0)::bigint AS coins,
            coalesce(sum((event #>> '{payload,count}')::bigint) FILTER (WHERE event_type = 'LIKE'), 0)::bigint AS likes
        FROM events GROUP BY 1, 2),
    kept AS (SELECT session_id, event_type, events, coins, likes FROM session_stats)
    SELECT (SELECT count(*) FROM (TABLE recount EXCEPT TABLE kept) AS missing)
        + (SELECT count(*) FROM (TABLE kept EXCEPT TABLE recount) AS surplus)";

/// `number` is another one for each.
async fn start(product: &Product, session: Uuid, speed: Value, number: u8) -> Uuid {
    let replay =
        uuid::Builder::from_unix_timestamp_millis(1_763_800_000_000, &[number; 10]).into_uuid();
    let command = json!({"command": "replay.start", "sessionId": session, "replayId": replay, "speed": speed});
    let mut redis = product.stores.redis().await.unwrap();
    let _: String = redis
        .xadd("ttlc:control", "*", &[("command", command.to_string())])
        .await
        .unwrap();
    replay
}

async fn over(product: &Product, replay: Uuid) -> Progress {
    until(PATIENCE, async || {
        let fields: HashMap<String, String> = product
            .stores
            .redis()
            .await?
            .hgetall(shared::replay::key(replay))
            .await?;
        let progress = Progress::from_fields(|name| fields.get(name).map(String::as_str))
            .with_context(|| format!("{fields:?}"))?;
        ensure!(
            progress.state.is_end(),
            "{progress:?}; the log:\n{}",
            product.log.lines().join("\n")
        );
        Ok(progress)
    })
    .await
}

/// `ttlc verify`: every room is whole.
async fn verify(product: &Product) {
    let (mut process, log) = product.another("verify", &[]);
    let status = until(PATIENCE, async || process.ended().context("it runs")).await;
    assert!(status.success(), "{}", log.lines().join("\n"));
}

async fn one<T: tokio_postgres::types::FromSqlOwned>(product: &Product, sql: &str) -> T {
    let database = product.stores.database().await.unwrap();
    database.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_of_a_broadcast_show_its_events_and_leave_everything_as_it_was() {
    let mut script = Script::new()
        .creator(creator("room-b"))
        .creator(generous("giver", 60.0, 300));
    script.pace = Pace::Every(Duration::from_millis(30));
    let mut product = Product::start(script).await;
    // A reader that has read nothing: what the replays show stays where it can be looked at.
    until(PATIENCE, async || {
        let mut redis = product.stores.redis().await?;
        let made: redis::RedisResult<()> = redis
            .xgroup_create_mkstream("ttlc:events", "api", "0")
            .await;
        made.context("a group")
    })
    .await;
    for name in ["room-b", "giver"] {
        product.played(name).await;
    }
    let enough = |rows: &[Row]| {
        let goodbyes = rows.iter().filter(|row| row.event_type == "DISCONNECTED");
        ensure!(goodbyes.count() >= 2, "both rooms are over");
        Ok(())
    };
    let rows = product.settled(enough).await;
    // The last streaks are concluded seconds after the end of the broadcast.
    until(PATIENCE, async || {
        let open = "SELECT count(*) FROM (
            SELECT event #>> '{payload,streak,id}' FROM events WHERE event_type = 'GIFT' GROUP BY 1
            HAVING bool_and(event #>> '{payload,streak,state}' = 'progress')) AS open";
        let open: i64 = one(&product, open).await;
        ensure!(open == 0, "{open} streaks are open");
        Ok(())
    })
    .await;
    let sessions: std::collections::BTreeSet<Uuid> =
        rows.iter().map(|row| row.session_id).collect();
    assert_eq!(sessions.len(), 2, "one for each room");
    let rows = product.settled(enough).await;
    check_all(&rows);
    let finals = rows
        .iter()
        .filter(|row| row.payload()["streak"]["state"] == "final");
    assert!(finals.count() > 5, "there are streaks");
    verify(&product).await;
    let before: Value = one(&product, SNAPSHOT).await;

    let mut replays = Vec::new();
    for &session in &sessions {
        for speed in [json!("max"), json!("max"), json!(100)] {
            let number = u8::try_from(replays.len()).unwrap();
            replays.push((session, start(&product, session, speed, number).await));
        }
    }
    for &(session, replay) in &replays {
        let progress = over(&product, replay).await;
        assert_eq!(progress.state, State::Done, "{progress:?}");
        let of = rows.iter().filter(|row| row.session_id == session);
        assert_eq!(progress.total, Some(of.count() as u64));
        assert_eq!(Some(progress.sent + progress.skipped), progress.total);
    }
    product.settled(enough).await;

    let mut shown: HashMap<Uuid, Vec<Value>> = HashMap::new();
    for entry in product.stores.entries("ttlc:events").await.unwrap() {
        let event: Value = serde_json::from_str(&entry["event"]).unwrap();
        if event["source"] == "replay" {
            let id = event["sessionId"].as_str().unwrap().parse().unwrap();
            shown.entry(id).or_default().push(event);
        }
    }
    assert_eq!(shown.len(), replays.len());
    for (session, replay) in replays {
        let mut events = shown.remove(&replay).unwrap();
        let end = events.pop().unwrap();
        assert_eq!(end["payload"]["rawType"], "ControlEvent.REPLAY_END");
        let of = rows.iter().filter(|row| row.session_id == session);
        let original: HashMap<&str, &Value> =
            of.map(|row| (row.event_id.as_str(), &row.event)).collect();
        assert_eq!(events.len(), original.len(), "replay {replay}");
        let numbers: Vec<_> = events
            .iter()
            .filter(|event| event["payload"]["rawType"] != "GiftStreakTimeout")
            .map(|event| event["seqNo"].as_u64())
            .collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
        for mut event in events {
            assert_eq!(event["replayOf"], session.to_string());
            event.as_object_mut().unwrap().remove("replayOf");
            event["source"] = json!("live");
            event["sessionId"] = json!(session);
            let id = event["eventId"].as_str().unwrap().to_owned();
            assert_eq!(Some(&&event), original.get(id.as_str()), "as it was");
        }
        let row = format!(
            "SELECT replay_of = '{session}' AND event_count = 0 AND end_reason = 'done' AND ended_at >= started_at
             FROM sessions WHERE session_id = '{replay}' AND source = 'replay'"
        );
        assert!(one::<bool>(&product, &row).await, "the row of {replay}");
    }
    let after: Value = one(&product, SNAPSHOT).await;
    assert!(before == after, "0 new rows, and nothing counted twice");
    assert_eq!(one::<i64>(&product, MISCOUNTED).await, 0);
    assert!(product.stores.entries("ttlc:dlq").await.unwrap().is_empty());
    verify(&product).await;
    product.stop();
}
