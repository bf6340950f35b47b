//! Applying the migrations.

use daemon::storage::{Error, migrate};

use super::rig::Rig;

#[tokio::test(flavor = "multi_thread")]
async fn they_apply_once_however_many_start_at_once() {
    let rig = Rig::unmigrated().await;
    let options = rig.options().database;
    let all: Vec<_> = (0..6)
        .map(|_| {
            let options = options.clone();
            tokio::spawn(async move { migrate(&options).await })
        })
        .collect();
    for one in all {
        one.await.unwrap().unwrap();
    }
    migrate(&options).await.unwrap();
    let applied: i64 = rig.one("SELECT count(*) FROM schema_history").await;
    let versions: i64 = rig
        .one("SELECT count(DISTINCT version) FROM schema_history")
        .await;
    assert!(applied >= 2);
    assert_eq!(applied, versions);
    // Yesterday, today, and 14 days ahead.
    let partitions: i64 = rig
        .one("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass")
        .await;
    assert_eq!(partitions, 16 + 1, "and the default one");

    // A newer build was here.
    rig.client()
        .await
        .batch_execute(
            "INSERT INTO schema_history VALUES (9999, 'add_future', '2030-01-01T00:00:00Z', '1')",
        )
        .await
        .unwrap();
    match migrate(&options).await {
        Err(Error::Newer(name)) => assert_eq!(name, "V9999__add_future"),
        other => panic!("{other:?}"),
    }

    // Another build was here.
    rig.client()
        .await
        .batch_execute(
            "DELETE FROM schema_history WHERE version = 9999;
             UPDATE schema_history SET checksum = '1' WHERE version = 1",
        )
        .await
        .unwrap();
    let error = migrate(&options).await.unwrap_err();
    assert!(matches!(error, Error::Migration(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_without_the_password() {
    let rig = Rig::unmigrated().await;
    let mut options = rig.options().database;
    let wrong = rig.database.replace("/ttlc", "/nowhere");
    options.database_url = Some(wrong.into());
    let error = migrate(&options).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("DATABASE_URL: postgres refuses: "),
        "{text}"
    );
    let password = rig.database.split(['@', ':']).nth(2).unwrap();
    assert!(!text.contains(password), "{text}");

    options.database_url = None;
    assert!(matches!(migrate(&options).await, Err(Error::NoDatabase)));
}
