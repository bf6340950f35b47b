//! One replay, from its first event to its closing message.
//!
//! In: a replay that this process has claimed. Out: its events in the raw stream at their pace, its
//! progress, and one `ControlEvent.REPLAY_END` after the last of them, by which the normalizer and
//! storage know that it is over. Where it is stands in Redis, written in the script that publishes:
//! killed anywhere, whoever takes it over goes on there. While Postgres or Redis is away it waits and
//! goes on at the same pace. An event that cannot be shown is skipped and counted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp as Clock;
use metrics::counter;
use serde_json::{Map, json};
use shared::raw::{Envelope, RawData, Source, control};
use shared::replay::{Failure, Progress, State};
use shared::time::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::STAGE;
use super::brake::{self, Brake};
use super::pace::Pace;
use super::source::{Found, Original, Reader, Stored};
use crate::bus::replay::{Place, Position, Refreshed, Step};
use crate::bus::{Bus, Owner};
use crate::metrics::{REPLAY_SENT, REPLAY_SKIPPED};
use crate::outage::Outage;
use crate::storage::database::Database;

/// How often the progress is written, and a wish to end it is looked for.
const BEAT: Duration = Duration::from_millis(500);
/// Published in one script: events, and roughly how many bytes.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 256 * 1024;
/// What holds a batch up for longer moves the rest of the replay.
const STALL: Duration = Duration::from_secs(1);
/// A replay of a replay of … is followed so far.
const MAX_DEPTH: usize = 5;

/// What others see of it, as it goes on.
pub(super) type Shared = Arc<Mutex<Progress>>;

pub(super) fn locked(progress: &Shared) -> std::sync::MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a showing has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// For good; the progress says how.
    Ended,
    /// Told to stop: another process goes on.
    Stopped,
    /// Another process has it.
    Lost,
}

/// Why the events come no more.
enum Over {
    End(State),
    Failed(Failure, String),
    Stopped,
    Lost,
}

/// A replay that is shown.
pub(super) struct Showing {
    pub(super) bus: Bus,
    pub(super) owner: Owner,
    pub(super) reader: Reader,
    pub(super) progress: Shared,
    /// It shall end for good.
    pub(super) cancel: CancellationToken,
    /// This process shall end.
    pub(super) stop: CancellationToken,
    position: Position,
    brake: Brake,
}

impl Showing {
    pub(super) fn new(
        bus: Bus,
        owner: Owner,
        database: Database,
        progress: Progress,
        stop: CancellationToken,
    ) -> Self {
        Self {
            bus,
            owner,
            reader: Reader::new(database),
            progress: Arc::new(Mutex::new(progress)),
            cancel: CancellationToken::new(),
            stop,
            position: Position::default(),
            brake: Brake::default(),
        }
    }

    /// Shows it, from where it is.
    pub(super) async fn run(mut self) -> Outcome {
        let progress = self.progress.clone();
        let replay_id = locked(&progress).replay_id;
        let (bus, owner) = (self.bus.clone(), self.owner);
        let (stop, cancel) = (self.stop.clone(), self.cancel.clone());
        // What is dropped in the middle may have been published all the same; what follows looks.
        let over = tokio::select! {
            biased;
            () = stop.cancelled() => Over::Stopped,
            () = cancel.cancelled() => Over::End(State::Cancelled),
            over = watch(&bus, owner, &progress) => over,
            over = self.events() => over,
        };
        let outcome = match over {
            Over::Stopped => Outcome::Stopped,
            Over::Lost => Outcome::Lost,
            Over::End(state) => self.end(state, None).await,
            Over::Failed(error, detail) => self.end(State::Failed, Some((error, detail))).await,
        };
        match outcome {
            Outcome::Stopped => {
                let releasing = bus.release_replay(replay_id, owner);
                if !matches!(tokio::time::timeout(BEAT, releasing).await, Ok(Ok(()))) {
                    tracing::debug!(stage = STAGE, %replay_id, "its lease lapses by itself");
                }
                tracing::info!(stage = STAGE, %replay_id, "the replay stops here, to be gone on with");
            }
            Outcome::Lost => {
                tracing::warn!(stage = STAGE, %replay_id, "another process shows the replay");
            }
            Outcome::Ended => {
                let progress = locked(&progress);
                tracing::info!(
                    stage = STAGE, %replay_id, session_id = %progress.session_id, stream_id = progress.stream_id,
                    state = progress.state.as_str(), sent = progress.sent, skipped = progress.skipped,
                    reason = progress.error.map(Failure::as_str), detail = progress.detail, "the replay is over"
                );
            }
        }
        outcome
    }

