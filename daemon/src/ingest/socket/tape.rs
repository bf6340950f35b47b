//! Redis for tests of connections: it can be away, and shows what it got.

use shared::raw::Envelope;
use tokio::sync::watch;

use crate::bus::{self, DeadLetter, Incarnation, Memory, Published, RoomBatch};
use crate::ingest::outbox::{Outbox, Sink};
use crate::ingest::spool::Spool;
use crate::ingest::spool::log::Limits;

/// What has been published.
#[derive(Clone)]
pub(in crate::ingest) struct Tape {
    away: watch::Receiver<bool>,
    pub(in crate::ingest) envelopes: watch::Sender<Vec<Envelope>>,
    pub(in crate::ingest) letters: watch::Sender<Vec<DeadLetter>>,
}

impl Sink for Tape {
    fn token(&self, _: &str) -> Option<u64> {
        Some(1)
    }

    async fn publish(&self, batches: &[RoomBatch<'_>]) -> Result<Published, bus::Error> {
        if *self.away.borrow() {
            return Err(bus::Error::Address);
        }
        self.envelopes.send_modify(|all| {
            all.extend(
                batches
                    .iter()
                    .flat_map(|batch| batch.envelopes.iter().copied().cloned()),
            );
        });
        Ok(Published::default())
    }

    async fn claim(&self, _: &str) -> Result<Option<Memory>, bus::Error> {
        Ok(None)
    }

    async fn release(&self, _: &str) {}

    async fn incarnation(&self) -> Result<Incarnation, bus::Error> {
        Ok(Incarnation {
            id: "one".to_owned(),
            run: String::new(),
        })
    }

    fn lose(&self, _: &str) {}

    async fn dead_letter(&self, letter: &DeadLetter) -> Result<(), bus::Error> {
        self.letters.send_modify(|all| all.push(letter.clone()));
        Ok(())
    }
}

impl Tape {
    /// With the outbox that writes to it, and the switch that takes it away.
    pub(in crate::ingest) fn new() -> (Self, Outbox, watch::Sender<bool>) {
        let (switch, away) = watch::channel(false);
        let tape = Self {
            away,
            envelopes: watch::Sender::default(),
            letters: watch::Sender::default(),
        };
        let outbox = Outbox::new(tape.clone(), Spool::memory(Limits::default()));
        (tape, outbox, switch)
    }

    /// What has been published, once there are `count`.
    pub(in crate::ingest) async fn wait_for(&self, count: usize) -> Vec<Envelope> {
        let mut envelopes = self.envelopes.subscribe();
        let all = envelopes.wait_for(|all| all.len() >= count).await;
        all.expect("the tape is there").clone()
    }

    /// The dead letters, once there are `count`.
    pub(in crate::ingest) async fn wait_for_letters(&self, count: usize) -> Vec<DeadLetter> {
        let mut letters = self.letters.subscribe();
        let all = letters.wait_for(|all| all.len() >= count).await;
        all.expect("the tape is there").clone()
    }
}
