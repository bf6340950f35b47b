//! The outbox without a disk: order, back pressure, the end.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shared::raw::Source;
use shared::time::Timestamp;
use uuid::Uuid;

use super::*;
use crate::ingest::spool::log::Limits;

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
    fn token(&self, _: &str) -> Option<u64> {
        Some(1)
    }

    async fn publish(&self, batches: &[RoomBatch<'_>]) -> Result<Published, Error> {
        self.check()?;
        let envelopes = batches.iter().flat_map(|batch| &batch.envelopes);
        self.published
            .lock()
            .unwrap()
            .extend(envelopes.map(|envelope| envelope.seq_no));
        Ok(Published::default())
    }

    async fn claim(&self, _: &str) -> Result<Option<Memory>, Error> {
        self.check()?;
        Ok(None)
    }

    async fn release(&self, _: &str) {}

    async fn incarnation(&self) -> Result<Incarnation, Error> {
        Ok(Incarnation {
            id: "one".to_owned(),
            run: String::new(),
        })
    }

    fn lose(&self, _: &str) {}

    async fn dead_letter(&self, letter: &DeadLetter) -> Result<(), Error> {
        self.check()?;
        self.letters.lock().unwrap().push(letter.payload.clone());
        Ok(())
    }
}

fn memory() -> Spool {
    Spool::memory(Limits::default())
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
    let outbox = Outbox::new(tape.clone(), memory());
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
    let outbox = Outbox::with_buffer(tape.clone(), memory(), 64 * 1024);
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
    let outbox = Outbox::new(tape.clone(), memory());
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
    let outbox = Outbox::new(tape, memory());
    outbox.outlet().send_now(parcel(1, 10));
    let begun = Instant::now();
    outbox.close(begun + Duration::from_secs(3)).await;
    assert_eq!(begun.elapsed().as_secs(), 3);
}
