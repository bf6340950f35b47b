//! What is written as documented, and what must not be written at all.

use daemon::bus::{Bus, CreatorStatus, DeadLetter, Hop, Hopped, Outcome, Owner, ROLE_LEASE, Role};
use secrecy::SecretString;
use shared::streams::StreamNames;
use shared::time::Timestamp;

use super::rig::{Redis, a_dead_letter, batch, owner, read};

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

/// Both ways into the stream: directly, and with a batch.
#[tokio::test]
async fn a_dead_letter_is_written_without_secrets() {
    const CANARY: &str = "kAnArY0123456789";
    let redis = Redis::start();
    let fields = serde_json::json!({
        "streamId": "7",
        "seqNo": "1",
        "data": format!(
            r#"{{"url":"wss://ws.eulerstream.com/?uniqueId=ann&apiKey={CANARY}","apiKey":"{CANARY}",
                "cookie":"sessionid={CANARY}; a=b","avatar":"https://p16.example.com/a.webp?x-signature=keepme"}}"#
        ),
    });
    let letter = DeadLetter {
        error: format!(
            "GET https://api.eulerstream.com/a?apiKey={CANARY}: 403; redis://:{CANARY}@host; x-api-key: {CANARY}"
        ),
        payload: fields.to_string(),
        ..a_dead_letter()
    };
    redis.bus.dead_letter(&letter).await.unwrap();
    let role = Role::Normalizer(0);
    assert!(redis.bus.hold(role, owner(1), ROLE_LEASE).await.unwrap());
    let hop = Hop {
        raw_id: None,
        outcomes: vec![Outcome::DeadLetter(letter)],
    };
    let mut consumer = redis.normalizer();
    read(&mut consumer).await;
    let hopped = consumer.hop(0, owner(1), &batch(1, &[hop])).await;
    assert_eq!(hopped.unwrap(), Hopped::Done(0));
    let entries: Vec<(String, Vec<String>)> = redis.ask("XRANGE ttlc:dlq - +").await;
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].1[..8], entries[1].1[..8]);
    for (_, words) in entries {
        assert!(!words.concat().contains(CANARY), "{words:?}");
        let payload: serde_json::Value = serde_json::from_str(&words[7]).unwrap();
        assert_eq!(payload["seqNo"], "1", "all else stays");
        let data = payload["data"].as_str().unwrap();
        serde_json::from_str::<serde_json::Value>(data).expect("still JSON");
        assert!(data.contains("x-signature=keepme"), "{data}");
    }
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
