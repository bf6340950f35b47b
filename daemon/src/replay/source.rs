//! What is shown: the stored events of a session, page by page.
//!
//! In: the id of a session. Out: its raw messages in the order of their numbers, as they were
//! received. Only reads, in read-only transactions with the rights of the storage writer, each with
//! its own limits, so that a slow page never holds anything up. Any failure drops the connection; the
//! caller asks again, and pages begin where the last one ended.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use shared::identity::EventId;
use shared::raw::{Envelope, RawData, Source};
use shared::time::Timestamp;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Transaction};
use uuid::Uuid;

use crate::bus::replay::Place;
use crate::normalizer::TIMEOUT_TYPE;
use crate::storage::database::{Database, Failure, Rights};

/// Events of a page at most, and roughly how many bytes of raw data.
const PAGE: i64 = 256;
const PAGE_BYTES: i64 = 2 << 20;
/// What a page may take; longer than what the server allows the statement.
const TIMEOUT: Duration = Duration::from_mins(1);
const LIMITS: &str = "SET LOCAL statement_timeout = '30s'; SET LOCAL lock_timeout = '5s'";

/// A session that can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Original {
    pub(super) session_id: Uuid,
    pub(super) stream_id: String,
    /// Events stored of it.
    pub(super) events: u64,
    /// The last number stored.
    pub(super) last_seq_no: u64,
    /// The days of its events.
    days: (Date, Date),
}

/// What a session's id stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A connection to a room.
    Session(Original),
    /// A replay of this one.
    Replay(Uuid),
    /// Nothing that is stored.
    Unknown,
    /// A session of which nothing is stored any more.
    Empty,
}

/// One stored event.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) place: Place,
    pub(super) ingested_at: Timestamp,
    pub(super) what: Result<Message, Skip>,
}

/// A message as it is published again.
#[derive(Debug)]
pub(super) struct Message {
    /// Its `data` is left empty: [`Message::data`] is the exact text.
    envelope: Envelope,
    data: String,
}

/// Why an event is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skip {
    /// No message caused it: the normalizer makes it again.
    Made,
    /// Its raw data is not there any more.
    NoRaw,
    /// What is stored does not belong together.
    Unreadable,
}

impl Skip {
    /// As the label of a metric.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::NoRaw => "no_raw",
            Self::Unreadable => "unreadable",
        }
    }
}

impl Message {
    /// The fields of its entry, for a showing.
    pub(super) fn fields(self, replay_id: Uuid, original: Uuid) -> Vec<(&'static str, String)> {
        let mut envelope = self.envelope;
        envelope.session_id = replay_id;
        envelope.replay_of = Some(original);
        let fields = envelope.to_fields().into_iter();
        let mut fields: Vec<_> = fields
            .map(|(name, value)| (name, value.into_owned()))
            .collect();
        for (name, value) in &mut fields {
            if *name == "data" {
                *value = self.data;
                break;
            }
        }
        fields
    }

    /// Roughly its length in Redis.
    pub(super) fn size(&self) -> usize {
        self.data.len() + 500
    }
}

/// The database, and the connection while there is one.
pub(super) struct Reader {
    database: Database,
    connection: Option<(Client, Rights)>,
}

impl Reader {
    pub(super) fn new(database: Database) -> Self {
        Self {
            database,
            connection: None,
        }
    }

    /// What `session_id` stands for.
    pub(super) async fn find(&mut self, session_id: Uuid) -> Result<Found, Failure> {
        self.ask(async |transaction| find(transaction, session_id).await)
            .await
    }

    /// The next events after `after`, up to number `until`; none at the end.
    pub(super) async fn page(
        &mut self,
        original: &Original,
        after: Option<Place>,
        until: u64,
    ) -> Result<Vec<Stored>, Failure> {
        self.ask(async |transaction| page(transaction, original, after, until).await)
            .await
    }

    async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Failure> {
        let (mut client, rights) = match self.connection.take() {
            Some(connection) => connection,
            None => self.database.connect_as_writer().await?,
        };
        let asking = async {
            let transaction = client.build_transaction().read_only(true).start().await?;
            transaction
                .batch_execute(&format!("{LIMITS}; {}", rights.begin()))
                .await?;
            let answer = question(&transaction).await?;
            transaction.commit().await?;
            Ok::<_, tokio_postgres::Error>(answer)
        };
        let answer = match tokio::time::timeout(TIMEOUT, asking).await {
            Ok(answer) => answer?,
            Err(_) => return Err(Failure::Timeout(TIMEOUT)),
        };
        self.connection = Some((client, rights));
        Ok(answer)
    }
}

