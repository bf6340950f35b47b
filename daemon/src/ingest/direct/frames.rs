//! Frames of a room without a connection: for tests, measurements and fuzzing.
//!
//! In: the bytes of push frames, in the order of their arrival. Out: the envelopes that they become,
//! by the same code as on a socket. A frame that cannot be read costs none of the others. Nothing
//! is kept elsewhere: a crash loses the numbering.

use bytes::Bytes;
use shared::raw::Envelope;
use shared::time::Timestamp;

use super::frame;
use crate::ingest::session::Session;

/// The frames of one room.
pub struct Frames(Session);

/// What a frame became.
#[derive(Debug, Default)]
pub struct Taken {
    /// Its messages in their order, without those that came before.
    pub envelopes: Vec<Envelope>,
    /// Why others of its messages cannot be read.
    pub damaged: Vec<String>,
    /// The frame to answer with.
    pub ack: Option<Bytes>,
}

impl Frames {
    /// Connects to a room, of which `floor` is the highest `seqNo` known.
    pub fn new(stream_id: &str, floor: Option<u64>, now: Timestamp) -> Self {
        Self(Session::new(stream_id.to_owned(), floor, now))
    }

    /// Connects to it again: a new session.
    pub fn reconnect(&mut self, now: Timestamp) {
        self.0.close();
        self.0.renew(now);
    }

    /// Takes one frame.
    ///
    /// # Errors
    /// Why it cannot be read as a whole.
    pub fn take(&mut self, bytes: &Bytes, now: Timestamp) -> Result<Taken, String> {
        let frame = frame::read(bytes).map_err(|error| error.to_string())?;
        let mut taken = Taken {
            ack: frame.ack,
            ..Taken::default()
        };
        for message in frame.messages {
            match message {
                Ok(message) => taken.envelopes.extend(self.0.take(message, false, now)),
                Err(damaged) => taken.damaged.push(damaged.error),
            }
        }
        Ok(taken)
    }
}
