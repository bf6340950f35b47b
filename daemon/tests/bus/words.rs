//! What is written as documented, and what must not be written at all.

use daemon::bus::{Bus, CreatorStatus, Owner};
use secrecy::SecretString;
use shared::streams::StreamNames;
use shared::time::Timestamp;

use super::rig::{Redis, a_dead_letter};

#[tokio::test]
async fn status_and_dead_letters_are_written_as_documented() {
    let redis = Redis::start();
    let status = CreatorStatus {
        state: "waiting",
        stream_id: None,
        provider: "direct",
        fallback: false,
        reason: Some("offline".into()),
        detail: None,
        attempt: 0,
        since: Timestamp::from_millis(0),
        retry_at: None,
    };
    let (ours, theirs) = (Owner::new(), Owner::new());
    redis.bus.set_status("alice", &status, ours).await.unwrap();
    let json: String = redis.ask("GET ttlc:status:alice").await;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&json).unwrap(),
        serde_json::json!({"daemon": ours.to_string(), "state": "waiting", "provider": "direct", "reason": "offline", "attempt": 0, "since": "1970-01-01T00:00:00.000Z"})
    );
    assert!(redis.ask::<i64>("TTL ttlc:status:alice").await > 25);

    // Of two daemons the one that reads the room is heard.
    let shown = async |state: &'static str, by: Owner| {
        let status = CreatorStatus {
            state,
            ..status.clone()
        };
        redis.bus.set_status("alice", &status, by).await.unwrap();
        let json: String = redis.ask("GET ttlc:status:alice").await;
        serde_json::from_str::<serde_json::Value>(&json).unwrap()["state"].clone()
    };
    assert_eq!(shown("standby", theirs).await, "waiting");
    assert_eq!(shown("connecting", theirs).await, "connecting");
    assert_eq!(shown("live", ours).await, "live");
    assert_eq!(shown("error", theirs).await, "live");
    assert_eq!(shown("live", theirs).await, "live");
    assert_eq!(shown("error", ours).await, "live");
    assert_eq!(shown("standby", theirs).await, "standby");
    redis.bus.remove_status("alice").await.unwrap();
    assert!(!redis.ask::<bool>("EXISTS ttlc:status:alice").await);

    redis.bus.dead_letter(&a_dead_letter()).await.unwrap();
    let entry: Vec<(String, Vec<String>)> = redis.ask("XRANGE ttlc:dlq - +").await;
    assert_eq!(
        entry[0].1,
        [
            "stage",
            "normalizer",
            "reason",
            "PARSE_ERROR",
            "error",
            "no",
            "payload",
            "{}",
            "failedAt",
            "1970-01-01T00:00:00.000Z"
        ]
    );
}

#[test]
fn an_unreadable_address_is_refused_without_repeating_it() {
    let error = Bus::new(
        &SecretString::from("redis//:hunter2@nowhere"),
        StreamNames::new(1),
    )
    .err()
    .unwrap();
    assert!(error.to_string().contains("REDIS_URL"));
    assert!(
        !format!("{error:?} {error}").contains("hunter2"),
        "no secret in errors"
    );
}
