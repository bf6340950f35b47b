//! "Unknown" is never "offline": a look that shows nothing says so, and is made again.

use anyhow::ensure;
use upstream::{Act, Creator, Fault, Place, Script, Show, Trouble};

use crate::{
    daemon::PATIENCE,
    faults::{at, chatty, http, status as answer},
    product::Product,
    stores::{Stores, until},
    watch::{check, life, lived, raw, said, shows},
};

/// What goes wrong with page and API, and what it is called.
fn troubles() -> [(&'static str, Trouble, &'static str); 7] {
    [
        ("empty", Trouble::Empty, "blocked"),
        ("html", Trouble::Html, "blocked"),
        ("verify", Trouble::Verify, "blocked"),
        ("broken", Trouble::BrokenJson, "blocked"),
        ("forbidden", answer(403), "blocked"),
        ("failing", answer(502), "unresolved"),
        ("reset", Trouble::Reset, "unresolved"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_shows_nothing_is_an_error_and_no_end() {
    let mut script = Script::new()
        .creator(chatty("captcha", 8.0).fault(Fault::Captcha { skip: 0, times: 4 }))
        .creator(chatty("walled", 8.0))
        .creator(Creator::new("really-off", Show::Offline))
        .creator(Creator::new("newcomer", Show::NeverLive));
    for (name, trouble, _) in troubles() {
        let page = http(Place::Page, 2, trouble.clone());
        let api = http(Place::Api, 2, trouble);
        script = script.creator(chatty(name, 8.0).fault(page).fault(api));
    }
    let stores = Stores::redis_only().await;
    let mut product = Product::prepare(script, stores, &["nobody"], &[]).await;
    product.start_stage("ingest");

    // A room that was being read, and then nothing can be looked at: it is taken as running.
    lived(&product, "walled", &["CONNECTED start"]).await;
    product
        .upstream
        .fault("walled", Fault::Captcha { skip: 0, times: 2 });
    product.upstream.fault("walled", at(3, Act::Drop));
    let story = [
        "CONNECTED start",
        "DISCONNECTED lost",
        "CONNECTED reconnect",
    ];
    let walled = lived(&product, "walled", &story).await;
    assert_eq!(walled[0].2.room, walled[2].2.room);
    assert_eq!(
        said(
            &product.log,
            "cannot look for the room, taking the last one",
            "walled"
        )
        .len(),
        1
    );

    let named = troubles().map(|(name, _, reason)| (name, reason));
    for (name, reason) in named.into_iter().chain([("captcha", "blocked")]) {
        shows(&product, name, "live", "start").await;
        let failures = said(&product.log, "attempt failed", name);
        assert_eq!(failures.len(), 2, "{name}: {failures:?}");
        for failure in failures {
            let text = failure.to_string();
            assert!(text.contains(&format!("\"{reason}\"")), "{name}: {text}");
        }
        let waited = said(&product.log, "waiting for a broadcast", name);
        assert!(waited.is_empty(), "{name} is not offline: {waited:?}");
        // Before the room is known there is no room whose event it could be.
        let life = life(&product.stores, name).await.unwrap();
        let life: Vec<_> = life.iter().map(|(what, _, _)| what.as_str()).collect();
        assert_eq!(life, ["CONNECTED start"], "{name}");
    }

    // The others, so that it shows when it is not the same.
    shows(&product, "really-off", "waiting", "offline").await;
    shows(&product, "newcomer", "waiting", "never_live").await;
    shows(&product, "nobody", "error", "unknown_user").await;
    assert_eq!(
        said(&product.log, "waiting for a broadcast", "really-off").len(),
        1
    );
    assert!(said(&product.log, "waiting for a broadcast", "nobody").is_empty());

    until(PATIENCE, async || {
        let entries = raw(&product.stores).await?;
        check(&entries);
        ensure!(entries.len() > 60, "{} entries", entries.len());
        let ends = entries
            .iter()
            .filter(|entry| entry.kind == "WebcastControlMessage");
        assert_eq!(ends.count(), 0);
        Ok(())
    })
    .await;
    product.stop();
}
