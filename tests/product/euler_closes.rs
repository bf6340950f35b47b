//! What each of Euler's close codes and refusals leads to: never again, much later, soon, or
//! waiting for the next broadcast.

use std::time::Duration;

use anyhow::ensure;
use upstream::{Act, Creator, Place, Provider, Script};

use crate::{
    daemon::PATIENCE,
    faults::{at, chatty, euler_closes, http, limited, status as answer},
    product::Product,
    stores::{Stores, until},
    watch::{all_arrived, check, life, lived, raw, said, shows, status, time},
};

/// In the middle of the room: the code, and what the good-bye says.
const IN_THE_ROOM: [(&str, u16, &str); 6] = [
    ("end", 4005, "stream_end"),
    ("silent", 4006, "closed"),
    ("tiktok", 4500, "closed"),
    ("lifetime", 4555, "renewed"),
    ("internal", 1011, "closed"),
    ("normal", 1000, "closed"),
];
/// At the door, for good: the code and how often it is tried (with v3, and with v2 where options
/// are refused).
const FOR_GOOD: [(&str, u16, usize); 3] = [
    ("options", 4400, 2),
    ("auth", 4401, 1),
    ("permission", 4403, 1),
];

/// A creator whose socket is closed in the middle of the room.
fn closed_within(name: &str, code: u16) -> Creator {
    let reason = String::new();
    chatty(name, 5.0).fault(at(8, Act::Close { code, reason }))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_close_code_is_answered_as_the_fact_sheet_says() {
    let mut script = Script::new()
        .creator(chatty("not-live", 5.0).fault(euler_closes(2, 4404)))
        .creator(chatty("crowded", 5.0).fault(euler_closes(9, 4429)))
        .creator(chatty("fetch", 5.0).fault(euler_closes(1, 4556)))
        .creator(chatty("info", 5.0).fault(euler_closes(1, 4557)))
        .creator(chatty("broken", 5.0).fault(euler_closes(1, 1011)))
        .creator(chatty("unpaid", 5.0).fault(http(Place::EulerSocket, 9, answer(402))))
        .creator(chatty("gateway", 5.0).fault(http(Place::EulerSocket, 1, answer(502))))
        .creator(chatty("mute", 5.0).fault(at(8, Act::Hang)))
        .creator(chatty("late", 5.0));
    for (name, code, _) in IN_THE_ROOM {
        script = script.creator(closed_within(name, code));
    }
    for (name, code, _) in FOR_GOOD {
        script = script.creator(chatty(name, 5.0).fault(euler_closes(9, code)));
    }
    let settings = [
        ("INGEST_PROVIDER", "euler"),
        ("INGEST_FALLBACK", "off"),
        ("EULER_API_KEY", "a-key-for-tests"),
        ("SILENT_SOCKET_SECONDS", "3"),
    ];
    let stores = Stores::redis_only().await;
    let mut product = Product::prepare(script, stores, &[], &settings).await;
    assert!(product.upstream.end_broadcast("late"));
    product.start_stage("ingest");
    let tried = |name: &str| product.upstream.attempts(name, Provider::Euler);

    // For good: an error in the room's events, and not another attempt.
    let mut final_ones = FOR_GOOD.map(|(name, _, _)| name).to_vec();
    final_ones.push("unpaid");
    for name in &final_ones {
        let status = shows(&product, name, "error", "euler_refused").await;
        assert!(
            status["retryAt"].is_null() && status["attempt"] == 1,
            "{status}"
        );
        let last = "giving up until restarted, or untracked and tracked again";
        assert_eq!(said(&product.log, last, name).len(), 1, "{name}");
    }
    for (name, code, _) in FOR_GOOD {
        let life = lived(&product, name, &["ERROR euler_refused"]).await;
        let says = &life[0].1;
        assert_eq!(
            (&says["closeCode"], &says["provider"]),
            (&code.into(), &"euler".into()),
            "{says}"
        );
    }

    // Much later.
    let crowded = shows(&product, "crowded", "error", "euler_sockets").await;
    let wait = time(&crowded["retryAt"]).duration_since(time(&crowded["since"]));
    assert!((240..=360).contains(&wait.as_secs()), "{crowded}");

    // Waits as for any creator who is offline, and nothing is an error.
    lived(&product, "not-live", &["CONNECTED start"]).await;
    assert_eq!(tried("not-live").len(), 3);
    assert_eq!(
        said(&product.log, "waiting for a broadcast", "not-live").len(),
        1
    );
    assert!(said(&product.log, "attempt failed", "not-live").is_empty());

    // Soon again, with another session of the same room, or after a look when it has ended.
    for (name, code, reason) in IN_THE_ROOM {
        let goodbye = format!("DISCONNECTED {reason}");
        let story = ["CONNECTED start", &goodbye, "CONNECTED reconnect"];
        let life = lived(&product, name, &story).await;
        let goodbye = &life[1].1;
        assert_eq!(
            (&goodbye["closeCode"], &goodbye["attempt"]),
            (&code.into(), &1.into()),
            "{goodbye}"
        );
        assert_eq!(life[0].2.room, life[2].2.room, "{name}");
        assert_ne!(life[0].2.session, life[2].2.session, "{name}");
        let away = life[2].2.ingested_at.duration_since(life[1].2.ingested_at);
        assert!((700..5_000).contains(&away.as_millis()), "{name}: {away:?}");
    }
    let mute = [
        "CONNECTED start",
        "DISCONNECTED silent",
        "CONNECTED reconnect",
    ];
    let mute = lived(&product, "mute", &mute).await;
    let quiet = mute[1].2.ingested_at.duration_since(mute[0].2.ingested_at);
    assert!((3..9).contains(&quiet.as_secs()), "{quiet:?}");
    for (name, code) in [("broken", Some(1011)), ("gateway", None)] {
        let life = lived(&product, name, &["ERROR euler_failed", "CONNECTED start"]).await;
        assert_eq!(life[0].1["closeCode"].as_u64(), code, "{:?}", life[0]);
    }

    // Too many requests: all of the account wait, also who would connect for the first time.
    product.upstream.fault(
        "late",
        http(
            Place::EulerSocket,
            1,
            limited(3, "rate_limit_account_minute"),
        ),
    );
    assert!(product.upstream.start_broadcast("late"));
    lived(
        &product,
        "late",
        &["ERROR euler_limited", "CONNECTED start"],
    )
    .await;
    let late = tried("late");
    let waited = late[1].duration_since(late[0]).unwrap();
    assert!(
        late.len() == 2 && waited >= Duration::from_secs(3),
        "{waited:?}"
    );

    // Their ten seconds are over some time.
    for (name, code, reason) in [
        ("fetch", 4556, "sign_failed"),
        ("info", 4557, "euler_failed"),
    ] {
        let error = format!("ERROR {reason}");
        let life = lived(&product, name, &[&error, "CONNECTED start"]).await;
        assert_eq!(life[0].1["closeCode"], code);
        let tried = tried(name);
        let waited = tried[1].duration_since(tried[0]).unwrap();
        assert!(
            tried.len() == 2 && waited >= Duration::from_secs(10),
            "{name}: {waited:?}"
        );
    }
    for (name, _, times) in FOR_GOOD {
        assert_eq!(tried(name).len(), times, "{name}");
    }
    assert_eq!((tried("unpaid").len(), tried("crowded").len()), (1, 1));
    assert_eq!(
        product.upstream.counts().connections,
        0,
        "nobody went to TikTok's socket"
    );
    for (name, _, _) in IN_THE_ROOM {
        let is_live = status(&product.stores, name).await.unwrap();
        assert_eq!(is_live["state"], "live", "{name}: {is_live}");
        // What came while nobody was there does not exist, and what came again is there once.
        assert!(product.upstream.end_broadcast(name));
        until(PATIENCE, async || {
            ensure!(product.upstream.room_id(name).is_none(), "{name} is live");
            Ok(())
        })
        .await;
        all_arrived(&product.stores, &product.upstream, name).await;
    }
    let refused = life(&product.stores, "auth").await.unwrap();
    assert_eq!(refused.len(), 1, "{refused:?}");
    check(&raw(&product.stores).await.unwrap());
    product.stop();
}
