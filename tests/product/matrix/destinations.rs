//! F15, F16: the operator's endpoint fails in every way it can, is away, or chokes on one room.
//!
//! That each status, time-out and `Retry-After` has its place in the schedule is proved on the
//! forwarder alone (`daemon/tests/forwarder`); here it is one part of the whole, and nothing of what
//! rooms say may be missing at the endpoint, doubled or out of order because of it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::ensure;

use super::{
    Rig, Show,
    endpoint::{Endpoint, Reply, Seen},
    long, number,
};
use crate::{daemon::PATIENCE, stores::until};

/// How a request goes wrong; each one the first time it is sent, so that the next try goes well.
const TROUBLES: [Reply; 8] = [
    Reply::Status(500),
    Reply::After(429, 2),
    Reply::Hang,
    Reply::Drip(200),
    Reply::Close,
    Reply::Status(408),
    Reply::Drip(503),
    Reply::Status(302),
];
/// Every so manieth event of a room is in trouble.
const EVERY: usize = 5;

/// F15. Every trouble in every room, again and again, and a room with events that are refused.
#[tokio::test(flavor = "multi_thread")]
async fn f15_a_destination_that_fails_gets_everything_in_order_once() {
    let rounds = usize::try_from(number("FAULTS_TROUBLES", 2, 60)).unwrap();
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut given = 0;
    let endpoint = Endpoint::start(move |seen| {
        let events = known.entry(seen.room.clone()).or_default();
        if seen.before > 0 {
            return Reply::Status(204);
        }
        *events += 1;
        if events.is_multiple_of(EVERY) && given < rounds * TROUBLES.len() {
            given += 1;
            return TROUBLES[given % TROUBLES.len()];
        }
        Reply::Status(200)
    })
    .await;
    let mut rig = forwarding(&endpoint, 4, &[("FORWARD_TIMEOUT", "1")]).await;
    until(
        PATIENCE.max(Duration::from_secs(rounds as u64 * 60)),
        async || {
            let troubled = endpoint.seen().iter().filter(|seen| troubled(seen)).count();
            let wanted = rounds * TROUBLES.len();
            ensure!(troubled >= wanted, "{troubled} of {wanted} troubles");
            Ok(())
        },
    )
    .await;
    // Poison: what the endpoint will never take, whoever sends it.
    let refused: Arc<Mutex<HashSet<String>>> = Arc::default();
    let refusing = refused.clone();
    endpoint.script(move |seen| {
        let mut refused = refusing.lock().unwrap();
        if refused.contains(&seen.key) || (refused.len() < 3 && seen.seq_no.is_multiple_of(3)) {
            refused.insert(seen.key.clone());
            return Reply::Status(422);
        }
        Reply::Status(200)
    });
    until(PATIENCE, async || {
        ensure!(refused.lock().unwrap().len() == 3, "3 are refused");
        Ok(())
    })
    .await;
    rig.proof().await;

    let refused = refused.lock().unwrap().clone();
    let letters = letters(&rig).await;
    let rejected: HashSet<String> = letters.iter().map(|letter| letter.0.clone()).collect();
    assert_eq!(
        rejected, refused,
        "dead letters are the poison: {letters:?}"
    );
    assert!(
        letters
            .iter()
            .all(|letter| letter.1 == "FORWARD_REJECTED" && letter.2 == "open")
    );
    assert_arrived(&rig, &endpoint, &refused, None).await;
    // Each trouble came about and was got over; `Retry-After` was waited for.
    let seen = endpoint.seen();
    for trouble in TROUBLES {
        let all: Vec<_> = seen.iter().filter(|seen| seen.reply == trouble).collect();
        assert!(all.len() >= rounds, "{trouble:?}: {}", all.len());
        for first in all.iter().filter(|first| !first.taken()) {
            let mut later = seen
                .iter()
                .filter(|seen| seen.key == first.key && seen.before == 1);
            let wait = later.next().expect("it is sent again").at - first.at;
            let least = if trouble == Reply::After(429, 2) {
                1_990
            } else {
                390
            };
            assert!(
                wait >= Duration::from_millis(least),
                "{trouble:?}: {wait:?}"
            );
        }
    }
}

