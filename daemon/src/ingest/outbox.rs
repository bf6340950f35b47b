//! What was received and is not in Redis yet: a buffer bounded in bytes, and its publisher.
//!
//! In: parcels from all connections, each admitted before it is handed over. Out: `ttlc:raw`, in
//! the order of each room, and dead letters. While Redis is slow the buffer fills; when it is full
//! [`Outlet::admit`] waits, its caller stops reading its socket, and the pressure reaches TikTok.
//! The publisher retries for ever and drops nothing. Admission is first come, first served, one
//! waiting parcel per connection, so that a busy room cannot push a quiet one aside.
//!
//! On a crash what is in here is lost (at most [`BUFFER`]); a repeated publish after a lost reply
//! writes an envelope twice with one `eventId`, which is deduplicated downstream.

use std::sync::Arc;
use std::time::Duration;

use shared::raw::{Envelope, RawData};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::lease::Leases;
use super::reconnect::jittered;
use super::session::json_size;
use crate::bus::rooms::by_room;
use crate::bus::{Bus, DeadLetter, Error};

/// For all rooms together, in bytes as they go to Redis.
const BUFFER: usize = 32 * 1024 * 1024;
/// Buffer space is counted in units of this many bytes.
const UNIT: usize = 1024;
/// Published in one go: envelopes, and bytes.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// An envelope's fields beside its data, in bytes.
const ENVELOPE_OVERHEAD: usize = 400;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Where parcels go; what the publisher needs.
pub(super) trait Sink: Clone + Send + Sync + 'static {
    /// Publishes envelopes in order, all or none.
    fn publish(&self, envelopes: &[Envelope]) -> impl Future<Output = Result<(), Error>> + Send;
    /// Publishes a dead letter.
    fn dead_letter(&self, letter: &DeadLetter) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Redis, and the rooms that are ours there.
#[derive(Clone)]
pub(super) struct Raw {
    pub(super) bus: Bus,
    pub(super) leases: Leases,
}

impl Sink for Raw {
    async fn publish(&self, envelopes: &[Envelope]) -> Result<(), Error> {
        let token = |stream_id: &str| self.leases.token(stream_id).unwrap_or(0);
        let batches = by_room(envelopes, token);
        let published = self.bus.publish(self.leases.owner(), &batches).await?;
        for index in published.refused {
            let (stream_id, messages) = (batches[index].stream_id, batches[index].envelopes.len());
            tracing::error!(
                stage = "ingest",
                stream_id,
                messages,
                "the room is not ours"
            );
            self.leases.lose(stream_id);
        }
        Ok(())
    }

    async fn dead_letter(&self, letter: &DeadLetter) -> Result<(), Error> {
        self.bus.dead_letter(letter).await
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

/// A place in the buffer, given back when what it holds has been published.
#[derive(Debug)]
pub(super) struct Place(
    #[expect(dead_code, reason = "held for what its drop does")] OwnedSemaphorePermit,
);

/// The way into the buffer; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    queue: mpsc::UnboundedSender<(Parcel, Option<Place>)>,
    space: Arc<Semaphore>,
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
        if self.queue.send((parcel, place)).is_err() {
            tracing::error!(stage = "ingest", "the publisher is gone, messages are lost");
        }
    }
}

/// The buffer with its publisher.
#[derive(Debug)]
pub(super) struct Outbox {
    outlet: Outlet,
    publisher: JoinHandle<()>,
}

impl Outbox {
    /// Starts the publisher.
    pub(super) fn new(sink: impl Sink) -> Self {
        Self::with_buffer(sink, BUFFER)
    }

    fn with_buffer(sink: impl Sink, bytes: usize) -> Self {
        let (queue, parcels) = mpsc::unbounded_channel();
        let space = Arc::new(Semaphore::new(bytes / UNIT));
        Self {
            outlet: Outlet { queue, space },
            publisher: tokio::spawn(publish_all(sink, parcels)),
        }
    }

    /// A way in for one more room.
    pub(super) fn outlet(&self) -> Outlet {
        self.outlet.clone()
    }

    /// Publishes what is left, until `deadline`. All outlets must be gone, or it waits for them.
    pub(super) async fn close(self, deadline: Instant) {
        let Self {
            outlet,
            mut publisher,
        } = self;
        let space = outlet.space.clone();
        drop(outlet);
        match timeout_at(deadline, &mut publisher).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(stage = "ingest", %error, "the publisher failed"),
            Err(_) => {
                publisher.abort();
                let kib = (BUFFER / UNIT).saturating_sub(space.available_permits());
                tracing::error!(
                    stage = "ingest",
                    kib,
                    "redis is away: what was buffered is lost"
                );
            }
        }
    }
}

/// Publishes parcels until all outlets are gone and nothing is left.
async fn publish_all(
    sink: impl Sink,
    mut parcels: mpsc::UnboundedReceiver<(Parcel, Option<Place>)>,
) {
    while let Some((first, place)) = parcels.recv().await {
        let mut places = vec![place];
        let mut bytes = first.size();
        let Parcel {
            mut envelopes,
            mut dead_letters,
        } = first;
        while envelopes.len() < BATCH
            && bytes < BATCH_BYTES
            && let Ok((next, place)) = parcels.try_recv()
        {
            bytes += next.size();
            places.push(place);
            envelopes.extend(next.envelopes);
            dead_letters.extend(next.dead_letters);
        }
        if !envelopes.is_empty() {
            insist(|| sink.publish(&envelopes)).await;
        }
        for letter in &dead_letters {
            insist(|| sink.dead_letter(letter)).await;
        }
        drop(places);
    }
}

