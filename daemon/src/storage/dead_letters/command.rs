//! `ttlc dead-letters`: look at what could not be processed, and put it back.
//!
//! In: filters or ids. Out: a table or JSON on stdout. What an entry says comes from strangers:
//! the table shows nothing that a terminal would act upon, and JSON escapes it.

use std::fmt::Write as _;
use std::io::Write;

use serde_json::{Map, Value, json};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::Error;
use super::redrive::{Outcome, Trouble, redrive};
use crate::bus::Bus;
use crate::config::Common;
use crate::storage::DatabaseOptions;

/// A cell of the table is cut to this many characters.
const CELL_CHARS: usize = 60;

/// What to do with dead letters.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the newest ones
    List {
        /// Which
        #[command(flatten)]
        filter: Filter,
        /// Of this state: open, redriving, redriven, or all
        #[arg(long, default_value = "open", value_parser = ["open", "redriving", "redriven", "all"])]
        state: String,
        /// How many at most
        #[arg(long, default_value = "50", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// One JSON object a line instead of a table
        #[arg(long)]
        json: bool,
        /// Where they are
        #[command(flatten)]
        database: DatabaseOptions,
    },
    /// Show one with its payload, as JSON
    Show {
        /// Its number in the list
        id: i64,
        /// Where it is
        #[command(flatten)]
        database: DatabaseOptions,
    },
    /// Put entries back to the stream that they came from, each once; a letter that fails again
    /// is open again
    Redrive {
        /// Their numbers in the list
        #[arg(conflicts_with = "all")]
        ids: Vec<i64>,
        /// All open ones that the filters choose; at least one filter
        #[arg(long)]
        all: bool,
        /// Which, with --all
        #[command(flatten)]
        filter: Filter,
        /// In whose name, for the record
        #[arg(long, default_value = "cli")]
        by: String,
        /// Where they are
        #[command(flatten)]
        database: DatabaseOptions,
        /// Where they go
        #[command(flatten)]
        common: Box<Common>,
    },
}

/// Which letters.
#[derive(Debug, Default, clap::Args)]
pub struct Filter {
    /// Only of this stage: ingest, normalizer, storage, forwarder, actions
    #[arg(long)]
    pub stage: Option<String>,
    /// Only with this category of reasons, as the list shows it
    #[arg(long)]
    pub reason: Option<String>,
    /// Only of this room
    #[arg(long)]
    pub stream_id: Option<String>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.stage.is_none() && self.reason.is_none() && self.stream_id.is_none()
    }
}

/// Does it; writes to `out`.
pub async fn execute(command: Command, out: &mut (impl Write + Send)) -> Result<(), Error> {
    match command {
        Command::List {
            filter,
            state,
            limit,
            json,
            database,
        } => {
            let client = database.open()?.connect().await?;
            let state = (state != "all").then_some(state);
            let letters = list(&client, &filter, state.as_deref(), limit).await?;
            if json {
                for letter in &letters {
                    writeln!(out, "{}", printable(&letter.to_string()))?;
                }
            } else {
                write!(out, "{}", table(&letters))?;
            }
        }
        Command::Show { id, database } => {
            let client = database.open()?.connect().await?;
            let letter = show(&client, id).await?;
            let text = serde_json::to_string_pretty(&letter).unwrap_or_default();
            writeln!(out, "{}", printable(&text))?;
        }
        Command::Redrive {
            ids,
            all,
            filter,
            by,
            database,
            common,
        } => {
            if (ids.is_empty() && !all) || (all && filter.is_empty()) {
                return Err(Error::Nothing);
            }
            let client = database.open()?.connect().await?;
            let bus = Bus::new(&common.redis_url, common.names())?;
            let ids = if all {
                matching(&client, &filter).await?
            } else {
                ids
            };
            for id in ids {
                match redrive(&client, &bus, id, &by).await {
                    Ok(Outcome::Done(entry)) => {
                        writeln!(out, "{id}: put back as {entry}")?;
                    }
                    Ok(Outcome::Already { by, entry, at }) => {
                        let at = at.map_or_else(String::new, |at| format!(" at {at:.0}"));
                        let entry = entry.map_or_else(
                            || ", it is on its way".to_owned(),
                            |entry| format!(" as {entry}"),
                        );
                        writeln!(
                            out,
                            "{id}: was put back already{at} by {}{entry}; nothing was done",
                            printable(&by)
                        )?;
                    }
                    Ok(Outcome::Erased) => return Err(Error::Erased(id)),
                    Ok(Outcome::NoEntry) => return Err(Error::NoEntry(id)),
                    Ok(Outcome::Unknown) => return Err(Error::Unknown(id)),
                    Err(Trouble::Postgres(failure)) => return Err(failure.into()),
                    Err(Trouble::Redis(error)) => return Err(error.into()),
                }
            }
        }
    }
    Ok(())
}

