//! What follows from new events for the numbers: per session, per minute of a room, per viewer.
//!
//! In: rows that were really inserted. Out: one upsert per table in the same transaction, so
//! that each event counts exactly once, whatever is delivered again. Sums, the smallest and the
//! largest: the result does not depend on which batch is committed first. The rows of each table
//! are locked in the order of its key, the tables always in the same order.

use std::collections::BTreeMap;

use futures_util::future::try_join3;
use jiff::Timestamp;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Transaction};
use uuid::Uuid;

use super::rooms::Span;
use super::row::{Amounts, Row};

const MINUTE_MS: i64 = 60_000;

/// What the new rows of a batch add.
#[derive(Default)]
pub(super) struct Statistics<'a> {
    /// By session and event type.
    sessions: BTreeMap<(Uuid, &'a str), Tally>,
    /// By room, beginning of the minute in Unix milliseconds, and event type.
    minutes: BTreeMap<(&'a str, i64, &'a str), Tally>,
    /// By session and viewer.
    viewers: BTreeMap<(Uuid, &'a str), (Tally, Span)>,
}

/// A sum of events.
#[derive(Default)]
struct Tally {
    events: i64,
    coins: i64,
    gifts: i64,
    likes: i64,
    peak_viewers: Option<i64>,
}

impl Tally {
    fn add(&mut self, amounts: &Amounts) {
        self.events += 1;
        self.coins += amounts.coins;
        self.gifts += amounts.gifts;
        self.likes += amounts.likes;
        self.peak_viewers = self.peak_viewers.max(amounts.viewers);
    }
}

impl<'a> Statistics<'a> {
    /// Takes note of a new row.
    pub(super) fn note(&mut self, row: &'a Row<'a>) {
        let minute = row
            .ingested_at
            .as_millisecond()
            .div_euclid(MINUTE_MS)
            .saturating_mul(MINUTE_MS);
        self.sessions
            .entry((row.session_id, &row.event_type))
            .or_default()
            .add(&row.amounts);
        self.minutes
            .entry((&row.stream_id, minute, &row.event_type))
            .or_default()
            .add(&row.amounts);
        if let Some(user) = &row.user {
            let (tally, span) = self
                .viewers
                .entry((row.session_id, &user.user_id))
                .or_insert_with(|| (Tally::default(), Span::at(row.ingested_at)));
            tally.add(&row.amounts);
            span.include(row.ingested_at);
        }
    }

    /// Writes it all.
    pub(super) async fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        if self.sessions.is_empty() {
            return Ok(());
        }
        // Sent at once, done in this order.
        try_join3(
            self.add_to_sessions(transaction),
            self.add_to_minutes(transaction),
            self.add_to_viewers(transaction),
        )
        .await?;
        Ok(())
    }

    async fn add_to_sessions(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        let ids: Vec<Uuid> = self.sessions.keys().map(|key| key.0).collect();
        let types: Vec<&str> = self.sessions.keys().map(|key| key.1).collect();
        let sums = Columns::of(self.sessions.values());
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> =
            vec![(&ids, Type::UUID_ARRAY), (&types, Type::TEXT_ARRAY)];
        parameters.extend(sums.parameters());
        parameters.push((&sums.peak_viewers, Type::INT8_ARRAY));
        transaction
            .execute_typed(
                "INSERT INTO session_stats AS known
                    (session_id, event_type, events, coins, gifts, likes, peak_viewers)
                 SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7)
                 ON CONFLICT (session_id, event_type) DO UPDATE SET
                    events = known.events + excluded.events,
                    coins = known.coins + excluded.coins,
                    gifts = known.gifts + excluded.gifts,
                    likes = known.likes + excluded.likes,
                    peak_viewers = greatest(known.peak_viewers, excluded.peak_viewers)",
                &parameters,
            )
            .await?;
        Ok(())
    }

    async fn add_to_minutes(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        let streams: Vec<&str> = self.minutes.keys().map(|key| key.0).collect();
        let minutes: Vec<Timestamp> = self
            .minutes
            .keys()
            // In range: a time of reception was read from a text with a year of four digits.
            .map(|key| Timestamp::from_millisecond(key.1).unwrap_or(Timestamp::MIN))
            .collect();
        let types: Vec<&str> = self.minutes.keys().map(|key| key.2).collect();
        let sums = Columns::of(self.minutes.values());
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&streams, Type::TEXT_ARRAY),
            (&minutes, Type::TIMESTAMPTZ_ARRAY),
            (&types, Type::TEXT_ARRAY),
        ];
        parameters.extend(sums.parameters());
        parameters.push((&sums.peak_viewers, Type::INT8_ARRAY));
        transaction
            .execute_typed(
                "INSERT INTO stream_minute_stats AS known
                    (stream_id, minute, event_type, events, coins, gifts, likes, peak_viewers)
                 SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)
                 ON CONFLICT (stream_id, minute, event_type) DO UPDATE SET
                    events = known.events + excluded.events,
                    coins = known.coins + excluded.coins,
                    gifts = known.gifts + excluded.gifts,
                    likes = known.likes + excluded.likes,
                    peak_viewers = greatest(known.peak_viewers, excluded.peak_viewers)",
                &parameters,
            )
            .await?;
        Ok(())
    }

    async fn add_to_viewers(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        if self.viewers.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = self.viewers.keys().map(|key| key.0).collect();
        let users: Vec<&str> = self.viewers.keys().map(|key| key.1).collect();
        let sums = Columns::of(self.viewers.values().map(|viewer| &viewer.0));
        let first: Vec<Timestamp> = self.viewers.values().map(|viewer| viewer.1.first).collect();
        let last: Vec<Timestamp> = self.viewers.values().map(|viewer| viewer.1.last).collect();
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> =
            vec![(&ids, Type::UUID_ARRAY), (&users, Type::TEXT_ARRAY)];
        parameters.extend(sums.parameters());
        parameters.push((&first, Type::TIMESTAMPTZ_ARRAY));
        parameters.push((&last, Type::TIMESTAMPTZ_ARRAY));
        transaction
            .execute_typed(
                "INSERT INTO session_users AS known
                    (session_id, user_id, events, coins, gifts, likes, first_seen_at, last_seen_at)
                 SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)
                 ON CONFLICT (session_id, user_id) DO UPDATE SET
                    events = known.events + excluded.events,
                    coins = known.coins + excluded.coins,
                    gifts = known.gifts + excluded.gifts,
                    likes = known.likes + excluded.likes,
                    first_seen_at = least(known.first_seen_at, excluded.first_seen_at),
                    last_seen_at = greatest(known.last_seen_at, excluded.last_seen_at)",
                &parameters,
            )
            .await?;
        Ok(())
    }
}

/// Tallies, a column each.
#[derive(Default)]
struct Columns {
    events: Vec<i64>,
    coins: Vec<i64>,
    gifts: Vec<i64>,
    likes: Vec<i64>,
    peak_viewers: Vec<Option<i64>>,
}

impl Columns {
    fn of<'t>(tallies: impl Iterator<Item = &'t Tally>) -> Self {
        let mut columns = Self::default();
        for tally in tallies {
            columns.events.push(tally.events);
            columns.coins.push(tally.coins);
            columns.gifts.push(tally.gifts);
            columns.likes.push(tally.likes);
            columns.peak_viewers.push(tally.peak_viewers);
        }
        columns
    }

    /// The sums, in the order in which the tables have them.
    fn parameters(&self) -> [(&(dyn ToSql + Sync), Type); 4] {
        [
            (&self.events, Type::INT8_ARRAY),
            (&self.coins, Type::INT8_ARRAY),
            (&self.gifts, Type::INT8_ARRAY),
            (&self.likes, Type::INT8_ARRAY),
        ]
    }
}
