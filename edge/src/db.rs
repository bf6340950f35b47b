//! All SQL of the edge: reads only.
//!
//! Comes in: ids, filters and places that the routes have checked. Goes out: documents of the API
//! and stored events as they are. A connection lasts for one request (through Hyperdrive, which
//! pools in production) or, in a hub, for as long as feeds read history. Everything has a time
//! limit; a server that is away is [`Error::Unreachable`] within it, and no error text of the
//! server leaves this file, since it may quote data.

mod hub_connection;

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use shared::api::{List, ListCursor, Session, StreamStatus, StreamSummary};
use shared::raw::Source;
use shared::time::Timestamp;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, NoTls, Row};
use uuid::Uuid;
use worker::{Env, Socket, State};

use crate::App;
use crate::hub::window::Place;
use crate::log;
use crate::wait::within;

pub(crate) use self::hub_connection::SharedDb;

/// To connect and log in.
const CONNECT_TIME: Duration = Duration::from_secs(4);
/// For one query.
const QUERY_TIME: Duration = Duration::from_secs(8);

/// Why the database did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The binding is missing or unusable.
    #[error("the binding HYPERDRIVE is not usable")]
    Misconfigured,
    /// No connection, or it broke, or no answer in time.
    #[error("the database is unreachable")]
    Unreachable,
    /// It refused the login.
    #[error("the database refused the login")]
    Refused,
    /// Its tables are not there (yet).
    #[error("the database is not migrated")]
    NotMigrated,
    /// It refused a query.
    #[error("the database refused a query")]
    Failed,
}

impl Error {
    /// A category for `/health`.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Misconfigured => "misconfigured",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::NotMigrated => "not_migrated",
            Self::Failed => "failed",
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        match error.code().map(tokio_postgres::error::SqlState::code) {
            None => Self::Unreachable,
            Some("42P01" | "42703" | "3F000") => Self::NotMigrated,
            Some(code) if code.starts_with("28") || code == "3D000" => Self::Refused,
            // Starting up, shutting down, out of connections.
            Some(code) if code.starts_with("57P") || code.starts_with("53") => Self::Unreachable,
            Some(code) => {
                log::error("the database refused a query", &[("sqlState", code)]);
                Self::Failed
            }
        }
    }
}

/// What keeps a connection going beside the code that uses it.
#[derive(Clone)]
pub(crate) enum Background {
    /// The request.
    Request(App),
    /// The Durable Object.
    Object(Rc<State>),
}

impl Background {
    fn run(&self, future: impl Future<Output = ()> + 'static) {
        match self {
            Self::Request(app) => app.wait_until(future),
            Self::Object(state) => state.wait_until(future),
        }
    }
}

/// A connection. Dropping it closes it.
pub(crate) struct Db(Client);