async fn find(
    transaction: &Transaction<'_>,
    session_id: Uuid,
) -> Result<Found, tokio_postgres::Error> {
    let rows = transaction
        .query_typed(
            "SELECT stream_id, source, replay_of, event_count, last_seq_no, started_at, last_event_at
             FROM sessions WHERE session_id = $1",
            &[(&session_id, Type::UUID)],
        )
        .await?;
    let Some(row) = rows.first() else {
        return Ok(Found::Unknown);
    };
    if row.get::<_, &str>(1) == Source::Replay.as_str() {
        let of: Option<Uuid> = row.get(2);
        return Ok(of.map_or(Found::Unknown, Found::Replay));
    }
    let day = |column| {
        let at: jiff::Timestamp = row.get(column);
        at.to_zoned(TimeZone::UTC).date()
    };
    let Some(last_seq_no) = row.get::<_, Option<i64>>(4) else {
        return Ok(Found::Empty);
    };
    let original = Original {
        session_id,
        stream_id: row.get(0),
        events: unsigned(row.get(3)),
        last_seq_no: unsigned(last_seq_no),
        days: (day(5), day(6)),
    };
    let stored = transaction
        .query_typed(
            "SELECT EXISTS (SELECT FROM events WHERE session_id = $1 AND part_day BETWEEN $2 AND $3)",
            &[
                (&session_id, Type::UUID),
                (&original.days.0, Type::DATE),
                (&original.days.1, Type::DATE),
            ],
        )
        .await?;
    if stored.first().is_some_and(|row| row.get(0)) {
        Ok(Found::Session(original))
    } else {
        Ok(Found::Empty)
    }
}

async fn page(
    transaction: &Transaction<'_>,
    original: &Original,
    after: Option<Place>,
    until: u64,
) -> Result<Vec<Stored>, tokio_postgres::Error> {
    let seq_no = after.map_or(-1, |place| signed(place.seq_no));
    let event_id = after.map_or([0; 32], |place| *place.event_id.as_bytes());
    let parameters: [(&(dyn ToSql + Sync), Type); 8] = [
        (&original.session_id, Type::UUID),
        (&seq_no, Type::INT8),
        (&event_id.as_slice(), Type::BYTEA),
        (&signed(until), Type::INT8),
        (&original.days.0, Type::DATE),
        (&original.days.1, Type::DATE),
        (&PAGE, Type::INT8),
        (&PAGE_BYTES, Type::INT8),
    ];
    let rows = transaction
        .query_typed(
            // The sum is what stands before the row: the first one always comes, however long.
            "SELECT event_id, stream_id, seq_no, event #>> '{payload,rawType}', occurred_at, ingested_at,
                coalesce((event -> 'backlog')::boolean, false), raw, raw_format,
                octet_length(raw) = 0 AND raw_hash <> sha256(raw),
                CASE WHEN event #>> '{payload,streak,state}' = 'single' THEN event #>> '{payload,streak,id}' END
             FROM (
                SELECT *, sum(octet_length(raw)) OVER (ORDER BY seq_no, event_id) - octet_length(raw) AS before
                FROM (
                    SELECT * FROM events
                    WHERE session_id = $1 AND (seq_no, event_id) > ($2, $3) AND seq_no <= $4
                        AND part_day BETWEEN $5 AND $6
                    ORDER BY seq_no, event_id LIMIT $7
                ) AS next
             ) AS page
             WHERE before < $8 ORDER BY seq_no, event_id",
            &parameters,
        )
        .await?;
    Ok(rows.iter().filter_map(stored).collect())
}

/// Reads a row; `None` for an id that is none, which the table does not take.
fn stored(row: &Row) -> Option<Stored> {
    let event_id = EventId::from_bytes(row.get::<_, &[u8]>(0).try_into().ok()?);
    let seq_no = unsigned(row.get(2));
    let ingested_at = row.get::<_, jiff::Timestamp>(5).into();
    Some(Stored {
        place: Place { seq_no, event_id },
        ingested_at,
        what: message(row, event_id, seq_no, ingested_at),
    })
}

fn message(
    row: &Row,
    event_id: EventId,
    seq_no: u64,
    ingested_at: Timestamp,
) -> Result<Message, Skip> {
    let kind: String = row.get::<_, Option<String>>(3).ok_or(Skip::Unreadable)?;
    if kind == TIMEOUT_TYPE {
        return Err(Skip::Made);
    }
    if row.get(9) {
        return Err(Skip::NoRaw);
    }
    let raw: &[u8] = row.get(7);
    let data = match row.get(8) {
        // As it came: to read and write it again would change it.
        "json" => String::from_utf8(raw.to_vec()).map_err(|_| Skip::Unreadable)?,
        _ => STANDARD.encode(raw),
    };
    let envelope = Envelope {
        stream_id: row.get(1),
        session_id: Uuid::nil(),
        source: Source::Replay,
        kind,
        seq_no,
        timestamp: row.get::<_, jiff::Timestamp>(4).into(),
        ingested_at,
        data: RawData::Protobuf(Vec::new()),
        // Ingest alone needs it, but for a gift that stands alone: there it names the streak.
        msg_id: row
            .get::<_, Option<&str>>(10)
            .and_then(|streak| Some(streak.rsplit_once('-')?.1.to_owned())),
        backlog: row.get(6),
        replay_of: None,
    };
    if envelope.event_id() != event_id {
        return Err(Skip::Unreadable);
    }
    Ok(Message { envelope, data })
}

/// Numbers in the room, and counts: the tables hold none below 0 and none above 2^53.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
