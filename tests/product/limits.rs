//! What upstream allows is kept to: the floor of polling, budgets over all creators, and 429.

use std::time::{Duration, Instant};

use anyhow::ensure;
use upstream::{Creator, Place, Script, Show};

use crate::{
    daemon::PATIENCE,
    faults::{chatty, http, limited},
    product::Product,
    stores::{Stores, until},
    watch::{free_address, lived, metric, shows, since, time},
};

/// How often the page of each of these was asked for.
fn looks(product: &Product, names: &[String]) -> Vec<u32> {
    let requests = product.upstream.requests();
    let of = |name: &String| {
        let path = format!("/@{name}/live");
        let count = requests.iter().filter(|one| one.path == path).count();
        u32::try_from(count).expect("few")
    };
    names.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_offline_is_asked_for_politely_and_within_the_budget() {
    let many: Vec<_> = (0..10).map(|index| format!("many-{index}")).collect();
    let one = ["single".to_owned()];
    let script = many.iter().chain(&one).fold(Script::new(), |script, name| {
        script.creator(Creator::new(name, Show::Offline))
    });
    let stores = Stores::redis_only().await;
    let product = Product::prepare(script, stores, &[], &[]).await;
    let begun = Instant::now();
    // They would ask nine times a second; two are allowed, and ten at once.
    let names = many.join(",");
    let crowd = [
        ("TIKTOK_UNIQUE_ID", names.as_str()),
        ("TIKTOK_REQUESTS_PER_MINUTE", "120"),
    ];
    let (crowd, _) = product.another("ingest", &crowd);
    // The budget is large here, and the floor is two seconds.
    let alone = [
        ("TIKTOK_UNIQUE_ID", "single"),
        ("OFFLINE_POLL_SECONDS", "2"),
    ];
    let (alone, _) = product.another("ingest", &alone);
    let wanted = 10 + 2 * 6;
    until(PATIENCE, async || {
        let asked: u32 = looks(&product, &many).iter().sum();
        let seconds = begun.elapsed().as_secs();
        assert!(
            Duration::from_millis(500) * asked <= begun.elapsed() + Duration::from_millis(5_500),
            "{asked} in {seconds} s"
        );
        let asked_one = looks(&product, &one)[0];
        assert!(
            Duration::from_secs(2) * asked_one <= begun.elapsed() + Duration::from_secs(2),
            "{asked_one} in {seconds} s"
        );
        ensure!(asked >= wanted, "{asked} of {wanted}");
        ensure!(asked_one >= 3, "{asked_one} of 3");
        Ok(())
    })
    .await;
    let each = looks(&product, &many);
    let (least, most) = (each.iter().min().unwrap(), each.iter().max().unwrap());
    assert!(most - least <= 1, "everybody has a turn: {each:?}");
    crowd.stop_within(Duration::from_secs(4));
    alone.stop_within(Duration::from_secs(4));
    product.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_holds_back_all_rooms_for_as_long_as_told() {
    let names = ["first", "second", "third", "fourth"];
    let script = names
        .iter()
        .fold(Script::new(), |script, name| {
            script.creator(chatty(name, 8.0))
        })
        .creator(Creator::new("absent", Show::Offline));
    let health = free_address();
    let settings = [("HEALTH_ADDR", health.as_str())];
    let stores = Stores::redis_only().await;
    let mut product = Product::prepare(script, stores, &[], &settings).await;
    for name in names {
        assert!(product.upstream.end_broadcast(name));
    }
    until(PATIENCE, async || {
        ensure!(
            names
                .iter()
                .all(|name| product.upstream.room_id(name).is_none())
        );
        Ok(())
    })
    .await;
    product.start_stage("ingest");
    for name in names {
        shows(&product, name, "waiting", "offline").await;
    }

    // Signing: one room is told, the other one, too, has to wait.
    let trouble = limited(4, "rate_limit_account_minute");
    product
        .upstream
        .fault("first", http(Place::Sign, 1, trouble));
    assert!(product.upstream.start_broadcast("first"));
    let status = shows(&product, "first", "error", "sign_limited").await;
    let told = product.upstream.sign_times("first")[0];
    assert!(
        time(&status["retryAt"])
            .duration_since(time(&status["since"]))
            .as_secs()
            >= 4,
        "{status}"
    );
    let host = "host=\"euler\"";
    let limits = "ttlc_ingest_upstream_limited_total";
    assert_eq!(
        metric(&health, limits, &[host, "label=\"minute\""])
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        metric(&health, "ttlc_ingest_budget_left", &[host])
            .await
            .unwrap(),
        0
    );
    assert!(product.upstream.start_broadcast("second"));
    for name in ["first", "second"] {
        shows(&product, name, "live", "start").await;
        let signed = *product.upstream.sign_times(name).last().unwrap();
        let waited = signed.duration_since(told).unwrap();
        assert!(waited >= Duration::from_secs(4), "{name} after {waited:?}");
        assert!(waited <= Duration::from_secs(10), "{name} after {waited:?}");
    }
    assert_eq!(product.upstream.sign_times("first").len(), 2);
    assert_eq!(product.upstream.sign_times("second").len(), 1);
    let first = lived(
        &product,
        "first",
        &["ERROR sign_limited", "CONNECTED start"],
    )
    .await;
    assert_eq!(
        (&first[0].1["attempt"], &first[1].1["attempt"]),
        (&1.into(), &2.into())
    );

    // TikTok's site: nobody at all is looked at meanwhile.
    product
        .upstream
        .fault("absent", http(Place::Page, 1, limited(3, "")));
    until(PATIENCE, async || {
        ensure!(product.upstream.counts().troubles == 2);
        Ok(())
    })
    .await;
    let told = std::time::SystemTime::now();
    let site = metric(&health, limits, &["host=\"tiktok_web\""]);
    assert!(site.await.is_ok_and(|count| count == 1));
    let before = product.upstream.counts().lookups;
    until(PATIENCE, async || {
        ensure!(product.upstream.counts().lookups > before, "no look");
        Ok(())
    })
    .await;
    assert!(
        since(told) >= Duration::from_millis(2_500),
        "{:?}",
        since(told)
    );

    // A limit of the day: nobody waits in line for an hour, and nobody asks.
    let trouble = limited(3_600, "rate_limit_account_day");
    product
        .upstream
        .fault("third", http(Place::Sign, 1, trouble));
    assert!(product.upstream.start_broadcast("third"));
    let status = shows(&product, "third", "error", "sign_limited").await;
    let wait = time(&status["retryAt"]).duration_since(time(&status["since"]));
    assert!(wait.as_secs() >= 3_590, "{status}");
    assert!(product.upstream.start_broadcast("fourth"));
    shows(&product, "fourth", "error", "sign_limited").await;
    assert!(
        product.upstream.sign_times("fourth").is_empty(),
        "not even asked"
    );
    assert_eq!(product.upstream.sign_times("third").len(), 1);
    assert_eq!(
        metric(&health, limits, &[host, "label=\"day\""])
            .await
            .unwrap(),
        1
    );
    // Who is being read is none the worse.
    for name in ["first", "second"] {
        shows(&product, name, "live", "start").await;
    }
    product.stop();
}
