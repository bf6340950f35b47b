//! A creator is followed, not a room: from waiting to a broadcast, to the next one, and through
//! interruptions; and what the creator's status says all the while.

use std::time::Duration;

use anyhow::ensure;
use redis::AsyncCommands;
use upstream::{Act, Script};

use crate::{
    daemon::PATIENCE,
    faults::{at, chatty},
    product::Product,
    stores::{Stores, until},
    watch::{check, lived, raw, said, shows, status, time},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_creator_is_followed_from_one_broadcast_to_the_next() {
    let script = Script::new()
        .creator(chatty("alice", 8.0))
        .creator(chatty("Bob", 8.0).fault(at(8, Act::Restart)))
        .creator(chatty("carol", 8.0))
        .creator(chatty("dave", 8.0).fault(at(8, Act::Interrupt { ms: 4_000 })));
    // Each way to spell a name, one of them twice.
    let names = " alice, @Bob,https://www.tiktok.com/@carol/live?x=1 ,dave,@ALICE";
    let settings = [("TIKTOK_UNIQUE_ID", names)];
    let stores = Stores::redis_only().await;
    let mut product = Product::prepare(script, stores, &[], &settings).await;
    let room =
        |product: &Product, name: &str| product.upstream.room_id(name).map(|it| it.to_string());
    // Carol is offline before anybody looks.
    assert!(product.upstream.end_broadcast("carol"));
    until(PATIENCE, async || {
        ensure!(room(&product, "carol").is_none(), "still live");
        Ok(())
    })
    .await;
    product.start_stage("ingest");

    // The status, while live and while waiting.
    let first = room(&product, "alice").expect("live");
    let live = shows(&product, "alice", "live", "start").await;
    assert_eq!(live["streamId"], first.as_str(), "{live}");
    assert_eq!(live["provider"], "direct", "{live}");
    assert_eq!(live["attempt"], 0, "{live}");
    assert!(
        live["fallback"].is_null() && live["retryAt"].is_null(),
        "{live}"
    );
    assert!(
        live["daemon"].is_string() || live["daemon"].is_object(),
        "{live}"
    );
    let waits = shows(&product, "carol", "waiting", "offline").await;
    assert!(waits["streamId"].is_null(), "{waits}");
    assert!(time(&waits["retryAt"]) > time(&waits["since"]), "{waits}");
    let left: i64 = product
        .stores
        .redis()
        .await
        .unwrap()
        .pttl("ttlc:status:carol")
        .await
        .unwrap();
    assert!((1..=35_000).contains(&left), "{left} ms");

    // The start of a broadcast.
    assert!(product.upstream.start_broadcast("carol"));
    shows(&product, "carol", "live", "").await;
    let carol = lived(&product, "carol", &["CONNECTED start"]).await;
    assert_eq!(Some(&carol[0].2.room), room(&product, "carol").as_ref());

    // Another room without an end of the one before.
    let bob = ["CONNECTED start", "DISCONNECTED lost", "CONNECTED start"];
    let bob = lived(&product, "Bob", &bob).await;
    assert_eq!(bob[1].1["closeCode"], 1006, "{:?}", bob[1]);
    assert_eq!(bob[0].2.room, bob[1].2.room);
    assert_ne!(bob[0].2.room, bob[2].2.room);
    assert_eq!(Some(&bob[2].2.room), room(&product, "Bob").as_ref());

    // The same room after an interruption, in which the creator was waited for.
    let dave = [
        "CONNECTED start",
        "DISCONNECTED lost",
        "CONNECTED reconnect",
    ];
    let dave = lived(&product, "dave", &dave).await;
    assert_eq!(dave[0].2.room, dave[2].2.room);
    assert_eq!(Some(&dave[0].2.room), room(&product, "dave").as_ref());
    assert_ne!(dave[0].2.session, dave[2].2.session);
    assert!(dave[1].2.seq_no < dave[2].2.seq_no);
    assert_eq!(
        said(&product.log, "waiting for a broadcast", "dave").len(),
        1
    );

    // The end, and the next broadcast.
    assert!(product.upstream.end_broadcast("alice"));
    let waits = shows(&product, "alice", "waiting", "").await;
    assert!(waits["streamId"].is_null(), "{waits}");
    lived(
        &product,
        "alice",
        &["CONNECTED start", "DISCONNECTED stream_end"],
    )
    .await;
    assert!(product.upstream.start_broadcast("alice"));
    let story = [
        "CONNECTED start",
        "DISCONNECTED stream_end",
        "CONNECTED start",
    ];
    let alice = lived(&product, "alice", &story).await;
    let second = room(&product, "alice").expect("live again");
    assert_eq!((&alice[1].2.room, &alice[2].2.room), (&first, &second));
    assert_ne!(first, second);
    let live = shows(&product, "alice", "live", "start").await;
    assert_eq!(live["streamId"], second.as_str(), "{live}");

    // Every room has been heard; the last one may still be about to speak.
    let rooms = [
        &first,
        &second,
        &bob[0].2.room,
        &bob[2].2.room,
        &dave[0].2.room,
    ];
    let entries = until(PATIENCE, async || {
        let entries = raw(&product.stores).await?;
        for room in rooms {
            let heard = entries
                .iter()
                .any(|entry| &entry.room == room && entry.msg_id.is_some());
            ensure!(heard, "nothing came from {room}");
        }
        Ok(entries)
    })
    .await;
    check(&entries);
    let end = entries
        .iter()
        .position(|entry| entry.kind == "WebcastControlMessage");
    let goodbye = entries
        .iter()
        .position(|entry| entry.seq_no == alice[1].2.seq_no && entry.room == first);
    assert!(
        end.is_some() && end < goodbye,
        "the announced end comes before the good-bye"
    );
    // Four connections at first, one more for each of three: nobody is connected to twice.
    assert_eq!(product.upstream.counts().connections, 4 + 3);

    // The keys outlive their time as long as the daemon lives; after it they say so, and lapse.
    let stores = product.stores.redis().await.unwrap();
    product.stop_stage("ingest", Duration::from_secs(4));
    let after = status(&product.stores, "alice").await.unwrap();
    assert_eq!(
        (&after["state"], &after["reason"]),
        (&"waiting".into(), &"shutdown".into())
    );
    let left: i64 = stores.clone().pttl("ttlc:status:alice").await.unwrap();
    assert!((1..=35_000).contains(&left), "{left} ms");
    product.stop();
}
