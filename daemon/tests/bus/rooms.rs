//! Rooms: one owner at a time, each message once, numbers that never go back.

use std::time::Duration;

use daemon::bus::{Claim, LEASE, Published, RoomBatch};
use shared::raw::Envelope;
use shared::streams::GROUP_NORMALIZER;

use super::rig::{ROOM, Redis, envelope, owner};

#[tokio::test]
async fn envelopes_arrive_as_they_were_sent_and_the_room_remembers_its_number() {
    let redis = Redis::start();
    assert_eq!(redis.claim(ROOM, 1).await.floor, None);
    let sent = [envelope(ROOM, 7), envelope(ROOM, 8)];
    redis.publish(&sent).await;
    assert_eq!(redis.claim(ROOM, 1).await.floor, Some(8));

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
    assert!(redis.claim(ROOM, 1).await.seen.is_empty());
    let sent: Vec<_> = (0..1_500)
        .map(|seq| Envelope {
            msg_id: (seq % 3 > 0).then(|| format!("7{seq}")),
            ..envelope(ROOM, seq)
        })
        .collect();
    for batch in sent.chunks(400) {
        redis.publish(batch).await;
    }
    redis.publish(&[with_id("42", 1, "9")]).await;

    let seen = redis.claim(ROOM, 1).await.seen;
    let with_ids = sent
        .iter()
        .filter_map(|envelope| envelope.msg_id.as_deref());
    let expected: Vec<_> = with_ids
        .map(|id| ("WebcastChatMessage".to_owned(), id.to_owned()))
        .collect();
    assert_eq!(seen, expected, "1,000 fit");
    redis.publish(&[with_id(ROOM, 1_500, "8")]).await;
    let seen = redis.claim(ROOM, 1).await.seen;
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
    redis.publish(&sent).await;
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
    assert_eq!(redis.claim(&rooms[3], 1).await.floor, Some(2));

    let tokens: Vec<(&str, u64)> = rooms.iter().map(|room| (room.as_str(), 1)).collect();
    let kept = redis.bus.renew_rooms(owner(1), &tokens).await.unwrap();
    assert_eq!(kept, vec![true; 40], "renewing finds every shard");
}

#[tokio::test]
async fn a_room_has_one_owner_until_it_lapses_or_is_released() {
    let redis = Redis::start();
    let first = redis.claim(ROOM, 1).await;
    assert_eq!(first.token, 1);
    let ttl: i64 = redis.ask(&format!("PTTL ttlc:lease:{ROOM}")).await;
    let lease = i64::try_from(LEASE.as_millis()).unwrap();
    assert!((lease - 2_000..=lease).contains(&ttl), "{ttl}");

    let taken = redis.bus.claim_room(ROOM, owner(2)).await.unwrap();
    assert_eq!(taken, Claim::Taken(owner(1).to_string()));
    assert_eq!(
        redis.claim(ROOM, 1).await.token,
        1,
        "the same owner has the same token"
    );

    redis.bus.release_room(ROOM, owner(2)).await.unwrap();
    let taken = redis.bus.claim_room(ROOM, owner(2)).await.unwrap();
    assert!(
        matches!(taken, Claim::Taken(_)),
        "nobody releases another's"
    );

    redis.bus.release_room(ROOM, owner(1)).await.unwrap();
    assert_eq!(
        redis.claim(ROOM, 2).await.token,
        2,
        "another owner, a higher token"
    );
    // As if its time were over.
    let _: i64 = redis.ask(&format!("DEL ttlc:lease:{ROOM}")).await;
    assert_eq!(redis.claim(ROOM, 1).await.token, 3);
}

