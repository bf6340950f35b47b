//! What follows from new events for creators, streams and sessions.
//!
//! In: rows that were really inserted. Out: upserts in the same transaction, so each row counts
//! once. Values are merged with the smallest and the largest, and names by the time we received
//! them: batches may be committed in any order. Tables and rows are locked in one order
//! (creators, streams, sessions, users, statistics; each by key), so that writers do not deadlock but
//! for a creator who changes rooms; one that does is rolled back by Postgres and tries again.

use std::collections::BTreeMap;

use futures_util::future::try_join;
use jiff::Timestamp;
use shared::raw::Source;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Transaction};
use uuid::Uuid;

use super::row::{Connection, Row, Turn};

/// What TikTok's numbers in the end of a broadcast mean.
const ENDED_BY_CREATOR: i64 = 3;

/// What the new rows of a batch change of rooms.
#[derive(Default)]
pub(super) struct Rooms<'a> {
    streams: BTreeMap<&'a str, Span>,
    sessions: BTreeMap<Uuid, Session<'a>>,
    replays: BTreeMap<Uuid, Replay<'a>>,
    /// Lifecycle events and ends of broadcasts; they are few.
    turns: Vec<&'a Row<'a>>,
}

/// From the first to the last time we received something.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
}

impl Span {
    pub(super) fn at(time: Timestamp) -> Self {
        Self {
            first: time,
            last: time,
        }
    }

    pub(super) fn include(&mut self, time: Timestamp) {
        self.first = self.first.min(time);
        self.last = self.last.max(time);
    }
}

struct Session<'a> {
    stream_id: &'a str,
    span: Span,
    first_seq_no: i64,
    last_seq_no: i64,
    events: i64,
}

struct Replay<'a> {
    stream_id: &'a str,
    of: Option<Uuid>,
    span: Span,
    /// When and how it has ended.
    end: Option<(Timestamp, &'static str)>,
}

impl<'a> Rooms<'a> {
    /// Takes note of a new row.
    pub(super) fn note(&mut self, row: &'a Row<'a>) {
        self.note_place(row, 1);
        if row.turn.is_some() {
            self.turns.push(row);
        }
    }

    /// Takes note of a number that was given to a message of an erased viewer: the session had it.
    pub(super) fn note_erased(&mut self, row: &'a Row<'a>) {
        self.note_place(row, 0);
    }

    fn note_place(&mut self, row: &'a Row<'a>, events: i64) {
        let at = row.ingested_at;
        self.streams
            .entry(&row.stream_id)
            .or_insert_with(|| Span::at(at))
            .include(at);
        let session = self
            .sessions
            .entry(row.session_id)
            .or_insert_with(|| Session {
                stream_id: &row.stream_id,
                span: Span::at(at),
                first_seq_no: row.seq_no,
                last_seq_no: row.seq_no,
                events: 0,
            });
        session.span.include(at);
        session.first_seq_no = session.first_seq_no.min(row.seq_no);
        session.last_seq_no = session.last_seq_no.max(row.seq_no);
        session.events += events;
    }

    /// Takes note of a row that a replay shows: only that the replay exists, and how it ends.
    pub(super) fn note_replay(&mut self, row: &'a Row<'a>) {
        let replay = self
            .replays
            .entry(row.session_id)
            .or_insert_with(|| Replay {
                stream_id: &row.stream_id,
                of: row.replay_of,
                span: Span::at(row.shown_at),
                end: None,
            });
        let end = row.replay_end.map(|end| (row.shown_at, end));
        replay.end = replay.end.or(end);
        replay.span.include(row.shown_at);
        replay.of = replay.of.or(row.replay_of);
    }

    /// Whether there is more than [`Rooms::touch`] writes: few batches have any of it.
    pub(super) fn is_turned(&self) -> bool {
        !self.turns.is_empty() || !self.replays.is_empty()
    }

    /// Writes that there were events: one statement each for rooms and for sessions, sent together.
    pub(super) async fn touch(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        let streams = self.touch_streams(transaction);
        try_join(streams, self.touch_sessions(transaction)).await?;
        Ok(())
    }

    /// Writes it all.
    pub(super) async fn apply(mut self, transaction: &Transaction<'_>) -> Result<(), Error> {
        self.turns.sort_by_key(|row| (row.ingested_at, row.seq_no));
        // First of all: whoever connects to a room of the same creator at the same time waits
        // here, and then sees our rooms.
        self.touch_creators(transaction).await?;
        self.touch(transaction).await?;
        self.touch_replays(transaction).await?;
        for row in &self.turns {
            turn_stream(transaction, row).await?;
            turn_session(transaction, row).await?;
        }
        for (username, _) in self.connected() {
            end_older(transaction, username).await?;
        }
        Ok(())
    }

