//! Known loss: what was given a sequence number and is not among the events.
//!
//! In: `ControlEvent.GAP` events that were really inserted, by which ingest tells what it had to
//! drop, and those that stand for a message of an erased viewer, which are no events of their own. Out: rows of `gaps`, in the same transaction. A row is named by its room, its range and
//! its reason, so what is told again changes nothing.
//!
//! What Redis has lost is told by ingest as everything that it had published and has no more; only
//! what is not stored of it becomes rows. That is known for sure here, since a stream brings what
//! Redis still had before the gap.

use std::collections::BTreeMap;

use serde::Deserialize;
use shared::identity::MAX_SEQ_NO;
use shared::raw::{REDIS_LOST, control};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Transaction};
use uuid::Uuid;

use super::row::Row;

/// A reason is a category; a longer text is cut to this many characters.
const REASON_CHARS: usize = 64;

/// Writes a gap for each run of numbers in a range that are neither events nor dead letters nor in
/// another gap. The gap event itself has a number of the range and stands for none.
const HOLES: &str = "
    WITH covered AS (
        SELECT seq_no AS first, seq_no AS last FROM events
        WHERE stream_id = $1 AND seq_no BETWEEN $2 AND $3 AND event #>> '{payload,rawType}' <> $6
        UNION ALL
        SELECT seq_no, seq_no FROM dead_letters WHERE stream_id = $1 AND seq_no BETWEEN $2 AND $3
        UNION ALL
        SELECT from_seq_no, to_seq_no FROM gaps WHERE stream_id = $1 AND from_seq_no <= $3 AND to_seq_no >= $2
        UNION ALL
        SELECT $3 + 1, $3 + 1
    ), reached AS (
        SELECT first, coalesce(max(last) OVER (
            ORDER BY first, last ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), $2 - 1) AS last
        FROM covered
    )
    INSERT INTO gaps (stream_id, from_seq_no, to_seq_no, reason, lost, session_id)
    SELECT $1, greatest(last + 1, $2), first - 1, $4, first - greatest(last + 1, $2), $5
    FROM reached WHERE first > greatest(last + 1, $2)
    ON CONFLICT (stream_id, from_seq_no, to_seq_no, reason) DO NOTHING
    RETURNING lost";

/// What the payload of a `ControlEvent.GAP` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// The first lost number.
    pub(super) from: i64,
    /// The last one.
    pub(super) to: i64,
    /// Why, such as `spool_full`.
    pub(super) reason: String,
    /// How many of the range are lost.
    pub(super) lost: i64,
}

/// As ingest writes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    from_seq: u64,
    to_seq: u64,
    reason: String,
    /// All of the range when it does not say.
    count: Option<u64>,
}

impl Gap {
    /// Reads the raw data of a gap event.
    pub(super) fn read(raw: &[u8]) -> Result<Self, serde_json::Error> {
        let wrong = <serde_json::Error as serde::de::Error>::custom;
        let told: Told = serde_json::from_slice(raw)?;
        if told.from_seq > told.to_seq || told.to_seq > MAX_SEQ_NO {
            return Err(wrong("fromSeq..toSeq is no range of sequence numbers"));
        }
        if told.reason.is_empty() || told.reason.contains('\0') {
            return Err(wrong("reason is no text"));
        }
        let range = told.to_seq - told.from_seq + 1;
        let lost = told.count.unwrap_or(range).clamp(1, range);
        // All below 2^53.
        let number = |value: u64| i64::try_from(value).map_err(serde::de::Error::custom);
        Ok(Self {
            from: number(told.from_seq)?,
            to: number(told.to_seq)?,
            reason: told.reason.chars().take(REASON_CHARS).collect(),
            lost: number(lost)?,
        })
    }
}

/// What the new rows of a batch tell, by room, range and reason.
#[derive(Default)]
pub(super) struct Gaps<'a> {
    known: BTreeMap<Range<'a>, (i64, Uuid)>,
    /// Of these, what is not stored.
    unsure: BTreeMap<Range<'a>, (i64, Uuid)>,
}