/// Tries until it succeeds: what fails here is Redis, not the message.
async fn insist<F: Future<Output = Result<(), Error>>>(mut attempt: impl FnMut() -> F) {
    let mut wait = FIRST_RETRY;
    let mut failures = 0_u32;
    while let Err(error) = attempt().await {
        failures += 1;
        if failures.is_power_of_two() {
            tracing::warn!(stage = "ingest", %error, failures, "cannot publish, trying again");
        }
        tokio::time::sleep(jittered(wait)).await;
        wait = (wait * 2).min(LAST_RETRY);
    }
    if failures > 0 {
        tracing::info!(stage = "ingest", failures, "publishing again");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use shared::raw::Source;
    use shared::time::Timestamp;
    use uuid::Uuid;

    use super::*;

    /// Redis that can be away.
    #[derive(Clone, Default)]
    struct Tape {
        away: Arc<AtomicBool>,
        published: Arc<Mutex<Vec<u64>>>,
        letters: Arc<Mutex<Vec<String>>>,
    }

    impl Tape {
        fn check(&self) -> Result<(), Error> {
            if self.away.load(Ordering::Relaxed) {
                Err(Error::Address)
            } else {
                Ok(())
            }
        }
    }

    impl Sink for Tape {
        async fn publish(&self, envelopes: &[Envelope]) -> Result<(), Error> {
            assert!(envelopes.len() < BATCH * 2);
            self.check()?;
            self.published
                .lock()
                .unwrap()
                .extend(envelopes.iter().map(|envelope| envelope.seq_no));
            Ok(())
        }

        async fn dead_letter(&self, letter: &DeadLetter) -> Result<(), Error> {
            self.check()?;
            self.letters.lock().unwrap().push(letter.payload.clone());
            Ok(())
        }
    }

    fn parcel(seq_no: u64, bytes: usize) -> Parcel {
        let now = Timestamp::from_millis(0);
        Parcel::from(Envelope {
            stream_id: "7".to_owned(),
            session_id: Uuid::nil(),
            source: Source::Live,
            kind: "WebcastChatMessage".to_owned(),
            seq_no,
            timestamp: now,
            ingested_at: now,
            data: RawData::Protobuf(vec![0; bytes]),
            msg_id: None,
            backlog: false,
            replay_of: None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn order_is_kept_and_nothing_is_lost_while_redis_is_away() {
        let tape = Tape::default();
        tape.away.store(true, Ordering::Relaxed);
        let outbox = Outbox::new(tape.clone());
        let outlet = outbox.outlet();
        for seq_no in 0..2_000 {
            let parcel = parcel(seq_no, 10);
            let place = outlet.admit(&parcel).await;
            outlet.send(parcel, place);
        }
        let failed_at = Timestamp::from_millis(0);
        let letter = DeadLetter {
            stage: "ingest",
            reason: "R",
            error: String::new(),
            payload: "bad".to_owned(),
            failed_at,
        };
        outlet.send_now(Parcel {
            dead_letters: vec![letter],
            ..Parcel::default()
        });
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert!(tape.published.lock().unwrap().is_empty());
        tape.away.store(false, Ordering::Relaxed);
        drop(outlet);
        outbox.close(Instant::now() + Duration::from_mins(1)).await;
        assert_eq!(
            *tape.published.lock().unwrap(),
            (0..2_000).collect::<Vec<_>>()
        );
        assert_eq!(*tape.letters.lock().unwrap(), ["bad"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_buffer_admits_nobody_until_redis_is_back() {
        let tape = Tape::default();
        tape.away.store(true, Ordering::Relaxed);
        let outbox = Outbox::with_buffer(tape.clone(), 64 * 1024);
        let outlet = outbox.outlet();
        let minute = Duration::from_mins(1);
        let mut admitted = 0;
        loop {
            let parcel = parcel(admitted, 10_000);
            let Ok(place) = tokio::time::timeout(minute, outlet.admit(&parcel)).await else {
                break;
            };
            outlet.send(parcel, place);
            admitted += 1;
            assert!(admitted < 10, "no bound");
        }
        assert!(admitted >= 3, "{admitted}");
        tape.away.store(false, Ordering::Relaxed);
        let next = parcel(admitted, 10_000);
        let place = tokio::time::timeout(minute, outlet.admit(&next))
            .await
            .expect("no room again");
        outlet.send(next, place);
        drop(outlet);
        outbox.close(Instant::now() + minute).await;
        assert_eq!(
            *tape.published.lock().unwrap(),
            (0..=admitted).collect::<Vec<_>>()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_parcel_larger_than_the_buffer_gets_through_alone() {
        let tape = Tape::default();
        let outbox = Outbox::new(tape.clone());
        let outlet = outbox.outlet();
        let huge = parcel(1, BUFFER);
        let place = outlet.admit(&huge).await;
        outlet.send(huge, place);
        drop(outlet);
        outbox.close(Instant::now() + Duration::from_mins(1)).await;
        assert_eq!(*tape.published.lock().unwrap(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_ends_at_the_deadline() {
        let tape = Tape::default();
        tape.away.store(true, Ordering::Relaxed);
        let outbox = Outbox::new(tape);
        outbox.outlet().send_now(parcel(1, 10));
        let begun = Instant::now();
        outbox.close(begun + Duration::from_secs(3)).await;
        assert_eq!(begun.elapsed().as_secs(), 3);
    }
}
