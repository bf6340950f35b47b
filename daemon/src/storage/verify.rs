//! `ttlc verify`: proves on a live database that nothing of a room was lost or doubled unnoticed.
//!
//! In: rooms. Out: for each a verdict with its numbers, on standard output. Four things must hold:
//! every number that a session gave out is an event, a dead letter or a known gap; no event is
//! there twice, in whatever partition; each event's id is the one that its room, number and type
//! make; and no two facts have ever claimed one id. The statistics must count what is there, too.
//!
//! It reads in one snapshot and changes nothing. What is under way (published and not stored yet)
//! shows as missing: ask again when the room is quiet. Pruned and erased events are known gaps.

use std::fmt;

use tokio_postgres::{IsolationLevel, Transaction};

use super::Error;
use super::database::{DatabaseOptions, Failure};

/// How many ranges and ids a verdict names; the rest is counted.
const NAMED: usize = 20;

/// What to verify.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// A room (TikTok's room id); again for more of them. Without one: every room
    #[arg(long)]
    pub stream: Vec<String>,
    /// Where the events are.
    #[command(flatten)]
    pub database: DatabaseOptions,
}

/// What the database says of one room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The room.
    pub stream_id: String,
    /// Connections to it, without replays.
    pub sessions: i64,
    /// Numbers that they gave out.
    pub numbers: i64,
    /// Events stored, without inferred ends of gift streaks (these have no number of their own).
    pub events: i64,
    /// Dead letters that have a number.
    pub dead_letters: i64,
    /// Rows of known loss.
    pub gaps: i64,
    /// Session, first and last number of what is in none of the three.
    pub missing: Vec<(String, i64, i64)>,
    /// Ids that are there more than once.
    pub doubled: Vec<String>,
    /// Ids that are not what the event's room, number and type make.
    pub wrong_ids: Vec<String>,
    /// Dead letters of another fact with the id of a stored event.
    pub collisions: i64,
    /// Sessions whose statistics do not count what is stored.
    pub miscounted: Vec<String>,
}

impl Verdict {
    /// Whether everything holds.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty()
            && self.doubled.is_empty()
            && self.wrong_ids.is_empty()
            && self.collisions == 0
            && self.miscounted.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_whole() {
            "whole"
        } else {
            "NOT WHOLE"
        };
        write!(
            f,
            "{}: {word} · {} numbers in {} sessions · {} events, {} dead letters, {} gaps",
            self.stream_id, self.numbers, self.sessions, self.events, self.dead_letters, self.gaps
        )?;
        for (session, from, to) in self.missing.iter().take(NAMED) {
            write!(f, "\n  missing: {from} to {to} of session {session}")?;
        }
        for (what, ids) in [
            ("there twice", &self.doubled),
            ("has a wrong id", &self.wrong_ids),
            (
                "its statistics do not count what is stored",
                &self.miscounted,
            ),
        ] {
            for id in ids.iter().take(NAMED) {
                write!(f, "\n  {id}: {what}")?;
            }
        }
        let named = |length: usize| length.saturating_sub(NAMED);
        let more = named(self.missing.len())
            + named(self.doubled.len())
            + named(self.wrong_ids.len())
            + named(self.miscounted.len());
        if more > 0 {
            write!(f, "\n  … and {more} more")?;
        }
        if self.collisions > 0 {
            write!(
                f,
                "\n  {} facts claimed the id of another: `ttlc dead-letters list --reason id_collision`",
                self.collisions
            )?;
        }
        Ok(())
    }
}

/// Verifies rooms, in the order of their ids.
///
/// # Errors
/// When the database cannot be asked, or a room is unknown.
pub async fn verify(options: &Options) -> Result<Vec<Verdict>, Error> {
    let database = options.database.open()?;
    let failed = |failure: Failure| Error::Verify(failure.to_string());
    let mut client = database.connect().await.map_err(failed)?;
    let mut verdicts = Vec::new();
    let rooms = rooms(&client, &options.stream)
        .await
        .map_err(|error| failed(error.into()))?;
    for stream in &options.stream {
        if !rooms.contains(stream) {
            return Err(Error::Verify(format!(
                "no room {stream} is known: rooms are TikTok's room ids, see GET /streams"
            )));
        }
    }
    for stream_id in rooms {
        let verdict = async {
            let transaction = client
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .read_only(true)
                .start()
                .await?;
            // Before the snapshot, which begins with the first query: a day that is pruned is
            // then either still there for all of them, or in the snapshot's gaps.
            transaction
                .batch_execute(
                    "LOCK TABLE ONLY events IN ACCESS SHARE MODE; LOCK TABLE pruned_events IN ACCESS SHARE MODE",
                )
                .await?;
            let verdict = look(&transaction, stream_id).await?;
            transaction.commit().await?;
            Ok::<_, tokio_postgres::Error>(verdict)
        };
        verdicts.push(verdict.await.map_err(|error| failed(error.into()))?);
    }
    Ok(verdicts)
}

