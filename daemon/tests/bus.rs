//! The bus against a real Redis: what survives restarts, races, wiped streams and lost replies.

use std::time::Duration;

use daemon::bus::{Bus, Consumer, CreatorStatus, DeadLetter, Hop, Outcome};
use redis::Value;
use secrecy::SecretString;
use shared::raw::{Envelope, RawData, Source};
use shared::streams::{GROUP_API, GROUP_NORMALIZER, GROUP_STORAGE, StreamNames};
use shared::time::Timestamp;
use uuid::Uuid;
use xtask::servers::{Durability, PrivateRedis};

const ROOM: &str = "7301234567890123456";

struct Redis {
    server: PrivateRedis,
    bus: Bus,
}

impl Redis {
    fn start() -> Self {
        Self::start_sharded(1)
    }

    fn start_sharded(shards: u32) -> Self {
        let server = PrivateRedis::temporary(Durability::Fast).unwrap();
        let bus = Bus::new(&SecretString::from(server.url()), StreamNames::new(shards)).unwrap();
        Self { server, bus }
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let client = redis::Client::open(self.server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut connection).await.unwrap()
    }

    fn normalizer(&self) -> Consumer {
        self.bus
            .consumer("ttlc:raw".into(), GROUP_NORMALIZER, "slot-0")
    }
}

fn envelope(stream_id: &str, seq_no: u64) -> Envelope {
    Envelope {
        stream_id: stream_id.into(),
        session_id: Uuid::from_u128(1),
        source: Source::Live,
        kind: "WebcastChatMessage".into(),
        seq_no,
        timestamp: Timestamp::from_millis(1_763_800_000_000),
        ingested_at: Timestamp::from_millis(1_763_800_000_100),
        data: RawData::Protobuf(vec![1, 2, 3]),
        msg_id: None,
        backlog: false,
        replay_of: None,
    }
}

fn event(raw_id: &str) -> Hop {
    Hop {
        raw_id: raw_id.into(),
        outcome: Outcome::Event {
            json: "{}".into(),
            normalized_at: Timestamp::from_millis(0),
            raw: "AQID".into(),
        },
    }
}

fn dead(raw_id: &str) -> Hop {
    let letter = DeadLetter {
        stage: "normalizer",
        reason: "PARSE_ERROR",
        error: "no".into(),
        payload: "{}".into(),
        failed_at: Timestamp::from_millis(0),
    };
    Hop {
        raw_id: raw_id.into(),
        outcome: Outcome::DeadLetter(letter),
    }
}

async fn read(consumer: &mut Consumer) -> Vec<String> {
    consumer
        .read(100, Duration::from_millis(20))
        .await
        .unwrap()
        .into_iter()
        .map(|entry| entry.id)
        .collect()
}

#[tokio::test]
async fn envelopes_arrive_as_they_were_sent_and_the_room_remembers_its_number() {
    let redis = Redis::start();
    assert_eq!(redis.bus.seq_floor(ROOM).await.unwrap(), None);
    let sent = [envelope(ROOM, 7), envelope(ROOM, 8)];
    redis.bus.publish_raw(&sent).await.unwrap();
    assert_eq!(redis.bus.seq_floor(ROOM).await.unwrap(), Some(8));

    let entries = redis
        .normalizer()
        .read(100, Duration::from_millis(20))
        .await
        .unwrap();
    let read: Vec<_> = entries
        .iter()
        .map(|entry| Envelope::from_fields(|field| entry.get(field)).unwrap())
        .collect();
    assert_eq!(read, sent);
}

#[tokio::test]
async fn the_latest_messages_of_a_room_are_remembered() {
    let redis = Redis::start();
    assert!(redis.bus.seen(ROOM).await.unwrap().is_empty());
    let sent: Vec<_> = (0..1_500)
        .map(|seq| Envelope {
            msg_id: (seq % 3 > 0).then(|| format!("7{seq}")),
            ..envelope(ROOM, seq)
        })
        .collect();
    for batch in sent.chunks(400) {
        redis.bus.publish_raw(batch).await.unwrap();
    }
    redis
        .bus
        .publish_raw(&[Envelope {
            msg_id: Some("9".into()),
            ..envelope("42", 1)
        }])
        .await
        .unwrap();

    let seen = redis.bus.seen(ROOM).await.unwrap();
    let with_id = sent
        .iter()
        .filter_map(|envelope| envelope.msg_id.as_deref());
    let expected: Vec<_> = with_id
        .map(|id| ("WebcastChatMessage".to_owned(), id.to_owned()))
        .collect();
    assert_eq!(seen, expected, "1,000 fit");
    redis
        .bus
        .publish_raw(&[Envelope {
            msg_id: Some("8".into()),
            ..envelope(ROOM, 1_500)
        }])
        .await
        .unwrap();
    let seen = redis.bus.seen(ROOM).await.unwrap();
    assert_eq!(
        (seen.len(), seen[999].1.as_str()),
        (1_000, "8"),
        "the oldest made room"
    );
    assert!(redis.ask::<i64>(&format!("TTL ttlc:seen:{ROOM}")).await > 3_000);
}

