//! Dead letters on the way into Postgres, and back.

use daemon::storage::dead_letters::{self, Command, Error, Filter};
use serde_json::{Value, json};
use shared::streams::GROUP_OPS;

use super::rig::{Rig, Room, noon, poll};

/// The canary: appears nowhere.
const SECRET: &str = "kAnArY0123456789";

impl Rig {
    /// Writes an entry of `ttlc:dlq`, as a stage does.
    pub(crate) async fn fail(
        &self,
        stage: &str,
        reason: &str,
        error: &str,
        payload: &str,
    ) -> String {
        redis::cmd("XADD")
            .arg(&[
                "ttlc:dlq", "*", "stage", stage, "reason", reason, "error", error,
            ])
            .arg(&["payload", payload, "failedAt", "2026-11-22T15:04:05.678Z"])
            .query_async(&mut self.redis().await)
            .await
            .unwrap()
    }

    /// Waits until `ttlc:dlq` is copied to its end.
    async fn copied(&self) {
        self.acknowledged("ttlc:dlq", GROUP_OPS).await;
    }

    /// What the command prints.
    async fn command(&self, command: Command) -> Result<String, Error> {
        let mut out = Vec::new();
        dead_letters::execute(command, &mut out).await?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn list(&self, filter: Filter, state: &str, json: bool) -> Command {
        Command::List {
            filter,
            state: state.into(),
            limit: 50,
            json,
            database: self.options().database,
        }
    }

    pub(crate) async fn redrive(
        &self,
        ids: &[i64],
        filter: Option<Filter>,
    ) -> Result<String, Error> {
        self.command(Command::Redrive {
            ids: ids.to_vec(),
            all: filter.is_some(),
            filter: filter.unwrap_or_default(),
            by: "ann".into(),
            database: self.options().database,
            common: Box::new(self.common()),
        })
        .await
    }

    /// The entries of a stream as JSON objects of their fields.
    async fn entries(&self, stream: &str) -> Vec<Value> {
        let reply: redis::streams::StreamRangeReply = redis::cmd("XRANGE")
            .arg(&[stream, "-", "+"])
            .query_async(&mut self.redis().await)
            .await
            .unwrap();
        reply
            .ids
            .iter()
            .map(|entry| {
                entry
                    .map
                    .keys()
                    .map(|name| (name.clone(), json!(entry.get::<String>(name).unwrap())))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            })
            .collect()
    }

    async fn states(&self) -> Value {
        self.one(
            "SELECT jsonb_agg(jsonb_build_array(dead_letter_id, state, attempts) ORDER BY dead_letter_id)
             FROM dead_letters",
        )
        .await
    }
}

/// An entry of the raw stream.
fn raw(seq_no: u64) -> Value {
    json!({"schemaVersion": "raw.v1", "streamId": "7301", "seqNo": seq_no.to_string(), "type": "WebcastChatMessage",
        "sessionId": uuid::Uuid::from_u128(7).to_string(), "source": "live", "data": "AAEC",
        "timestamp": "2026-11-22T15:04:05.678Z", "ingestedAt": "2026-11-22T15:04:05.678Z"})
}

#[tokio::test(flavor = "multi_thread")]
async fn every_letter_is_copied_exactly_once() {
    let rig = Rig::new().await;
    for seq_no in 1..=200 {
        let payload = raw(seq_no).to_string();
        rig.fail("normalizer", "PARSE_ERROR", "no", &payload).await;
    }
    // The same failure, written twice by a crash; and what has no form at all.
    rig.fail("normalizer", "PARSE_ERROR", "no", &raw(1).to_string())
        .await;
    let odd: String = redis::cmd("XADD")
        .arg(&["ttlc:dlq", "*", "odd", "one"])
        .query_async(&mut rig.redis().await)
        .await
        .unwrap();
    for round in 0..3_u64 {
        let running = rig.start(rig.options());
        tokio::time::sleep(std::time::Duration::from_millis(80 + round * 30)).await;
        running.crash().await;
    }
    let running = rig.start(rig.options());
    rig.copied().await;
    let before: Value = rig
        .one("SELECT jsonb_agg(to_jsonb(d) ORDER BY seq_no) FROM dead_letters d")
        .await;
    running.stop().await;
    assert_eq!(before.as_array().unwrap().len(), 201);
    let first = &before[0];
    assert_eq!(first["stream_id"], "7301");
    assert_eq!(first["seq_no"], 1);
    assert_eq!(first["target"], "raw");
    assert_eq!(first["attempts"], 2);
    assert_eq!(first["entries"].as_array().unwrap().len(), 2);
    assert_eq!(
        serde_json::from_str::<Value>(first["payload"].as_str().unwrap()).unwrap(),
        raw(1)
    );
    assert_eq!(before[200]["stage"], "unknown");
    assert_eq!(before[200]["entries"], json!([format!("ttlc:dlq/{odd}")]));

    // Delivered again from the start.
    redis::cmd("XGROUP")
        .arg(&["DESTROY", "ttlc:dlq", GROUP_OPS])
        .exec_async(&mut rig.redis().await)
        .await
        .unwrap();
    let running = rig.start(rig.options());
    rig.copied().await;
    running.stop().await;
    let after: Value = rig
        .one("SELECT jsonb_agg(to_jsonb(d) ORDER BY seq_no) FROM dead_letters d")
        .await;
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_postgres_loses_no_letter() {
    let mut rig = Rig::new().await;
    let running = rig.start(rig.options());
    let postgres = rig.postgres.take().unwrap();
    let stopped = tokio::task::spawn_blocking(move || postgres.stop(true).unwrap())
        .await
        .unwrap();
    for seq_no in 1..=20 {
        rig.fail("normalizer", "PARSE_ERROR", "no", &raw(seq_no).to_string())
            .await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    rig.postgres = Some(
        tokio::task::spawn_blocking(|| stopped.start_again().unwrap())
            .await
            .unwrap(),
    );
    rig.copied().await;
    running.stop().await;
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM dead_letters").await,
        20
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_and_shown() {
    let rig = Rig::new().await;
    rig.fail(
        "normalizer",
        "PARSE_ERROR",
        "first\u{1b}[2J",
        &raw(1).to_string(),
    )
    .await;
    rig.fail("normalizer", "SCHEMA_ERROR", "second", &raw(2).to_string())
        .await;
    rig.fail("ingest", "FRAME_ERROR", "third", r#"{"frame":"AAEC"}"#)
        .await;
    let running = rig.start(rig.options());
    rig.copied().await;
    running.stop().await;

    let all = rig
        .command(rig.list(Filter::default(), "open", false))
        .await
        .unwrap();
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), 4, "{all}");
    assert!(
        lines[1].contains("third") && lines[3].contains("first"),
        "{all}"
    );
    assert!(!all.contains('\u{1b}'));
    let filter = Filter {
        stage: Some("normalizer".into()),
        reason: Some("SCHEMA_ERROR".into()),
        stream_id: Some("7301".into()),
    };
    let one = rig.command(rig.list(filter, "all", true)).await.unwrap();
    let one: Value = serde_json::from_str(one.trim_end()).expect("one line of JSON");
    assert_eq!(
        (&one["reason"], &one["seqNo"]),
        (&json!("SCHEMA_ERROR"), &json!(2))
    );
    assert!(one.get("payload").is_none() && one.get("redrivenAt").is_none());
    let none = rig
        .command(rig.list(Filter::default(), "redriven", false))
        .await
        .unwrap();
    assert_eq!(none, "no dead letters\n");

    let show = |id| Command::Show {
        id,
        database: rig.options().database,
    };
    let shown = rig
        .command(show(one["id"].as_i64().unwrap()))
        .await
        .unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["payload"], raw(2));
    assert_eq!(shown["error"], "second");
    assert!(matches!(
        rig.command(show(99)).await,
        Err(Error::Unknown(99))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_put_back_once_and_open_again_when_it_fails_again() {
    let rig = Rig::new().await;
    for seq_no in 1..=3 {
        rig.fail("normalizer", "PARSE_ERROR", "no", &raw(seq_no).to_string())
            .await;
    }
    rig.fail("ingest", "FRAME_ERROR", "no", r#"{"frame":"AAEC"}"#)
        .await;
    let running = rig.start(rig.options());
    rig.copied().await;

    // Twice, at the same time and later: once.
    let (one, other) = tokio::join!(rig.redrive(&[1], None), rig.redrive(&[1], None));
    let said = [one.unwrap(), other.unwrap()];
    assert_eq!(
        said.iter()
            .filter(|said| said.contains("put back as ttlc:raw/"))
            .count(),
        1,
        "{said:?}"
    );
    let again = rig.redrive(&[1], None).await.unwrap();
    assert!(
        again.contains("was put back already") && again.contains("by ann"),
        "{again}"
    );
    assert_eq!(rig.entries("ttlc:raw").await, [raw(1)]);

    // The rest of a kind, in order.
    let filter = Filter {
        stage: Some("normalizer".into()),
        ..Filter::default()
    };
    let said = rig.redrive(&[], Some(filter)).await.unwrap();
    assert_eq!(said.lines().count(), 2, "{said}");
    assert_eq!(rig.entries("ttlc:raw").await, [raw(1), raw(2), raw(3)]);

    // It fails again: open again, and can be put back again.
    rig.fail("normalizer", "PARSE_ERROR", "still no", &raw(2).to_string())
        .await;
    rig.copied().await;
    assert_eq!(
        rig.states().await,
        json!([
            [1, "redriven", 1],
            [2, "open", 2],
            [3, "redriven", 1],
            [4, "open", 1]
        ])
    );
    assert_eq!(
        rig.one::<String>("SELECT error FROM dead_letters WHERE dead_letter_id = 2")
            .await,
        "still no"
    );
    rig.redrive(&[2], None).await.unwrap();
    assert_eq!(
        rig.entries("ttlc:raw").await,
        [raw(1), raw(2), raw(3), raw(2)]
    );
    running.stop().await;

    assert!(matches!(
        rig.redrive(&[4], None).await,
        Err(Error::NoEntry(4))
    ));
    assert!(matches!(
        rig.redrive(&[99], None).await,
        Err(Error::Unknown(99))
    ));
    assert!(matches!(rig.redrive(&[], None).await, Err(Error::Nothing)));
    let everything = rig.redrive(&[], Some(Filter::default())).await;
    assert!(matches!(everything, Err(Error::Nothing)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_that_died_anywhere_is_finished_once() {
    let rig = Rig::new().await;
    for seq_no in 1..=2 {
        rig.fail("normalizer", "PARSE_ERROR", "no", &raw(seq_no).to_string())
            .await;
    }
    let running = rig.start(rig.options());
    rig.copied().await;
    running.stop().await;
    // One died after the claim, one after it had added the entry.
    rig.redrive(&[2], None).await.unwrap();
    rig.client()
        .await
        .batch_execute(
            "UPDATE dead_letters SET state = 'redriving', redriving_at = now() - interval '1 minute',
                redriven_by = 'ann', redrives = 1, redriven_at = NULL, redriven_entry = NULL",
        )
        .await
        .unwrap();
    let running = rig.start(rig.options());
    poll("both are finished", async || {
        let open: i64 = rig
            .one("SELECT count(*) FROM dead_letters WHERE state <> 'redriven' OR redriven_entry IS NULL")
            .await;
        (open == 0).then_some(())
    })
    .await;
    running.stop().await;
    assert_eq!(rig.entries("ttlc:raw").await, [raw(2), raw(1)], "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_writer_refused_is_stored_when_it_is_put_back() {
    let rig = Rig::new().await;
    let client = rig.client().await;
    client
        .batch_execute("ALTER TABLE events ADD CONSTRAINT no_thirteen CHECK (user_id <> '13')")
        .await
        .unwrap();
    let mut room = Room::new("7301", "ann", 1, noon());
    let events = [room.chat(12), room.chat(13), room.chat(14)];
    let running = rig.start(rig.options());
    rig.publish(&events).await;
    rig.settled().await;
    rig.copied().await;
    let letter: Value = rig
        .one("SELECT jsonb_build_array(stage, stream_id, seq_no, target, state) FROM dead_letters")
        .await;
    assert_eq!(
        letter,
        json!(["storage", "7301", events[1].json["seqNo"], "events", "open"])
    );

    // The reason is still there.
    let id: i64 = rig.one("SELECT dead_letter_id FROM dead_letters").await;
    rig.redrive(&[id], None).await.unwrap();
    poll("it is back", async || {
        (rig.states().await == json!([[id, "open", 2]])).then_some(())
    })
    .await;
    client
        .batch_execute("ALTER TABLE events DROP CONSTRAINT no_thirteen")
        .await
        .unwrap();
    let all = Filter {
        reason: Some("STORAGE_REJECTED".into()),
        ..Filter::default()
    };
    rig.redrive(&[], Some(all)).await.unwrap();
    rig.settled().await;
    running.stop().await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 3);
    assert_eq!(rig.states().await, json!([[id, "redriven", 2]]));
    super::statistics::assert_statistics_equal_a_recount(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_holds_no_secret() {
    let rig = Rig::new().await;
    let error = format!(
        "GET https://api.eulerstream.com/webcast/fetch?apiKey={SECRET}: 403, redis://:{SECRET}@host, \
         x-api-key: {SECRET}, cookie sessionid={SECRET}"
    );
    let mut entry = raw(1);
    entry["data"] = json!(format!(
        r#"{{"url":"wss://ws.eulerstream.com/?uniqueId=ann&apiKey={SECRET}","cookie":"sessionid={SECRET}",
            "apiKey":"{SECRET}","avatar":"https://p16.example.com/a.webp?x-signature=keepme12345"}}"#
    ));
    rig.fail("normalizer", "PARSE_ERROR", &error, &entry.to_string())
        .await;
    let running = rig.start(rig.options());
    rig.copied().await;
    let row: Value = rig.one("SELECT to_jsonb(d) FROM dead_letters d").await;
    assert!(!row.to_string().contains(SECRET), "{row}");
    assert_eq!(row["redacted"], true);
    assert!(
        row["payload"]
            .as_str()
            .unwrap()
            .contains("x-signature=keepme12345")
    );
    // Still an entry.
    rig.redrive(&[1], None).await.unwrap();
    running.stop().await;
    let back = rig.entries("ttlc:raw").await;
    assert_eq!(back[0]["seqNo"], "1");
    serde_json::from_str::<Value>(back[0]["data"].as_str().unwrap()).expect("still JSON");
}
