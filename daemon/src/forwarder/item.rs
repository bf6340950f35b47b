//! An event on its way: what it is, where it comes from, and what has been tried.

use std::collections::HashMap;
use std::time::Duration;

use metrics::counter;
use shared::streams::events;
use tokio::time::Instant;

use super::STAGE;
use super::format::Head;
use crate::erasure::{Tombstones, Verdict};
use crate::metrics::ERASED_REWRITTEN;

/// Where an item comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// An entry of the stream, to be acknowledged.
    Entry(String),
    /// A row of `dead_letters`, to be closed.
    Letter(i64),
}

/// An event on its way.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) origin: Origin,
    /// As stream/id, for the record.
    pub(super) entry: String,
    /// `None` when there is no readable event.
    pub(super) head: Option<Head>,
    pub(super) fields: HashMap<String, String>,
    pub(super) queued: jiff::Timestamp,
    /// Bytes that it counts for.
    pub(super) size: usize,
    pub(super) attempts: u32,
    /// Attempts that count against `FORWARD_MAX_RETRIES`.
    pub(super) burned: u32,
    pub(super) first: Option<(Instant, jiff::Timestamp)>,
    pub(super) status: Option<u16>,
    pub(super) key: Option<String>,
    pub(super) took: Option<Duration>,
    /// Why it failed last.
    pub(super) trouble: &'static str,
    /// The version of the list of erased viewers that it was held against.
    pub(super) erased: Option<i64>,
}

impl Item {
    pub(super) fn new(
        origin: Origin,
        entry: String,
        head: Option<Head>,
        fields: HashMap<String, String>,
    ) -> Self {
        let size = fields
            .iter()
            .map(|(name, value)| name.len() + value.len() + 64)
            .sum::<usize>()
            + 256;
        Self {
            origin,
            entry,
            head,
            fields,
            queued: jiff::Timestamp::now(),
            size,
            attempts: 0,
            burned: 0,
            first: None,
            status: None,
            key: None,
            took: None,
            trouble: "not sent yet",
            erased: None,
        }
    }

    /// Takes viewers who were erased out of it; `true` when it is of one of them, and not to be sent.
    pub(super) fn is_erased(&mut self, tombstones: &Tombstones) -> bool {
        if self.erased == Some(tombstones.version) {
            return false;
        }
        self.erased = Some(tombstones.version);
        match tombstones.judge(&self.fields) {
            Verdict::Clean => false,
            Verdict::Own(_) => true,
            Verdict::Named(clean) => {
                counter!(ERASED_REWRITTEN, "stage" => STAGE).increment(1);
                self.fields.insert(events::EVENT.to_owned(), clean.event);
                self.fields.insert(events::RAW.to_owned(), clean.raw);
                false
            }
        }
    }

    /// An entry of `stream`.
    pub(super) fn of(stream: &str, entry: crate::bus::Entry) -> Self {
        let head = Head::of(&entry.fields).ok();
        let mut item = Self::new(
            Origin::Entry(entry.id.clone()),
            format!("{stream}/{}", entry.id),
            head,
            entry.fields,
        );
        let added = entry.id.split('-').next().and_then(|ms| ms.parse().ok());
        item.queued = added
            .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
            .unwrap_or(item.queued);
        item
    }
}

/// How old something is; 0 when our clock is behind.
pub(super) fn age(since: jiff::Timestamp) -> Duration {
    Duration::try_from(jiff::Timestamp::now().duration_since(since)).unwrap_or_default()
}