/// The columns of a letter as JSON, but for its payload.
const DOCUMENT: &str = "jsonb_strip_nulls(jsonb_build_object(
    'id', dead_letter_id, 'stage', stage, 'reason', reason, 'error', error, 'state', state,
    'streamId', stream_id, 'seqNo', seq_no, 'sessionId', session_id, 'target', target,
    'attempts', attempts, 'firstFailedAt', first_failed_at, 'failedAt', failed_at, 'redacted', redacted,
    'redrives', redrives, 'redrivenAt', redriven_at, 'redrivenBy', redriven_by, 'redrivenEntry', redriven_entry))";

async fn list(
    client: &Client,
    filter: &Filter,
    state: Option<&str>,
    limit: u32,
) -> Result<Vec<Value>, Error> {
    let limit = i64::from(limit);
    let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
        (&filter.stage, Type::TEXT),
        (&filter.reason, Type::TEXT),
        (&filter.stream_id, Type::TEXT),
        (&state, Type::TEXT),
        (&limit, Type::INT8),
    ];
    let rows = client
        .query_typed(
            &format!(
                "SELECT {DOCUMENT} FROM dead_letters
                 WHERE ($1 IS NULL OR stage = $1) AND ($2 IS NULL OR reason = $2) AND ($3 IS NULL OR stream_id = $3)
                    AND ($4 IS NULL OR state = $4)
                 ORDER BY dead_letter_id DESC LIMIT $5"
            ),
            &parameters,
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn show(client: &Client, id: i64) -> Result<Value, Error> {
    let row = client
        .query_typed(
            &format!("SELECT {DOCUMENT}, payload FROM dead_letters WHERE dead_letter_id = $1"),
            &[(&id, Type::INT8)],
        )
        .await?;
    let row = row.first().ok_or(Error::Unknown(id))?;
    let mut letter: Map<String, Value> = match row.get(0) {
        Value::Object(letter) => letter,
        _ => Map::new(),
    };
    let payload: &str = row.get(1);
    letter.insert(
        "payload".to_owned(),
        serde_json::from_str(payload).unwrap_or_else(|_| json!(payload)),
    );
    Ok(Value::Object(letter))
}

/// Open ones that can be put back, oldest first.
async fn matching(client: &Client, filter: &Filter) -> Result<Vec<i64>, Error> {
    let parameters: [(&(dyn ToSql + Sync), Type); 3] = [
        (&filter.stage, Type::TEXT),
        (&filter.reason, Type::TEXT),
        (&filter.stream_id, Type::TEXT),
    ];
    let rows = client
        .query_typed(
            "SELECT dead_letter_id FROM dead_letters
             WHERE state = 'open' AND target IS NOT NULL
                AND ($1 IS NULL OR stage = $1) AND ($2 IS NULL OR reason = $2) AND ($3 IS NULL OR stream_id = $3)
             ORDER BY dead_letter_id",
            &parameters,
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn table(letters: &[Value]) -> String {
    const COLUMNS: [(&str, &str); 8] = [
        ("ID", "id"),
        ("STATE", "state"),
        ("STAGE", "stage"),
        ("REASON", "reason"),
        ("STREAM", "streamId"),
        ("FAILED", "failedAt"),
        ("TIMES", "attempts"),
        ("ERROR", "error"),
    ];
    if letters.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let cell = |letter: &Value, name: &str| -> String {
        let text = match &letter[name] {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        printable(&text).chars().take(CELL_CHARS).collect()
    };
    let rows: Vec<Vec<String>> =
        std::iter::once(COLUMNS.iter().map(|column| column.0.to_owned()).collect())
            .chain(letters.iter().map(|letter| {
                COLUMNS
                    .iter()
                    .map(|column| cell(letter, column.1))
                    .collect()
            }))
            .collect();
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in &rows {
        let line = row
            .iter()
            .zip(&widths)
            .fold(String::new(), |mut line, (cell, width)| {
                let _ = write!(line, "{cell:width$}  ");
                line
            });
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Nothing that a terminal acts upon: controls and changes of direction become escapes.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && c != '\n') || turns {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_nothing_that_a_terminal_acts_upon() {
        let letters = [
            json!({"id": 7, "state": "open", "stage": "storage", "reason": "x", "attempts": 2,
                "error": "\u{1b}[2Jbad\u{202e}\r\u{9b}31m", "failedAt": "2026-11-22T15:04:05Z"}),
        ];
        let table = table(&letters);
        assert!(
            !table.contains(|c: char| c.is_control() && c != '\n'),
            "{table:?}"
        );
        assert!(!table.contains('\u{202e}'));
        assert!(table.starts_with("ID  STATE  STAGE"), "{table}");
        assert!(table.contains("\\u001b[2Jbad"), "{table}");
        assert_eq!(super::table(&[]), "no dead letters\n");
    }
}
