//! One creator, from waiting for a broadcast to its end, and again.
//!
//! In: a name. Out: sessions in the outbox and the creator's status. Each attempt goes the whole
//! way (look, claim, enter), since a signed address is good for one connection. Who is offline is
//! looked at again politely; what fails is tried again by the reconnect policy, or when upstream
//! says so, and [`choice`](super::choice) says by which provider. An attempt that fails once the
//! room is known is an `ERROR` in its events; before that there is only the status and the log.
//!
//! A room that another daemon reads is left alone: we ask Redis every 2 s, and nobody else. Whoever
//! loses a room stops reading it at once and says nothing more in it. A crash of this task leaves
//! the numbers of the room in Redis, and time in them: the next one begins above them.

use std::pin::pin;
use std::time::Duration;

use jiff::Timestamp as Clock;
use metrics::{counter, gauge};
use shared::raw::control;
use shared::time::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::budget::Urgency;
use super::choice::{Choice, Preference, Verdict};
use super::failure::Failure;
use super::lease::{Lease, Leases};
use super::options::Policy;
use super::outbox::{Outlet, Parcel};
use super::provider::{Connection, Delivery as _, End, Providers, Room, Sighting, Sources};
use super::reconnect::{Reconnect, at_least, jittered};
use super::session::{Lifecycle, Session};
use super::status::Board;
use crate::bus::{CreatorStatus, LEASE};
use crate::metrics::{ATTEMPTS_FAILED, CONNECTIONS, CONNECTS, DISCONNECTS, PROVIDER_CHANGES};

/// Between two tries to take a room that another daemon reads: Redis only is asked.
const STANDBY_POLL: Duration = Duration::from_secs(2);
/// Between two questions whether Redis is back.
const REDIS_RETRY: Duration = Duration::from_secs(1);
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

/// How the claim of a room ended.
enum Claimed {
    /// It is ours, and its session is there.
    Ours,
    /// It is ours after another daemon had it for a while: what we know of it is old.
    Late,
    /// Told to stop.
    Stopped,
}

/// What becomes of a connection.
enum Followed {
    Over(Outcome),
    /// The first choice is in the room and takes over.
    HandBack(Box<Connection>),
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

    /// Reads the connection to its end, and says in the room's events how it began and ended.
    async fn follow(&mut self, room: &Room, mut connection: Connection, stop: &Stop) -> Followed {
        // Both are there since the claim.
        let (Some(mut session), Some(lost)) = (
            self.session.take(),
            self.lease.as_ref().map(|lease| lease.lost.clone()),
        ) else {
            return Followed::Over(Outcome::Again);
        };
        let attempt = self.reconnect.failures() + 1;
        let provider = self.choice.current().name();
        let reason = if session.is_again() {
            "reconnect"
        } else {
            "start"
        };
        let connected = Lifecycle {
            title: room.title.clone(),
            owner_id: room.owner_id.clone(),
            owner_nickname: room.owner_nickname.clone(),
            started_at: room.started_at,
            ..self.lifecycle(room, attempt, reason)
        };
        session.count_for(provider);
        let mut first = Parcel::from(session.lifecycle(control::CONNECTED, &connected, now()));
        let backlog = connection.backlog(&mut session);
        first.envelopes.extend(backlog.envelopes);
        first.dead_letters.extend(backlog.dead_letters);
        let room = &Room {
            id: connection.room_id().to_owned(),
            ..room.clone()
        };
        let (stream_id, session_id, before) = (room.id.as_str(), session.id(), session.counts());
        tracing::info!(creator = self.name, stage = "ingest", stream_id, %session_id, provider, attempt, reason, "connected");
        counter!(CONNECTS, "provider" => provider, "reason" => reason).increment(1);
        self.set_status("live", Some(stream_id), Some(reason), None, None);

        let open = Open::new(provider);
        let (end, next) = self
            .read(room, connection, &mut session, first, &lost, stop)
            .await;
        drop(open);

        let counts = session.counts();
        counter!(DISCONNECTS, "provider" => provider, "reason" => end.reason).increment(1);
        tracing::info!(creator = self.name, stage = "ingest", stream_id, %session_id, provider,
            reason = end.reason, close_code = end.close_code, detail = end.detail,
            messages = counts.messages, repeats = counts.repeats, malformed = counts.malformed, "disconnected");
        if end.reason == "lease_lost" {
            // The room is another's: not a word more in it.
            self.lease = None;
            self.session = Some(session);
            return Followed::Over(Outcome::Again);
        }
        let disconnected = Lifecycle {
            close_code: end.close_code,
            detail: end.detail.clone(),
            ..self.lifecycle(room, attempt, end.reason)
        };
        let goodbye = session.lifecycle(control::DISCONNECTED, &disconnected, now());
        self.parts.outlet.send_now(goodbye.into());
        session.close();
        self.session = Some(session);

        // What came with the signature is no sign that the socket works.
        let worked = counts.messages > before.messages || counts.repeats > before.repeats;
        if worked {
            self.reconnect.reset();
            self.choice.delivered();
        }
        if let Some(connection) = next {
            return Followed::HandBack(Box::new(connection));
        }
        Followed::Over(match end.reason {
            "shutdown" | "untracked" => Outcome::Stopped,
            "stream_end" => Outcome::Waiting("stream_end"),
            reason if worked => {
                self.trusted = Some((room.clone(), Instant::now()));
                let detail = end.detail;
                self.set_status("connecting", Some(stream_id), Some(reason), detail, None);
                Outcome::Dropped
            }
            _ => Outcome::Failed(Failure::to_deliver(end, stream_id.to_owned())),
        })
    }