    /// The last `CONNECTED` of each creator in the batch.
    fn connected(&self) -> BTreeMap<&'a str, (&'a Connection, Timestamp)> {
        self.turns
            .iter()
            .filter_map(|row| match &row.turn {
                Some(Turn::Connected(connection)) => Some((
                    connection.unique_id.as_deref()?,
                    (connection, row.ingested_at),
                )),
                _ => None,
            })
            .collect()
    }

    async fn touch_creators(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        for (username, (connection, at)) in self.connected() {
            transaction
                .execute_typed(
                    "INSERT INTO creators AS known (username, user_id, display_name, connected_at)
                     VALUES ($1, $2, $3, $4)
                     ON CONFLICT (username) DO UPDATE SET
                        user_id = CASE WHEN excluded.connected_at >= known.connected_at
                            THEN coalesce(excluded.user_id, known.user_id)
                            ELSE coalesce(known.user_id, excluded.user_id) END,
                        display_name = CASE WHEN excluded.connected_at >= known.connected_at
                            THEN coalesce(excluded.display_name, known.display_name)
                            ELSE coalesce(known.display_name, excluded.display_name) END,
                        connected_at = greatest(known.connected_at, excluded.connected_at)",
                    &[
                        (&username, Type::TEXT),
                        (&connection.owner_id, Type::TEXT),
                        (&connection.owner_nickname, Type::TEXT),
                        (&at, Type::TIMESTAMPTZ),
                    ],
                )
                .await?;
        }
        Ok(())
    }

    async fn touch_streams(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        if self.streams.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = self.streams.keys().copied().collect();
        let first: Vec<Timestamp> = self.streams.values().map(|span| span.first).collect();
        let last: Vec<Timestamp> = self.streams.values().map(|span| span.last).collect();
        transaction
            .execute_typed(
                "INSERT INTO streams AS known (stream_id, first_event_at, last_event_at)
                 SELECT * FROM unnest($1, $2, $3)
                 ON CONFLICT (stream_id) DO UPDATE SET
                    first_event_at = least(known.first_event_at, excluded.first_event_at),
                    last_event_at = greatest(known.last_event_at, excluded.last_event_at)",
                &[
                    (&ids, Type::TEXT_ARRAY),
                    (&first, Type::TIMESTAMPTZ_ARRAY),
                    (&last, Type::TIMESTAMPTZ_ARRAY),
                ],
            )
            .await?;
        Ok(())
    }

    async fn touch_sessions(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        if self.sessions.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = self.sessions.keys().copied().collect();
        let sessions: Vec<&Session<'_>> = self.sessions.values().collect();
        let streams: Vec<&str> = sessions.iter().map(|session| session.stream_id).collect();
        let first_seq_no: Vec<i64> = sessions
            .iter()
            .map(|session| session.first_seq_no)
            .collect();
        let last_seq_no: Vec<i64> = sessions.iter().map(|session| session.last_seq_no).collect();
        let started: Vec<Timestamp> = sessions.iter().map(|session| session.span.first).collect();
        let last: Vec<Timestamp> = sessions.iter().map(|session| session.span.last).collect();
        let events: Vec<i64> = sessions.iter().map(|session| session.events).collect();
        let parameters: [(&(dyn ToSql + Sync), Type); 8] = [
            (&ids, Type::UUID_ARRAY),
            (&streams, Type::TEXT_ARRAY),
            (&Source::Live.as_str(), Type::TEXT),
            (&first_seq_no, Type::INT8_ARRAY),
            (&last_seq_no, Type::INT8_ARRAY),
            (&started, Type::TIMESTAMPTZ_ARRAY),
            (&last, Type::TIMESTAMPTZ_ARRAY),
            (&events, Type::INT8_ARRAY),
        ];
        transaction
            .execute_typed(
                // An end that is followed by more of the session was none (a failed attempt, say);
                // one that we only concluded moves along.
                "INSERT INTO sessions AS known
                    (session_id, stream_id, source, first_seq_no, last_seq_no, started_at, last_event_at, event_count)
                 SELECT session_id, stream_id, $3, first_seq_no, last_seq_no, started_at, last_event_at, event_count
                 FROM unnest($1, $2, $4, $5, $6, $7, $8)
                    AS new (session_id, stream_id, first_seq_no, last_seq_no, started_at, last_event_at, event_count)
                 ON CONFLICT (session_id) DO UPDATE SET
                    first_seq_no = least(known.first_seq_no, excluded.first_seq_no),
                    last_seq_no = greatest(known.last_seq_no, excluded.last_seq_no),
                    started_at = least(known.started_at, excluded.started_at),
                    last_event_at = greatest(known.last_event_at, excluded.last_event_at),
                    event_count = known.event_count + excluded.event_count,
                    ended_at = CASE
                        WHEN known.end_reason = 'lost' THEN greatest(known.ended_at, excluded.last_event_at)
                        WHEN excluded.last_seq_no <= known.last_seq_no THEN known.ended_at END,
                    end_reason = CASE
                        WHEN known.end_reason = 'lost' OR excluded.last_seq_no <= known.last_seq_no
                        THEN known.end_reason END,
                    close_code = CASE
                        WHEN excluded.last_seq_no <= known.last_seq_no THEN known.close_code END",
                &parameters,
            )
            .await?;
        Ok(())
    }

    async fn touch_replays(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        for (id, replay) in &self.replays {
            transaction
                .execute_typed(
                    "INSERT INTO sessions AS known (session_id, stream_id, source, replay_of, started_at, last_event_at, ended_at, end_reason)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                     ON CONFLICT (session_id) DO UPDATE SET
                        replay_of = coalesce(known.replay_of, excluded.replay_of),
                        started_at = least(known.started_at, excluded.started_at),
                        last_event_at = greatest(known.last_event_at, excluded.last_event_at),
                        ended_at = coalesce(known.ended_at, excluded.ended_at),
                        end_reason = coalesce(known.end_reason, excluded.end_reason)
                     WHERE known.source = excluded.source",
                    &[
                        (id, Type::UUID),
                        (&replay.stream_id, Type::TEXT),
                        (&Source::Replay.as_str(), Type::TEXT),
                        (&replay.of, Type::UUID),
                        (&replay.span.first, Type::TIMESTAMPTZ),
                        (&replay.span.last, Type::TIMESTAMPTZ),
                        (&replay.end.map(|end| end.0), Type::TIMESTAMPTZ),
                        (&replay.end.map(|end| end.1), Type::TEXT),
                    ],
                )
                .await?;
        }
        Ok(())
    }
}