/// F16. One room is poisoned, then nobody is there for a while, then all is well but the poison.
#[tokio::test(flavor = "multi_thread")]
async fn f16_an_outage_and_a_poisoned_room_keep_nothing_from_the_others() {
    let away = Duration::from_secs(number("FAULTS_DESTINATION_AWAY", 8, 6 * 3600));
    let age = number("FAULTS_FORWARD_MAX_AGE", 3, 900).to_string();
    let watched = usize::try_from(number("FAULTS_LATENCIES", 100, 2_000)).unwrap();
    let mut endpoint = Endpoint::start(|_| Reply::Status(200)).await;
    let settings = [
        ("FORWARD_MAX_AGE", age.as_str()),
        ("FORWARD_MAX_RETRIES", "4"),
    ];
    let mut rig = forwarding(&endpoint, 5, &settings).await;
    let victim = until(PATIENCE, async || {
        let room = rig
            .upstream
            .room_id(&rig.creators[0])
            .map(|id| id.to_string());
        room.ok_or_else(|| anyhow::anyhow!("not live"))
    })
    .await;

    let healthy = latency(&endpoint, &victim, watched).await;
    // One event of one room is never taken: those behind it wait.
    let poison: Arc<Mutex<Option<String>>> = Arc::default();
    let (chosen, room) = (poison.clone(), victim.clone());
    endpoint.script(move |seen| {
        let mut poison = chosen.lock().unwrap();
        if poison.is_none() && seen.room == room {
            *poison = Some(seen.key.clone());
        }
        Reply::Status(if poison.as_ref() == Some(&seen.key) {
            500
        } else {
            200
        })
    });
    until(PATIENCE, async || {
        ensure!(poison.lock().unwrap().is_some(), "nothing is poisoned");
        Ok(())
    })
    .await;
    let beside = latency(&endpoint, &victim, watched).await;
    eprintln!("F16: p99 of the others {healthy:?}, beside a poisoned room {beside:?}");
    assert!(
        beside <= healthy * 3 + Duration::from_millis(1_500),
        "{beside:?} beside a poisoned room, {healthy:?} before"
    );

    endpoint.off().await;
    tokio::time::sleep(away).await;
    let aside = until(PATIENCE, async || {
        let letters = letters(&rig).await;
        let aside = letters
            .iter()
            .filter(|letter| letter.1 == "FORWARD_UNREACHABLE")
            .count();
        ensure!(aside >= 3, "{aside} are put aside");
        Ok(aside)
    })
    .await;
    rig.stores_more(10).await;
    endpoint.on().await;
    rig.patience = rig.patience.max(away);
    rig.proof().await;
    let poison = poison.lock().unwrap().clone().expect("one event is poison");
    // What was put aside is sent by itself; what is left is the poison.
    let left = until(rig.patience, async || {
        let letters = letters(&rig).await;
        let left: Vec<_> = letters
            .into_iter()
            .filter(|letter| letter.2 != "redriven")
            .collect();
        ensure!(
            left.iter().all(|letter| letter.1 == "FORWARD_EXHAUSTED"),
            "{left:?} are left"
        );
        Ok(left)
    })
    .await;
    eprintln!(
        "F16: {aside} put aside after {} s, {} left",
        away.as_secs(),
        left.len()
    );
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].0, poison);
    assert_arrived(&rig, &endpoint, &HashSet::from([poison]), Some(&victim)).await;
}

/// A rig whose daemon forwards to the endpoint, when it does.
async fn forwarding(endpoint: &Endpoint, rooms: usize, settings: &[(&str, &str)]) -> Rig {
    let mut rig = Rig::prepare(Show {
        rooms,
        rate: if long() { 1.0 } else { 6.0 },
        ..Show::default()
    })
    .await;
    rig.set("FORWARD_URL", &endpoint.url());
    for (name, value) in settings {
        rig.set(name, value);
    }
    rig.start("run");
    until(PATIENCE, async || {
        let rooms = endpoint.taken().len();
        ensure!(rooms == rig.creators.len(), "{rooms} rooms are forwarded");
        Ok(())
    })
    .await;
    rig
}

fn troubled(seen: &Seen) -> bool {
    TROUBLES.contains(&seen.reply)
}

/// The forwarder's dead letters: event, reason, state.
async fn letters(rig: &Rig) -> Vec<(String, String, String)> {
    let database = rig.stores.database().await.unwrap();
    let rows = "SELECT (payload::jsonb ->> 'event')::jsonb ->> 'eventId', reason, state FROM dead_letters WHERE stage = 'forwarder'";
    let rows = database.query(rows, &[]).await.unwrap();
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

/// How long after it was received 99 of 100 events of the other rooms are at the endpoint, of the next
/// so many.
async fn latency(endpoint: &Endpoint, without: &str, count: usize) -> Duration {
    let from = endpoint.seen().len();
    let mut ages = until(
        PATIENCE.max(Duration::from_secs(count as u64)),
        async || {
            let seen = endpoint.seen();
            let others = seen[from..]
                .iter()
                .filter(|seen| seen.room != without && !seen.belated);
            let ages: Vec<_> = others.map(|seen| seen.age).collect();
            ensure!(ages.len() >= count, "{} of {count}", ages.len());
            Ok(ages)
        },
    )
    .await;
    ages.sort_unstable();
    ages[ages.len() * 99 / 100]
}

/// All that is stored is at the endpoint but the poison, in the order of its room, and recorded. A room
/// that was `stuck` may have let one newer event go first, to see whether it is the destination or the
/// event (decision 16).
async fn assert_arrived(
    rig: &Rig,
    endpoint: &Endpoint,
    poison: &HashSet<String>,
    stuck: Option<&str>,
) {
    let database = rig.stores.database().await.unwrap();
    let stored =
        "SELECT encode(event_id, 'hex'), state FROM events LEFT JOIN forward_log USING (event_id)";
    let stored = database.query(stored, &[]).await.unwrap();
    let taken = endpoint.taken();
    let arrived: HashSet<_> = taken.values().flatten().map(|seen| &seen.key).collect();
    for row in &stored {
        let (id, state): (String, Option<String>) = (row.get(0), row.get(1));
        let expected = match (poison.contains(&id), stuck) {
            (false, _) => "forwarded",
            (true, None) => "rejected",
            (true, Some(_)) => "dead_lettered",
        };
        assert_eq!(state.as_deref(), Some(expected), "{id}");
        assert_eq!(arrived.contains(&id), expected == "forwarded", "{id}");
    }
    assert_eq!(arrived.len() + poison.len(), stored.len());
    for (room, seen) in taken {
        let numbers = seen.iter().filter(|seen| !seen.belated);
        let mut numbers: Vec<_> = numbers.map(|seen| seen.seq_no).collect();
        if stuck.is_some() {
            // A connection that was cut had perhaps an answer on it.
            numbers.dedup();
        }
        let backwards = numbers.windows(2).filter(|two| two[0] >= two[1]).count();
        let allowed = usize::from(stuck == Some(room.as_str()));
        assert!(backwards <= allowed, "room {room}: {numbers:?}");
    }
}
