//! New rows of `events`, straight into the table by a binary `COPY`.
//!
//! In: rows that nobody is believed to have stored. Out: all of them are, or none: one that is
//! stored already, or that Postgres does not take, makes it refuse them all, and the transaction is
//! lost with them. The caller then takes the way that asks row by row. Postgres adds rows of a
//! `COPY` by the page, and is spared the arrays, the look for a conflict and the answer of an
//! `INSERT … ON CONFLICT`: of what it does for a row, that is almost half.

use bytes::{Bytes, BytesMut};
use futures_util::SinkExt as _;
use tokio_postgres::Transaction;
use tokio_postgres::types::{IsNull, ToSql, Type};

use super::row::Row;

const COPY: &str = "COPY events (event_id, part_day, stream_id, session_id, seq_no, event_type, source, \
    occurred_at, ingested_at, user_id, event, raw, raw_format, raw_hash) FROM STDIN (FORMAT binary)";
const COLUMNS: i16 = 14;
/// Signature, flags, no extension; see
/// <https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.55.9.4>.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const END: &[u8] = &(-1_i16).to_be_bytes();
/// Sent at a time.
const MESSAGE: usize = 128 << 10;
/// The first byte of `jsonb` in binary form, before its text.
const JSONB_VERSION: u8 = 1;

/// Copies rows in their order, and says how many the server has counted.
pub(super) async fn copy<'r>(
    transaction: &Transaction<'_>,
    rows: impl Iterator<Item = &'r Row<'r>>,
) -> Result<u64, tokio_postgres::Error> {
    let sink = transaction.copy_in::<_, Bytes>(COPY).await?;
    futures_util::pin_mut!(sink);
    let mut message = BytesMut::with_capacity(2 * MESSAGE);
    message.extend_from_slice(HEADER);
    for row in rows {
        encode(row, &mut message);
        if message.len() >= MESSAGE {
            sink.feed(message.split().freeze()).await?;
        }
    }
    message.extend_from_slice(END);
    sink.feed(message.freeze()).await?;
    sink.finish().await
}

fn encode(row: &Row<'_>, to: &mut BytesMut) {
    to.extend_from_slice(&COLUMNS.to_be_bytes());
    bytes(to, &[row.event_id.as_bytes()]);
    value(to, &row.part_day, &Type::DATE);
    bytes(to, &[row.stream_id.as_bytes()]);
    bytes(to, &[row.session_id.as_bytes()]);
    bytes(to, &[&row.seq_no.to_be_bytes()]);
    bytes(to, &[row.event_type.as_bytes()]);
    bytes(to, &[row.source.as_str().as_bytes()]);
    value(to, &row.occurred_at, &Type::TIMESTAMPTZ);
    value(to, &row.ingested_at, &Type::TIMESTAMPTZ);
    match &row.user {
        Some(user) => bytes(to, &[user.user_id.as_bytes()]),
        None => null(to),
    }
    bytes(to, &[&[JSONB_VERSION], row.event.as_bytes()]);
    match &row.raw {
        Some(raw) => bytes(to, &[raw]),
        None => null(to),
    }
    bytes(to, &[row.raw_format.as_bytes()]);
    bytes(to, &[&row.raw_hash]);
}

/// A column: its length and its bytes. None is longer than a Redis entry, which is below 2 GiB; one
/// that were would be refused by the server for its length.
fn bytes(to: &mut BytesMut, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    to.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes());
    for part in parts {
        to.extend_from_slice(part);
    }
}

fn null(to: &mut BytesMut) {
    to.extend_from_slice(&(-1_i32).to_be_bytes());
}

/// A column in the driver's form. What has none is sent as null, which the server refuses: the
/// columns that are written so must have a value.
fn value(to: &mut BytesMut, value: &impl ToSql, kind: &Type) {
    let mut column = BytesMut::with_capacity(8);
    match value.to_sql(kind, &mut column) {
        Ok(IsNull::No) => bytes(to, &[&column]),
        Ok(IsNull::Yes) | Err(_) => null(to),
    }
}
