//! What becomes of an entry of the raw stream.
//!
//! In: an entry. Out: what is published in its place: its event or a dead letter, and before it the
//! ends of the streaks that it shows to be over. An entry that ends the process again and again is
//! taken alone after some of them, so that no other is blamed, and given up after [`POISON`].

use metrics::counter;
use shared::time::Timestamp;

use super::run::STAGE;
use super::{Checked, Normalizer, Reason, Rejection, limits};
use crate::bus::{DeadLetter, Entry, Hop, Outcome, POISON};
use crate::failpoint;
use crate::metrics::{NORMALIZER_EVENTS, NORMALIZER_REJECTED, NORMALIZER_TIMEOUTS};

/// The reason of its dead letter.
const POISONED: &str = "POISON";

/// What stands for the message of an event that no message causes.
const NO_RAW: &str = "{}";

/// What is published in its place.
pub(super) fn hop(normalizer: &mut Normalizer, entry: &Entry) -> Hop {
    let mut outcomes = Vec::new();
    let event = event(normalizer, entry, &mut outcomes);
    outcomes.push(event.unwrap_or_else(|rejection| dead_letter(entry, rejection)));
    Hop {
        raw_id: Some(entry.id.clone()),
        outcomes,
    }
}

/// The event of an entry, and before it the streaks that it shows to be over.
fn event(
    normalizer: &mut Normalizer,
    entry: &Entry,
    before: &mut Vec<Outcome>,
) -> Result<Outcome, (&'static str, String)> {
    let unreadable = |error: String| (Reason::ParseError.as_str(), error);
    if entry.fields.is_empty() {
        return Err(unreadable(
            "the entry was trimmed before it was read".to_owned(),
        ));
    }
    if entry.deliveries >= POISON {
        let error = format!("{} processes have died on it", entry.deliveries);
        return Err((POISONED, error));
    }
    failpoint::reach_with("normalizing", |text| {
        entry.fields.values().any(|value| value == text)
    });
    let refused = |Rejection { reason, error }| (reason.as_str(), error);
    let envelope = limits::envelope(|field| entry.get(field)).map_err(refused)?;
    let taken = normalizer.take(&envelope);
    before.extend(taken.timeouts.into_iter().map(timeout));
    let Checked { event, json } = taken.event.map_err(refused)?;
    counter!(NORMALIZER_EVENTS, "type" => event.payload.event_type().as_str()).increment(1);
    Ok(Outcome::Event {
        json,
        normalized_at: now(),
        // As it came: the exact text is what a replay normalizes again.
        raw: taken
            .raw
            .unwrap_or_else(|| entry.get("data").unwrap_or_default().to_owned()),
    })
}

/// The end of a streak that time has brought.
pub(super) fn timeout(checked: Checked) -> Outcome {
    counter!(NORMALIZER_TIMEOUTS).increment(1);
    let kind = checked.event.payload.event_type().as_str();
    counter!(NORMALIZER_EVENTS, "type" => kind).increment(1);
    Outcome::Event {
        json: checked.json,
        normalized_at: now(),
        raw: NO_RAW.to_owned(),
    }
}

fn dead_letter(entry: &Entry, (reason, error): (&'static str, String)) -> Outcome {
    counter!(NORMALIZER_REJECTED, "reason" => reason).increment(1);
    tracing::warn!(
        stage = STAGE,
        raw_id = entry.id,
        stream_id = entry.get("streamId"),
        session_id = entry.get("sessionId"),
        kind = entry.get("type"),
        reason,
        error,
        "message goes to the dead letters"
    );
    Outcome::DeadLetter(DeadLetter {
        stage: STAGE,
        reason,
        error,
        payload: entry.to_json(),
        failed_at: now(),
    })
}

fn now() -> Timestamp {
    jiff::Timestamp::now().into()
}
