//! A viewer is erased: from what is stored, from what is on its way, and again after a restore.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser as _;
use daemon::storage::erasure::{self, Options};
use daemon::storage::verify;
use redis::Value as Reply;
use serde_json::{Value, json};
use shared::identity::EventId;

use xtask::processes::TemporaryFolder;

use super::rig::{Event, Rig, Room, poll};

/// The viewer, unlike anything else in the tests.
pub(super) const ID: &str = "6812345678901234567";
pub(super) const NUMBER: u64 = 6_812_345_678_901_234_567;
pub(super) const HANDLE: &str = "zoe.quartz_9";
const NAME: &str = "Zoë \"Q\" Quartz ✨";
const PICTURE: &str = "tos-avt-0068/f00dfeed12345678";
pub(super) const SAID: &str = "purple elephants at dawn";

fn avatar(size: u32) -> String {
    format!("https://p16-sign.tiktokcdn.com/{PICTURE}~c5_{size}x{size}.webp?x-expires=1")
}

/// Before any erasure, whatever time of the day it is.
pub(super) fn earlier() -> i64 {
    jiff::Timestamp::now().as_millisecond() - 3_600_000
}

/// As protobuf writes a number.
pub(super) fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 128 {
        bytes.push(u8::try_from(number % 128).unwrap() | 128);
        number /= 128;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

fn person(extra: &Value) -> Value {
    let mut person =
        json!({"userId": ID, "username": HANDLE, "displayName": NAME, "avatarUrl": avatar(100)});
    person
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    person
}

pub(super) trait Story {
    fn by_viewer(&mut self, event: Event) -> Event;
    fn own(&mut self) -> Vec<Event>;
    fn of_others(&mut self) -> Vec<Event>;
}

impl Story for Room {
    /// The same event, of the viewer.
    fn by_viewer(&mut self, event: Event) -> Event {
        let user = person(&json!({
            "roles": {"moderator": false, "subscriber": false, "follower": true, "topGifter": false, "anchor": false},
            "secUid": "MS4wLjABAAAAzoequartz0123456789",
        }));
        let mut event = event.with("/user", user);
        event.raw =
            STANDARD.encode([b"\x08".to_vec(), varint(NUMBER), SAID.as_bytes().to_vec()].concat());
        event
    }

    fn own(&mut self) -> Vec<Event> {
        let chat = self.chat(1).with("/payload/message", json!(SAID));
        let (gift, like) = (self.gift(1, 3, "final"), self.like(1, 5));
        [chat, gift, like]
            .into_iter()
            .map(|event| self.by_viewer(event))
            .collect()
    }

    /// Everywhere where the viewer is in events of others.
    fn of_others(&mut self) -> Vec<Event> {
        let mut events = vec![
            self.chat(2).with(
                "/payload/message",
                json!(format!("hi @{}!", HANDLE.to_uppercase())),
            ),
            self.chat(3)
                .with("/payload/message", json!(format!("{NAME} is back"))),
            self.chat(4)
                .with("/payload/mentions", json!([person(&json!({}))])),
            self.gift(5, 2, "final")
                .with("/payload/recipient", person(&json!({}))),
        ];
        let mut rank = self.watched_by(40);
        rank.json["payload"]["topViewers"] = json!([
            person(&json!({"rank": 1, "coins": 7})),
            {"userId": "99", "displayName": "Somebody", "rank": 2, "coins": 3},
        ]);
        events.push(rank);
        let battle = self.chat(6).with("/eventType", json!("BATTLE")).with(
            "/payload",
            json!({"rawType": "WebcastChatMessage", "kind": "armies", "sides": [
                {"userId": "77", "displayName": "Host", "score": 5, "contributors": [person(&json!({"score": 5}))]},
                person(&json!({"score": 6, "result": "win", "contributors": [{"userId": "98", "displayName": "Fan", "score": 2}]})),
            ]}),
        );
        events.push(battle);
        // Only in the raw data: the number, a name, JSON with escapes.
        for raw in [
            [b"\x12\x0a\x10".to_vec(), varint(NUMBER), b"\x22".to_vec()].concat(),
            [
                b"\x12\x0c".to_vec(),
                HANDLE.as_bytes().to_vec(),
                b"2".to_vec(),
            ]
            .concat(),
        ] {
            let mut event = self.chat(7);
            event.raw = STANDARD.encode(raw);
            events.push(event);
        }
        let mut escaped = self.chat(8);
        escaped.raw = r#"{"who":"Zo\u00eb \"Q\" Quartz \u2728"}"#.into();
        events.push(escaped);
        // What could not be decoded is there twice.
        let raw = STANDARD.encode([b"\x10".to_vec(), varint(NUMBER)].concat());
        let mut opaque = self.chat(9).with("/eventType", json!("RAW")).with(
            "/payload",
            json!({"rawType": "WebcastChatMessage", "raw": raw}),
        );
        opaque.raw = raw;
        events.push(opaque);
        events
    }
}

/// What is looked for: texts in any case, bytes, and both in base64 and hexadecimal.
fn needles() -> Vec<(String, Vec<u8>)> {
    let json_name = NAME.replace('"', "\\\"");
    let plain = [
        ID,
        HANDLE,
        NAME,
        &json_name,
        "Quartz",
        PICTURE,
        SAID,
        "zoequartz0123",
    ];
    let mut all: Vec<(String, Vec<u8>)> = plain
        .iter()
        .map(|text| ((*text).to_owned(), text.to_lowercase().into_bytes()))
        .collect();
    let mut blobs: Vec<(String, Vec<u8>)> = plain
        .iter()
        .map(|text| ((*text).to_owned(), text.as_bytes().to_vec()))
        .collect();
    blobs.push(("varint".to_owned(), varint(NUMBER)));
    for (name, bytes) in blobs {
        all.push((format!("hex of {name}"), hex::encode(&bytes).into_bytes()));
        // The characters that do not depend on what stands around, for each of the three shifts.
        for shift in 0..3 {
            let padded = STANDARD.encode([vec![0; shift], bytes.clone()].concat());
            let from = [0, 2, 3][shift];
            let to = (shift + bytes.len()) / 3 * 4;
            if to > from + 6 {
                let part = padded[from..to].to_lowercase();
                all.push((format!("base64 of {name}"), part.into_bytes()));
            }
        }
        if name == "varint" {
            all.push((name, bytes.to_ascii_lowercase()));
        }
    }
    all
}

/// Which needles some bytes have.
pub(crate) fn found(bytes: &[u8]) -> BTreeSet<String> {
    let lower = String::from_utf8_lossy(bytes).to_lowercase();
    needles()
        .into_iter()
        .filter(|(name, needle)| {
            if name == "varint" {
                let ascii = bytes.to_ascii_lowercase();
                ascii.windows(needle.len()).any(|part| part == needle)
            } else {
                lower.contains(std::str::from_utf8(needle).unwrap())
            }
        })
        .map(|(name, _)| name)
        .collect()
}

impl Rig {
    /// All of Redis, as text.
    pub(super) async fn all_of_redis(&self) -> Vec<u8> {
        let mut redis = self.redis().await;
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query_async(&mut redis)
            .await
            .unwrap();
        let mut all = Vec::new();
        for key in keys {
            let kind: String = redis::cmd("TYPE")
                .arg(&key)
                .query_async(&mut redis)
                .await
                .unwrap();
            let command: &[&str] = match kind.as_str() {
                "stream" => &["XRANGE", &key, "-", "+"],
                "hash" => &["HGETALL", &key],
                "zset" => &["ZRANGE", &key, "0", "-1"],
                "string" => &["GET", &key],
                other => panic!("{key} is a {other}"),
            };
            let reply: Reply = redis::cmd(command[0])
                .arg(&command[1..])
                .query_async(&mut redis)
                .await
                .unwrap();
            all.extend_from_slice(key.as_bytes());
            flatten(&reply, &mut all);
        }
        all
    }

    pub(super) fn all_of_postgres(&self) -> Vec<u8> {
        self.postgres.as_ref().unwrap().dump().unwrap()
    }

    fn erase_options(&self, words: &[&str]) -> Options {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            options: Options,
        }
        let mut all = vec![
            "erase",
            "--database-url",
            &self.database,
            "--redis-url",
            self.redis_url(),
        ];
        all.extend(words);
        Cli::try_parse_from(all).unwrap().options
    }

    pub(super) async fn erase(&self, words: &[&str]) -> Result<String, String> {
        let mut out = Vec::new();
        let done = erasure::execute(&self.erase_options(words), &mut out).await;
        let out = String::from_utf8(out).unwrap();
        assert_eq!(found(out.as_bytes()), BTreeSet::new(), "{out}");
        done.map(|()| out.clone())
            .map_err(|error| format!("{out}{error}"))
    }

    pub(super) async fn nothing_is_left(&self) {
        assert_eq!(
            found(&self.all_of_postgres()),
            BTreeSet::new(),
            "in postgres"
        );
        assert_eq!(
            found(&self.all_of_redis().await),
            BTreeSet::new(),
            "in redis"
        );
    }

    pub(super) async fn whole(&self) {
        let options = verify::Options {
            stream: Vec::new(),
            database: self.options().database,
        };
        for verdict in verify::verify(&options).await.unwrap() {
            assert!(verdict.is_whole(), "{verdict}");
        }
    }

    /// The sums that outlive the events.
    pub(super) async fn totals(&self) -> Value {
        self.one(
            "SELECT json_build_object(
                'sessions', (SELECT json_agg(to_jsonb(s) ORDER BY session_id, event_type) FROM session_stats s),
                'minutes', (SELECT json_agg(to_jsonb(m) ORDER BY stream_id, minute, event_type) FROM stream_minute_stats m),
                'viewers', (SELECT json_agg(to_jsonb(v) ORDER BY session_id) FROM (
                    SELECT session_id, sum(events) AS events, sum(coins) AS coins, sum(gifts) AS gifts, sum(likes) AS likes
                    FROM session_users GROUP BY 1) v))",
        )
        .await
    }
}