/// A parameter and its type: an untyped statement needs one round trip and leaves nothing behind
/// in a pooled connection.
type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl Db {
    /// Connects.
    pub(crate) async fn connect(env: &Env, background: &Background) -> Result<Self, Error> {
        let binding = env
            .hyperdrive("HYPERDRIVE")
            .map_err(|_| Error::Misconfigured)?;
        let config: tokio_postgres::Config = binding
            .connection_string()
            .parse()
            .map_err(|_| Error::Misconfigured)?;
        let connecting = async {
            let socket = Socket::builder()
                .connect(binding.host(), binding.port())
                .map_err(|_| Error::Unreachable)?;
            socket.opened().await.map_err(|_| Error::Unreachable)?;
            Ok::<_, Error>(config.connect_raw(socket, NoTls).await?)
        };
        let (client, connection) = within(CONNECT_TIME, connecting)
            .await
            .map_err(|_| Error::Unreachable)??;
        background.run(async move {
            // Its end is the end of the client, which notices by itself.
            let _ = connection.await;
        });
        Ok(Self(client))
    }

    async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Error> {
        Ok(within(QUERY_TIME, self.0.query_typed(sql, parameters))
            .await
            .map_err(|_| Error::Unreachable)??)
    }

    /// Whether it answers and has its tables.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        self.query(
            "SELECT (SELECT true FROM streams LIMIT 1), (SELECT true FROM sessions LIMIT 1), \
             (SELECT true FROM events WHERE false)",
            &[],
        )
        .await
        .map(|_| ())
    }

    /// The newest broadcast of a creator.
    pub(crate) async fn current_stream(&self, username: &str) -> Result<Option<String>, Error> {
        let lower = username.to_ascii_lowercase();
        let rows = self
            .query(
                "SELECT stream_id FROM streams WHERE username IN ($1, $2) \
                 ORDER BY first_event_at DESC, stream_id DESC LIMIT 1",
                &[(&username, Type::TEXT), (&lower, Type::TEXT)],
            )
            .await?;
        rows.first().map(|row| get(row, 0)).transpose()
    }

    async fn stream_exists(&self, stream_id: &str) -> Result<bool, Error> {
        let rows = self
            .query(
                "SELECT 1 FROM streams WHERE stream_id = $1",
                &[(&stream_id, Type::TEXT)],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// One broadcast.
    pub(crate) async fn stream(&self, stream_id: &str) -> Result<Option<StreamSummary>, Error> {
        let sql = format!("{STREAM} WHERE s.stream_id = $1");
        let rows = self.query(&sql, &[(&stream_id, Type::TEXT)]).await?;
        rows.first().map(stream_summary).transpose()
    }

    /// Broadcasts, newest first, with the cursor of the next page.
    pub(crate) async fn streams(
        &self,
        filter: &StreamFilter,
    ) -> Result<(Vec<StreamSummary>, Option<ListCursor>), Error> {
        let limit = i64::from(filter.limit) + 1;
        let status = filter.status.map(status_in_database);
        let (micros, id) = place(filter.after.as_ref());
        let sql = format!(
            "{STREAM} WHERE ($1 IS NULL OR s.status = $1) \
             AND ($2 IS NULL OR s.username IN ($2, lower($2))) \
             AND ($3 IS NULL OR (s.first_event_at, s.stream_id) \
                 < (timestamptz 'epoch' + $3 * interval '1 microsecond', $4)) \
             ORDER BY s.first_event_at DESC, s.stream_id DESC LIMIT $5"
        );
        let rows = self
            .query(
                &sql,
                &[
                    (&status, Type::TEXT),
                    (&filter.username, Type::TEXT),
                    (&micros, Type::INT8),
                    (&id, Type::TEXT),
                    (&limit, Type::INT8),
                ],
            )
            .await?;
        page(&rows, filter.limit, List::Streams, stream_summary)
    }

    /// One session.
    pub(crate) async fn session(&self, session_id: Uuid) -> Result<Option<Session>, Error> {
        let sql = format!("{SESSION} WHERE c.session_id = $1::uuid");
        let id = session_id.to_string();
        let rows = self.query(&sql, &[(&id, Type::TEXT)]).await?;
        rows.first().map(session).transpose()
    }

    /// Sessions, newest first, with the cursor of the next page.
    pub(crate) async fn sessions(
        &self,
        filter: &SessionFilter,
    ) -> Result<(Vec<Session>, Option<ListCursor>), Error> {
        let limit = i64::from(filter.limit) + 1;
        let (micros, id) = place(filter.after.as_ref());
        let sql = format!(
            "{SESSION} WHERE ($1 IS NULL OR c.stream_id = $1) \
             AND ($2 IS NULL OR (c.started_at, c.session_id) \
                 < (timestamptz 'epoch' + $2 * interval '1 microsecond', $3::uuid)) \
             ORDER BY c.started_at DESC, c.session_id DESC LIMIT $4"
        );
        let rows = self
            .query(
                &sql,
                &[
                    (&filter.stream_id, Type::TEXT),
                    (&micros, Type::INT8),
                    (&id, Type::TEXT),
                    (&limit, Type::INT8),
                ],
            )
            .await?;
        page(&rows, filter.limit, List::Sessions, session)
    }

    /// Stored events of a room after a place (none: from the first), in order.
    async fn stream_events(
        &self,
        stream_id: &str,
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<(u64, String)>, Error> {
        let sql = format!(
            "SELECT seq_no, event::text FROM events \
             WHERE stream_id = $1 AND seq_no >= $2 AND source = 'live' \
             AND part_day >= coalesce((SELECT (first_event_at AT TIME ZONE 'UTC')::date \
                 FROM streams WHERE stream_id = $1), date '2000-01-01') \
             {EVENT_ORDER} LIMIT $3"
        );
        let (from, known) = seek(after);
        let rows = self
            .query(
                &sql,
                &[
                    (&stream_id, Type::TEXT),
                    (&from, Type::INT8),
                    (&(i64::from(limit) + known), Type::INT8),
                ],
            )
            .await?;
        stored(&rows, after, limit)
    }

    /// Stored events of a session after a place (none: from the first), in order; `types` none:
    /// all.
    pub(crate) async fn session_events(
        &self,
        session: &Session,
        after: Option<Place>,
        types: Option<&[&str]>,
        limit: u32,
    ) -> Result<Vec<(u64, String)>, Error> {
        // A replay shows the original's events, which lie in the original's days.
        let id = session.replay_of.unwrap_or(session.session_id).to_string();
        let sql = format!(
            "SELECT seq_no, event::text FROM events \
             WHERE session_id = $1::uuid AND seq_no >= $2 \
             AND part_day BETWEEN (SELECT (started_at AT TIME ZONE 'UTC')::date - 1 \
                 FROM sessions WHERE session_id = $1::uuid) \
             AND (SELECT (last_event_at AT TIME ZONE 'UTC')::date + 1 \
                 FROM sessions WHERE session_id = $1::uuid) \
             AND ($3 IS NULL OR event_type = ANY ($3)) \
             {EVENT_ORDER} LIMIT $4"
        );
        let (from, known) = seek(after);
        let rows = self
            .query(
                &sql,
                &[
                    (&id, Type::TEXT),
                    (&from, Type::INT8),
                    (&types, Type::TEXT_ARRAY),
                    (&(i64::from(limit) + known), Type::INT8),
                ],
            )
            .await?;
        stored(&rows, after, limit)
    }
}

/// The order of a room: the inferred end of a gift streak has the number of the streak's last
/// message and comes after it.
const EVENT_ORDER: &str = "ORDER BY seq_no, \
    (event #>> '{payload,rawType}' = 'GiftStreakTimeout'), event_id";

/// What [`stream_summary`] reads.
const STREAM: &str = "SELECT s.stream_id, (extract(epoch FROM s.first_event_at) * 1000000)::bigint, \
    s.username, s.owner_name, s.title, s.status, \
    (extract(epoch FROM coalesce(s.started_at, s.first_event_at)) * 1000000)::bigint, \
    (extract(epoch FROM s.ended_at) * 1000000)::bigint, s.end_reason, \
    (extract(epoch FROM s.last_event_at) * 1000000)::bigint, \
    (SELECT coalesce(sum(c.event_count), 0)::bigint FROM sessions c WHERE c.stream_id = s.stream_id) \
    FROM streams s";

/// What [`session`] reads.
const SESSION: &str = "SELECT c.session_id::text, \
    (extract(epoch FROM c.started_at) * 1000000)::bigint, \
    c.stream_id, s.username, c.source, c.replay_of::text, c.provider, \
    (extract(epoch FROM c.last_event_at) * 1000000)::bigint, \
    (extract(epoch FROM c.ended_at) * 1000000)::bigint, c.end_reason, c.close_code, \
    c.first_seq_no, c.last_seq_no, c.event_count \
    FROM sessions c LEFT JOIN streams s ON s.stream_id = c.stream_id";

/// Which broadcasts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StreamFilter {
    /// How many at most.
    pub(crate) limit: u32,
    /// After this one.
    pub(crate) after: Option<ListCursor>,
    /// Only these.
    pub(crate) status: Option<StreamStatus>,
    /// Only of this creator.
    pub(crate) username: Option<String>,
}

/// Which sessions.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SessionFilter {
    /// How many at most.
    pub(crate) limit: u32,
    /// After this one.
    pub(crate) after: Option<ListCursor>,
    /// Only of this broadcast.
    pub(crate) stream_id: Option<String>,
}

