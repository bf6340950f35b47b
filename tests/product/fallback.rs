//! The other provider takes over when the first choice keeps failing, and hands back later; no
//! message is lost or doubled over the two.

use std::{collections::HashSet, time::Duration};

use anyhow::ensure;
use upstream::{Act, Fault, Provider, Script};

use crate::{
    daemon::PATIENCE,
    faults::{chatty, euler_closes, unsigned},
    product::Product,
    stores::{Stores, until},
    watch::{all_arrived, check, free_address, life, lived, metric, raw, said, status},
};

/// Waits until this creator is read by this provider.
async fn read_by(product: &Product, creator: &str, provider: &str, fallback: bool) {
    until(PATIENCE, async || {
        let status = status(&product.stores, creator).await?;
        ensure!(
            status["state"] == "live" && status["provider"] == provider,
            "{creator}: {status} for {provider}"
        );
        ensure!(
            status["fallback"].as_bool().unwrap_or_default() == fallback,
            "{status}"
        );
        Ok(())
    })
    .await;
}

/// Everybody by whom this creator was read, in turn, and why it ended.
async fn readers(product: &Product, creator: &str) -> Vec<String> {
    let life = life(&product.stores, creator).await.unwrap();
    life.iter()
        .map(|(what, says, _)| format!("{what} {}", says["provider"].as_str().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_provider_takes_over_and_hands_back() {
    let refused = Fault::Handshake {
        skip: 1,
        times: 3,
        message: "DEVICE_BLOCKED".to_owned(),
        status: 415,
    };
    let only_direct = |act| Fault::On {
        provider: Provider::Direct,
        after_frames: 12,
        act,
    };
    let script = Script::new()
        // From the beginning, and in the middle of the room.
        .creator(chatty("ann", 10.0).fault(unsigned(3, 500)))
        .creator(
            chatty("dan", 10.0)
                .fault(only_direct(Act::Drop))
                .fault(refused),
        )
        // The other way round.
        .creator(chatty("ben", 10.0).fault(euler_closes(3, 1011)))
        // Not wanted, and impossible.
        .creator(chatty("cat", 10.0).fault(unsigned(3, 500)))
        .creator(chatty("eva", 10.0).fault(unsigned(3, 500)));
    let stores = Stores::redis_only().await;
    let product = Product::prepare(script, stores, &[], &[("INGEST_HANDBACK_SECONDS", "8")]).await;
    let (health, key) = (free_address(), ("EULER_API_KEY", "a-key-for-tests"));
    let settings = [
        key,
        ("TIKTOK_UNIQUE_ID", "ann,dan"),
        ("HEALTH_ADDR", &health),
    ];
    let (direct_first, direct_log) = product.another("ingest", &settings);
    let settings = [
        key,
        ("TIKTOK_UNIQUE_ID", "ben"),
        ("INGEST_PROVIDER", "euler"),
    ];
    let (euler_first, euler_log) = product.another("ingest", &settings);
    let settings = [key, ("TIKTOK_UNIQUE_ID", "cat"), ("INGEST_FALLBACK", "off")];
    let (fallback_off, off_log) = product.another("ingest", &settings);
    let (without_key, _) = product.another("ingest", &[("TIKTOK_UNIQUE_ID", "eva")]);

    read_by(&product, "ann", "euler", true).await;
    read_by(&product, "ben", "direct", true).await;
    read_by(&product, "dan", "euler", true).await;
    for name in ["cat", "eva"] {
        read_by(&product, name, "direct", false).await;
        assert!(
            product.upstream.attempts(name, Provider::Euler).is_empty(),
            "{name}"
        );
    }
    let changes = "ttlc_ingest_provider_changes_total";
    assert_eq!(metric(&health, changes, &["euler"]).await.unwrap(), 2);
    for (log, name) in [
        (&direct_log, "ann"),
        (&direct_log, "dan"),
        (&euler_log, "ben"),
    ] {
        assert_eq!(said(log, "the other provider takes over", name).len(), 1);
    }
    assert!(said(&off_log, "the other provider takes over", "cat").is_empty());

    // Later the first choice is in the room before the other one goes.
    read_by(&product, "ann", "direct", false).await;
    read_by(&product, "dan", "direct", false).await;
    read_by(&product, "ben", "euler", false).await;
    let story = [
        "ERROR sign_failed",
        "ERROR sign_failed",
        "ERROR sign_failed",
        "CONNECTED start",
        "DISCONNECTED hand_back",
        "CONNECTED reconnect",
    ];
    let ann = lived(&product, "ann", &story).await;
    let attempts: Vec<_> = ann
        .iter()
        .take(3)
        .map(|(_, says, _)| says["attempt"].as_u64())
        .collect();
    assert_eq!(attempts, [Some(1), Some(2), Some(3)]);
    assert_eq!(
        readers(&product, "ann").await[2..6],
        [
            "ERROR sign_failed direct",
            "CONNECTED start euler",
            "DISCONNECTED hand_back euler",
            "CONNECTED reconnect direct"
        ]
    );
    assert_eq!(
        readers(&product, "ben").await,
        [
            "ERROR euler_failed euler",
            "ERROR euler_failed euler",
            "ERROR euler_failed euler",
            "CONNECTED start direct",
            "DISCONNECTED hand_back direct",
            "CONNECTED reconnect euler"
        ]
    );
    let dan = readers(&product, "dan").await;
    assert_eq!(
        dan[..2],
        ["CONNECTED start direct", "DISCONNECTED lost direct"],
        "{dan:?}"
    );
    assert!(
        dan.contains(&"DISCONNECTED hand_back euler".to_owned()),
        "{dan:?}"
    );
    assert_eq!(metric(&health, changes, &["direct"]).await.unwrap(), 2);

    // Some more, and then the end: each message once, and both have delivered.
    let hellos = raw(&product.stores).await.unwrap().len();
    until(PATIENCE, async || {
        ensure!(raw(&product.stores).await?.len() > hellos + 60);
        Ok(())
    })
    .await;
    for name in ["ann", "ben", "cat", "dan", "eva"] {
        assert!(product.upstream.end_broadcast(name));
        until(PATIENCE, async || {
            ensure!(product.upstream.room_id(name).is_none(), "{name} is live");
            Ok(())
        })
        .await;
        all_arrived(&product.stores, &product.upstream, name).await;
    }
    let both: HashSet<_> = product
        .upstream
        .deliveries()
        .into_iter()
        .map(|one| (one.creator, one.provider))
        .collect();
    assert_eq!(both.len(), 3 * 2 + 2, "{both:?}");
    assert!(
        metric(&health, "ttlc_ingest_repeats_total", &[])
            .await
            .unwrap()
            > 0
    );
    check(&raw(&product.stores).await.unwrap());
    for daemon in [direct_first, euler_first, fallback_off, without_key] {
        daemon.stop_within(Duration::from_secs(4));
    }
    product.stop();
}
