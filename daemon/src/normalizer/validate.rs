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