#[tokio::test]
async fn four_shards_keep_each_room_in_one() {
    let redis = Redis::start_sharded(4);
    let rooms: Vec<String> = (0..40_u64)
        .map(|n| (7_301_234_567_890_123_456 + n * 7_919).to_string())
        .collect();
    let sent: Vec<_> = rooms
        .iter()
        .flat_map(|room| [envelope(room, 1), envelope(room, 2)])
        .collect();
    redis.bus.publish_raw(&sent).await.unwrap();
    let mut found = 0;
    for shard in 0..4 {
        let names = redis.bus.names();
        let mut consumer = redis
            .bus
            .consumer(names.raw(shard), GROUP_NORMALIZER, "slot-0");
        for entry in consumer
            .read(1_000, Duration::from_millis(20))
            .await
            .unwrap()
        {
            assert_eq!(names.shard_of(entry.get("streamId").unwrap()), shard);
            found += 1;
        }
    }
    assert_eq!(found, sent.len());
    assert_eq!(redis.bus.seq_floor(&rooms[3]).await.unwrap(), Some(2));
}

#[tokio::test]
async fn a_consumer_that_crashed_finds_its_own_entries_first() {
    let redis = Redis::start();
    redis
        .bus
        .publish_raw(&[envelope(ROOM, 1), envelope(ROOM, 2)])
        .await
        .unwrap();
    let first = read(&mut redis.normalizer()).await;
    assert_eq!(first.len(), 2);

    redis.bus.publish_raw(&[envelope(ROOM, 3)]).await.unwrap();
    let mut again = redis.normalizer(); // the same name after a crash
    assert_eq!(read(&mut again).await, first);
    let rest = read(&mut again).await;
    assert_eq!(rest.len(), 1);
    again.ack(&first).await.unwrap();
    again.ack(&rest).await.unwrap();
    assert!(read(&mut redis.normalizer()).await.is_empty());
}

/// A read that was given up goes on waiting on the server, and would take the next entry with it.
#[tokio::test]
async fn a_given_up_read_takes_nothing_with_it() {
    let redis = Redis::start();
    let mut consumer = redis.normalizer();
    assert!(read(&mut consumer).await.is_empty());
    let waiting = consumer.read(10, Duration::from_secs(30));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), waiting)
            .await
            .is_err()
    );
    assert!(read(&mut consumer).await.is_empty());
    redis.bus.publish_raw(&[envelope(ROOM, 1)]).await.unwrap();
    assert_eq!(read(&mut consumer).await.len(), 1);
}

#[tokio::test]
async fn a_hop_publishes_each_entry_once_whoever_repeats_it() {
    let redis = Redis::start();
    redis
        .bus
        .publish_raw(&[envelope(ROOM, 1), envelope(ROOM, 2), envelope(ROOM, 3)])
        .await
        .unwrap();
    let mut consumer = redis.normalizer();
    let ids = read(&mut consumer).await;
    let hops = [event(&ids[0]), dead(&ids[1]), event(&ids[2])];
    assert_eq!(consumer.hop(0, &hops).await.unwrap(), 3);
    assert_eq!(
        consumer.hop(0, &hops).await.unwrap(),
        0,
        "a repeat finds nothing pending"
    );
    assert_eq!(redis.ask::<u64>("XLEN ttlc:events").await, 2);
    assert_eq!(redis.ask::<u64>("XLEN ttlc:dlq").await, 1);
    assert!(
        read(&mut redis.normalizer()).await.is_empty(),
        "acknowledged"
    );
}

#[tokio::test]
async fn rivals_on_the_same_entries_publish_each_once() {
    let redis = Redis::start();
    let sent: Vec<_> = (0..500).map(|seq| envelope(ROOM, seq)).collect();
    redis.bus.publish_raw(&sent).await.unwrap();
    let ids = redis
        .normalizer()
        .read(1_000, Duration::from_millis(20))
        .await
        .unwrap();
    let hops: Vec<_> = ids.iter().map(|entry| event(&entry.id)).collect();
    let rivals = (0..4).map(|_| {
        let mut consumer = redis.normalizer();
        let hops = hops.clone();
        tokio::spawn(async move {
            let mut done = 0;
            for batch in hops.chunks(37) {
                done += consumer.hop(0, batch).await.unwrap();
            }
            done
        })
    });
    let done: usize = futures_util::future::join_all(rivals)
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum();
    assert_eq!(done, 500);
    assert_eq!(redis.ask::<u64>("XLEN ttlc:events").await, 500);
}

#[tokio::test]
async fn a_full_redis_refuses_the_whole_hop_and_nothing_is_lost() {
    let redis = Redis::start();
    redis.bus.publish_raw(&[envelope(ROOM, 1)]).await.unwrap();
    let mut consumer = redis.normalizer();
    let ids = read(&mut consumer).await;
    let _: Value = redis.ask("CONFIG SET maxmemory 1").await;
    assert!(consumer.hop(0, &[event(&ids[0])]).await.is_err());
    assert!(redis.bus.publish_raw(&[envelope(ROOM, 2)]).await.is_err());
    let _: Value = redis.ask("CONFIG SET maxmemory 0").await;
    assert_eq!(consumer.hop(0, &[event(&ids[0])]).await.unwrap(), 1);
    assert_eq!(redis.ask::<u64>("XLEN ttlc:events").await, 1);
}

