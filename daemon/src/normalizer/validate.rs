//! The last look at an event before it is published: is it what the contract promises?
//!
//! Comes in: an event. Goes out: its JSON, or the rejection that names the place that is wrong.
//! The schema is the generated one of [`shared::event::json_schema`], compiled once.

use jsonschema::Validator;
use shared::event::UnifiedEvent;

use super::{Reason, Rejection};

/// The contract's schema, compiled.
pub struct Contract(Validator);

/// The generated schema is no JSON Schema: a defect of the build, not of any message.
#[derive(Debug, thiserror::Error)]
#[error("the event schema cannot be compiled: {0}")]
pub struct SchemaError(String);

impl Contract {
    /// Compiles the schema of the UnifiedEvent.
    ///
    /// # Errors
    /// [`SchemaError`] when it is none.
    pub fn new() -> Result<Self, SchemaError> {
        jsonschema::validator_for(&shared::event::json_schema())
            .map(Self)
            .map_err(|error| SchemaError(error.to_string()))
    }

    /// The event as the JSON to publish, when it keeps the contract.
    ///
    /// # Errors
    /// [`Reason::ValidationError`] with the first place that does not.
    pub fn json(&self, event: &UnifiedEvent) -> Result<String, Rejection> {
        let reject = |error: String| Rejection {
            reason: Reason::ValidationError,
            error,
        };
        let value = serde_json::to_value(event).map_err(|error| reject(error.to_string()))?;
        match self.0.validate(&value) {
            Ok(()) => Ok(value.to_string()),
            // Masked: the values are people's words.
            Err(error) => Err(reject(format!(
                "{}: {}",
                error.instance_path(),
                error.masked()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_breaks_the_contract_is_named_without_its_content() {
        let event = json!({
            "schemaVersion": "unified-event.v1", "eventId": "0".repeat(64), "source": "live",
            "streamId": "not a room", "sessionId": "01980000-0000-7000-8000-000000000001",
            "seqNo": 1, "timestamp": "2026-11-22T15:04:05.678Z",
            "ingestedAt": "2026-11-22T15:04:05.678Z", "eventType": "CHAT",
            "payload": {"rawType": "WebcastChatMessage", "message": "private words"},
        });
        let mut event: UnifiedEvent = serde_json::from_value(event).unwrap();
        let contract = Contract::new().unwrap();
        let rejection = contract.json(&event).unwrap_err();
        assert_eq!(rejection.reason, Reason::ValidationError);
        assert!(rejection.error.starts_with("/streamId: "), "{rejection}");
        assert!(!rejection.error.contains("not a room"), "{rejection}");

        event.stream_id = "7301234567890123456".to_owned();
        let json = contract.json(&event).unwrap();
        assert_eq!(serde_json::from_str::<UnifiedEvent>(&json).unwrap(), event);
    }
}
