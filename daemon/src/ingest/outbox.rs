//! The way from the connections to Redis: a place for what was received, the spool, the publisher.
//!
//! In: parcels from all connections, each admitted before it is handed over. Out: `ttlc:raw`, in
//! the order of each room, and dead letters. A parcel's place is given back as soon as the disk has
//! it, so sockets are read on while Redis is away. Without a disk it is given back when the parcel
//! is published: then [`Outlet::admit`] waits, its caller stops reading its socket, and the
//! pressure reaches TikTok. Admission is first come, first served, one waiting parcel per
//! connection, so that a busy room cannot push a quiet one aside.
//!
//! What a crash leaves is the spool's business (see there).

mod publisher;

use std::sync::Arc;

use shared::raw::{Envelope, RawData};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::publisher::Publisher;
use super::lease::Leases;
use super::session::json_size;
use super::spool::log::{Log, Remembered};
use super::spool::{self, Spool};
use crate::bus::{Bus, Claim, DeadLetter, Error, Incarnation, Memory, Published, RoomBatch};

/// For what is neither on the disk nor published, in bytes as they go to Redis.
const BUFFER: usize = 32 * 1024 * 1024;
/// Buffer space is counted in units of this many bytes.
const UNIT: usize = 1024;
/// An envelope's fields beside its data, in bytes.
const ENVELOPE_OVERHEAD: usize = 400;
/// Of the time for closing: kept for the disk.
const FOR_THE_DISK: std::time::Duration = std::time::Duration::from_millis(500);

/// Where parcels go; what the publisher needs.
pub(super) trait Sink: Clone + Send + Sync + 'static {
    /// The token of a room that is ours.
    fn token(&self, stream_id: &str) -> Option<u64>;
    /// Publishes envelopes in order, all or none; after an error the same may be tried again.
    fn publish(
        &self,
        batches: &[RoomBatch<'_>],
    ) -> impl Future<Output = Result<Published, Error>> + Send;
    /// Publishes a dead letter.
    fn dead_letter(&self, letter: &DeadLetter) -> impl Future<Output = Result<(), Error>> + Send;
    /// Takes a room for what waits for it, if nobody else has it.
    fn claim(&self, stream_id: &str) -> impl Future<Output = Result<Option<Memory>, Error>> + Send;
    /// Gives it back, unless somebody here reads it.
    fn release(&self, stream_id: &str) -> impl Future<Output = ()> + Send;
    /// Which Redis it is.
    fn incarnation(&self) -> impl Future<Output = Result<Incarnation, Error>> + Send;
    /// Redis says that a room is not ours.
    fn lose(&self, stream_id: &str);
}

/// Redis, and the rooms that are ours there.
#[derive(Clone)]
pub(super) struct Raw {
    pub(super) bus: Bus,
    pub(super) leases: Leases,
}

impl Sink for Raw {
    fn token(&self, stream_id: &str) -> Option<u64> {
        self.leases.token(stream_id)
    }

    async fn publish(&self, batches: &[RoomBatch<'_>]) -> Result<Published, Error> {
        self.bus.publish(self.leases.owner(), batches).await
    }

    async fn dead_letter(&self, letter: &DeadLetter) -> Result<(), Error> {
        self.bus.dead_letter(letter).await
    }

    async fn claim(&self, stream_id: &str) -> Result<Option<Memory>, Error> {
        // Not as one of the rooms that we read: it is given back at once. The owner is the same, so
        // that it takes nothing from whoever begins to read the room here meanwhile.
        match self.bus.claim_room(stream_id, self.leases.owner()).await? {
            Claim::Held(memory) => Ok(Some(memory)),
            Claim::Taken(_) => Ok(None),
        }
    }

    async fn release(&self, stream_id: &str) {
        // Whoever claims it here at this very moment has it back with the next renewal.
        if self.leases.token(stream_id).is_none()
            && let Err(error) = self.bus.release_room(stream_id, self.leases.owner()).await
        {
            tracing::debug!(stage = "ingest", stream_id, %error, "the lease lapses by itself");
        }
    }

    async fn incarnation(&self) -> Result<Incarnation, Error> {
        self.bus.incarnation().await
    }

    fn lose(&self, stream_id: &str) {
        self.leases.lose(stream_id);
    }
}

/// What belongs together because it came in one frame.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    pub(super) envelopes: Vec<Envelope>,
    pub(super) dead_letters: Vec<DeadLetter>,
}

impl Parcel {
    pub(super) fn is_empty(&self) -> bool {
        self.envelopes.is_empty() && self.dead_letters.is_empty()
    }

    /// About as many bytes as it takes in Redis.
    fn size(&self) -> usize {
        let letters = self
            .dead_letters
            .iter()
            .map(|letter| letter.payload.len() + ENVELOPE_OVERHEAD);
        self.envelopes.iter().map(size).chain(letters).sum()
    }
}

impl From<Envelope> for Parcel {
    fn from(envelope: Envelope) -> Self {
        Self {
            envelopes: vec![envelope],
            dead_letters: Vec::new(),
        }
    }
}

fn size(envelope: &Envelope) -> usize {
    let data = match &envelope.data {
        RawData::Protobuf(bytes) => bytes.len().div_ceil(3) * 4,
        RawData::Json(object) => json_size(object),
    };
    data + ENVELOPE_OVERHEAD
}

