//! One creator, from waiting for a broadcast to its end, and again.
//!
//! In: a name. Out: sessions in the outbox and the creator's status. Each attempt goes the whole
//! way (look, claim, enter, follow), since a signed address is good for one connection; `claim` and
//! `follow` are files of their own. Who is offline is looked at again politely; what fails is tried
//! again by the reconnect policy, or when upstream says so, and [`choice`](super::choice) says by
//! which provider. An attempt that fails once the room is known is an `ERROR` in its events; before
//! that there is only the status and the log.
//!
//! A room that another daemon reads is left alone: we ask Redis every 2 s, and nobody else. Whoever
//! loses a room stops reading it at once and says nothing more in it. A crash of this task leaves
//! the numbers of the room in Redis, and time in them: the next one begins above them.

mod claim;
mod follow;

use std::time::Duration;

use jiff::Timestamp as Clock;
use metrics::counter;
use shared::raw::control;
use shared::time::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::claim::Claimed;
use self::follow::Followed;
use super::budget::Urgency;
use super::choice::{Choice, Preference, Verdict};
use super::failure::Failure;
use super::lease::{Lease, Leases};
use super::options::Policy;
use super::outbox::Outlet;
use super::provider::{Delivery as _, Providers, Room, Sighting, Sources};
use super::reconnect::{Reconnect, at_least};
use super::session::{Lifecycle, Session};
use super::status::Board;
use crate::bus::CreatorStatus;
use crate::metrics::{ATTEMPTS_FAILED, PROVIDER_CHANGES};

/// For so long after a connection its room is taken as running when TikTok does not let us look.
const TRUSTED_FOR: Duration = Duration::from_mins(10);

/// What every creator's task works with.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) providers: Providers,
    pub(super) leases: Leases,
    pub(super) outlet: Outlet,
    pub(super) board: Board,
    pub(super) policy: Policy,
    pub(super) preference: Preference,
}

/// When a task has to end, and why.
#[derive(Clone)]
pub(super) struct Stop {
    /// The process ends.
    pub(super) all: CancellationToken,
    /// This creator is followed no more, or `all`.
    pub(super) this: CancellationToken,
}

impl Stop {
    /// For one more creator.
    pub(super) fn one(all: &CancellationToken) -> Self {
        Self {
            all: all.clone(),
            this: all.child_token(),
        }
    }

    fn reason(&self) -> &'static str {
        if self.all.is_cancelled() {
            "shutdown"
        } else {
            "untracked"
        }
    }

    /// `None` when told to stop meanwhile.
    async fn or<F: Future>(&self, work: F) -> Option<F::Output> {
        self.this.run_until_cancelled(work).await
    }
}

/// A creator's task.
pub(super) struct Creator {
    name: String,
    sources: Sources,
    parts: Parts,
    choice: Choice,
    reconnect: Reconnect,
    /// The room that is ours.
    lease: Option<Lease>,
    /// The room's numbering and memory; outlives connections and leases, not rooms.
    session: Option<Session>,
    /// The token under which the session began: with another one, somebody else had the room.
    token: u64,
    /// The room of a connection that worked, and when it ended.
    trusted: Option<(Room, Instant)>,
    /// Why we wait, as long as every look says the same.
    waiting: Option<&'static str>,
}

/// How an attempt ended.
enum Outcome {
    /// Told to stop.
    Stopped,
    /// The world has changed meanwhile: begin anew.
    Again,
    /// Nothing to connect to at present.
    Waiting(&'static str),
    /// A connection that had worked is over, and the broadcast is not.
    Dropped,
    /// It failed.
    Failed(Failure),
}

impl Creator {
    /// Fails where no HTTP client can be made.
    pub(super) fn new(name: String, parts: Parts) -> Result<Self, String> {
        Ok(Self {
            sources: Sources::new(parts.providers.clone())?,
            choice: Choice::new(parts.preference),
            reconnect: Reconnect::new(parts.policy.max_attempts),
            name,
            parts,
            lease: None,
            session: None,
            token: 0,
            trusted: None,
            waiting: None,
        })
    }

