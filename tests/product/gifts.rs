//! Gift streaks through ingest and normalizer in processes of their own: each streak is concluded
//! once and its coins count once, whichever normalizer dies in the middle of it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::ensure;
use serde_json::Value;
use upstream::{Act, Script};

use crate::{
    daemon::PATIENCE,
    faults::{at, chatty, generous},
    product::Product,
    stores::{Stores, until},
    watch::said,
};

/// Within this a standby has taken over.
const TAKE_OVER: Duration = Duration::from_secs(15);

/// All events so far.
async fn events(stores: &Stores) -> anyhow::Result<Vec<Value>> {
    let entries = stores.entries("ttlc:events").await?;
    let events = entries
        .iter()
        .map(|one| serde_json::from_str(&one["event"]));
    Ok(events.collect::<Result<_, _>>()?)
}

async fn more(stores: &Stores, count: usize, limit: Duration) {
    let before = events(stores).await.unwrap().len();
    until(limit, async || {
        let now = events(stores).await?.len();
        ensure!(now >= before + count, "{} of {count} more", now - before);
        Ok(())
    })
    .await;
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// Whether this event counts its coins.
fn concludes(event: &Value) -> bool {
    let state = &event["payload"]["streak"]["state"];
    event["eventType"] == "GIFT" && (state == "final" || state == "single")
}

/// The events of gifts with this price.
fn priced(events: &[Value], coins: u64) -> Vec<&Value> {
    let of = |event: &&Value| event["payload"]["coins"]["unit"] == coins;
    events.iter().filter(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streak_is_concluded_once_over_restarts_and_take_overs() {
    let streak = |coins, counts: &[u32], ended| Act::Streak {
        coins,
        counts: counts.to_vec(),
        ended,
    };
    let givers = ["giver-1", "giver-2", "giver-3"];
    let script = givers
        .iter()
        .fold(Script::new(), |script, name| {
            script.creator(generous(name, 12.0, 300))
        })
        // Streaks whose messages come in disorder: one ends, and of the other no end ever comes.
        .creator(
            chatty("orderless", 6.0)
                .fault(at(3, streak(5, &[1, 3, 2], false)))
                .fault(at(4, streak(7, &[2, 1], true))),
        );
    let stores = Stores::redis_only().await;
    let mut product = Product::prepare(script, stores, &[], &[]).await;
    product.start_stage("ingest");
    product.start_stage("normalizer");
    let open = |product: &Product| -> u64 {
        let totals = givers.map(|name| product.upstream.totals(name));
        totals
            .into_iter()
            .flatten()
            .map(|totals| totals.open_streaks)
            .sum()
    };

    // Killed and started again in the middle of streaks.
    more(&product.stores, 60, PATIENCE).await;
    assert!(open(&product) > 0, "streaks are open");
    product.kill_stage("normalizer");
    product.start_stage("normalizer");
    more(&product.stores, 40, PATIENCE).await;

    // Another one stands by, and takes over.
    let (standby, log) = product.another("normalizer", &[]);
    until(PATIENCE, async || {
        ensure!(!said(&log, "another process normalizes, standing by", "").is_empty());
        Ok(())
    })
    .await;
    more(&product.stores, 10, PATIENCE).await;
    assert!(open(&product) > 0, "streaks are open");
    product.kill_stage("normalizer");
    let begun = Instant::now();
    more(&product.stores, 10, TAKE_OVER).await;
    assert!(begun.elapsed() <= TAKE_OVER, "{:?}", begun.elapsed());
    assert!(!said(&log, "normalizing", "").is_empty());

    for name in givers {
        product.played(name).await;
    }
    let totals = givers.map(|name| product.upstream.totals(name).expect("totals"));
    let rooms: HashMap<_, _> = product
        .upstream
        .sent()
        .into_iter()
        .map(|sent| (sent.creator, sent.room_id.to_string()))
        .collect();
    let messages: u64 = totals.iter().map(|totals| totals.messages).sum();
    let all = until(PATIENCE, async || {
        let all = events(&product.stores).await?;
        let of_givers = all.iter().filter(|event| {
            let kind = event["payload"]["rawType"].as_str().unwrap_or_default();
            kind.starts_with("Webcast") && event["streamId"] != rooms["orderless"].as_str()
        });
        // One more in each: the end of the broadcast.
        let (count, wanted) = (of_givers.count() as u64, messages + givers.len() as u64);
        ensure!(count == wanted, "{count} of {wanted} events");
        let inferred = priced(&all, 5).into_iter().any(concludes);
        ensure!(inferred, "the time-out has not come yet");
        Ok(all)
    })
    .await;

    for (name, totals) in givers.iter().zip(totals) {
        assert_eq!(totals.open_streaks, 0);
        let room: Vec<_> = all
            .iter()
            .filter(|event| {
                event["streamId"] == rooms[*name].as_str() && event["eventType"] == "GIFT"
            })
            .collect();
        assert_eq!(room.len() as u64, totals.gift_messages, "{name}");
        let counted: Vec<_> = room.iter().filter(|event| concludes(event)).collect();
        assert_eq!(counted.len() as u64, totals.gifts, "{name}");
        let coins: u64 = counted
            .iter()
            .map(|event| number(&event["payload"]["coins"]["total"]))
            .sum();
        assert_eq!(coins, totals.coins, "{name}");
        let mut ids: Vec<_> = counted
            .iter()
            .map(|event| event["payload"]["streak"]["id"].to_string())
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), counted.len(), "{name}: each streak once");
    }

    let endless = priced(&all, 5);
    assert_eq!(endless.len(), 3 + 1, "{endless:?}");
    let last: Vec<_> = endless
        .into_iter()
        .filter(|event| concludes(event))
        .collect();
    assert_eq!(last.len(), 1, "{last:?}");
    let payload = &last[0]["payload"];
    assert_eq!(payload["rawType"], "GiftStreakTimeout");
    assert_eq!(payload["streak"]["inferred"], true);
    assert_eq!(
        (
            number(&payload["giftCount"]),
            number(&payload["coins"]["total"])
        ),
        (3, 15)
    );
    let ended = priced(&all, 7);
    assert_eq!(ended.len(), 3, "{ended:?}");
    let last: Vec<_> = ended.into_iter().filter(|event| concludes(event)).collect();
    assert_eq!(last.len(), 1, "{last:?}");
    let payload = &last[0]["payload"];
    assert_eq!(payload["streak"]["inferred"], false);
    assert_eq!(
        (
            number(&payload["giftCount"]),
            number(&payload["coins"]["total"])
        ),
        (2, 14)
    );
    assert!(product.stores.entries("ttlc:dlq").await.unwrap().is_empty());
    standby.stop_within(Duration::from_secs(4));
    product.stop();
}
