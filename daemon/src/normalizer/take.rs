//! The normalizer without its surroundings: an envelope comes in, its event goes out.
//!
//! Comes in: envelopes, each room's in order. Goes out: for each its event, checked against the
//! contract and as JSON, or why there is none; and the ends of gift streaks that it shows to be
//! over. The stage and `ttlc normalize` are this with Redis, and with stdin, around it. What is
//! remembered between envelopes can be written down and read again, so it may stop anywhere.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use metrics::histogram;
use shared::event::{Payload, StreakState, UnifiedEvent};
use shared::raw::Envelope;
use tokio::time::Instant;

use super::catalogue::Known;
use super::memory::Memory;
use super::{Contract, Reason, Rejection, SchemaError, normalize};
use crate::metrics::NORMALIZER_VALIDATION;

/// Mapping, memory and contract of one shard's rooms.
pub struct Normalizer {
    contract: Contract,
    memory: Memory,
    /// Events so far: the cost of checking is measured for one of [`SAMPLE`].
    events: u64,
}

const SAMPLE: u64 = 64;

/// An event and its JSON, which keeps the contract.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The event.
    pub event: UnifiedEvent,
    /// It as it is published.
    pub json: String,
}

/// What became of an envelope.
#[derive(Debug)]
pub struct Taken {
    /// Ends of gift streaks that the envelope shows to be over, in order. They belong before it.
    pub timeouts: Vec<Checked>,
    /// Its event.
    pub event: Result<Checked, Rejection>,
}

impl Normalizer {
    /// One that remembers nothing.
    ///
    /// # Errors
    /// For a defect of the build.
    pub fn new() -> Result<Self, SchemaError> {
        Ok(Self {
            contract: Contract::new()?,
            memory: Memory::default(),
            events: 0,
        })
    }

    /// Takes the next envelope of its room.
    pub fn take(&mut self, envelope: &Envelope) -> Taken {
        self.take_at(envelope, Instant::now())
    }

    fn take_at(&mut self, envelope: &Envelope, now: Instant) -> Taken {
        // Nothing that is remembered depends on a message that is rejected, but for the time.
        let mut mapped = guarded(|| {
            let event = normalize(envelope)?;
            if is_streak(&event) {
                self.contract.json(&event)?;
            }
            Ok(event)
        });
        let concluded = self.memory.apply(envelope, mapped.as_mut().ok(), now);
        Taken {
            timeouts: self.check_all(concluded),
            event: mapped.and_then(|event| {
                self.events += 1;
                let began = self.events.is_multiple_of(SAMPLE).then(Instant::now);
                let json = guarded(|| self.contract.json(&event))?;
                if let Some(began) = began {
                    histogram!(NORMALIZER_VALIDATION).record(began.elapsed().as_secs_f64());
                }
                Ok(Checked { event, json })
            }),
        }
    }

    /// Says that time has passed, while no message is on its way: what it brought to an end.
    pub fn pass(&mut self, now: Instant) -> Vec<Checked> {
        let concluded = self.memory.pass(now);
        self.check_all(concluded)
    }

    /// Says that messages could not arrive until now: silence counts from here.
    pub fn interrupted(&mut self, now: Instant) {
        self.memory.interrupted(now);
    }

    fn check_all(&self, events: Vec<UnifiedEvent>) -> Vec<Checked> {
        let checked = events.into_iter().filter_map(|event| {
            match self.contract.json(&event) {
                Ok(json) => Some(Checked { event, json }),
                // It kept the contract as the event of its last message, or was not remembered.
                Err(rejection) => {
                    tracing::error!(
                        stage = "normalizer",
                        stream_id = event.stream_id,
                        seq_no = event.seq_no,
                        error = rejection.error,
                        "the end of a gift streak breaks the contract"
                    );
                    None
                }
            }
        });
        checked.collect()
    }

    /// How many gift streaks are open.
    pub fn open_streaks(&self) -> usize {
        self.memory.open()
    }

    /// What has changed in the memory since the last call: field and text, or none for what is
    /// forgotten.
    pub fn changes(&mut self) -> Vec<(String, Option<String>)> {
        self.memory.changes()
    }

    /// Makes the next [`Normalizer::changes`] return all that is remembered.
    pub fn all_changed(&mut self) {
        self.memory.all_changed();
    }

    /// Forgets everything, and remembers what was written down.
    pub fn restore(&mut self, fields: &HashMap<String, String>) {
        self.memory = Memory::restore(fields, Instant::now());
    }

    /// Takes a list of gifts by their ids, in place of the last one.
    pub fn list_gifts(&mut self, listed: HashMap<String, Known>) {
        self.memory.catalogue.list(listed);
    }
}

fn is_streak(event: &UnifiedEvent) -> bool {
    matches!(&event.payload, Payload::Gift(gift) if gift.streak.state != StreakState::Single)
}

/// Turns a panic into a rejection. There should be none; but the message that causes one would
/// come again after every restart, and nothing behind it would ever be read.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Rejection>) -> Result<T, Rejection> {
    // Nothing is changed by the work that somebody could see half done.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Rejection {
            reason: Reason::ParseError,
            error: "the normalizer panicked on it".to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_rejection() {
        let rejection = guarded(|| -> Result<(), _> { panic!("as expected by the test") });
        assert_eq!(rejection.unwrap_err().reason, Reason::ParseError);
        assert_eq!(guarded(|| Ok(7)), Ok(7));
    }
}
