//! Rooms in every kind of trouble at once: the others do not notice, and the daemon ends in time
//! whatever it is waiting for.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, ensure};
use bytes::Bytes;
use upstream::{Act, Creator, Fault, Place, Provider, Script, Show, Trouble};

use crate::{
    daemon::PATIENCE,
    faults::{at, chatty, euler_closes, http, unsigned},
    product::Product,
    stores::{Stores, blocking, until},
    watch::{check, life, raw, shows},
};

const IN_TIME: Duration = Duration::from_secs(4);
/// A message is in Redis so soon after it was sent; the machine may be busy.
const PROMPT: Duration = Duration::from_secs(2);

fn garbage() -> Act {
    Act::Frame {
        bytes: Bytes::from_static(b"\xff\xff\xffno frame"),
    }
}

/// Everything that holds a creator's task up, or bothers it.
fn troubled() -> Vec<Creator> {
    let all = [
        ("page-stalls", http(Place::Page, 9, Trouble::Stall)),
        (
            "page-drips",
            http(Place::Page, 9, Trouble::Slow { ms: 500 }),
        ),
        ("sign-stalls", http(Place::Sign, 9, Trouble::Stall)),
        ("socket-stalls", http(Place::Socket, 9, Trouble::Stall)),
        ("sign-fails", unsigned(99, 500)),
        ("sign-blocked", unsigned(99, 420)),
        ("captcha", Fault::Captcha { skip: 0, times: 99 }),
        ("hangs", at(4, Act::Hang)),
        ("half", at(4, Act::HalfFrame)),
        ("bomb", at(4, Act::GzipBomb { mebibytes: 64 })),
        ("garbage", at(4, garbage())),
        ("deaf", at(4, Act::Deaf)),
    ];
    let mut creators: Vec<_> = all
        .into_iter()
        .map(|(name, fault)| chatty(name, 10.0).fault(fault))
        .collect();
    creators.push(Creator::new("offline", Show::Offline));
    creators
}

/// The longest that a message of this creator took from the stand-in to its envelope.
async fn slowest(product: &Product, creator: &str) -> anyhow::Result<Duration> {
    let came: HashMap<_, _> = raw(&product.stores)
        .await?
        .iter()
        .filter_map(|entry| Some((entry.msg_id?, entry.ingested_at)))
        .collect();
    let took = product
        .upstream
        .deliveries()
        .into_iter()
        .filter(|one| one.creator == creator);
    let took = took.filter_map(|one| {
        let sent = jiff::Timestamp::try_from(one.at).ok()?;
        Some(came.get(&one.msg_id)?.duration_since(sent))
    });
    let took: Vec<_> = took.collect();
    ensure!(took.len() > 60, "{creator}: {} messages", took.len());
    let longest = took.iter().max().context("none")?;
    Ok(Duration::try_from(*longest).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_in_one_room_is_nothing_to_the_others_and_nothing_to_the_end() {
    let calm = ["calm-1", "calm-2", "calm-3"];
    let mut script = calm.iter().fold(Script::new(), |script, name| {
        script.creator(chatty(name, 10.0))
    });
    script.creators.extend(troubled());
    let direct: Vec<_> = script.creators.iter().map(|one| one.name.clone()).collect();
    // The same for Euler, in a second daemon.
    let over_euler = [
        chatty("euler-calm", 10.0),
        chatty("euler-stalls", 10.0).fault(http(Place::EulerSocket, 9, Trouble::Stall)),
        chatty("euler-closes", 10.0).fault(euler_closes(99, 1011)),
        chatty("euler-hangs", 10.0).fault(at(4, Act::Hang)),
        chatty("euler-babbles", 10.0).fault(at(4, garbage())),
    ];
    let euler: Vec<_> = over_euler.iter().map(|one| one.name.clone()).collect();
    script.creators.extend(over_euler);
    let stores = Stores::redis_only().await;
    let settings = [
        ("EULER_API_KEY", "a-key-for-tests"),
        ("INGEST_FALLBACK", "off"),
    ];
    let mut product = Product::prepare(script, stores, &[], &settings).await;
    let (direct, euler) = (direct.join(","), euler.join(","));
    let (first, _) = product.another("ingest", &[("TIKTOK_UNIQUE_ID", &direct)]);
    let changes = [
        ("TIKTOK_UNIQUE_ID", euler.as_str()),
        ("INGEST_PROVIDER", "euler"),
    ];
    let (second, _) = product.another("ingest", &changes);

    for name in calm.into_iter().chain(["euler-calm"]) {
        until(PATIENCE, async || {
            let longest = slowest(&product, name).await?;
            assert!(longest < PROMPT, "{name}: {longest:?}");
            let life = life(&product.stores, name).await?;
            assert_eq!(life.len(), 1, "{name}: {life:?}");
            Ok(())
        })
        .await;
    }
    // They are in the trouble that was meant for them.
    for (name, reason) in [
        ("sign-fails", "sign_failed"),
        ("sign-blocked", "sign_blocked"),
        ("captcha", "blocked"),
        ("euler-closes", "euler_failed"),
    ] {
        shows(&product, name, "error", reason).await;
    }
    for name in ["sign-stalls", "socket-stalls", "euler-stalls"] {
        shows(&product, name, "connecting", "").await;
    }
    for name in [
        "bomb",
        "garbage",
        "euler-babbles",
        "hangs",
        "half",
        "deaf",
        "euler-hangs",
    ] {
        shows(&product, name, "live", "").await;
    }
    assert!(
        product
            .upstream
            .attempts("socket-stalls", Provider::Direct)
            .len()
            == 1
    );
    let letters = product.stores.entries("ttlc:dlq").await.unwrap();
    assert_eq!(letters.len(), 3, "{letters:?}");
    check(&raw(&product.stores).await.unwrap());

    // The end, also while Redis does not answer.
    first.stop_within(IN_TIME);
    let redis = product.stores.redis.take().unwrap();
    let stopped = blocking(move || redis.stop(false)).await;
    let before = product.upstream.deliveries().len();
    until(PATIENCE, async || {
        ensure!(product.upstream.deliveries().len() > before + 20);
        Ok(())
    })
    .await;
    second.stop_within(IN_TIME);
    product.stores.redis = Some(blocking(move || stopped.start_again()).await);
    check(&raw(&product.stores).await.unwrap());
    product.stop();
}