/// A place in the buffer, given back when what it holds is on the disk or published.
#[derive(Debug)]
pub(super) struct Place(
    #[expect(dead_code, reason = "held for what its drop does")] OwnedSemaphorePermit,
);

/// Tells the token of a room that is ours.
type Tokens = Arc<dyn Fn(&str) -> Option<u64> + Send + Sync>;

/// The way in; cheap to clone. One room has one at a time, so that its order is clear.
#[derive(Clone)]
pub(super) struct Outlet {
    log: Arc<Log>,
    space: Arc<Semaphore>,
    tokens: Tokens,
    /// The publisher waits for all outlets to be gone before it ends.
    _open: Arc<()>,
}

impl Outlet {
    /// Waits for room in the buffer. A parcel larger than the whole buffer waits for all of it.
    pub(super) fn admit(&self, parcel: &Parcel) -> impl Future<Output = Place> + Send + 'static {
        let units = parcel.size().div_ceil(UNIT).clamp(1, BUFFER / UNIT);
        let (space, units) = (self.space.clone(), u32::try_from(units).unwrap_or(u32::MAX));
        async move {
            match space.acquire_many_owned(units).await {
                Ok(permit) => Place(permit),
                // The semaphore is never closed.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Hands over what was admitted.
    pub(super) fn send(&self, parcel: Parcel, place: Place) {
        self.enqueue(parcel, Some(place));
    }

    /// Hands over without admission: our own few messages, and what is in hand at the end.
    pub(super) fn send_now(&self, parcel: Parcel) {
        self.enqueue(parcel, None);
    }

    fn enqueue(&self, parcel: Parcel, place: Option<Place>) {
        self.log
            .append(parcel, place, |stream_id| (self.tokens)(stream_id));
    }

    /// What the spool knows of a room and Redis may not: to be asked after the room was claimed,
    /// and added to what Redis remembers. The ids are given once.
    pub(super) fn remembered(&self, stream_id: &str) -> Remembered {
        self.log.remembered(stream_id)
    }
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet").finish_non_exhaustive()
    }
}

/// The spool with its publisher.
#[derive(Debug)]
pub(super) struct Outbox {
    outlet: Outlet,
    publisher: JoinHandle<()>,
    writer: Option<std::thread::JoinHandle<()>>,
    closing: CancellationToken,
}

impl Outbox {
    /// Publishes what the spool holds, and then what comes.
    pub(super) fn new(sink: impl Sink, spool: Spool) -> Self {
        Self::with_buffer(sink, spool, BUFFER)
    }

    fn with_buffer(sink: impl Sink, spool: Spool, bytes: usize) -> Self {
        let log = spool.log.clone();
        let writer = spool::start_writer(&log).unwrap_or_else(|error| {
            // As on a disk that refuses: in memory, with back pressure.
            tracing::error!(stage = "ingest", %error, "cannot start the spool's thread");
            None
        });
        let closing = CancellationToken::new();
        let open = Arc::new(());
        let tokens = {
            let sink = sink.clone();
            move |stream_id: &str| sink.token(stream_id)
        };
        let publisher = Publisher::new(sink, spool, closing.clone(), Arc::downgrade(&open));
        Self {
            outlet: Outlet {
                log,
                space: Arc::new(Semaphore::new(bytes / UNIT)),
                tokens: Arc::new(tokens),
                _open: open,
            },
            publisher: tokio::spawn(publisher.run()),
            writer,
            closing,
        }
    }

    /// A way in for one more room.
    pub(super) fn outlet(&self) -> Outlet {
        self.outlet.clone()
    }

    /// Publishes what is left, until `deadline` or until Redis fails; the rest stays in the spool.
    /// All outlets must be gone, or it waits for them.
    pub(super) async fn close(self, deadline: Instant) {
        let Self {
            outlet,
            mut publisher,
            writer,
            closing,
        } = self;
        let log = outlet.log.clone();
        drop(outlet);
        log.tell_gaps(true);
        closing.cancel();
        let for_redis = if writer.is_some() {
            deadline.checked_sub(FOR_THE_DISK).unwrap_or(deadline)
        } else {
            deadline
        };
        match timeout_at(for_redis, &mut publisher).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(stage = "ingest", %error, "the publisher failed"),
            Err(_) => publisher.abort(),
        }
        let bytes = log.backlog();
        let Some(writer) = writer else {
            if bytes > 0 {
                tracing::error!(
                    stage = "ingest",
                    bytes,
                    "redis is away: what was buffered is lost"
                );
            }
            return;
        };
        spool::close(&log);
        let written = tokio::task::spawn_blocking(move || writer.join());
        if !matches!(timeout_at(deadline, written).await, Ok(Ok(Ok(())))) {
            tracing::error!(
                stage = "ingest",
                bytes,
                "the spool was not written to its end"
            );
        } else if bytes > 0 {
            tracing::info!(
                stage = "ingest",
                bytes,
                "what is not published waits in the spool"
            );
        }
    }
}

#[cfg(test)]
impl Outbox {
    /// As a crash ends it; the log has been told.
    pub(super) async fn crash(self) {
        self.publisher.abort();
        let _ = self.publisher.await;
        if let Some(writer) = self.writer {
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }
}

#[cfg(test)]
mod tests;
