//! Fifty rooms at once through the whole daemon: what is stored and counted is what was sent.

use std::collections::{BTreeMap, HashMap};

use anyhow::ensure;
use upstream::{Load, Script, Totals};

use crate::{
    daemon::PATIENCE,
    product::Product,
    rows::{Row, check_all},
    stores::{Stores, until},
};

const ROOMS: usize = 50;

fn number(value: &serde_json::Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// What the rows of a room add up to; bytes are left out.
fn add_up(rows: &[&Row]) -> Totals {
    let of = |kind: &'static str| rows.iter().filter(move |row| row.event_type == kind);
    let count = |kind| of(kind).count() as u64;
    let gifts = of("GIFT").filter(|row| row.payload()["streak"]["state"] != "progress");
    let gifts: Vec<_> = gifts.collect();
    Totals {
        messages: rows.iter().filter(|row| row.is_message()).count() as u64,
        bytes: 0,
        chats: count("CHAT"),
        like_messages: count("LIKE"),
        likes: of("LIKE").map(|row| number(&row.payload()["count"])).sum(),
        joins: count("JOIN"),
        follows: count("FOLLOW"),
        viewers: count("ROOM_USER"),
        gift_messages: count("GIFT"),
        gifts: gifts.len() as u64,
        coins: gifts
            .iter()
            .map(|row| number(&row.payload()["coins"]["total"]))
            .sum(),
        open_streaks: 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_rooms_add_up_to_what_was_sent() {
    let load = Load {
        size: 600,
        events: Some(100),
        ..Load::new(3, 10.0)
    };
    let script = Script::new().load(ROOMS, &load);
    let mut product = Product::start_with(script, Stores::start().await, &[], &[]).await;
    let names: Vec<_> = (0..ROOMS).map(|index| format!("load-{index}")).collect();
    for name in &names {
        product.played(name).await;
    }
    let totals: BTreeMap<_, _> = names
        .iter()
        .map(|name| {
            (
                name.as_str(),
                product.upstream.totals(name).expect("totals"),
            )
        })
        .collect();
    // The end of each broadcast is a message, too.
    let sent: u64 = totals.values().map(|totals| totals.messages + 1).sum();
    assert!(sent >= 50 * 100, "{sent}");
    let database = product.stores.database().await.unwrap();
    until(PATIENCE, async || {
        let goodbyes = "SELECT count(*) FROM events WHERE event_type = 'DISCONNECTED'";
        let goodbyes: i64 = database.query_one(goodbyes, &[]).await?.get(0);
        ensure!(goodbyes == 50, "{goodbyes} of {ROOMS} broadcasts are over");
        Ok(())
    })
    .await;
    let rows = product.settled(|_| Ok(())).await;
    check_all(&rows);

    let rooms: HashMap<_, _> = product
        .upstream
        .sent()
        .into_iter()
        .map(|sent| (sent.creator, sent.room_id.to_string()))
        .collect();
    for (name, totals) in &totals {
        // In the order of seqNo.
        let room: Vec<_> = rows
            .iter()
            .filter(|row| row.stream_id == rooms[*name])
            .collect();
        let wanted = Totals {
            bytes: 0,
            messages: totals.messages + 1,
            ..*totals
        };
        assert_eq!(add_up(&room), wanted, "{name}");
        let ends = room.iter().filter(|row| row.event_type == "STREAM_END");
        assert_eq!(ends.count(), 1, "{name}");
        let likes = room.iter().filter(|row| row.event_type == "LIKE");
        let likes: Vec<_> = likes.map(|row| number(&row.payload()["total"])).collect();
        assert!(likes.is_sorted(), "{name}: a total goes back: {likes:?}");
        assert_eq!(
            likes.last().copied().unwrap_or_default(),
            totals.likes,
            "{name}"
        );
    }
    let sums = "SELECT sum(coins)::bigint, sum(gifts)::bigint, sum(likes)::bigint, \
                sum(events)::bigint FROM session_stats";
    let sums = database.query_one(sums, &[]).await.unwrap();
    let sum = |index: usize| u64::try_from(sums.get::<_, i64>(index)).expect("not below 0");
    let coins: u64 = totals.values().map(|totals| totals.coins).sum();
    let likes: u64 = totals.values().map(|totals| totals.likes).sum();
    assert_eq!((sum(0), sum(2)), (coins, likes));
    assert!(sum(1) > 0);
    assert_eq!(sum(3), rows.len() as u64);
    assert_eq!(rows.len() as u64, sent + 2 * 50, "hello and good-bye");
    assert!(product.stores.entries("ttlc:dlq").await.unwrap().is_empty());
    assert_eq!(product.upstream.counts().connections, 50);
    product.stop();
}