    /// Sends the events, from where it is to the end.
    async fn events(&mut self) -> Over {
        let original = match self.begin().await {
            Ok(original) => original,
            Err(over) => return over,
        };
        let (factor, until) = {
            let progress = locked(&self.progress);
            (
                progress.speed.factor(),
                progress.until_seq_no.unwrap_or(original.last_seq_no),
            )
        };
        let mut pace = Pace::new(factor);
        let mut queue: VecDeque<Stored> = VecDeque::new();
        loop {
            if let Some(state) = self.position.end {
                return Over::End(state);
            }
            if queue.is_empty() {
                let begun = Instant::now();
                let Some((next, waited)) = self.page(&original, until).await else {
                    return Over::Stopped;
                };
                if waited {
                    pace.delayed(begun.elapsed());
                }
                queue = next.into();
            }
            let Some(first) = queue.front() else {
                return Over::End(State::Done);
            };
            let due = pace.due(first.ingested_at.as_millis(), Instant::now());
            sleep_until(due).await;
            let begun = Instant::now();
            if !self.clear(&original.stream_id).await {
                return Over::Stopped;
            }
            let sent = self.send(&original, &mut queue, &mut pace).await;
            // What was in the way (Redis, or the pipeline) is not made up for; a slow machine is.
            if begun.elapsed() > STALL {
                pace.delayed(begun.elapsed());
            }
            match sent {
                Some(true) => {}
                // Not where we thought it was: from where it is.
                Some(false) => queue.clear(),
                None => return Over::Stopped,
            }
        }
    }

    /// Finds out what is to be shown, and where it is.
    async fn begin(&mut self) -> Result<Original, Over> {
        let (replay_id, asked_for) = {
            let progress = locked(&self.progress);
            (progress.replay_id, progress.session_id)
        };
        if !matches!(
            self.find(replay_id).await?,
            Found::Unknown | Found::Replay(_)
        ) {
            let detail = format!("a session has the id {replay_id} already");
            return Err(Over::Failed(Failure::IdTaken, detail));
        }
        let original = match self.resolve(asked_for).await? {
            Found::Session(original) => original,
            Found::Empty => {
                let detail = format!("no event of session {asked_for} is stored any more");
                return Err(Over::Failed(Failure::NoEvents, detail));
            }
            _ => {
                let detail = format!("no session {asked_for} is stored");
                return Err(Over::Failed(Failure::UnknownSession, detail));
            }
        };
        self.position = self.look(&original.stream_id).await.ok_or(Over::Stopped)?;
        let now = now();
        let mut progress = locked(&self.progress);
        if original.session_id != asked_for {
            progress.asked_for.get_or_insert(asked_for);
            progress.session_id = original.session_id;
        }
        progress.stream_id = Some(original.stream_id.clone());
        progress.state = State::Running;
        progress.started_at.get_or_insert(now);
        // A session that is still open is shown up to here, also by who takes over.
        progress.total.get_or_insert(original.events);
        progress.until_seq_no.get_or_insert(original.last_seq_no);
        update(&mut progress, &self.position);
        tracing::info!(
            stage = STAGE, %replay_id, session_id = %original.session_id, stream_id = original.stream_id,
            speed = %progress.speed, events = progress.total, sent = progress.sent, "showing a session again"
        );
        Ok(original)
    }

    /// What a session's id stands for; that of a replay for its original.
    async fn resolve(&mut self, session_id: Uuid) -> Result<Found, Over> {
        let mut asked = session_id;
        for _ in 0..MAX_DEPTH {
            match self.find(asked).await? {
                Found::Replay(original) => asked = original,
                // It may have begun just now: storage has not heard of it yet.
                Found::Unknown => match self.known(asked).await?.filter(|id| *id != asked) {
                    Some(original) => asked = original,
                    None => return Ok(Found::Unknown),
                },
                found => return Ok(found),
            }
        }
        Ok(Found::Unknown)
    }

    async fn find(&mut self, session_id: Uuid) -> Result<Found, Over> {
        let mut outage = Outage::new("postgres");
        loop {
            match self.reader.find(session_id).await {
                Ok(found) => {
                    outage.over();
                    return Ok(found);
                }
                Err(error) => {
                    if !outage.wait(&error, &self.stop).await {
                        return Err(Over::Stopped);
                    }
                }
            }
        }
    }