/// Moves a room to the state that an event says, unless a newer event said otherwise. The room's
/// row exists and is locked by us.
async fn turn_stream(transaction: &Transaction<'_>, row: &Row<'_>) -> Result<(), Error> {
    let at = row.ingested_at;
    match &row.turn {
        // Connecting after an end means that it was none.
        Some(Turn::Connected(connection)) => {
            transaction
                .execute_typed(
                    "UPDATE streams SET
                        username = CASE WHEN connected_at > $2 THEN coalesce(username, $3) ELSE coalesce($3, username) END,
                        title = CASE WHEN connected_at > $2 THEN coalesce(title, $4) ELSE coalesce($4, title) END,
                        owner_user_id = CASE WHEN connected_at > $2
                            THEN coalesce(owner_user_id, $5) ELSE coalesce($5, owner_user_id) END,
                        owner_name = CASE WHEN connected_at > $2
                            THEN coalesce(owner_name, $6) ELSE coalesce($6, owner_name) END,
                        started_at = CASE WHEN connected_at > $2
                            THEN coalesce(started_at, $7) ELSE coalesce($7, started_at) END,
                        connected_at = greatest(connected_at, $2),
                        disconnected_at = CASE WHEN disconnected_at >= $2 THEN disconnected_at END,
                        ended_at = CASE WHEN ended_at >= $2 THEN ended_at END,
                        end_reason = CASE WHEN ended_at >= $2 THEN end_reason END
                     WHERE stream_id = $1",
                    &[
                        (&row.stream_id.as_ref(), Type::TEXT),
                        (&at, Type::TIMESTAMPTZ),
                        (&connection.unique_id, Type::TEXT),
                        (&connection.title, Type::TEXT),
                        (&connection.owner_id, Type::TEXT),
                        (&connection.owner_nickname, Type::TEXT),
                        (&connection.started_at.map(shared::time::Timestamp::to_jiff), Type::TIMESTAMPTZ),
                    ],
                )
                .await?;
        }
        Some(Turn::Disconnected(connection)) => {
            // Ingest found the broadcast over: the end itself may have been missed.
            let over = connection.reason.as_deref() == Some("stream_end");
            transaction
                .execute_typed(
                    "UPDATE streams SET
                        username = coalesce(username, $3),
                        disconnected_at = CASE WHEN connected_at > $2
                            THEN disconnected_at ELSE greatest(disconnected_at, $2) END,
                        ended_at = CASE WHEN $4 AND coalesce(connected_at <= $2, true)
                                AND coalesce(end_reason = 'superseded', true)
                            THEN $2 ELSE ended_at END,
                        end_reason = CASE WHEN $4 AND coalesce(connected_at <= $2, true)
                                AND coalesce(end_reason = 'superseded', true)
                            THEN 'offline' ELSE end_reason END
                     WHERE stream_id = $1",
                    &[
                        (&row.stream_id.as_ref(), Type::TEXT),
                        (&at, Type::TIMESTAMPTZ),
                        (&connection.unique_id, Type::TEXT),
                        (&over, Type::BOOL),
                    ],
                )
                .await?;
        }
        Some(Turn::Ended { action }) => {
            let reason = if *action == ENDED_BY_CREATOR {
                "creator"
            } else {
                "moderation"
            };
            transaction
                .execute_typed(
                    "UPDATE streams SET ended_at = $2, end_reason = $3
                     WHERE stream_id = $1 AND coalesce(connected_at <= $2, true)
                        AND (ended_at IS NULL OR end_reason IN ('offline', 'superseded') OR ended_at <= $2)",
                    &[(&row.stream_id.as_ref(), Type::TEXT), (&at, Type::TIMESTAMPTZ), (&reason, Type::TEXT)],
                )
                .await?;
        }
        None => {}
    }
    Ok(())
}

