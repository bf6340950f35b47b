//! Who may do what.

use daemon::storage;
use tokio_postgres::{Client, NoTls};

use super::rig::{Rig, Room, noon};

/// The code with which Postgres refuses.
const FORBIDDEN: &str = "42501";

async fn code(client: &Client, sql: &str) -> Option<String> {
    let error = client.batch_execute(sql).await.err()?;
    Some(error.code().expect("an answer").code().to_owned())
}

/// The rig's address for another user and database.
fn address(rig: &Rig, user: &str, database: Option<&str>) -> String {
    let (_, rest) = rig.database.split_once('@').unwrap();
    let rest = match database {
        Some(database) => format!("{}/{database}", rest.split('/').next().unwrap()),
        None => rest.to_owned(),
    };
    format!("postgres://{user}:pw@{rest}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_can_add_events_and_nothing_else() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon());
    rig.store(rig.options(), &[room.connected(), room.chat(1)])
        .await;
    let client = rig.client().await;
    let partition: String = rig
        .one("SELECT tableoid::regclass::text FROM events LIMIT 1")
        .await;
    client.batch_execute("SET ROLE ttlc_writer").await.unwrap();
    for forbidden in [
        "UPDATE events SET event = '{}'",
        "DELETE FROM events",
        "TRUNCATE events",
        "DROP TABLE events",
        "ALTER TABLE events DISABLE TRIGGER ALL",
        &format!("DELETE FROM {partition}"),
        &format!("DROP TABLE {partition}"),
        "DELETE FROM events_default",
        "DELETE FROM gaps",
        "UPDATE gaps SET lost = 1",
        "DELETE FROM users",
        "DELETE FROM session_stats",
        "DELETE FROM dead_letters",
        "DELETE FROM forward_log",
        "UPDATE forward_gaps SET entries = 1",
        "SELECT prune_forward_log(now())",
        "SELECT detach_event_partition(current_date)",
        "SELECT drop_pruned_events()",
        "DELETE FROM pruned_events",
        "SELECT grant_rights()",
        "UPDATE schema_history SET checksum = '1'",
        "CREATE TABLE mine ()",
    ] {
        assert_eq!(
            code(&client, forbidden).await.as_deref(),
            Some(FORBIDDEN),
            "{forbidden}"
        );
    }
    assert_eq!(code(&client, "SELECT * FROM events").await, None);
    assert_eq!(
        code(&client, "SELECT ensure_event_partitions(20)").await,
        None
    );

    client
        .batch_execute("RESET ROLE; SET ROLE ttlc_reader")
        .await
        .unwrap();
    for table in [
        "events",
        "pruned_events",
        "session_stats",
        "gaps",
        "users",
        "forward_log",
    ] {
        assert_eq!(code(&client, &format!("SELECT * FROM {table}")).await, None);
        let delete = format!("DELETE FROM {table}");
        assert_eq!(
            code(&client, &delete).await.as_deref(),
            Some(FORBIDDEN),
            "{delete}"
        );
        let insert = format!("INSERT INTO {table} SELECT * FROM {table}");
        assert_eq!(
            code(&client, &insert).await.as_deref(),
            Some(FORBIDDEN),
            "{insert}"
        );
    }
    assert_eq!(code(&client, "SELECT unaccounted('7301')").await, None);
    assert_eq!(
        code(&client, "SELECT ensure_event_partitions(20)")
            .await
            .as_deref(),
        Some(FORBIDDEN)
    );
}

/// The one way to remove an event that the writer has: the function, which knows whose it may.
#[tokio::test(flavor = "multi_thread")]
async fn the_writer_can_erase_a_viewer_and_still_change_no_event() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon() - 24 * 3600 * 1000);
    let events = [room.connected(), room.chat(1), room.chat(2), room.chat(1)];
    rig.store(rig.options(), &events).await;
    let client = rig.client().await;
    client.batch_execute("SET ROLE ttlc_writer").await.unwrap();
    let of = async |user: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM events WHERE user_id = '{user}'");
        client.query_one(&sql, &[]).await.unwrap().get(0)
    };
    assert_eq!((of("1").await, of("2").await), (2, 1));
    let mut finished = false;
    client
        .batch_execute("SELECT erase_user('1')")
        .await
        .unwrap();
    while !finished {
        let part = "SELECT finished_at IS NOT NULL FROM continue_erasure(erased_hash('1'))";
        finished = client.query_one(part, &[]).await.unwrap().get(0);
    }
    assert_eq!((of("1").await, of("2").await), (0, 1));
    for forbidden in [
        "DELETE FROM events",
        "UPDATE events SET event = '{}', raw = NULL",
        "DELETE FROM erased_users",
        "UPDATE erased_users SET erased_at = 'epoch'",
        "INSERT INTO erased_users (user_hash, erased_at, change_no) VALUES (sha256('x'), now(), 99)",
        "SELECT drop_pruned_events()",
        "SELECT erasure_words('2', '{}')",
    ] {
        assert_eq!(
            code(&client, forbidden).await.as_deref(),
            Some(FORBIDDEN),
            "{forbidden}"
        );
    }
    assert_eq!(of("2").await, 1);

    client
        .batch_execute("RESET ROLE; SET ROLE ttlc_reader")
        .await
        .unwrap();
    for forbidden in [
        "SELECT erase_user('2')",
        "SELECT continue_erasure(erased_hash('2'))",
        "SELECT search FROM erased_users",
        "SELECT find_erased()",
    ] {
        assert_eq!(
            code(&client, forbidden).await.as_deref(),
            Some(FORBIDDEN),
            "{forbidden}"
        );
    }
}