    /// The original of a replay that Redis knows.
    async fn known(&self, replay_id: Uuid) -> Result<Option<Uuid>, Over> {
        let mut outage = Outage::new("redis");
        loop {
            match self.bus.replay(replay_id).await {
                Ok(known) => return Ok(known.map(|progress| progress.session_id)),
                Err(error) => self
                    .failed(&mut outage, &error)
                    .await
                    .ok_or(Over::Stopped)?,
            }
        }
    }

    /// The next page, and whether Postgres had to be waited for. `None` to stop.
    async fn page(&mut self, original: &Original, until: u64) -> Option<(Vec<Stored>, bool)> {
        let mut outage = Outage::new("postgres");
        let mut waited = false;
        loop {
            match self.reader.page(original, self.position.at, until).await {
                Ok(page) => {
                    outage.over();
                    return Some((page, waited));
                }
                Err(error) => {
                    waited = true;
                    if !outage.wait(&error, &self.stop).await {
                        return None;
                    }
                }
            }
        }
    }

    /// Waits until the pipeline has room. `false` to stop.
    async fn clear(&mut self, stream_id: &str) -> bool {
        let mut outage = Outage::new("redis");
        loop {
            match self.bus.replay_backlog(stream_id).await {
                Ok(groups) => {
                    outage.over();
                    if !self.brake.is_on(&groups, Instant::now()) {
                        return true;
                    }
                    sleep(brake::LOOK).await;
                }
                Err(error) => {
                    if self.failed(&mut outage, &error).await.is_none() {
                        return false;
                    }
                }
            }
        }
    }

    /// Publishes what is due of a page, at least its first event. `false`: the replay is somewhere
    /// else, and the page of no use. `None` to stop.
    async fn send(
        &mut self,
        original: &Original,
        queue: &mut VecDeque<Stored>,
        pace: &mut Pace,
    ) -> Option<bool> {
        let replay_id = locked(&self.progress).replay_id;
        let (mut entries, mut to, mut bytes) = (Vec::new(), self.position, 0);
        let mut skipped = Vec::new();
        let now = Instant::now();
        while entries.len() < BATCH && bytes < BATCH_BYTES {
            let is_first = to.at == self.position.at;
            let due = queue
                .front()
                .is_some_and(|next| is_first || pace.due(next.ingested_at.as_millis(), now) <= now);
            if !due {
                break;
            }
            let Some(stored) = queue.pop_front() else {
                break;
            };
            to.at = Some(stored.place);
            match stored.what {
                Ok(message) => {
                    bytes += message.size();
                    entries.push(message.fields(replay_id, original.session_id));
                    to.sent += 1;
                }
                Err(reason) => {
                    skipped.push(reason);
                    to.skipped += 1;
                }
            }
        }
        let sent = entries.len() as u64;
        let step = Step {
            stream_id: &original.stream_id,
            replay_id,
            from: self.position.at,
            to,
            entries,
        };
        let done = self.publish(&step).await?;
        if done {
            counter!(REPLAY_SENT).increment(sent);
            for reason in skipped {
                counter!(REPLAY_SKIPPED, "reason" => reason.as_str()).increment(1);
            }
        }
        update(&mut locked(&self.progress), &self.position);
        Some(done)
    }

    /// Publishes a step; the position is then as Redis has it. `false`: it was not, and is not, ours
    /// to publish. `None` to stop.
    async fn publish(&mut self, step: &Step<'_>) -> Option<bool> {
        let mut outage = Outage::new("redis");
        loop {
            match self.bus.show(step).await {
                Ok(true) => {
                    outage.over();
                    self.position = step.to;
                    return Some(true);
                }
                // Done by an attempt whose answer was lost, or by somebody else.
                Ok(false) => {
                    self.position = self.look(step.stream_id).await?;
                    return Some(self.position == step.to);
                }
                Err(error) => self.failed(&mut outage, &error).await?,
            }
        }
    }

    /// Where it is. `None` to stop.
    async fn look(&self, stream_id: &str) -> Option<Position> {
        let replay_id = locked(&self.progress).replay_id;
        let mut outage = Outage::new("redis");
        loop {
            match self.bus.replay_position(stream_id, replay_id).await {
                Ok(position) => return Some(position),
                Err(error) => self.failed(&mut outage, &error).await?,
            }
        }
    }

