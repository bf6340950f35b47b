//! Records what became of events, several at a time, and then has them acknowledged.
//!
//! In: outcomes of the lanes, which wait for their record. Out: dead letters in `ttlc:dlq`, then one
//! transaction of the [`Ledger`], then ids to be acknowledged. Killed in between: the entry comes again; a
//! dead letter may then be in `ttlc:dlq` twice, and is one letter. Outage: waits.

use std::sync::Weak;

use metrics::counter;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::STAGE;
use super::item::{Item, Origin};
use super::ledger::{Ledger, Outcome, Settled, as_entry};
use super::queues::{Shared, locked};
use super::shard::BATCH;
use crate::bus::{Bus, DeadLetter, Entry};
use crate::failpoint;
use crate::metrics::{ERASED_DROPPED, FORWARD_DEAD, FORWARDED};
use crate::outage::Outage;

/// Records what became of events, several at a time.
pub(super) struct Recorder {
    pub(super) ledger: Ledger,
    pub(super) bus: Bus,
    pub(super) rooms: Weak<Shared>,
    pub(super) origin: String,
    pub(super) stop: CancellationToken,
}

impl Recorder {
    /// Until no lane is left, or to stop.
    pub(super) async fn run(
        self,
        mut outcomes: mpsc::Receiver<(Vec<Settled>, oneshot::Sender<()>)>,
    ) {
        let mut messages = Vec::new();
        while outcomes.recv_many(&mut messages, BATCH).await > 0 {
            let (settled, waiting): (Vec<Vec<Settled>>, Vec<_>) = messages.drain(..).unzip();
            if self
                .record(settled.into_iter().flatten().collect())
                .await
                .is_none()
            {
                return;
            }
            for lane in waiting {
                // One that has gone since needs no answer.
                let _ = lane.send(());
            }
        }
    }

    /// Until it is recorded; `None` to stop.
    async fn record(&self, mut settled: Vec<Settled>) -> Option<()> {
        for one in &mut settled {
            if let (Origin::Entry(_), Outcome::Dead { reason, error }) =
                (&one.item.origin, &one.outcome)
            {
                one.letter = Some(self.dead_letter(&one.item, reason, error).await?);
            }
        }
        match self
            .ledger
            .settle(&settled, &self.bus, &self.origin, &self.stop)
            .await?
        {
            Ok(()) => self.finish(&settled),
            Err(failure) => {
                tracing::debug!(stage = STAGE, error = %failure, "outcomes are refused, recording one by one");
                while !settled.is_empty() {
                    let one: Vec<Settled> = settled.drain(..1).collect();
                    match self
                        .ledger
                        .settle(&one, &self.bus, &self.origin, &self.stop)
                        .await?
                    {
                        Ok(()) => self.finish(&one),
                        // It stays pending, where it can be looked at.
                        Err(failure) => {
                            tracing::error!(stage = STAGE, entry = %one[0].item.entry, error = %failure,
                            "what became of an event cannot be recorded");
                        }
                    }
                }
            }
        }
        Some(())
    }

    async fn dead_letter(&self, item: &Item, reason: &'static str, error: &str) -> Option<Entry> {
        let letter = DeadLetter {
            stage: STAGE,
            reason,
            error: error.to_owned(),
            payload: Entry {
                id: String::new(),
                fields: item.fields.clone(),
                deliveries: 0,
            }
            .to_json(),
            failed_at: jiff::Timestamp::now().into(),
        };
        let mut outage = Outage::new("redis");
        loop {
            match self
                .stop
                .run_until_cancelled(self.bus.dead_letter_entry(&letter))
                .await?
            {
                Ok(id) => return Some(as_entry(id, &letter)),
                Err(error) => outage.wait(&error, &self.stop).await.then_some(())?,
            }
        }
    }

    /// Counts, and has the entries acknowledged.
    fn finish(&self, settled: &[Settled]) {
        let dead = |one: &Settled| matches!(one.outcome, Outcome::Dead { .. });
        if settled.iter().any(dead) {
            failpoint::reach("after_dlq_commit");
        }
        let shared = self.rooms.upgrade();
        for one in settled {
            let item = &one.item;
            let (stream_id, event_id) = item
                .head
                .as_ref()
                .map(|head| (&head.stream_id, head.event_id))
                .unzip();
            match &one.outcome {
                Outcome::Forwarded => {
                    counter!(FORWARDED).increment(1);
                    tracing::trace!(
                        stage = STAGE,
                        stream_id,
                        event_id = event_id.map(tracing::field::display),
                        "forwarded"
                    );
                }
                Outcome::Erased => {
                    counter!(ERASED_DROPPED, "stage" => STAGE).increment(1);
                    tracing::debug!(stage = STAGE, stream_id, reason = "erased", "not forwarded");
                }
                Outcome::Dead { reason, error } => {
                    counter!(FORWARD_DEAD, "reason" => *reason).increment(1);
                    tracing::warn!(stage = STAGE, stream_id, event_id = event_id.map(tracing::field::display),
                        entry = %item.entry, reason, error, attempts = item.attempts, "to the dead letters");
                }
            }
            let (Some(shared), Origin::Entry(id)) = (&shared, &item.origin) else {
                continue;
            };
            let mut rooms = locked(&shared.rooms);
            rooms.bytes = rooms.bytes.saturating_sub(item.size);
            rooms.done.push(id.clone());
        }
    }
}