#[tokio::test]
async fn a_wiped_stream_is_read_from_its_new_start() {
    let redis = Redis::start();
    redis.bus.publish_raw(&[envelope(ROOM, 1)]).await.unwrap();
    let mut consumer = redis.normalizer();
    assert_eq!(read(&mut consumer).await.len(), 1);
    let _: Value = redis.ask("FLUSHALL").await;
    redis.bus.publish_raw(&[envelope(ROOM, 2)]).await.unwrap();
    let mut found = read(&mut consumer).await; // finds the group gone
    if found.is_empty() {
        found = read(&mut consumer).await;
    }
    assert_eq!(
        found.len(),
        1,
        "the new entry, though it came before the group"
    );
}

#[tokio::test]
async fn a_restart_of_redis_costs_errors_but_no_entry() {
    let redis = Redis::start();
    redis
        .bus
        .publish_raw(&[envelope(ROOM, 1), envelope(ROOM, 2)])
        .await
        .unwrap();
    let mut consumer = redis.normalizer();
    let held = read(&mut consumer).await;
    let Redis { server, bus } = redis;
    let stopped = server.stop(true).unwrap();
    assert!(bus.ping().await.is_err());
    assert!(consumer.read(10, Duration::from_millis(20)).await.is_err());
    let _server = stopped.start_again().unwrap();

    let mut attempts = 0;
    let again = loop {
        match consumer.read(10, Duration::from_millis(20)).await {
            Ok(entries) => break entries,
            Err(error) => assert!(attempts < 50, "still {error}"),
        }
        attempts += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(
        again.into_iter().map(|entry| entry.id).collect::<Vec<_>>(),
        held,
        "pending ones come again"
    );
}

#[tokio::test]
async fn trimming_keeps_what_any_group_still_needs() {
    let redis = Redis::start();
    let sent: Vec<_> = (0..1_000).map(|seq| envelope(ROOM, seq)).collect();
    redis.bus.publish_raw(&sent).await.unwrap();
    assert_eq!(
        redis.bus.trim("ttlc:raw").await.unwrap(),
        0,
        "nobody has said what they need"
    );
    assert_eq!(redis.bus.trim("ttlc:nothing").await.unwrap(), 0);

    // One group has read and acknowledged all, the second holds an entry, the third has read none.
    let mut fast = redis
        .bus
        .consumer("ttlc:raw".into(), GROUP_NORMALIZER, "slot-0");
    let ids = fast.read(1_000, Duration::from_millis(20)).await.unwrap();
    fast.ack(&ids.iter().map(|entry| entry.id.clone()).collect::<Vec<_>>())
        .await
        .unwrap();
    let mut holding = redis
        .bus
        .consumer("ttlc:raw".into(), GROUP_STORAGE, "slot-0");
    let held = holding.read(900, Duration::from_millis(20)).await.unwrap();
    let mut idle = redis.bus.consumer("ttlc:raw".into(), GROUP_API, "slot-0");
    idle.read(1, Duration::from_millis(20)).await.unwrap();
    assert_eq!(
        redis.bus.trim("ttlc:raw").await.unwrap(),
        0,
        "the third needs them all"
    );

    let first = idle.read(1, Duration::from_millis(20)).await.unwrap();
    assert_eq!(first.len(), 1);
    let _: Value = redis.ask("XGROUP DESTROY ttlc:raw api").await;
    holding
        .ack(
            &held[..800]
                .iter()
                .map(|entry| entry.id.clone())
                .collect::<Vec<_>>(),
        )
        .await
        .unwrap();
    let dropped = redis.bus.trim("ttlc:raw").await.unwrap();
    assert!(
        (500..=800).contains(&dropped),
        "whole nodes below the oldest pending entry: {dropped}"
    );
    let mut again = redis
        .bus
        .consumer("ttlc:raw".into(), GROUP_STORAGE, "slot-0");
    assert_eq!(
        read(&mut again).await.len(),
        100,
        "the held ones are still there"
    );
}

#[tokio::test]
async fn status_and_dead_letters_are_written_as_documented() {
    let redis = Redis::start();
    let status = CreatorStatus {
        state: "waiting",
        stream_id: None,
        provider: "direct",
        reason: Some("offline".into()),
        detail: None,
        attempt: 0,
        since: Timestamp::from_millis(0),
        retry_at: None,
    };
    redis.bus.set_status("alice", &status).await.unwrap();
    let json: String = redis.ask("GET ttlc:status:alice").await;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&json).unwrap(),
        serde_json::json!({"state": "waiting", "provider": "direct", "reason": "offline", "attempt": 0, "since": "1970-01-01T00:00:00.000Z"})
    );
    assert!(redis.ask::<i64>("TTL ttlc:status:alice").await > 60);

    let Outcome::DeadLetter(letter) = dead("0-1").outcome else {
        unreachable!()
    };
    redis.bus.dead_letter(&letter).await.unwrap();
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