    /// Follows the creator until told to stop.
    pub(super) async fn run(mut self, stop: Stop) {
        self.set_status("connecting", None, None, None, None);
        loop {
            let pause = match Box::pin(self.attempt(&stop)).await {
                Outcome::Stopped => break,
                Outcome::Again => continue,
                Outcome::Waiting(reason) => {
                    self.give_back().await;
                    self.wait(reason)
                }
                Outcome::Dropped => self.reconnect.dropped(),
                Outcome::Failed(failure) => {
                    if let Some(pause) = self.fail(&failure) {
                        pause
                    } else {
                        self.give_back().await;
                        stop.this.cancelled().await;
                        break;
                    }
                }
            };
            if stop.or(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
        }
        if stop.reason() == "untracked" {
            self.give_back().await;
        } else {
            // Its lease is given back with all others, once what is in hand has been published.
            self.set_status("waiting", None, Some("shutdown"), None, None);
        }
    }

    /// Once the whole way: look, claim, enter, read until the end.
    async fn attempt(&mut self, stop: &Stop) -> Outcome {
        let urgency = if self.trusted.is_some() || self.lease.is_some() {
            Urgency::Room
        } else {
            Urgency::Poll
        };
        let which = self.choice_for_now();
        // Boxed here and below is what is large and soon over: its memory is not the room's.
        let looking = Box::pin(self.sources.look(&self.name, urgency));
        let Some(mut seen) = stop.or(looking).await else {
            return Outcome::Stopped;
        };
        let mut shown = None;
        if let Ok(Sighting::Live(room)) = &seen {
            // Before anything that costs: whoever reads the room already shall go on.
            let id = room.id.clone();
            match self.claim(&id, stop).await {
                Claimed::Ours => {}
                Claimed::Late => return Outcome::Again,
                Claimed::Stopped => return Outcome::Stopped,
            }
            shown = Some(id);
        }
        let looking = Box::pin(self.sources.look_by(which, &self.name, seen));
        seen = match stop.or(looking).await {
            Some(seen) => seen,
            None => return Outcome::Stopped,
        };
        let room = match seen {
            Ok(Sighting::Live(room)) => room,
            Ok(Sighting::Offline) => return Outcome::Waiting("offline"),
            Ok(Sighting::NeverLive) => return Outcome::Waiting("never_live"),
            Ok(Sighting::UnknownUser) => return Outcome::Failed(Failure::unknown_user()),
            Err(failure) => match self.trusted.take() {
                Some((room, since)) if failure.is_unclear() && since.elapsed() < TRUSTED_FOR => {
                    tracing::warn!(
                        creator = self.name,
                        stage = "ingest",
                        stream_id = room.id,
                        error = failure.detail,
                        "cannot look for the room, taking the last one"
                    );
                    room
                }
                _ => {
                    let stream_id = failure.stream_id.clone().or(shown);
                    let failure = Failure {
                        stream_id,
                        ..failure
                    };
                    return self.failed_look(failure, stop).await;
                }
            },
        };
        let paused = room.paused;
        self.waiting = None;
        tracing::info!(
            creator = self.name,
            stage = "ingest",
            stream_id = room.id,
            paused,
            "creator is live"
        );
        self.enter(room, stop).await
    }

    /// Connects to a room and reads it to its end. The session is there before, for a failure is
    /// an event of the room.
    async fn enter(&mut self, room: Room, stop: &Stop) -> Outcome {
        match self.claim(&room.id, stop).await {
            Claimed::Ours => {}
            Claimed::Late => return self.begin_anew(),
            Claimed::Stopped => return Outcome::Stopped,
        }
        self.set_status("connecting", Some(&room.id), None, None, None);
        let which = self.choice.current();
        let entering = Box::pin(self.sources.enter(which, &self.name, &room));
        let mut connection = match stop.or(entering).await {
            None => return Outcome::Stopped,
            Some(Ok(connection)) => connection,
            Some(Err(failure)) => return Outcome::Failed(self.publish_failure(&room, failure)),
        };
        if connection.room_id() != room.id {
            match self.claim(connection.room_id(), stop).await {
                Claimed::Ours => {}
                Claimed::Late => return self.begin_anew(),
                Claimed::Stopped => return Outcome::Stopped,
            }
        }
        loop {
            match Box::pin(self.follow(&room, connection, stop)).await {
                Followed::Over(outcome) => return outcome,
                Followed::HandBack(next) => {
                    tracing::info!(
                        creator = self.name,
                        stage = "ingest",
                        stream_id = room.id,
                        provider = self.choice.first().name(),
                        "the first choice takes over again"
                    );
                    self.choice.hand_back();
                    self.count_change();
                    if let Some(session) = self.session.as_mut() {
                        session.renew(now());
                    }
                    connection = *next;
                }
            }
        }
    }

    fn begin_anew(&mut self) -> Outcome {
        self.sources.leave();
        Outcome::Again
    }

    /// The provider of this attempt: the first choice again, when that is due.
    fn choice_for_now(&mut self) -> super::choice::Which {
        if self.choice.due().is_some_and(|due| due <= Instant::now()) {
            self.choice.hand_back();
            self.count_change();
        }
        self.choice.current()
    }

    /// A look that shows nothing. Where it shows at least the room, that is an event there.
    async fn failed_look(&mut self, failure: Failure, stop: &Stop) -> Outcome {
        let Some(id) = failure.stream_id.clone() else {
            return Outcome::Failed(failure);
        };
        match self.claim(&id, stop).await {
            Claimed::Ours => {}
            Claimed::Late => return Outcome::Again,
            Claimed::Stopped => return Outcome::Stopped,
        }
        let room = Room {
            id,
            ..Room::default()
        };
        Outcome::Failed(self.publish_failure(&room, failure))
    }

    /// The failure of an attempt as an event of its room.
    fn publish_failure(&mut self, room: &Room, failure: Failure) -> Failure {
        let attempt = self.reconnect.failures() + 1;
        let data = Lifecycle {
            close_code: failure.close_code,
            detail: Some(failure.detail.clone()),
            ..self.lifecycle(room, attempt, failure.reason)
        };
        if let Some(session) = self.session.as_mut() {
            let event = session.lifecycle(control::ERROR, &data, now());
            self.parts.outlet.send_now(event.into());
        }
        failure
    }

    /// Nothing to connect to: when to look again.
    fn wait(&mut self, reason: &'static str) -> Duration {
        self.trusted = None;
        self.reconnect.reset();
        let pause = at_least(self.parts.policy.poll);
        if self.waiting.replace(reason) != Some(reason) {
            tracing::info!(
                creator = self.name,
                stage = "ingest",
                reason,
                seconds = pause.as_secs(),
                "waiting for a broadcast"
            );
        }
        self.set_status("waiting", None, Some(reason), None, Some(pause));
        pause
    }

    /// Logs and shows a failure, and says when to try again; `None`: never.
    fn fail(&mut self, failure: &Failure) -> Option<Duration> {
        self.waiting = None;
        let provider = self.choice.current().name();
        let (reason, stream_id) = (failure.reason, failure.stream_id.as_deref());
        let detail = &failure.detail;
        counter!(ATTEMPTS_FAILED, "provider" => provider, "reason" => reason).increment(1);
        let pause = match self.choice.failed(failure) {
            Verdict::Stay => failure.pause(&mut self.reconnect, self.parts.policy.poll),
            Verdict::Change => {
                tracing::warn!(
                    creator = self.name,
                    stage = "ingest",
                    stream_id,
                    reason,
                    provider = self.choice.current().name(),
                    "the other provider takes over"
                );
                self.count_change();
                // What the one was told to wait does not bind the other.
                self.reconnect.failed()
            }
            Verdict::GiveUp => {
                // It counts, whatever pause it would have led to.
                self.reconnect.failed();
                None
            }
        };
        let attempt = self.reconnect.failures();
        if let Some(pause) = pause {
            tracing::warn!(
                creator = self.name,
                stage = "ingest",
                stream_id,
                provider,
                reason,
                attempt,
                retry_seconds = pause.as_secs_f64(),
                error = detail,
                "attempt failed"
            );
        } else {
            tracing::error!(
                creator = self.name,
                stage = "ingest",
                stream_id,
                provider,
                reason,
                attempt,
                error = detail,
                "giving up until restarted, or untracked and tracked again"
            );
        }
        self.set_status(
            "error",
            stream_id,
            Some(reason),
            Some(detail.clone()),
            pause,
        );
        pause
    }

    fn count_change(&self) {
        counter!(PROVIDER_CHANGES, "provider" => self.choice.current().name()).increment(1);
    }

    fn lifecycle(&self, room: &Room, attempt: u32, reason: &'static str) -> Lifecycle {
        Lifecycle {
            unique_id: room.unique_id.clone().unwrap_or_else(|| self.name.clone()),
            provider: self.choice.current().name(),
            attempt,
            reason,
            ..Lifecycle::default()
        }
    }

    fn set_status(
        &self,
        state: &'static str,
        stream_id: Option<&str>,
        reason: Option<&str>,
        detail: Option<String>,
        retry_in: Option<Duration>,
    ) {
        let since = now();
        let later = |pause: Duration| {
            let ms = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
            Timestamp::from_millis(since.as_millis().saturating_add(ms))
        };
        let status = CreatorStatus {
            state,
            stream_id: stream_id.map(str::to_owned),
            provider: self.choice.current().name(),
            fallback: self.choice.is_fallback(),
            reason: reason.map(str::to_owned),
            detail,
            attempt: self.reconnect.failures(),
            since,
            retry_at: retry_in.map(later),
        };
        self.parts.board.set(&self.name, status);
    }
}

fn now() -> Timestamp {
    Clock::now().into()
}

#[cfg(test)]
mod tests;
