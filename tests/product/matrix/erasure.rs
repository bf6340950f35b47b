//! F24, F25: a viewer who was erased is nowhere, whichever way a copy of them comes back.
//!
//! What is searched for: the number (as text and as protobuf writes it), the @name, the shown name and
//! the picture; in a dump of Postgres, in every key of Redis, in the spool and in the log, also as
//! hexadecimal and base64.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use redis::{AsyncCommands as _, Value};
use serde_json::json;
use shared::replay::{Progress, State};
use uuid::Uuid;
use xtask::project;

use super::{Rig, Show, report};
use crate::{
    daemon::PATIENCE,
    stores::{blocking, until},
};

/// Two replays, as uuids v7.
const FAST: Uuid = Uuid::from_u128(0x019a_acb9_0000_7000_8000_0000_0000_0001);
const SLOW: Uuid = Uuid::from_u128(0x019a_acb9_0000_7000_8000_0000_0000_0002);

/// Who is erased.
struct Viewer {
    id: String,
    needles: Vec<(String, Vec<u8>)>,
}

impl Viewer {
    /// Whoever said most, of those whose names are no beginnings of others'.
    async fn of(rig: &Rig) -> Self {
        let database = rig.stores.database().await.expect("Postgres answers");
        let row = database
            .query_one(
                "SELECT user_id, username, display_name, avatar_url FROM users
                 JOIN (SELECT user_id, count(*) AS events FROM events GROUP BY 1) AS said USING (user_id)
                 ORDER BY length(username) DESC, events DESC LIMIT 1",
                &[],
            )
            .await
            .expect("somebody said something");
        let id: String = row.get(0);
        let mut number: u64 = id.parse().expect("a number");
        let mut varint = Vec::new();
        while number >= 128 {
            varint.push(u8::try_from(number % 128).expect("a byte") | 128);
            number /= 128;
        }
        varint.push(u8::try_from(number).expect("a byte"));
        let mut wanted = vec![("id", id.clone().into_bytes()), ("varint", varint)];
        for (name, column) in [("handle", 1), ("name", 2)] {
            wanted.extend(
                row.get::<_, Option<String>>(column)
                    .map(|text| (name, text.into_bytes())),
            );
        }
        let picture: Option<String> = row.get(3);
        if let Some(picture) = &picture {
            let path = picture.split(['?', '~']).next().expect("a part");
            wanted.push(("picture", path.as_bytes().to_vec()));
        }
        let mut needles = Vec::new();
        for (name, bytes) in wanted {
            needles.push((format!("hex of {name}"), hex::encode(&bytes).into_bytes()));
            for shift in 0..3 {
                // The characters that do not depend on what stands around.
                let text = STANDARD.encode([vec![0; shift], bytes.clone()].concat());
                let (from, to) = ([0, 2, 3][shift], (shift + bytes.len()) / 3 * 4);
                // A name without its end would be another one's.
                let whole = (shift + bytes.len()).is_multiple_of(3);
                if to > from + 6 && (whole || matches!(name, "id" | "varint")) {
                    needles.push((
                        format!("base64 of {name}"),
                        text.as_bytes()[from..to].to_vec(),
                    ));
                }
            }
            needles.push((name.to_owned(), bytes));
        }
        Self { id, needles }
    }

    /// Names as words: the stand-in has a `viewer_1` and a `viewer_12`.
    fn found(&self, bytes: &[u8]) -> BTreeSet<&str> {
        let part_of_word = |byte: Option<&u8>| {
            byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        };
        let there = |name: &str, needle: &[u8]| {
            let places = bytes.windows(needle.len()).enumerate();
            places
                .filter(|(_, part)| part[0] == needle[0] && *part == needle)
                .any(|(at, _)| {
                    !matches!(name, "handle" | "name" | "picture")
                        || !part_of_word(bytes.get(at + needle.len()))
                })
        };
        self.needles
            .iter()
            .filter(|(name, needle)| there(name, needle))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    fn nowhere(&self, place: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let found = self.found(bytes);
        ensure!(found.is_empty(), "I16: in {place}: {found:?}");
        Ok(())
    }
}

impl Rig {
    /// Runs `ttlc erase` to its end, as an operator does.
    async fn erase(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(project::program("ttlc"));
        command
            .env_clear()
            .envs(self.settings().iter().cloned())
            .arg("erase")
            .args(words);
        let ended = blocking(move || command.output().map_err(Into::into)).await;
        let out = String::from_utf8_lossy(&ended.stdout).into_owned();
        let log = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(ended.status.success(), "{}: {out}{log}", ended.status);
        Ok(out)
    }

    fn dump(&self) -> Vec<u8> {
        let postgres = self.stores.postgres.as_ref().expect("it runs");
        postgres.dump().expect("pg_dump")
    }