/// Proven by what happens when the role lacks a right that the connection's own user has.
#[tokio::test(flavor = "multi_thread")]
async fn the_writer_works_in_its_role() {
    let rig = Rig::new().await;
    let client = rig.client().await;
    client
        .batch_execute("REVOKE INSERT ON events FROM ttlc_writer")
        .await
        .unwrap();
    let mut room = Room::new("7301", "ann", 1, noon());
    let running = rig.start(rig.options());
    rig.publish(&[room.chat(1)]).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 0);
    assert!(
        rig.dead_letters().await.is_empty(),
        "a missing right is an outage"
    );
    // Every migration grants what is missing.
    storage::migrate(&rig.options().database).await.unwrap();
    rig.settled().await;
    running.stop().await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 1);
}

/// As in production: one user owns the tables and migrates, the other only stores.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_nothing_but_the_role_can_store() {
    let rig = Rig::new().await;
    rig.client()
        .await
        .batch_execute(
            "CREATE ROLE stores LOGIN PASSWORD 'pw' IN ROLE ttlc_writer;
             DROP TABLE events_default; CREATE TABLE events_default PARTITION OF events DEFAULT",
        )
        .await
        .unwrap();
    let mut options = rig.options();
    options.database.database_migration_url = Some(rig.database.clone().into());
    options.database.database_url = Some(address(&rig, "stores", None).into());
    let mut room = Room::new("7301", "ann", 1, noon());
    let mut events = vec![room.connected()];
    events.extend((0..50).map(|user| room.chat(user)));
    events.push(room.gift(1, 3, "final"));
    events.push(room.gap(5, 6, "spool_full"));
    events.push(room.disconnected("stream_end"));
    let mut bad = room.chat(1);
    bad.raw = "%%%".into();
    events.push(bad);
    storage::migrate(&options.database).await.unwrap();
    rig.store(options.clone(), &events).await;
    rig.redeliver().await;
    let running = rig.start(options);
    rig.settled().await;
    rig.acknowledged("ttlc:dlq", shared::streams::GROUP_OPS)
        .await;
    running.stop().await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 54);
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM gaps").await, 1);
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM dead_letters").await, 1);
    super::statistics::assert_statistics_equal_a_recount(&rig).await;
}

/// A managed database: its owner may make tables and no roles.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_who_may_not_make_roles_can_migrate_and_store() {
    let rig = Rig::unmigrated().await;
    let client = rig.client().await;
    client
        .batch_execute("CREATE ROLE plain LOGIN PASSWORD 'pw'")
        .await
        .unwrap();
    client
        .batch_execute("CREATE DATABASE managed OWNER plain")
        .await
        .unwrap();
    let mut managed = rig.options();
    let url = address(&rig, "plain", Some("managed"));
    managed.database.database_url = Some(url.clone().into());
    storage::migrate(&managed.database).await.unwrap();
    let mut room = Room::new("7301", "ann", 1, noon());
    let events = [room.connected(), room.chat(1)];
    rig.store(managed.clone(), &events).await;
    let (owner, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let stored = async || -> i64 {
        let row = owner.query_one("SELECT count(*) FROM events", &[]).await;
        row.unwrap().get(0)
    };
    assert_eq!(stored().await, 2);

    // The operator makes the role later.
    client
        .batch_execute("CREATE ROLE ttlc_writer NOLOGIN; CREATE ROLE ttlc_reader NOLOGIN; GRANT ttlc_writer TO plain")
        .await
        .unwrap();
    storage::migrate(&managed.database).await.unwrap();
    owner.batch_execute("SET ROLE ttlc_writer").await.unwrap();
    assert_eq!(
        code(&owner, "DELETE FROM events").await.as_deref(),
        Some(FORBIDDEN)
    );
    owner.batch_execute("RESET ROLE").await.unwrap();
    rig.store(managed, &[room.chat(2)]).await;
    assert_eq!(stored().await, 3);
}