async fn rooms(
    client: &tokio_postgres::Client,
    wanted: &[String],
) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT stream_id FROM streams WHERE cardinality($1::text[]) = 0 OR stream_id = ANY ($1) ORDER BY 1",
            &[&wanted],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The inferred end of a gift streak has the number of the streak's last message.
const TIMEOUT: &str = "GiftStreakTimeout";

async fn look(
    transaction: &Transaction<'_>,
    stream_id: String,
) -> Result<Verdict, tokio_postgres::Error> {
    let counts = transaction
        .query_one(
            "SELECT
                (SELECT count(*) FROM sessions WHERE stream_id = $1 AND source = 'live'),
                (SELECT coalesce(sum(last_seq_no - first_seq_no + 1), 0)::bigint
                    FROM sessions WHERE stream_id = $1 AND source = 'live'),
                (SELECT count(*) FROM events
                    WHERE stream_id = $1 AND event #>> '{payload,rawType}' <> $2),
                (SELECT count(*) FROM dead_letters WHERE stream_id = $1 AND seq_no IS NOT NULL),
                (SELECT count(*) FROM gaps WHERE stream_id = $1),
                (SELECT count(*) FROM dead_letters WHERE stream_id = $1 AND reason = 'id_collision')",
            &[&stream_id, &TIMEOUT],
        )
        .await?;
    let missing = transaction
        .query(
            "SELECT session_id::text, from_seq_no, to_seq_no FROM unaccounted($1)",
            &[&stream_id],
        )
        .await?;
    let doubled = "SELECT encode(event_id, 'hex') FROM events WHERE stream_id = $1
        GROUP BY event_id HAVING count(*) > 1 ORDER BY 1";
    let wrong_ids = "SELECT encode(event_id, 'hex') FROM events WHERE stream_id = $1
        AND event_id <> sha256(convert_to(stream_id || ':' || seq_no || ':' || (event #>> '{payload,rawType}'), 'UTF8'))
        ORDER BY seq_no";
    // A session of which days were pruned counts what it had, and no longer what is there.
    let miscounted = "SELECT session_id::text
        FROM (SELECT session_id, count(*) AS events FROM events WHERE stream_id = $1 GROUP BY 1) AS stored
        FULL JOIN (
            SELECT session_id, sum(session_stats.events)::bigint AS events
            FROM session_stats JOIN sessions USING (session_id) WHERE stream_id = $1 GROUP BY 1
        ) AS counted USING (session_id)
        WHERE stored.events IS DISTINCT FROM counted.events
            AND NOT EXISTS (SELECT FROM gaps WHERE gaps.stream_id = $1 AND reason IN ('pruned', 'erased'))
            AND NOT EXISTS (SELECT FROM pruned_events WHERE pruned_events.stream_id = $1)
        ORDER BY 1";
    let mut ids = Vec::new();
    for query in [doubled, wrong_ids, miscounted] {
        let rows = transaction.query(query, &[&stream_id]).await?;
        ids.push(rows.iter().map(|row| row.get(0)).collect::<Vec<String>>());
    }
    let [doubled, wrong_ids, miscounted] = <[Vec<String>; 3]>::try_from(ids).unwrap_or_default();
    Ok(Verdict {
        stream_id,
        sessions: counts.get(0),
        numbers: counts.get(1),
        events: counts.get(2),
        dead_letters: counts.get(3),
        gaps: counts.get(4),
        missing: missing
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get(2)))
            .collect(),
        doubled,
        wrong_ids,
        collisions: counts.get(5),
        miscounted,
    })
}