    /// Waits after a failure of Redis; `None` to stop.
    async fn failed(&self, outage: &mut Outage, error: &crate::bus::Error) -> Option<()> {
        outage
            .wait_for_redis(STAGE, error, &self.stop)
            .await
            .then_some(())
    }

    /// Closes what was shown, and writes how it has ended.
    async fn end(&mut self, mut state: State, failure: Option<(Failure, String)>) -> Outcome {
        let stream_id = locked(&self.progress).stream_id.clone();
        if let Some(stream_id) = stream_id {
            match self.close(&stream_id, state).await {
                Some(end) => state = end,
                None => return Outcome::Stopped,
            }
        }
        let progress = {
            let mut progress = locked(&self.progress);
            update(&mut progress, &self.position);
            progress.state = state;
            progress.finished_at = Some(progress.updated_at);
            if let Some((error, detail)) = failure {
                progress.error = Some(error);
                progress.detail = Some(detail);
            }
            progress.clone()
        };
        let mut outage = Outage::new("redis");
        loop {
            match self.bus.finish_replay(&progress, self.owner).await {
                Ok(()) => return Outcome::Ended,
                Err(error) => {
                    if self.failed(&mut outage, &error).await.is_none() {
                        return Outcome::Stopped;
                    }
                }
            }
        }
    }

    /// Publishes the closing message, unless nothing was shown. Returns how it has ended: as somebody
    /// else may have said first. `None` to stop.
    async fn close(&mut self, stream_id: &str, state: State) -> Option<State> {
        loop {
            self.position = self.look(stream_id).await?;
            if let Some(end) = self.position.end {
                return Some(end);
            }
            let Some(last) = self.position.at.filter(|_| self.position.sent > 0) else {
                return Some(state);
            };
            let closing = {
                let progress = locked(&self.progress);
                closing(&progress, stream_id, last, &self.position, state)
            };
            let step = Step {
                stream_id,
                replay_id: closing.session_id,
                from: self.position.at,
                to: Position {
                    end: Some(state),
                    ..self.position
                },
                entries: vec![fields(&closing)],
            };
            if self.publish(&step).await? {
                return Some(state);
            }
        }
    }
}

/// Says that we go on, until the replay shall end or is another's.
async fn watch(bus: &Bus, owner: Owner, progress: &Shared) -> Over {
    loop {
        let shown = {
            let mut progress = locked(progress);
            progress.updated_at = now();
            progress.clone()
        };
        match bus.refresh_replay(&shown, owner).await {
            Ok(Refreshed::Ours) => {}
            Ok(Refreshed::Cancelled) => return Over::End(State::Cancelled),
            Ok(Refreshed::Lost) => return Over::Lost,
            // Whoever publishes waits for it; the position keeps two daemons apart.
            Err(error) => tracing::debug!(stage = STAGE, %error, "cannot write the progress"),
        }
        sleep(BEAT).await;
    }
}

/// The message after the last one.
fn closing(
    progress: &Progress,
    stream_id: &str,
    last: Place,
    position: &Position,
    state: State,
) -> Envelope {
    let mut data = Map::new();
    data.insert("state".to_owned(), json!(state.as_str()));
    data.insert("sent".to_owned(), json!(position.sent));
    data.insert("skipped".to_owned(), json!(position.skipped));
    let now = now();
    Envelope {
        stream_id: stream_id.to_owned(),
        session_id: progress.replay_id,
        source: Source::Replay,
        kind: control::REPLAY_END.to_owned(),
        // Of its own kind, so its id is no other event's.
        seq_no: (last.seq_no + 1).min(shared::identity::MAX_SEQ_NO),
        timestamp: now,
        ingested_at: now,
        data: RawData::Json(data),
        msg_id: None,
        backlog: false,
        replay_of: Some(progress.session_id),
    }
}

fn fields(envelope: &Envelope) -> Vec<(&'static str, String)> {
    let fields = envelope.to_fields().into_iter();
    fields
        .map(|(name, value)| (name, value.into_owned()))
        .collect()
}

fn update(progress: &mut Progress, position: &Position) {
    progress.sent = position.sent;
    progress.skipped = position.skipped;
    progress.seq_no = position.at.map(|place| place.seq_no);
    progress.updated_at = now();
}

fn now() -> Timestamp {
    Clock::now().into()
}
