//! What arrives: every event, in its order, under one key, once where nothing fails.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde_json::json;

use super::rig::{Reply, Rig, chat, chats, poll};

const HTTP_DATE: &str = "%a, %d %b %Y %H:%M:%S GMT";

#[tokio::test(flavor = "multi_thread")]
async fn every_event_arrives_once_in_its_order_and_is_recorded() {
    let rig = Rig::new().await;
    let mut events = Vec::new();
    for number in 1..=20 {
        events.extend((1..=5).map(|room| chat(room, number)));
    }
    rig.publish(&events).await;
    let running = rig.start(&["--forward-token=hunter2"]);
    rig.settled().await;
    for room in 1..=5 {
        assert_eq!(rig.server.taken(room), (1..=20).collect::<Vec<_>>());
        let log = rig.log(&room.to_string()).await;
        assert_eq!(log.len(), 20);
        assert!(
            log.iter()
                .all(|row| (row.1.as_str(), row.3) == ("forwarded", 1)),
            "{log:?}"
        );
    }
    for seen in rig.server.seen() {
        let event: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
        assert!(events.contains(&event), "as it was published");
        assert_eq!(seen.key(), event["eventId"].as_str().unwrap());
        assert_eq!(seen.headers["authorization"], "Bearer hunter2");
        assert_eq!(seen.headers["content-type"], "application/json");
        assert!(!seen.headers.contains_key("webhook-signature"));
    }
    running.stop().await;

    // As after a crash between the record and the acknowledgement: all comes again, nothing is sent.
    redis::cmd("XGROUP")
        .arg(&["DESTROY", "ttlc:events", "forwarder"])
        .exec_async(&mut rig.redis().await)
        .await
        .unwrap();
    let running = rig.start(&[]);
    rig.settled().await;
    running.stop().await;
    assert_eq!(rig.server.seen().len(), 100);
    assert_eq!(rig.count("forwarded").await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_what_fails_for_now_is_repeated_in_its_place_under_its_key() {
    let rig = Rig::new().await;
    // One room for each trouble, so that none counts for another.
    let troubles = [
        Reply::Status(408),
        Reply::Status(425),
        Reply::Status(429),
        Reply::After(429, "2".to_owned()),
        Reply::After(503, "a date".to_owned()),
        Reply::Status(500),
        Reply::Status(502),
        Reply::Status(504),
        Reply::Status(302),
        Reply::Hang,
        Reply::Close,
    ];
    let rooms = troubles.len() as u64;
    let mut attempts: HashMap<String, u32> = HashMap::new();
    let mut date: Option<String> = None;
    rig.server.script(move |seen| {
        let (room, number) = seen.events()[0];
        let attempt = attempts.entry(seen.key().to_owned()).or_default();
        *attempt += 1;
        match troubles.get(usize::try_from(room).unwrap()) {
            Some(Reply::After(503, _)) if number == 1 && *attempt <= 2 => {
                let now = jiff::Timestamp::now();
                let later = || now + jiff::SignedDuration::from_secs(4);
                let date = date.get_or_insert_with(|| later().strftime(HTTP_DATE).to_string());
                Reply::After(503, date.clone())
            }
            Some(trouble) if number == 1 && *attempt <= 2 => trouble.clone(),
            _ => Reply::Status(204),
        }
    });
    let running = rig.start(&["--forward-timeout=2"]);
    // Two rooms at a time: more failures in a row would open the circuit breaker.
    for pair in (0..=rooms).collect::<Vec<_>>().chunks(2) {
        let events = (1..=3).flat_map(|number| pair.iter().map(move |&room| chat(room, number)));
        rig.publish(&events.collect::<Vec<_>>()).await;
        rig.settled().await;
    }
    running.stop().await;
    let seen = rig.server.seen();
    for room in 0..rooms {
        assert_eq!(rig.server.taken(room), [1, 2, 3], "room {room}");
        let first: Vec<_> = seen
            .iter()
            .filter(|seen| seen.events()[0] == (room, 1))
            .collect();
        assert_eq!(first.len(), 3, "room {room}");
        assert!(
            first
                .iter()
                .all(|seen| seen.key() == first[0].key() && seen.body == first[0].body)
        );
        let waits = [first[1].at - first[0].at, first[2].at - first[1].at];
        let least = match room {
            3 => [1_990, 1_990],
            _ => [390, 790],
        };
        for (wait, least) in waits.iter().zip(least) {
            assert!(
                *wait >= Duration::from_millis(least),
                "room {room}: {waits:?}"
            );
        }
        let log = rig.log(&room.to_string()).await;
        assert_eq!(
            (log[0].1.as_str(), log[0].3),
            ("forwarded", 3),
            "room {room}"
        );
    }
    // The date is 4 s after the first attempt, and in whole seconds.
    let dated: Vec<_> = seen
        .iter()
        .filter(|seen| seen.events()[0] == (4, 1))
        .collect();
    assert!(
        dated[1].at - dated[0].at >= Duration::from_millis(2_900),
        "a date is waited for"
    );
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM dead_letters").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_status_counts_whatever_follows_it() {
    let rig = Rig::new().await;
    rig.server.script(|_| Reply::Dripping(200));
    rig.publish(&chats(1, 1..=2)).await;
    let running = rig.start(&["--forward-timeout=3"]);
    rig.settled().await;
    running.stop().await;
    assert_eq!(rig.server.taken(1), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_what_is_refused_is_a_dead_letter_and_can_be_put_back() {
    let rig = Rig::new().await;
    rig.server
        .script(|seen| Reply::Status(if seen.events()[0].1 == 2 { 422 } else { 200 }));
    rig.publish(&chats(1, 1..=3)).await;
    rig.publish(&[json!({"not": "an event"})]).await;
    let running = rig.start(&[]);
    rig.settled().await;
    assert_eq!(rig.server.taken(1), [1, 3]);
    let log = rig.log("1").await;
    assert_eq!(
        log[1],
        (2, "rejected".into(), Some("FORWARD_REJECTED".into()), 1)
    );

    // The storage writer copies the same letters: each stays one.
    let writer = storage_writer(&rig);
    poll("the letters are copied", async || {
        let pending: redis::streams::StreamInfoGroupsReply = redis::cmd("XINFO")
            .arg(&["GROUPS", "ttlc:dlq"])
            .query_async(&mut rig.redis().await)
            .await
            .ok()?;
        let ops = pending.groups.iter().find(|group| group.name == "ops")?;
        (ops.pending == 0 && ops.lag == Some(0)).then_some(())
    })
    .await;
    let client = rig.client().await;
    let letters = client
        .query("SELECT reason, attempts, state, target, payload, dead_letter_id FROM dead_letters WHERE stage = 'forwarder' ORDER BY reason", &[])
        .await
        .unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!(
        (letters[0].get::<_, &str>(0), letters[0].get::<_, i32>(1)),
        ("FORWARD_REJECTED", 1)
    );
    assert_eq!(
        (letters[0].get::<_, &str>(2), letters[0].get::<_, &str>(3)),
        ("open", "events")
    );
    assert!(
        letters[0].get::<_, &str>(4).contains("number 2"),
        "the original entry"
    );
    assert_eq!(
        (letters[1].get::<_, &str>(0), letters[1].get::<_, i32>(1)),
        ("FORWARD_UNREADABLE", 1)
    );

    // The operator puts it back, once the destination takes it.
    rig.server.script(|_| Reply::Status(200));
    client
        .execute(
            "UPDATE dead_letters SET state = 'redriving', redriving_at = now() - interval '1 minute',
                redriven_by = 'test', redrives = redrives + 1 WHERE dead_letter_id = $1",
            &[&letters[0].get::<_, i64>(5)],
        )
        .await
        .unwrap();
    poll("it is forwarded", async || {
        (rig.count("forwarded").await == 3).then_some(())
    })
    .await;
    rig.settled().await;
    assert_eq!(rig.server.taken(1), [1, 3, 2]);
    running.stop().await;
    writer.abort();
}

fn storage_writer(rig: &Rig) -> tokio::task::JoinHandle<()> {
    let options = daemon::storage::Options {
        database: rig.options(&[]).database,
        retention: daemon::storage::RetentionOptions {
            event_retention_days: 90,
            pseudonym_key: None,
        },
        storage_batch_size: 500,
        storage_batch_ms: 10,
    };
    let bus = rig.bus();
    tokio::spawn(async move {
        let stop = tokio_util::sync::CancellationToken::new();
        daemon::storage::run(options, bus, stop).await.unwrap();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_a_poisoned_room_delays_no_other_and_goes_on_past_its_poison() {
    let rig = Rig::new().await;
    rig.server.script(|seen| {
        Reply::Status(if seen.events()[0] == (13, 1) {
            500
        } else {
            200
        })
    });
    // More than is kept in memory of a room, behind an event that is never taken.
    rig.publish(&chats(13, 1..=600)).await;
    let running = rig.start(&["--forward-max-retries=3"]);
    poll("the poison is tried", async || {
        (!rig.server.seen().is_empty()).then_some(())
    })
    .await;
    for number in 1..=5 {
        let events: Vec<_> = (1..=10).map(|room| chat(room, number)).collect();
        let begun = Instant::now();
        rig.publish(&events).await;
        poll("all others pass", async || {
            (1..=10)
                .all(|room| rig.server.taken(room).last() == Some(&number))
                .then_some(())
        })
        .await;
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
    rig.settled().await;
    running.stop().await;
    assert_eq!(rig.server.taken(13), (2..=600).collect::<Vec<_>>());
    let log = rig.log("13").await;
    assert_eq!(
        log[0],
        (
            1,
            "dead_lettered".into(),
            Some("FORWARD_EXHAUSTED".into()),
            4
        )
    );
    assert_eq!(log.len(), 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_and_other_types_stay_here_unless_they_are_asked_for() {
    let rig = Rig::new().await;
    let replay = |number| {
        let mut event = chat(1, number);
        event["source"] = json!("replay");
        event
    };
    let mut like = chat(1, 3);
    like["eventType"] = json!("LIKE");
    rig.publish(&[chat(1, 1), replay(2), like.clone(), chat(1, 4)])
        .await;
    let running = rig.start(&["--forward-event-types=chat,GIFT"]);
    rig.settled().await;
    running.stop().await;
    assert_eq!(rig.server.taken(1), [1, 4]);
    assert_eq!(rig.log("1").await.len(), 2);

    // Asked for, a replay shows again what was forwarded live.
    rig.publish(&[replay(1), replay(5), like]).await;
    let running = rig.start(&["--forward-replays=on"]);
    rig.settled().await;
    running.stop().await;
    assert_eq!(rig.server.taken(1), [1, 4, 1, 5, 3]);
}

/// What is published while a forwarder is ended again and again arrives, in order but for repeats, and
/// a repeat has the same key and body.
#[tokio::test(flavor = "multi_thread")]
async fn crashes_lose_nothing() {
    let rig = Rig::new().await;
    rig.server
        .script(|_| Reply::Slow(200, Duration::from_millis(15)));
    for number in 1..=60 {
        rig.publish(&[chat(1, number), chat(2, number)]).await;
    }
    for round in 0..6 {
        let before = rig.server.seen().len();
        let running = rig.start(&[]);
        poll("some are sent", async || {
            (rig.server.seen().len() > before + 5).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(round * 3)).await;
        running.crash().await;
        // Not given back: as after kill -9 it would have to lapse.
        redis::cmd("DEL")
            .arg("ttlc:lease:forwarder")
            .exec_async(&mut rig.redis().await)
            .await
            .unwrap();
    }
    let running = rig.start(&[]);
    rig.settled().await;
    running.stop().await;
    for room in [1, 2] {
        let mut bodies: BTreeMap<u64, (String, String)> = BTreeMap::new();
        let mut last = 0;
        for seen in rig
            .server
            .seen()
            .iter()
            .filter(|seen| seen.events()[0].0 == room)
        {
            let number = seen.events()[0].1;
            assert!(
                number == last || number == last + 1,
                "{number} after {last}"
            );
            last = number;
            let first = bodies
                .entry(number)
                .or_insert_with(|| (seen.key().to_owned(), seen.body.clone()));
            assert_eq!(*first, (seen.key().to_owned(), seen.body.clone()));
        }
        assert_eq!(bodies.len(), 60);
    }
    assert_eq!(rig.count("forwarded").await, 120);
}