    /// Reads until the connection ends, we are told to stop, the room is lost to another daemon, or
    /// the first choice has come into the room beside: then its connection is returned, too.
    async fn read(
        &mut self,
        room: &Room,
        connection: Connection,
        session: &mut Session,
        first: Parcel,
        lost: &CancellationToken,
        stop: &Stop,
    ) -> (End, Option<Connection>) {
        let halt = stop.this.child_token();
        let Parts { outlet, policy, .. } = &self.parts;
        let (choice, sources, name) = (&mut self.choice, &mut self.sources, &self.name);
        let mut reading = pin!(connection.run(session, first, outlet, policy.silence, &halt));
        let mut joining = pin!(async {
            loop {
                let Some(due) = choice.due() else {
                    std::future::pending::<()>().await;
                    continue;
                };
                tokio::time::sleep_until(due).await;
                match Box::pin(sources.join(choice.first(), name, room)).await {
                    Ok(connection) => break connection,
                    Err(failure) => {
                        tracing::info!(
                            creator = name,
                            stage = "ingest",
                            provider = choice.first().name(),
                            reason = failure.reason,
                            error = failure.detail,
                            "the first choice does not work yet"
                        );
                        choice.hand_back_failed(&failure);
                    }
                }
            }
        });
        let mut why = None;
        let mut next = None;
        let end = loop {
            tokio::select! {
                biased;
                end = &mut reading => break end,
                () = lost.cancelled(), if why.is_none() => {
                    why = Some("lease_lost");
                    halt.cancel();
                }
                connection = &mut joining, if why.is_none() => {
                    next = Some(connection);
                    why = Some("hand_back");
                    halt.cancel();
                }
            }
        };
        if end.reason != "shutdown" {
            // It ended by itself, whatever else was under way; but a lost room stays lost.
            let end = match why {
                Some("lease_lost") => End {
                    reason: "lease_lost",
                    ..end
                },
                _ => end,
            };
            let next = next.filter(|_| end.reason != "stream_end" && end.reason != "lease_lost");
            return (end, next);
        }
        let stopped = stop.this.is_cancelled();
        let reason = if stopped {
            stop.reason()
        } else {
            why.unwrap_or("shutdown")
        };
        (End { reason, ..end }, next.filter(|_| !stopped))
    }

    /// Makes the room ours and its session the one of the coming attempt. Asks Redis for as long as
    /// it takes.
    async fn claim(&mut self, stream_id: &str, stop: &Stop) -> Claimed {
        let session = self.session.as_mut();
        if let Some(session) = session.filter(|session| session.stream_id() == stream_id)
            && self
                .lease
                .as_ref()
                .is_some_and(|lease| !lease.lost.is_cancelled())
        {
            session.renew(now());
            return Claimed::Ours;
        }
        self.give_back().await;
        let (mut failures, mut late) = (0_u32, false);
        let lease = loop {
            match stop.or(Box::pin(self.parts.leases.claim(stream_id))).await {
                None => return Claimed::Stopped,
                Some(Ok(Some(lease))) => break lease,
                Some(Ok(None)) => {
                    if !late {
                        tracing::info!(
                            creator = self.name,
                            stage = "ingest",
                            stream_id,
                            "another daemon reads the room, standing by"
                        );
                    }
                    late = true;
                    self.sources.leave();
                    self.set_status("standby", Some(stream_id), None, None, None);
                    if stop
                        .or(tokio::time::sleep(jittered(STANDBY_POLL)))
                        .await
                        .is_none()
                    {
                        return Claimed::Stopped;
                    }
                }
                Some(Err(error)) => {
                    failures += 1;
                    tracing::warn!(creator = self.name, stage = "ingest", stream_id, %error, failures,
                        "cannot claim the room, trying again");
                    late = true;
                    self.sources.leave();
                    if stop
                        .or(Box::pin(self.until_redis_is_back()))
                        .await
                        .is_none()
                    {
                        return Claimed::Stopped;
                    }
                }
            }
        };
        let known = self
            .session
            .take()
            .filter(|session| session.stream_id() == stream_id);
        let session = match known {
            // Nobody else has had the room meanwhile: it goes on as it was.
            Some(mut session) if self.token == lease.memory.token => {
                session.renew(now());
                session
            }
            known => {
                let ours = known.and_then(|session| session.last_seq());
                // What is on its way to Redis counts as much as what is there.
                let waiting = self.parts.outlet.remembered(stream_id);
                let floor = lease.memory.floor.max(ours).max(waiting.floor);
                let mut session = Session::new(stream_id.to_owned(), floor, now());
                session.remember(lease.memory.seen.clone());
                session.remember(waiting.seen);
                session
            }
        };
        self.token = lease.memory.token;
        self.session = Some(session);
        self.lease = Some(lease);
        if late { Claimed::Late } else { Claimed::Ours }
    }

    /// Until Redis answers, and a whole lease longer: whoever has the room shall keep it across an
    /// outage.
    async fn until_redis_is_back(&self) {
        loop {
            tokio::time::sleep(jittered(REDIS_RETRY)).await;
            if self.parts.leases.ping().await {
                break;
            }
        }
        tokio::time::sleep(LEASE).await;
    }

    /// Lets others have the room. What was received has been handed to the outbox before.
    async fn give_back(&mut self) {
        if self.lease.take().is_some()
            && let Some(session) = &self.session
        {
            Box::pin(self.parts.leases.release(session.stream_id())).await;
        }
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
                "giving up until restarted, or tracked again"
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

/// Counts an open connection, also when its task is dropped.
struct Open(&'static str);

impl Open {
    fn new(provider: &'static str) -> Self {
        gauge!(CONNECTIONS, "provider" => provider).increment(1);
        Self(provider)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!(CONNECTIONS, "provider" => self.0).decrement(1);
    }
}

fn now() -> Timestamp {
    Clock::now().into()
}

#[cfg(test)]
mod tests;
