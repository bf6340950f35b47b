//! The normalizer: what TikTok said becomes what the product means.
//!
//! Comes in: raw envelopes, from the stream `ttlc:raw`. Goes out: exactly one UnifiedEvent each, to
//! `ttlc:events`, or a dead letter; and the ends of gift streaks that never came. In the order of
//! reading: [`run`] is the stage (Redis, time, retries), `lease` says who normalizes, `entry` what
//! is published in a message's place; [`Normalizer`] is the rest without it; [`normalize`] is the
//! table of types and is pure; `memory`, `streaks` and `catalogue` are what is known from the
//! messages before; [`Contract`] checks the result against the published schema. Below these:
//! `decode` (bytes to messages; `json` makes these bytes of JSON), `user`, `gift`, `social`,
//! `battle`, `lifecycle`, and `decoded` for messages without an event type.
//!
//! Crash and redelivery: publishing, acknowledging and writing down what is remembered are one
//! script, so whoever does it again starts from the same and comes to the same. Bad input:
//! one message never stops the next; what cannot be read goes to the dead letters with its original fields.

mod battle;
mod catalogue;
mod decode;
mod decoded;
mod entry;
mod gift;
mod json;
mod lease;
mod lifecycle;
mod limits;
mod lines;
mod map;
mod memory;
mod object;
mod run;
mod social;
mod streaks;
mod take;
mod text;
mod user;
mod validate;

pub use catalogue::Known;
pub use lines::Lines;
pub use map::normalize;
pub use run::{Error, Options, run};
pub use streaks::TIMEOUT_TYPE;
pub use take::{Checked, Normalizer, Taken};
pub use validate::{Contract, SchemaError};

/// Why there is no event for an envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {error}", reason.as_str())]
pub struct Rejection {
    /// The category.
    pub reason: Reason,
    /// What is wrong, without the message's content.
    pub error: String,
}

/// The categories of rejections, as dead letters name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The message cannot be read.
    ParseError,
    /// The message gave an event that breaks the contract.
    ValidationError,
}

impl Reason {
    /// `PARSE_ERROR` or `VALIDATION_ERROR`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ParseError => "PARSE_ERROR",
            Self::ValidationError => "VALIDATION_ERROR",
        }
    }
}

#[cfg(test)]
mod tests;
