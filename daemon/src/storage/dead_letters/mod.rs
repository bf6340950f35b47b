//! Dead letters: what no stage could process, kept in Postgres where people look at it.
//!
//! In: entries of `ttlc:dlq` (group `ops`). Out: rows of `dead_letters`, and entries that are put
//! back to the stream that they came from. Read in order: [`letter`] reads an entry, [`copy`]
//! keeps it, [`redrive`] puts it back, [`command`] is `ttlc dead-letters`.
//!
//! - **Crash**: an entry is acknowledged after its row is committed; what comes again is known by
//!   its id and changes nothing. To put a letter back, its row is claimed first (`redriving`);
//!   whoever dies then leaves a claim that this process finishes, and a mark in Redis keeps the
//!   entry from being added twice.
//! - **Bad input**: an entry without the fields of the contract is a letter too, with what it has.
//! - **Outage** of Redis or Postgres: waits and tries again for ever.
//! - **Secrets**: the daemon's stages write none ([`DeadLetter`](crate::bus::DeadLetter)); what others
//!   wrote, or an older build, is redacted here before it is stored ([`shared::dead_letter`]).

mod command;
mod copy;
pub(crate) mod letter;
mod redrive;

pub use command::{Command, Filter, execute};
pub(crate) use copy::insert_in;
pub(super) use copy::keep;

use super::database::Failure;

/// Why a command about dead letters fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings of the database.
    #[error(transparent)]
    Settings(#[from] super::Error),
    /// Postgres did not do what it was asked.
    #[error("postgres: {0}")]
    Postgres(String),
    /// Redis did not do what it was asked.
    #[error(transparent)]
    Redis(#[from] crate::bus::Error),
    /// There is no such letter.
    #[error("there is no dead letter {0}")]
    Unknown(i64),
    /// It holds something of a viewer who was erased.
    #[error(
        "dead letter {0} is not put back: it holds something of a viewer who was erased, `ttlc erase --all` removes it"
    )]
    Erased(i64),
    /// It has no stream to go back to.
    #[error("dead letter {0} cannot be put back: it is no entry of a stream, look at its payload")]
    NoEntry(i64),
    /// Neither ids nor a filter.
    #[error(
        "say which: ids, or --all with --stage, --reason or --stream-id to put back all open letters of a kind"
    )]
    Nothing,
    /// The output is gone.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Postgres(failure.to_string())
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Failure::from(error).into()
    }
}