#[tokio::test]
async fn a_lapsed_lease_is_renewed_unless_somebody_has_taken_the_room() {
    let redis = Redis::start();
    let token = redis.claim(ROOM, 1).await.token;
    let other = redis.claim("42", 1).await.token;
    let rooms = [(ROOM, token), ("42", other)];
    let renewed = redis.bus.renew_rooms(owner(1), &rooms).await.unwrap();
    assert_eq!(renewed, [true, true]);
    assert_eq!(
        redis.bus.renew_rooms(owner(2), &rooms).await.unwrap(),
        [false, false]
    );

    let _: i64 = redis.ask(&format!("DEL ttlc:lease:{ROOM}")).await;
    let renewed = redis.bus.renew_rooms(owner(1), &rooms).await.unwrap();
    assert_eq!(renewed, [true, true], "nobody took it");
    let claim = redis.bus.claim_room(ROOM, owner(2)).await.unwrap();
    assert!(matches!(claim, Claim::Taken(_)), "it is held again");

    let _: i64 = redis.ask(&format!("DEL ttlc:lease:{ROOM}")).await;
    let taken_over = redis.claim(ROOM, 2).await.token;
    let renewed = redis.bus.renew_rooms(owner(1), &rooms).await.unwrap();
    assert_eq!(renewed, [false, true]);
    let theirs = [(ROOM, taken_over)];
    assert_eq!(
        redis.bus.renew_rooms(owner(2), &theirs).await.unwrap(),
        [true],
        "the loser's attempt changed nothing"
    );
}

#[tokio::test]
async fn who_lost_a_room_publishes_nothing_of_it() {
    let redis = Redis::start();
    redis.publish(&[envelope(ROOM, 1), envelope("42", 1)]).await;
    let _: i64 = redis.ask(&format!("DEL ttlc:lease:{ROOM}")).await;
    let token = redis.claim(ROOM, 2).await.token;

    // The loser does not know it yet; its other room goes on.
    let (lost, kept) = (envelope(ROOM, 2), envelope("42", 2));
    let late = envelope(ROOM, 3);
    let batches = [
        of(ROOM, 1, false, &[&lost]),
        of("42", 1, false, &[&kept]),
        of(ROOM, 1, true, &[&late]),
    ];
    let published = redis.bus.publish(owner(1), &batches).await.unwrap();
    assert_eq!(published.refused, [0, 2]);
    assert_eq!(redis.raw_numbers().await, [1, 1, 2]);

    // With the winner's token, but not by the winner.
    let stolen = [of(ROOM, token, false, &[&lost])];
    let published = redis.bus.publish(owner(1), &stolen).await.unwrap();
    assert_eq!(published.refused, [0]);
    let published = redis.bus.publish(owner(2), &stolen).await.unwrap();
    assert_eq!(published, Published::default());
    assert_eq!(redis.raw_numbers().await, [1, 1, 2, 2]);
    assert_eq!(redis.claim(ROOM, 2).await.floor, Some(2));
}

#[tokio::test]
async fn publishing_again_after_a_lost_reply_changes_nothing() {
    let redis = Redis::start();
    let sent = [envelope(ROOM, 1), envelope(ROOM, 2)];
    redis.publish(&sent).await;
    redis.publish(&sent).await;
    redis.publish(&[envelope(ROOM, 2), envelope(ROOM, 3)]).await;
    assert_eq!(redis.raw_numbers().await, [1, 2, 3]);
}

#[tokio::test]
async fn a_lease_that_lapsed_does_not_stop_who_nobody_has_replaced() {
    let redis = Redis::start();
    let token = redis.claim(ROOM, 1).await.token;
    let _: i64 = redis.ask(&format!("DEL ttlc:lease:{ROOM}")).await;
    let envelope = envelope(ROOM, 1);
    let batches = [of(ROOM, token, false, &[&envelope])];
    let published = redis.bus.publish(owner(1), &batches).await.unwrap();
    assert_eq!(published, Published::default());
    assert_eq!(redis.raw_numbers().await, [1]);
}