fn status_in_database(status: StreamStatus) -> &'static str {
    match status {
        StreamStatus::Live => "live",
        StreamStatus::Disconnected => "interrupted",
        StreamStatus::Ended => "ended",
    }
}

fn status_from_database(text: &str) -> StreamStatus {
    match text {
        "live" => StreamStatus::Live,
        "ended" => StreamStatus::Ended,
        _ => StreamStatus::Disconnected,
    }
}

fn place(after: Option<&ListCursor>) -> (Option<i64>, Option<&str>) {
    (
        after.map(|cursor| cursor.micros),
        after.map(|cursor| cursor.id.as_str()),
    )
}

/// Cuts the one row more that tells whether there is a next page. Column 0 is the id and column 1
/// the microseconds of the order.
fn page<T>(
    rows: &[Row],
    limit: u32,
    list: List,
    read: impl Fn(&Row) -> Result<T, Error>,
) -> Result<(Vec<T>, Option<ListCursor>), Error> {
    let limit = limit as usize;
    let shown = &rows[..rows.len().min(limit)];
    let next = match shown.last() {
        Some(row) if rows.len() > limit => Some(ListCursor {
            list,
            micros: get(row, 1)?,
            id: get(row, 0)?,
        }),
        _ => None,
    };
    let items = shown.iter().map(read).collect::<Result<_, _>>()?;
    Ok((items, next))
}

