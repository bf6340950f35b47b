//! A bare binary COPY into `events`: the limit that Postgres itself sets to storing these rows.
//!
//! In: the rows as they are stored, in Postgres' own binary form. The same table with its indexes
//! and checks, the same role, the same durability; nothing is looked up, counted or compared.

use anyhow::{Context, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, TryStreamExt as _};
use tokio_postgres::Client;

use super::{
    processes::{Run, timed},
    servers::Servers,
};

const COLUMNS: &str = "event_id, part_day, stream_id, session_id, seq_no, event_type, source, occurred_at, \
    ingested_at, user_id, event, raw, raw_format, raw_hash";

/// Rows in the binary form, without its header and its end.
pub(super) struct Rows(Vec<Bytes>);

/// What the binary form begins with: signature, flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const END: &[u8] = b"\xff\xff";

impl Rows {
    /// Those that are stored, in the order in which they were.
    pub(super) async fn stored(servers: &Servers) -> anyhow::Result<Self> {
        let client = servers.postgres().await?;
        let stream = client
            .copy_out(&format!(
                "COPY (SELECT {COLUMNS} FROM events) TO STDOUT (FORMAT binary)"
            ))
            .await?;
        // The server sends a row at a time; the header comes with the first one.
        let mut rows: Vec<Bytes> = stream.try_collect().await?;
        let first = rows.first_mut().context("nothing is stored")?;
        ensure!(first.starts_with(HEADER), "not the binary form");
        *first = first.slice(HEADER.len()..);
        rows.retain(|row| !row.is_empty() && row.as_ref() != END);
        Ok(Self(rows))
    }

    /// Copies them into the empty table, `batch` in a transaction.
    pub(super) async fn copy(&self, servers: &mut Servers, batch: usize) -> anyhow::Result<Run> {
        let client = servers.postgres().await?;
        client.batch_execute("SET ROLE ttlc_writer").await?;
        let count = self.0.len();
        let run = timed(servers, count, async {
            for rows in self.0.chunks(batch) {
                copy(&client, rows).await?;
            }
            Ok(())
        })
        .await?;
        let stored: i64 = client
            .query_one("SELECT count(*) FROM events", &[])
            .await?
            .get(0);
        ensure!(
            usize::try_from(stored)? == count,
            "{stored} of {count} rows were copied"
        );
        Ok(run)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

async fn copy(client: &Client, rows: &[Bytes]) -> anyhow::Result<()> {
    /// Bytes in a message to the server.
    const MESSAGE: usize = 64 << 10;
    let sink = client
        .copy_in::<_, Bytes>(&format!(
            "COPY events ({COLUMNS}) FROM STDIN (FORMAT binary)"
        ))
        .await?;
    futures_util::pin_mut!(sink);
    let mut message = BytesMut::from(HEADER);
    for row in rows {
        message.extend_from_slice(row);
        if message.len() > MESSAGE {
            sink.feed(message.split().freeze()).await?;
        }
    }
    message.extend_from_slice(END);
    sink.feed(message.freeze()).await?;
    sink.finish().await?;
    Ok(())
}