/// What a former owner still held is published when it has the room again, below the numbers of
/// the owner in between, but for what that one has published as well.
#[tokio::test]
async fn late_messages_are_published_unless_the_room_has_seen_them() {
    let redis = Redis::start();
    redis.publish(&[with_id(ROOM, 10, "a")]).await;
    redis.bus.release_room(ROOM, owner(1)).await.unwrap();

    let token = redis.claim(ROOM, 2).await.token;
    let (b, c) = (with_id(ROOM, 100, "b"), with_id(ROOM, 101, "c"));
    let theirs = [of(ROOM, token, false, &[&b, &c])];
    redis.bus.publish(owner(2), &theirs).await.unwrap();
    redis.bus.release_room(ROOM, owner(2)).await.unwrap();

    let again = redis.claim(ROOM, 1).await;
    assert_eq!((again.token, again.floor), (3, Some(101)));
    let (known, new, bare) = (
        with_id(ROOM, 11, "b"),
        with_id(ROOM, 12, "d"),
        envelope(ROOM, 13),
    );
    let held = [of(ROOM, again.token, true, &[&known, &new, &bare])];
    let published = redis.bus.publish(owner(1), &held).await.unwrap();
    assert_eq!(published.refused, Vec::<usize>::new());
    assert_eq!(published.repeats, [(0, 11)], "b is there as 100");
    assert_eq!(redis.raw_numbers().await, [10, 100, 101, 12, 13]);
    assert_eq!(
        redis.claim(ROOM, 1).await.floor,
        Some(101),
        "the highest number stays"
    );

    // The same again, after a lost reply: the batch is known, with and without ids.
    let published = redis.bus.publish(owner(1), &held).await.unwrap();
    assert_eq!(published.repeats, [(0, 11)], "as it was told before");
    assert_eq!(redis.raw_numbers().await, [10, 100, 101, 12, 13]);

    // In another batch: what has an id is known under its own number now.
    let (gap, more) = (gap(11), envelope(ROOM, 14));
    let held = [
        of(ROOM, again.token, true, &[&known, &new]),
        of(ROOM, again.token, true, &[&gap]),
        of(ROOM, again.token, true, &[&more]),
    ];
    for _ in 0..2 {
        let published = redis.bus.publish(owner(1), &held).await.unwrap();
        assert_eq!(published.repeats, [(0, 11)]);
        let numbers = redis.raw_numbers().await;
        assert_eq!(numbers, [10, 100, 101, 12, 13, 11, 14], "the gap as well");
    }

    // A message alone is not the gap in its place.
    let (alone, gap) = (with_id(ROOM, 15, "c"), self::gap(15));
    for (late, repeats) in [(&alone, &[(0, 15)][..]), (&gap, &[])] {
        let held = [of(ROOM, again.token, true, &[late])];
        let published = redis.bus.publish(owner(1), &held).await.unwrap();
        assert_eq!(published.repeats, repeats);
    }
    assert_eq!(redis.raw_numbers().await[7..], [15]);
    let lives: i64 = redis.ask(&format!("TTL ttlc:late:{ROOM}")).await;
    assert!((3590..=3600).contains(&lives), "{lives}");
}

fn gap(seq_no: u64) -> Envelope {
    Envelope {
        kind: "ControlEvent.GAP".into(),
        ..envelope(ROOM, seq_no)
    }
}

fn with_id(stream_id: &str, seq_no: u64, msg_id: &str) -> Envelope {
    Envelope {
        msg_id: Some(msg_id.into()),
        ..envelope(stream_id, seq_no)
    }
}

fn of<'a>(stream_id: &'a str, token: u64, late: bool, envelopes: &[&'a Envelope]) -> RoomBatch<'a> {
    RoomBatch {
        stream_id,
        token,
        late,
        after: None,
        envelopes: envelopes.to_vec(),
    }
}

#[tokio::test]
async fn a_room_of_which_redis_has_lost_something_publishes_nothing() {
    let redis = Redis::start();
    let token = redis.claim(ROOM, 1).await.token;
    let (first, next) = (envelope(ROOM, 10), envelope(ROOM, 11));
    let asks = [RoomBatch {
        after: Some(10),
        ..of(ROOM, token, false, &[])
    }];
    let published = redis.bus.publish(owner(1), &asks).await.unwrap();
    assert_eq!(published.behind, [(0, None)], "it knows nothing");
    let batch = of(ROOM, token, false, &[&first]);
    redis.bus.publish(owner(1), &[batch]).await.unwrap();
    let published = redis.bus.publish(owner(1), &asks).await.unwrap();
    assert_eq!(published, Published::default());

    let batches = [RoomBatch {
        after: Some(11),
        ..of(ROOM, token, false, &[&next])
    }];
    let published = redis.bus.publish(owner(1), &batches).await.unwrap();
    assert_eq!(published.behind, [(0, Some(10))]);
    assert_eq!(redis.raw_numbers().await, [10]);
}