fn flatten(reply: &Reply, all: &mut Vec<u8>) {
    match reply {
        Reply::BulkString(bytes) => {
            all.extend_from_slice(bytes);
            all.push(b'\n');
        }
        Reply::Array(parts) => parts.iter().for_each(|part| flatten(part, all)),
        Reply::Map(pairs) => pairs.iter().for_each(|(key, value)| {
            flatten(key, all);
            flatten(value, all);
        }),
        _ => {}
    }
}

/// Everything that there can be of a viewer, stored.
pub(super) async fn told(rig: &Rig, room: &mut Room) -> usize {
    let mut events = vec![room.connected(), room.chat(1)];
    events.extend(room.own());
    events.extend(room.of_others());
    events.extend(room.own());
    events.push(room.chat(2));
    rig.store(rig.options(), &events).await;
    events.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_is_erased_everywhere_and_others_stay() {
    let rig = Rig::new().await;
    let begun = earlier();
    let mut room = Room::new("7301", "ann", 1, begun);
    let events = told(&rig, &mut room).await;
    let before = found(&rig.all_of_postgres());
    for there in [ID, HANDLE, PICTURE, SAID, "hex of varint"] {
        assert!(
            before.contains(there),
            "the search finds what is there: {there} in {before:?}"
        );
    }
    assert!(found(&rig.all_of_redis().await).contains("base64 of varint"));
    let totals = rig.totals().await;
    let others: Value = rig
        .one("SELECT json_agg(encode(event_id, 'hex') ORDER BY event_id) FROM events WHERE user_id IS DISTINCT FROM '6812345678901234567'")
        .await;

    let out = rig.erase(&[ID]).await.unwrap();
    assert!(
        out.contains("6 events removed, 10 events of others rewritten, 1 sessions"),
        "{out}"
    );
    rig.nothing_is_left().await;
    rig.whole().await;
    assert_eq!(rig.totals().await, totals);
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM events").await,
        i64::try_from(events).unwrap() - 6
    );
    let stayed: Value = rig
        .one("SELECT json_agg(encode(event_id, 'hex') ORDER BY event_id) FROM events")
        .await;
    assert_eq!(stayed, others);
    // Two runs of three numbers.
    let gaps: Value = rig
        .one("SELECT json_agg(json_build_array(to_seq_no - from_seq_no + 1, lost) ORDER BY from_seq_no) FROM gaps WHERE reason = 'erased'")
        .await;
    assert_eq!(gaps, json!([[3, 3], [3, 3]]));
    let rewritten: Value = rig
        .one("SELECT json_agg(event -> 'payload' ORDER BY seq_no) FROM events WHERE raw IS NULL")
        .await;
    let text = rewritten.to_string();
    for kept in [
        "hi @[erased]!",
        "[erased] is back",
        "Somebody",
        "Host",
        "Fan",
        "\"coins\":7",
        "\"score\":5",
        "\"result\":\"win\"",
    ] {
        assert!(text.contains(kept), "{kept} in {text}");
    }
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM users WHERE user_id = '1'")
            .await,
        1
    );
    assert_eq!(
        rig.one::<i64>("SELECT events FROM session_users WHERE user_id = 'erased'")
            .await,
        6
    );

    // Twice is like once.
    let snapshot = rig.snapshot().await;
    rig.erase(&[ID]).await.unwrap();
    assert_eq!(rig.snapshot().await, snapshot);

    // Everything comes again: nothing changes, nothing collides.
    let mut again = Room::new("7301", "ann", 1, begun);
    let mut events = vec![again.connected(), again.chat(1)];
    events.extend(again.own());
    events.extend(again.of_others());
    rig.store(rig.options(), &events).await;
    assert_eq!(rig.dead_letters().await, []);
    assert_eq!(rig.totals().await, totals);
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM events WHERE user_id = '6812345678901234567'")
            .await,
        0
    );
    rig.whole().await;
    // The stream still has what was just read.
    rig.erase(&[ID]).await.unwrap();
    rig.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_is_dropped_and_who_comes_back_is_new() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, earlier());
    rig.store(rig.options(), &[room.connected(), room.chat(1)])
        .await;
    // Nobody knows the viewer yet, but for the tombstone.
    let out = rig
        .erase(&[ID, "--name", HANDLE, "--name", NAME])
        .await
        .unwrap();
    assert!(out.contains("0 events removed, 0 events"), "{out}");

    // A backlog of before, of a session that ends with the viewer's words.
    let mut late = room.of_others();
    let own = room.own();
    late.extend(own.clone());
    let mut replayed = own;
    for event in &mut replayed {
        event.json["source"] = json!("replay");
        event.json["sessionId"] = json!(uuid::Uuid::from_u128(77));
    }
    rig.store(rig.options(), &late).await;
    rig.store(rig.options(), &replayed).await;
    rig.whole().await;
    assert_eq!(rig.dead_letters().await, []);
    assert_eq!(
        rig.one::<i64>("SELECT sum(lost)::bigint FROM gaps WHERE reason = 'erased'")
            .await,
        3
    );
    let last: i64 = rig
        .one("SELECT last_seq_no FROM sessions WHERE source = 'live'")
        .await;
    assert_eq!(
        u64::try_from(last).unwrap(),
        room.seq_no - 1,
        "the session had the numbers"
    );
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM events WHERE raw IS NULL")
            .await,
        10
    );
    assert_eq!(found(&rig.all_of_postgres()), BTreeSet::new());

    // The same viewer, afterwards.
    room.at_ms = jiff::Timestamp::now().as_millisecond() + 1_000;
    let back = room.own();
    rig.store(rig.options(), &back).await;
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM events WHERE user_id = '6812345678901234567'")
            .await,
        3
    );
    let user: String = rig
        .one("SELECT username FROM users WHERE user_id = '6812345678901234567'")
        .await;
    assert_eq!(user, HANDLE);
    assert_eq!(
        rig.one::<i64>("SELECT events FROM session_users WHERE user_id = '6812345678901234567'")
            .await,
        3
    );

    // An erasure up to then leaves them alone.
    let until: String = rig.one("SELECT erased_at::text FROM erased_users").await;
    rig.client()
        .await
        .batch_execute(&format!(
            "SELECT erase_user('{ID}', until => '{until}');
             DO $$ DECLARE one erased_users; BEGIN LOOP one := continue_erasure(erased_hash('{ID}')); EXIT WHEN one.finished_at IS NOT NULL; END LOOP; END $$"
        ))
        .await
        .unwrap();
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM events WHERE user_id = '6812345678901234567'")
            .await,
        3
    );
    assert_eq!(
        rig.one::<i64>("SELECT events FROM session_users WHERE user_id = '6812345678901234567'")
            .await,
        3
    );
    rig.whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_the_viewer_go_and_are_not_put_back() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, earlier());
    told(&rig, &mut room).await;
    let letter = |room: &mut Room, data: &str| {
        let seq_no = room.seq_no;
        room.seq_no += 1;
        let at = shared::time::Timestamp::from_millis(room.at_ms).to_string();
        json!({"streamId": "7301", "seqNo": seq_no.to_string(), "type": "WebcastChatMessage", "data": data,
            "timestamp": at, "ingestedAt": at, "sessionId": room.session.to_string()})
        .to_string()
    };
    let named = STANDARD.encode([b"\xff\x10".to_vec(), varint(NUMBER)].concat());
    let clean = letter(&mut room, "AAEC");
    let first = letter(&mut room, &named);
    let second = letter(&mut room, &named);
    let closing = room.chat(3);
    rig.publish(&[closing]).await;
    let running = rig.start(rig.options());
    for payload in [&clean, &first] {
        rig.fail("normalizer", "PARSE_ERROR", "no", payload).await;
    }
    let own = room.own().remove(0);
    let payload = json!({"event": own.json.to_string(), "raw": own.raw}).to_string();
    rig.fail("forwarder", "FORWARD_UNREACHABLE", "no", &payload)
        .await;
    let frame = json!({"streamId": "7301", "ingestedAt": own.json["ingestedAt"], "frame": "H4sI"})
        .to_string();
    rig.fail("ingest", "FRAME_ERROR", "no", &frame).await;
    rig.acknowledged("ttlc:dlq", shared::streams::GROUP_OPS)
        .await;
    rig.settled().await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM dead_letters").await, 4);

    let out = rig.erase(&[ID]).await.unwrap();
    assert!(out.contains("3 dead letters removed"), "{out}");
    rig.nothing_is_left().await;
    // One that comes only now is dropped by the copier.
    rig.fail("normalizer", "PARSE_ERROR", "no", &second).await;
    rig.acknowledged("ttlc:dlq", shared::streams::GROUP_OPS)
        .await;
    running.stop().await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM dead_letters").await, 1);
    rig.whole().await;
    rig.erase(&[ID]).await.unwrap();
    rig.nothing_is_left().await;
    let kept: i64 = rig.one("SELECT dead_letter_id FROM dead_letters").await;
    rig.redrive(&[kept], None).await.unwrap();

    // As after a restore from a copy: it is there again and not put back.
    rig.client()
        .await
        .execute(
            "INSERT INTO dead_letters (letter_key, stage, reason, error, payload, redacted, first_failed_at, failed_at, entries, target)
             VALUES (sha256('x'), 'normalizer', 'X', '', $1, false, now() - interval '1 hour', now() - interval '1 hour', '{}', 'raw')",
            &[&second],
        )
        .await
        .unwrap();
    let id: i64 = rig
        .one("SELECT max(dead_letter_id) FROM dead_letters")
        .await;
    let refused = rig.redrive(&[id], None).await.unwrap_err().to_string();
    assert!(refused.contains("a viewer who was erased"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_was_cut_off_goes_on_by_itself() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, earlier());
    for _ in 0..3 {
        told(&rig, &mut room).await;
    }
    let totals = rig.totals().await;
    // The API's way: one call, and the storage writer does the rest. Here it got some parts further,
    // and its last one was cut off.
    let client = rig.client().await;
    client
        .batch_execute(&format!("SET ROLE ttlc_writer; SELECT erase_user('{ID}')"))
        .await
        .unwrap();
    for _ in 0..8 {
        client
            .batch_execute(&format!("SELECT continue_erasure(erased_hash('{ID}'), 4)"))
            .await
            .unwrap();
        let cut_off = client
            .batch_execute(&format!(
                "BEGIN; SELECT continue_erasure(erased_hash('{ID}'), 4); SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(5)"
            ))
            .await;
        assert!(cut_off.is_err());
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    assert!(
        rig.one::<bool>("SELECT finished_at IS NULL FROM erased_users")
            .await
    );
    let running = rig.start(rig.options());
    poll("the storage writer finishes it", async || {
        rig.one::<bool>("SELECT finished_at IS NOT NULL FROM erased_users")
            .await
            .then_some(())
    })
    .await;
    poll("and empties redis", async || {
        found(&rig.all_of_redis().await).is_empty().then_some(())
    })
    .await;
    rig.nothing_is_left().await;
    assert_eq!(rig.totals().await, totals);
    rig.whole().await;

    // A flushed Redis gets the list again.
    redis::cmd("FLUSHALL")
        .exec_async(&mut rig.redis().await)
        .await
        .unwrap();
    poll("the mirror is back", async || {
        let there: bool = redis::cmd("EXISTS")
            .arg("ttlc:erased")
            .query_async(&mut rig.redis().await)
            .await
            .unwrap();
        there.then_some(())
    })
    .await;
    running.stop().await;
}

/// F25 without the daemon around it.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_restored_forgets_again() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, earlier());
    told(&rig, &mut room).await;
    let copy = rig.all_of_postgres();
    assert!(!found(&copy).is_empty());
    rig.erase(&[ID]).await.unwrap();
    let list = rig.erase(&["--export"]).await.unwrap();
    assert_eq!(list.lines().count(), 1);

    // By what Redis remembers.
    rig.postgres.as_ref().unwrap().restore(&copy).unwrap();
    assert!(!found(&rig.all_of_postgres()).is_empty());
    let out = rig.erase(&["--all"]).await.unwrap();
    assert!(
        out.starts_with("1 tombstones, of which 1 viewers were found"),
        "{out}"
    );
    rig.nothing_is_left().await;
    rig.whole().await;

    // By the list that was kept, when Redis is empty as well.
    rig.postgres.as_ref().unwrap().restore(&copy).unwrap();
    redis::cmd("FLUSHALL")
        .exec_async(&mut rig.redis().await)
        .await
        .unwrap();
    let folder = TemporaryFolder::new("erased").unwrap();
    let kept = folder.path().join("erased.ndjson");
    std::fs::write(&kept, &list).unwrap();
    rig.erase(&["--import", kept.to_str().unwrap()])
        .await
        .unwrap();
    rig.nothing_is_left().await;
    rig.whole().await;

    // Or by itself, when a storage writer finds the mirror to know more.
    rig.postgres.as_ref().unwrap().restore(&copy).unwrap();
    let running = rig.start(rig.options());
    poll("the storage writer erases again", async || {
        rig.one::<bool>(
            "SELECT count(*) > 0 AND bool_and(finished_at IS NOT NULL) FROM erased_users",
        )
        .await
        .then_some(())
    })
    .await;
    running.stop().await;
    rig.nothing_is_left().await;
    let twice = rig.erase(&["--import", "no/such/file"]).await.unwrap_err();
    assert!(twice.contains("no/such/file"), "{twice}");
}