    async fn all_of_redis(&self) -> anyhow::Result<Vec<u8>> {
        let mut redis = self.stores.redis().await?;
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await?;
        let mut all = Vec::new();
        for key in keys {
            let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut redis).await?;
            let words: &[&str] = match kind.as_str() {
                "stream" => &["XRANGE", &key, "-", "+"],
                "hash" => &["HGETALL", &key],
                "zset" => &["ZRANGE", &key, "0", "-1"],
                "string" => &["GET", &key],
                "none" => continue,
                other => anyhow::bail!("{key} is a {other}"),
            };
            let mut command = redis::cmd(words[0]);
            let reply: Value = command.arg(&words[1..]).query_async(&mut redis).await?;
            all.extend_from_slice(key.as_bytes());
            flatten(&reply, &mut all);
        }
        Ok(all)
    }

    /// I16.
    async fn is_nowhere(&self, viewer: &Viewer) -> anyhow::Result<()> {
        viewer.nowhere("postgres", &self.dump())?;
        viewer.nowhere("redis", &self.all_of_redis().await?)?;
        let mut spool = Vec::new();
        read_all(self.spool.path(), &mut spool)?;
        viewer.nowhere("the spool", &spool)?;
        viewer.nowhere("the log", self.log.lines().join("\n").as_bytes())
    }

    async fn end(&self) {
        for creator in &self.creators {
            self.upstream.end_broadcast(creator);
        }
        until(PATIENCE, async || {
            let playing = |name: &&String| self.upstream.room_id(name).is_some();
            ensure!(
                self.creators.iter().find(playing).is_none(),
                "a room still plays"
            );
            Ok(())
        })
        .await;
    }

    /// The session in which the viewer said most.
    async fn session_of(&self, viewer: &Viewer) -> Uuid {
        let database = self.stores.database().await.expect("Postgres answers");
        let row = database
            .query_one(
                "SELECT session_id FROM events WHERE user_id = $1 GROUP BY 1 ORDER BY count(*) DESC LIMIT 1",
                &[&viewer.id],
            )
            .await;
        row.expect("somebody said something").get(0)
    }

    /// Asks for a replay, as the API does.
    async fn replay(&self, replay: Uuid, session: Uuid, speed: &str) {
        let command = json!({"command": "replay.start", "sessionId": session, "replayId": replay, "speed": speed});
        let mut redis = self.stores.redis().await.expect("Redis answers");
        redis::cmd("XADD")
            .arg(&["ttlc:control", "*", "command", &command.to_string()])
            .exec_async(&mut redis)
            .await
            .expect("it is added");
    }

    /// Waits until a replay is that far.
    async fn shown(&self, replay: Uuid, far: impl Fn(&Progress) -> bool) -> Progress {
        until(PATIENCE, async || {
            let mut redis = self.stores.redis().await?;
            let fields: HashMap<String, String> =
                redis.hgetall(shared::replay::key(replay)).await?;
            let progress = Progress::from_fields(|name| fields.get(name).map(String::as_str))
                .with_context(|| format!("{fields:?}"))?;
            ensure!(far(&progress), "{progress:?}");
            Ok(progress)
        })
        .await
    }

    async fn one(&self, sql: &str) -> anyhow::Result<i64> {
        let database = self.stores.database().await?;
        Ok(database.query_one(sql, &[]).await?.get(0))
    }
}

fn flatten(reply: &Value, all: &mut Vec<u8>) {
    match reply {
        Value::BulkString(bytes) => {
            all.extend_from_slice(bytes);
            all.push(b'\n');
        }
        Value::Array(parts) => parts.iter().for_each(|part| flatten(part, all)),
        Value::Map(pairs) => pairs.iter().for_each(|(key, value)| {
            flatten(key, all);
            flatten(value, all);
        }),
        _ => {}
    }
}

