//! The normalizer without its surroundings: an envelope comes in, its event goes out.
//!
//! Comes in: envelopes, each room's in order. Goes out: for each its event, checked against the
//! contract and as JSON, or why there is none; and the ends of gift streaks that it shows to be
//! over. The stage and `ttlc normalize` are this with Redis, and with stdin, around it. What is
//! remembered between envelopes can be written down and read again, so it may stop anywhere.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use metrics::{counter, histogram};
use serde_json::Value;
use shared::event::{Payload, StreakState, UnifiedEvent};
use shared::raw::{Envelope, RawData, control};
use tokio::time::Instant;

use super::catalogue::Known;
use super::memory::Memory;
use super::{Contract, Reason, Rejection, SchemaError, normalize};
use crate::bus::erased::{Followed, remembers_erased};
use crate::erasure::{NO_RAW, Tombstones, forget_undecoded, gap_data};
use crate::metrics::{ERASED_DROPPED, ERASED_REWRITTEN, NORMALIZER_VALIDATION};

/// Mapping, memory and contract of one shard's rooms.
pub struct Normalizer {
    contract: Contract,
    memory: Memory,
    erased: Arc<Tombstones>,
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
    /// What is published as the raw data, where that is not what came: something of a viewer who was
    /// erased was in it.
    pub raw: Option<String>,
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
            erased: Arc::default(),
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
        let mut raw = None;
        match self.erase(envelope, &mut mapped) {
            Erased::Nothing => {}
            Erased::Named => {
                counter!(ERASED_REWRITTEN, "stage" => "normalizer").increment(1);
                raw = Some(NO_RAW.to_owned());
            }
            Erased::Own => {
                counter!(ERASED_DROPPED, "stage" => "normalizer").increment(1);
                let mut gap = self.take_at(&gap(envelope), now);
                gap.raw = Some(gap_data(envelope.seq_no).to_string());
                return gap;
            }
        }
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
            raw,
        }
    }

    /// Takes viewers who were erased out of an event that is from before. What cannot be read and names
    /// one is treated as their own: it cannot be rewritten.
    fn erase(&self, envelope: &Envelope, mapped: &mut Result<UnifiedEvent, Rejection>) -> Erased {
        let at = Followed::moment(envelope.timestamp, envelope.ingested_at);
        if !self.erased.concern(at) {
            return Erased::Nothing;
        }
        let in_raw = self.erased.in_data(&envelope.data.to_text(), at);
        let event = match mapped {
            Err(_) if in_raw => return Erased::Own,
            Err(_) => return Erased::Nothing,
            Ok(event) => event,
        };
        let own = |user: &shared::event::User| self.erased.own(&user.user_id, at);
        if event.user.as_ref().is_some_and(own) {
            return Erased::Own;
        }
        let Ok(mut value) = serde_json::to_value(&*event) else {
            return Erased::Nothing;
        };
        let mut named = in_raw;
        for part in ["user", "payload"] {
            if let Some(part) = value.get_mut(part) {
                named |= self.erased.scrub(part, at);
            }
        }
        if !named {
            return Erased::Nothing;
        }
        forget_undecoded(&mut value);
        match serde_json::from_value::<UnifiedEvent>(value) {
            Ok(clean) => {
                *event = clean;
                Erased::Named
            }
            // Rather too little than too much.
            Err(_) => Erased::Own,
        }
    }

    /// Takes the list of erased viewers, and forgets what is remembered of them.
    pub(crate) fn set_erased(&mut self, erased: Arc<Tombstones>) {
        self.erased = erased;
        self.forget_erased();
    }

    fn forget_erased(&mut self) {
        let erased = self.erased.clone();
        self.memory
            .forget_streaks(|key, text| remembers_erased(&erased, key, text));
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
        self.forget_erased();
    }

    /// Takes a list of gifts by their ids, in place of the last one.
    pub fn list_gifts(&mut self, listed: HashMap<String, Known>) {
        self.memory.catalogue.list(listed);
    }
}

/// What a message has of viewers who were erased.
enum Erased {
    Nothing,
    Named,
    Own,
}

/// What stands for a message of a viewer who was erased.
fn gap(envelope: &Envelope) -> Envelope {
    let data = match gap_data(envelope.seq_no) {
        Value::Object(data) => data,
        _ => serde_json::Map::new(),
    };
    Envelope {
        kind: control::GAP.to_owned(),
        data: RawData::Json(data),
        msg_id: None,
        ..envelope.clone()
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
