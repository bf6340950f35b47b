//! The contract between the daemon and the edge: one crate compiled into both.
//!
//! Pure: no I/O, no clock, no randomness. It builds alone for `wasm32-unknown-unknown`.
//! Read in the order an event takes: [`streams`] names the places, [`raw`] is what ingest
//! publishes, [`identity`] gives it an id, [`event`] is what everybody downstream sees, and
//! [`api`] is how the edge hands it out; [`control`] is what the edge asks of ingest, [`replay`] how
//! far a replay is; [`dead_letter`] is for what could not be processed.

pub mod api;
pub mod control;
pub mod dead_letter;
pub mod event;
pub mod identity;
pub mod raw;
pub mod replay;
pub mod schema;
pub mod streams;
pub mod time;