/// Room, first and last number, reason.
type Range<'a> = (&'a str, i64, i64, &'a str);

impl<'a> Gaps<'a> {
    /// Takes note of a new row.
    pub(super) fn note(&mut self, row: &'a Row<'a>) {
        if let Some(gap) = &row.gap {
            if !row.is_erased() {
                tracing::warn!(
                    stream_id = %row.stream_id, session_id = %row.session_id, reason = %gap.reason,
                    from_seq_no = gap.from, to_seq_no = gap.to, events = gap.lost,
                    "ingest lost events"
                );
            }
            let (range, told) = (
                (
                    row.stream_id.as_ref(),
                    gap.from,
                    gap.to,
                    gap.reason.as_str(),
                ),
                (gap.lost, row.session_id),
            );
            if gap.reason == REDIS_LOST {
                self.unsure.insert(range, told);
            } else {
                self.known.insert(range, told);
            }
        }
    }

    /// Writes it, in the order of the key.
    pub(super) async fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        self.apply_known(transaction).await?;
        for (&(stream_id, from, to, reason), (_, session_id)) in &self.unsure {
            let numbers = transaction
                .query_typed(
                    HOLES,
                    &[
                        (&stream_id, Type::TEXT),
                        (&from, Type::INT8),
                        (&to, Type::INT8),
                        (&reason, Type::TEXT),
                        (session_id, Type::UUID),
                        (&control::GAP, Type::TEXT),
                    ],
                )
                .await?;
            let lost: i64 = numbers.iter().map(|row| row.get::<_, i64>(0)).sum();
            tracing::warn!(stream_id, %session_id, reason, from_seq_no = from, to_seq_no = to, lost,
                "redis had lost these, and so many of them are not stored");
        }
        Ok(())
    }

    async fn apply_known(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        if self.known.is_empty() {
            return Ok(());
        }
        let streams: Vec<&str> = self.known.keys().map(|key| key.0).collect();
        let from: Vec<i64> = self.known.keys().map(|key| key.1).collect();
        let to: Vec<i64> = self.known.keys().map(|key| key.2).collect();
        let reasons: Vec<&str> = self.known.keys().map(|key| key.3).collect();
        let lost: Vec<i64> = self.known.values().map(|value| value.0).collect();
        let sessions: Vec<Uuid> = self.known.values().map(|value| value.1).collect();
        let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
            (&streams, Type::TEXT_ARRAY),
            (&from, Type::INT8_ARRAY),
            (&to, Type::INT8_ARRAY),
            (&reasons, Type::TEXT_ARRAY),
            (&lost, Type::INT8_ARRAY),
            (&sessions, Type::UUID_ARRAY),
        ];
        transaction
            .execute_typed(
                "INSERT INTO gaps (stream_id, from_seq_no, to_seq_no, reason, lost, session_id)
                 SELECT * FROM unnest($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (stream_id, from_seq_no, to_seq_no, reason) DO NOTHING",
                &parameters,
            )
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_read() {
        let gap = Gap::read(br#"{"fromSeq":5,"toSeq":9,"reason":"spool_full","count":3}"#).unwrap();
        assert_eq!(
            gap,
            Gap {
                from: 5,
                to: 9,
                reason: "spool_full".into(),
                lost: 3
            }
        );
        let all = Gap::read(br#"{"fromSeq":5,"toSeq":9,"reason":"x"}"#).unwrap();
        assert_eq!(all.lost, 5);
        let absurd = Gap::read(br#"{"fromSeq":5,"toSeq":9,"reason":"x","count":99}"#).unwrap();
        assert_eq!(absurd.lost, 5, "no more than the range");
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in [
            r#"{"fromSeq":9,"toSeq":5,"reason":"x"}"#,
            r#"{"fromSeq":1,"toSeq":9007199254740992,"reason":"x"}"#,
            r#"{"fromSeq":-1,"toSeq":5,"reason":"x"}"#,
            r#"{"fromSeq":1,"toSeq":5,"reason":""}"#,
            r#"{"fromSeq":1,"toSeq":5}"#,
            "{}",
        ] {
            assert!(Gap::read(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