fn read_all(folder: &Path, all: &mut Vec<u8>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read_all(&path, all)?;
        } else {
            // One that was finished with meanwhile is as good as empty.
            all.extend(std::fs::read(&path).unwrap_or_default());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn f24_a_viewer_is_erased_during_a_replay_a_redrive_and_a_backlog() {
    let rig = Rig::prepare(Show::default()).await;
    for stage in ["ingest", "normalizer", "storage-writer"] {
        rig.start(stage);
    }
    rig.stores_more(200).await;
    let viewer = Viewer::of(&rig).await;

    // A backlog that nobody has read; then the rooms are silent.
    rig.services.remove("normalizer");
    rig.sends_more(150).await;
    rig.end().await;
    // A replay of what is stored waits for the normalizer with it.
    let mut redis = rig.stores.redis().await.expect("Redis answers");
    let session = rig.session_of(&viewer).await;
    rig.replay(FAST, session, "max").await;
    rig.shown(FAST, |fast| fast.state == State::Done).await;
    let raw = rig.stores.entries("ttlc:raw").await.expect("it is read");
    assert!(raw.iter().any(|entry| {
        entry["source"] == "replay"
            && STANDARD
                .decode(&entry["data"])
                .is_ok_and(|bytes| !viewer.found(&bytes).is_empty())
    }));
    // Letters with all that was received, half of them about to be put back.
    for entry in raw.iter().take(60) {
        let payload = serde_json::to_string(entry).expect("texts");
        redis::cmd("XADD")
            .arg(&[
                "ttlc:dlq",
                "*",
                "stage",
                "normalizer",
                "reason",
                "PARSE_ERROR",
            ])
            .arg(&["error", "as the test says", "payload", &payload])
            .arg(&["failedAt", "2026-11-22T15:04:05.678Z"])
            .exec_async(&mut redis)
            .await
            .expect("it is added");
    }
    until(PATIENCE, async || {
        let letters = rig.one("SELECT count(*) FROM dead_letters").await?;
        ensure!(letters == 60, "{letters} letters");
        Ok(())
    })
    .await;
    let database = rig.stores.database().await.expect("Postgres answers");
    database
        .batch_execute(
            "UPDATE dead_letters SET state = 'redriving', redriving_at = now() - interval '1 minute',
                redriven_by = 'F24', redrives = redrives + 1 WHERE dead_letter_id % 2 = 0",
        )
        .await
        .expect("half are to be put back");
    assert!(viewer.found(&rig.dump()).contains("id"));
    assert!(
        !viewer
            .found(&rig.all_of_redis().await.expect("it is read"))
            .is_empty()
    );

    // Another replay is under way: what it has read, it shows when the viewer is erased already.
    rig.replay(SLOW, session, "0.2").await;
    rig.shown(SLOW, |slow| slow.state == State::Running && slow.sent > 0)
        .await;
    let early = rig.erase(&[&viewer.id, "--wait", "0"]).await;
    let early = early.expect_err("a backlog is left").to_string();
    assert!(early.contains("still to be read"), "{early}");
    let fast = rig.shown(FAST, |_| true).await;
    let slow = rig.shown(SLOW, |slow| !slow.state.is_end()).await;
    assert!(slow.sent < fast.sent, "it was erased too late: {slow:?}");
    rig.start("normalizer");
    until(PATIENCE, async || rig.is_quiet().await).await;
    let began = std::time::Instant::now();
    let said = rig.erase(&[&viewer.id]).await.expect("nothing is left");
    let took = began.elapsed();
    rig.shown(SLOW, |slow| slow.state == State::Done).await;
    // The spool keeps the last minute.
    until(PATIENCE + Duration::from_mins(1), async || {
        rig.is_nowhere(&viewer).await
    })
    .await;
    until(PATIENCE, async || rig.is_whole()).await;
    let gaps = rig
        .one("SELECT count(*) FROM gaps WHERE reason = 'erased'")
        .await;
    assert!(gaps.expect("it answers") > 0);
    let stored = rig.stored().await.expect("it answers");
    assert!(stored > 150, "others stay: {stored}");
    let unknown = rig
        .one("SELECT count(*) FROM dead_letters WHERE reason <> 'PARSE_ERROR'")
        .await;
    assert_eq!(unknown.expect("it answers"), 0);
    report("F24", said.trim(), 1, &[("ttlc erase", took)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_a_backup_of_before_an_erasure_is_restored() {
    let mut rig = Rig::prepare(Show::default()).await;
    rig.start("run");
    rig.stores_more(200).await;
    rig.end().await;
    until(PATIENCE, async || rig.is_quiet().await).await;
    let viewer = Viewer::of(&rig).await;
    let backup = rig.dump();
    assert!(viewer.found(&backup).contains("id"));
    until(PATIENCE, async || {
        rig.erase(&[&viewer.id]).await.map(|_| ())
    })
    .await;
    let list = rig.erase(&["--export"]).await.expect("it is printed");
    viewer.nowhere("the list", list.as_bytes()).expect("hashes");

    // The database is lost, and Redis with it.
    rig.services.remove("run");
    let postgres = rig.stores.postgres.take().expect("it runs");
    let (postgres, ()) = blocking(move || {
        postgres.restore(&backup)?;
        Ok((postgres, ()))
    })
    .await;
    rig.stores.postgres = Some(postgres);
    let mut redis = rig.stores.redis().await.expect("Redis answers");
    redis::cmd("FLUSHALL")
        .exec_async(&mut redis)
        .await
        .expect("it is flushed");
    assert!(viewer.found(&rig.dump()).contains("id"));

    // Before anything is served.
    let kept = rig.spool.path().join("erased.ndjson");
    std::fs::write(&kept, &list).expect("it is written");
    let kept = kept.to_str().context("a path").expect("a text").to_owned();
    let began = std::time::Instant::now();
    let said = rig.erase(&["--import", &kept]).await.expect("it is erased");
    let took = began.elapsed();
    viewer
        .nowhere("postgres", &rig.dump())
        .expect("erased again");
    std::fs::remove_file(&kept).expect("it is removed");

    rig.start("run");
    until(PATIENCE + Duration::from_mins(1), async || {
        rig.is_nowhere(&viewer).await
    })
    .await;
    until(PATIENCE, async || rig.is_whole()).await;
    report("F25", said.trim(), 1, &[("ttlc erase --import", took)]);
}