/// A column; a type that does not fit is our mistake, not the server's.
fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Error> {
    row.try_get(column).map_err(|_| Error::Failed)
}

fn timestamp(micros: i64) -> Timestamp {
    Timestamp::from_millis(micros.div_euclid(1_000))
}

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn stream_summary(row: &Row) -> Result<StreamSummary, Error> {
    Ok(StreamSummary {
        stream_id: get(row, 0)?,
        username: get(row, 2)?,
        display_name: get(row, 3)?,
        title: get(row, 4)?,
        status: status_from_database(get(row, 5)?),
        started_at: timestamp(get(row, 6)?),
        ended_at: get::<Option<i64>>(row, 7)?.map(timestamp),
        end_reason: get(row, 8)?,
        last_event_at: timestamp(get(row, 9)?),
        event_count: number(get(row, 10)?),
    })
}

fn session(row: &Row) -> Result<Session, Error> {
    let uuid = |text: &str| Uuid::parse_str(text).map_err(|_| Error::Failed);
    Ok(Session {
        session_id: uuid(get(row, 0)?)?,
        started_at: timestamp(get(row, 1)?),
        stream_id: get(row, 2)?,
        username: get(row, 3)?,
        source: match get(row, 4)? {
            "replay" => Source::Replay,
            _ => Source::Live,
        },
        replay_of: get::<Option<&str>>(row, 5)?.map(uuid).transpose()?,
        provider: get(row, 6)?,
        last_event_at: timestamp(get(row, 7)?),
        ended_at: get::<Option<i64>>(row, 8)?.map(timestamp),
        end_reason: get(row, 9)?,
        close_code: get(row, 10)?,
        first_seq_no: get::<Option<i64>>(row, 11)?.map(number),
        last_seq_no: get::<Option<i64>>(row, 12)?.map(number),
        event_count: number(get(row, 13)?),
    })
}

/// The number to begin at, and how many rows of that number are known already at most.
fn seek(after: Option<Place>) -> (i64, i64) {
    after.map_or((0, 0), |after| {
        (
            i64::try_from(after.seq_no).unwrap_or(i64::MAX),
            i64::from(after.nth) + 1,
        )
    })
}

fn stored(rows: &[Row], after: Option<Place>, limit: u32) -> Result<Vec<(u64, String)>, Error> {
    let rows = rows
        .iter()
        .map(|row| Ok((number(get(row, 0)?), get(row, 1)?)))
        .collect::<Result<Vec<_>, Error>>()?;
    Ok(unknown(rows, after, limit))
}

/// Leaves out the rows at the place that the reader has already.
fn unknown<T>(mut rows: Vec<(u64, T)>, after: Option<Place>, limit: u32) -> Vec<(u64, T)> {
    if let Some(after) = after {
        let mut known = u64::from(after.nth) + 1;
        rows.retain(|(seq_no, _)| {
            let skip = known > 0 && *seq_no == after.seq_no;
            known -= u64::from(skip);
            !skip
        });
    }
    rows.truncate(limit as usize);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_the_reader_has_are_left_out() {
        let rows = || vec![(5, 'a'), (5, 'b'), (6, 'c'), (7, 'd')];
        let at = |seq_no, nth| Some(Place { seq_no, nth });
        assert_eq!(unknown(rows(), None, 9), rows());
        assert_eq!(unknown(rows(), at(5, 0), 9)[0], (5, 'b'));
        assert_eq!(unknown(rows(), at(5, 1), 9)[0], (6, 'c'));
        // Places that only the live window knew.
        assert_eq!(unknown(rows(), at(5, 4), 9)[0], (6, 'c'));
        assert_eq!(unknown(rows(), at(5, 0), 2), [(5, 'b'), (6, 'c')]);
        assert_eq!(seek(None), (0, 0));
        assert_eq!(seek(at(5, 1)), (5, 2));
    }

    #[test]
    fn every_status_has_its_word_in_the_database() {
        for status in StreamStatus::ALL {
            assert_eq!(status_from_database(status_in_database(status)), status);
        }
    }
}