/// Notes who delivers a session, and its end if nothing of it comes after that.
async fn turn_session(transaction: &Transaction<'_>, row: &Row<'_>) -> Result<(), Error> {
    match &row.turn {
        Some(Turn::Connected(connection)) => {
            transaction
                .execute_typed(
                    "UPDATE sessions SET provider = coalesce($2, provider) WHERE session_id = $1",
                    &[
                        (&row.session_id, Type::UUID),
                        (&connection.provider, Type::TEXT),
                    ],
                )
                .await?;
        }
        Some(Turn::Disconnected(connection)) => {
            let reason = connection.reason.as_deref().unwrap_or("unknown");
            transaction
                .execute_typed(
                    "UPDATE sessions SET
                        provider = coalesce(provider, $2),
                        ended_at = CASE WHEN last_seq_no <= $3 THEN $4 ELSE ended_at END,
                        end_reason = CASE WHEN last_seq_no <= $3 THEN $5 ELSE end_reason END,
                        close_code = CASE WHEN last_seq_no <= $3 THEN $6 ELSE close_code END
                     WHERE session_id = $1",
                    &[
                        (&row.session_id, Type::UUID),
                        (&connection.provider, Type::TEXT),
                        (&row.seq_no, Type::INT8),
                        (&row.ingested_at, Type::TIMESTAMPTZ),
                        (&reason, Type::TEXT),
                        (&connection.close_code, Type::INT4),
                    ],
                )
                .await?;
        }
        _ => {}
    }
    Ok(())
}

/// Ends what a creator's newer broadcast or session shows to be over, where no end was seen: a
/// creator has one broadcast at a time, and we have one session in it.
async fn end_older(transaction: &Transaction<'_>, username: &str) -> Result<(), Error> {
    transaction
        .execute_typed(
            "UPDATE streams SET ended_at = newer.connected_at, end_reason = 'superseded'
             FROM (
                SELECT stream_id, lead(connected_at) OVER (ORDER BY connected_at, stream_id) AS connected_at
                FROM streams WHERE username = $1 AND connected_at IS NOT NULL
             ) AS newer
             WHERE streams.stream_id = newer.stream_id AND newer.connected_at IS NOT NULL
                AND (ended_at IS NULL OR (end_reason = 'superseded' AND ended_at > newer.connected_at))",
            &[(&username, Type::TEXT)],
        )
        .await?;
    transaction
        .execute_typed(
            "WITH own AS (
                SELECT session_id, sessions.started_at, max(sessions.started_at) OVER () AS newest
                FROM sessions JOIN streams USING (stream_id)
                WHERE streams.username = $1 AND sessions.source = 'live'
             )
             UPDATE sessions SET ended_at = sessions.last_event_at, end_reason = 'lost'
             FROM own
             WHERE sessions.session_id = own.session_id AND sessions.ended_at IS NULL AND own.started_at < own.newest",
            &[(&username, Type::TEXT)],
        )
        .await?;
    Ok(())
}