/// Words of everybody's are not the viewer: they stay where nothing else says that it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_others_have_too_is_removed_beside_the_viewer_only() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, earlier());
    let shared = "https://p16-sign.tiktokcdn.com/tos-avt-0068/default0000~c5_100x100.webp";
    let of = |event: Event, id: &str, name: &str| {
        event
            .with("/user/userId", json!(id))
            .with("/user/username", json!(name))
            .with("/user/displayName", json!("Jennifer"))
            .with("/user/avatarUrl", json!(shared))
    };
    let mut events = vec![
        room.connected(),
        of(room.chat(1), ID, "ab"),
        of(room.chat(2), "5550001112", "jenny77"),
    ];
    for text in ["Jennifer about abs", "@Jennifer hi", "@ab hi", "tab"] {
        events.push(room.chat(3).with("/payload/message", json!(text)));
    }
    let battle = json!({"rawType": "WebcastChatMessage", "mentions": [{"userId": ID, "displayName": "Jennifer"}], "message": "x"});
    events.push(room.chat(4).with("/payload", battle));
    rig.store(rig.options(), &events).await;
    rig.erase(&[ID]).await.unwrap();
    let texts: Value = rig
        .one("SELECT json_agg(event #>> '{payload,message}' ORDER BY seq_no) FROM events WHERE user_id = '3'")
        .await;
    assert_eq!(
        texts,
        json!(["Jennifer about abs", "[erased] hi", "[erased] hi", "tab"])
    );
    let namesake: Value = rig
        .one("SELECT event -> 'user' FROM events WHERE user_id = '5550001112'")
        .await;
    assert_eq!(
        (&namesake["displayName"], &namesake["avatarUrl"]),
        (&json!("Jennifer"), &json!(shared))
    );
    let mention: Value = rig
        .one("SELECT event #> '{payload,mentions,0}' FROM events WHERE user_id = '4'")
        .await;
    assert_eq!(
        mention,
        json!({"userId": "[erased]", "displayName": "[erased]"})
    );
    rig.whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_viewer_is_refused_and_an_unknown_one_is_not() {
    let rig = Rig::new().await;
    for wrong in ["@ann", "ann", "", "123456789012345678901"] {
        let error = rig
            .client()
            .await
            .execute("SELECT erase_user($1)", &[&wrong])
            .await
            .unwrap_err();
        assert_eq!(error.code().unwrap().code(), "22023", "{wrong}");
    }
    let out = rig.erase(&["424242424242"]).await.unwrap();
    let mut expected = String::new();
    writeln!(expected, "erased: 0 events removed, 0 events of others rewritten, 0 sessions made anonymous, 0 dead letters removed").unwrap();
    writeln!(expected, "redis: 0 copies deleted, 0 still to be read").unwrap();
    assert_eq!(out, expected);
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM erased_users").await, 1);
    assert_ne!(
        EventId::new("1", 1, "x").as_bytes()[..],
        rig.one::<Vec<u8>>("SELECT user_hash FROM erased_users")
            .await[..]
    );
}
