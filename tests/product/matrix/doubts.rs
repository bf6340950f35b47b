//! Can the proof fail? A sound pipeline is broken by hand, in one way after the other, and the proof
//! has to name each. And are the rows where the documentation says?

use std::collections::BTreeSet;

use redis::AsyncCommands as _;
use xtask::project;

use super::{Rig, Show};

/// The proof must fail, and say this.
async fn names(rig: &Rig, what: &str, invariant: &str) {
    let found = rig.check().await;
    let error = found.expect_err(what).to_string();
    assert!(error.contains(invariant), "{what}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proof_names_what_is_broken() {
    let mut rig = Rig::run(Show::default()).await;
    rig.stores_more(60).await;
    rig.proof().await.lossless();
    let database = rig.stores.database().await.unwrap();
    let sql = async |statement: &str| database.batch_execute(statement).await.unwrap();
    let a_message =
        "SELECT event_id FROM events WHERE event_type = 'CHAT' ORDER BY seq_no LIMIT 1 OFFSET 3";
    sql(&format!(
        "CREATE TABLE kept AS SELECT * FROM events WHERE event_id = ({a_message})"
    ))
    .await;

    // A row is gone, and with the stand-in's record alone, or with the numbers alone, it is noticed.
    sql("DELETE FROM events USING kept WHERE events.event_id = kept.event_id").await;
    names(&rig, "a row is gone", "of ").await;
    let ledger = rig.ledger(&database).await.unwrap_err().to_string();
    assert!(ledger.starts_with("I1: 1 messages"), "{ledger}");
    let whole = rig.is_whole().unwrap_err().to_string();
    assert!(
        whole.starts_with("I1: ttlc verify") && whole.contains("missing"),
        "{whole}"
    );
    // A gap that says so makes it known loss.
    sql("INSERT INTO gaps (stream_id, from_seq_no, to_seq_no, reason) SELECT stream_id, seq_no, seq_no, 'test' FROM kept").await;
    assert_eq!(rig.ledger(&database).await.unwrap().gaps.len(), 1);
    sql("DELETE FROM gaps; INSERT INTO events SELECT * FROM kept").await;
    rig.check().await.unwrap();

    // The same event in the partition of another day, which a constraint forbids by itself.
    sql("ALTER TABLE events DROP CONSTRAINT events_day_of_reception").await;
    sql("INSERT INTO events SELECT * FROM jsonb_populate_record(NULL::events, (SELECT to_jsonb(kept) FROM kept) || jsonb_build_object('part_day', (SELECT part_day + 1 FROM kept)))").await;
    names(&rig, "a row is doubled", "I2").await;
    sql("DELETE FROM events USING kept WHERE events.event_id = kept.event_id AND events.part_day <> kept.part_day").await;
    rig.check().await.unwrap();

    // Two messages have changed places.
    let swap = "UPDATE events SET raw = other.raw FROM (SELECT seq_no, stream_id,
            coalesce(lead(raw) OVER (PARTITION BY stream_id ORDER BY seq_no), NULL) AS raw FROM events WHERE raw_format = 'protobuf') AS other
        WHERE events.stream_id = other.stream_id AND events.seq_no = other.seq_no AND events.event_id = (SELECT event_id FROM kept)";
    sql(swap).await;
    names(&rig, "a message stands in the place of another", "I2").await;
    sql("UPDATE events SET raw = kept.raw FROM kept WHERE events.event_id = kept.event_id").await;
    rig.check().await.unwrap();

    // A count is wrong. What follows is found before this.
    let off = "UPDATE session_users SET coins = coins + 1 WHERE ctid = (SELECT min(ctid) FROM session_users)";
    sql(off).await;
    names(&rig, "a count is wrong", "session_users in 2 rows").await;

    // An entry was given to somebody who has vanished.
    let mut redis = rig.stores.redis().await.unwrap();
    rig.services.remove("run");
    let pending: String = redis
        .xadd("ttlc:raw", "*", &[("type", "nothing")])
        .await
        .unwrap();
    names(&rig, "an entry is not read", "has not read everything").await;
    let options = redis::streams::StreamReadOptions::default().group("normalizer", "nobody");
    let _: redis::streams::StreamReadReply = redis
        .xread_options(&["ttlc:raw"], &[">"], &options)
        .await
        .unwrap();
    names(&rig, "an entry is pending", "I12").await;
    let _: u64 = redis
        .xack("ttlc:raw", "normalizer", &[pending])
        .await
        .unwrap();

    rig.log
        .push(&format!("connecting to {}", rig.stores.database_url()));
    let error = rig.keeps_secrets().unwrap_err().to_string();
    assert!(error.contains("I18"), "{error}");
}

/// Rows and files, as `docs/testing.md` has them: `("f01", "kills.rs")`.
fn documented() -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(project::root().join("docs/testing.md")).expect("the page");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| F")?.split('|').map(str::trim);
        let number: u32 = cells.next()?.parse().ok()?;
        let file = cells.nth(1)?.trim_matches('`').to_owned();
        Some((format!("f{number:02}"), file))
    });
    rows.collect()
}

#[test]
fn every_row_is_where_the_documentation_says() {
    let documented = documented();
    let numbers: BTreeSet<_> = documented.iter().map(|(row, _)| row.as_str()).collect();
    // All but F23, which is the edge's.
    assert_eq!(numbers.len(), 26, "{numbers:?}");
    let folder = project::root().join("tests/product/matrix");
    let mut written = BTreeSet::new();
    let mut files = BTreeSet::new();
    for file in std::fs::read_dir(folder).expect("the rows") {
        let path = file.expect("a file").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let code = std::fs::read_to_string(&path).expect("a file of code");
        for line in code.lines() {
            let function = line.trim().strip_prefix("async fn ").unwrap_or_default();
            if let Some((row, _)) = function.split_once('_')
                && row.len() == 3
                && row.starts_with('f')
                && row[1..].parse::<u32>().is_ok()
            {
                written.insert((row.to_owned(), name.clone()));
            }
        }
        files.insert(name);
    }
    let unknown: Vec<_> = written.difference(&documented).collect();
    assert!(unknown.is_empty(), "not in docs/testing.md: {unknown:?}");
    let missing: Vec<_> = documented
        .difference(&written)
        .filter(|(_, file)| files.contains(file))
        .collect();
    assert!(
        missing.is_empty(),
        "in docs/testing.md, and there is no such test: {missing:?}"
    );
}
