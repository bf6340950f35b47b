//! One creator, from waiting for a broadcast to its end, and again.
//!
//! In: a name. Out: sessions in the outbox and the creator's status. Each attempt goes the whole
//! way (look, sign, connect), since a signed address is good for one connection. Who is offline is
//! looked at again politely; what fails is tried again by the reconnect policy, or when the sign
//! server says so. An attempt that fails once the room is known is an `ERROR` in its events;
//! before that there is only the status and the log.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp as Clock;
use shared::raw::control;
use shared::time::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::direct::room::{self, Room, Sighting};
use super::direct::socket::Connection;
use super::direct::{self, Direct, Pass, dial};
use super::failure::Failure;
use super::lease::Leases;
use super::options::Policy;
use super::outbox::{Outlet, Parcel};
use super::reconnect::{Reconnect, at_least};
use super::session::{Lifecycle, Session};
use super::status::Board;
use crate::bus::CreatorStatus;

/// Between two tries to ask Redis for a room's numbers.
const REDIS_RETRY: Duration = Duration::from_secs(1);
/// For so long after a connection its room is taken as running when TikTok does not let us look.
const TRUSTED_FOR: Duration = Duration::from_mins(10);

/// What a creator's task works with.
pub(super) struct Creator {
    name: String,
    direct: Direct,
    shared: Arc<direct::Shared>,
    leases: Leases,
    outlet: Outlet,
    board: Board,
    policy: Policy,
    reconnect: Reconnect,
    /// The room's numbering and memory; outlives connections, not rooms.
    session: Option<Session>,
    /// The room of a connection that worked, and when it ended.
    trusted: Option<(Room, Instant)>,
    /// Why we wait, as long as every look says the same.
    waiting: Option<&'static str>,
}

/// How an attempt ended.
enum Outcome {
    /// Told to stop.
    Stopped,
    /// Nothing to connect to at present.
    Waiting(&'static str),
    /// A connection that had worked is over, and the broadcast is not.
    Dropped,
    /// It failed.
    Failed(Failure),
}

impl Creator {
    pub(super) fn new(
        name: String,
        shared: Arc<direct::Shared>,
        leases: Leases,
        outlet: Outlet,
        board: Board,
        policy: Policy,
    ) -> Result<Self, String> {
        Ok(Self {
            direct: Direct::new(shared.clone())?,
            shared,
            name,
            leases,
            outlet,
            board,
            policy,
            reconnect: Reconnect::new(policy.max_attempts),
            session: None,
            trusted: None,
            waiting: None,
        })
    }

    /// Follows the creator until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.set_status("connecting", None, None, None, None);
        loop {
            let pause = match Box::pin(self.attempt(&stop)).await {
                Outcome::Stopped => break,
                Outcome::Waiting(reason) => self.wait(reason),
                Outcome::Dropped => self.reconnect.dropped(),
                Outcome::Failed(failure) => {
                    let Some(pause) = self.fail(&failure) else {
                        stop.cancelled().await;
                        break;
                    };
                    pause
                }
            };
            if stop
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                break;
            }
        }
        self.set_status("waiting", None, Some("shutdown"), None, None);
    }

    /// Once the whole way: look, sign, connect, read until the end.
    async fn attempt(&mut self, stop: &CancellationToken) -> Outcome {
        let Some(sighting) = stop.run_until_cancelled(self.direct.look(&self.name)).await else {
            return Outcome::Stopped;
        };
        let room = match sighting {
            Ok(Sighting::Live(room)) => room,
            Ok(Sighting::Offline) => return Outcome::Waiting("offline"),
            Ok(Sighting::NeverLive) => return Outcome::Waiting("never_live"),
            Ok(Sighting::UnknownUser) => return Outcome::Failed(Failure::unknown_user()),
            Err(error) => match self.trusted.take() {
                Some((room, since)) if unclear(&error) && since.elapsed() < TRUSTED_FOR => {
                    tracing::warn!(creator = self.name, stage = "ingest", stream_id = room.id, %error,
                        "cannot look for the room, taking the last one");
                    room
                }
                _ => return self.failed_look(&error, stop).await,
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
        self.set_status("connecting", Some(&room.id), None, None, None);
        let Some(pass) = Box::pin(self.enter(&room, stop)).await else {
            return Outcome::Stopped;
        };
        let (pass, connection) = match pass {
            Ok(entered) => entered,
            Err(failure) => return Outcome::Failed(self.publish_failure(&room, failure)),
        };
        self.follow(&room, &pass, connection, stop).await
    }

    /// Signs and connects. The session is there before, for a failure is an event of the room.
    /// `None` when told to stop.
    async fn enter(
        &mut self,
        room: &Room,
        stop: &CancellationToken,
    ) -> Option<Result<(Pass, Connection), Failure>> {
        self.open_session(&room.id, stop).await?;
        let pass = match stop.run_until_cancelled(self.direct.sign(room)).await? {
            Ok(pass) => pass,
            Err(error) => return Some(Err(Failure::to_sign(&error, room))),
        };
        self.open_session(&pass.room_id, stop).await?;
        match stop
            .run_until_cancelled(Box::pin(self.direct.connect(&pass)))
            .await?
        {
            Ok(connection) => Some(Ok((pass, connection))),
            Err(error) => {
                self.renew_visitor(&error);
                Some(Err(Failure::to_dial(&error, pass.room_id)))
            }
        }
    }

    /// Reads the connection to its end, and says in the room's events how it began and ended.
    async fn follow(
        &mut self,
        room: &Room,
        pass: &Pass,
        connection: Connection,
        stop: &CancellationToken,
    ) -> Outcome {
        // `enter` has just made it.
        let Some(mut session) = self.session.take() else {
            return Outcome::Stopped;
        };
        let attempt = self.reconnect.failures() + 1;
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
        let mut first = Parcel::from(session.lifecycle(control::CONNECTED, &connected, now()));
        let backlog = pass.backlog(&mut session);
        first.envelopes.extend(backlog.envelopes);
        first.dead_letters.extend(backlog.dead_letters);
        let (stream_id, session_id, before) =
            (pass.room_id.as_str(), session.id(), session.counts());
        tracing::info!(creator = self.name, stage = "ingest", stream_id, %session_id, attempt, reason, "connected");
        self.set_status("live", Some(stream_id), Some(reason), None, None);

        let end = connection
            .run(&mut session, first, &self.outlet, self.policy.silence, stop)
            .await;

        let counts = session.counts();
        tracing::info!(creator = self.name, stage = "ingest", stream_id, %session_id,
            reason = end.reason, close_code = end.close_code, detail = end.detail,
            messages = counts.messages, repeats = counts.repeats, malformed = counts.malformed, "disconnected");
        let disconnected = Lifecycle {
            close_code: end.close_code,
            detail: end.detail.clone(),
            ..self.lifecycle(room, attempt, end.reason)
        };
        self.outlet.send_now(
            session
                .lifecycle(control::DISCONNECTED, &disconnected, now())
                .into(),
        );
        session.close();
        self.session = Some(session);

        // What came with the signature is no sign that the socket works.
        let worked = counts.messages > before.messages || counts.repeats > before.repeats;
        if worked {
            self.reconnect.reset();
        }
        match end.reason {
            "shutdown" => Outcome::Stopped,
            "stream_end" => Outcome::Waiting("stream_end"),
            reason if worked => {
                self.trusted = Some((
                    Room {
                        id: stream_id.to_owned(),
                        ..room.clone()
                    },
                    Instant::now(),
                ));
                self.set_status(
                    "connecting",
                    Some(stream_id),
                    Some(reason),
                    end.detail,
                    None,
                );
                Outcome::Dropped
            }
            _ => Outcome::Failed(Failure::to_deliver(end, stream_id.to_owned())),
        }
    }

    /// Makes `session` the one of the coming attempt. Asks Redis for the room's memory when this
    /// process has none, for as long as it takes. `None` when told to stop.
    async fn open_session(&mut self, stream_id: &str, stop: &CancellationToken) -> Option<()> {
        if let Some(session) = self
            .session
            .as_mut()
            .filter(|session| session.stream_id() == stream_id)
        {
            session.renew(now());
            return Some(());
        }
        let mut failures = 0_u32;
        let lease = loop {
            match stop
                .run_until_cancelled(self.leases.claim(stream_id))
                .await?
            {
                Ok(Some(lease)) => break lease,
                Ok(None) => self.set_status("standby", Some(stream_id), None, None, None),
                Err(error) => {
                    failures += 1;
                    if failures.is_power_of_two() {
                        tracing::warn!(creator = self.name, stage = "ingest", stream_id, %error, failures,
                            "cannot claim the room, trying again");
                    }
                }
            }
            stop.run_until_cancelled(tokio::time::sleep(REDIS_RETRY))
                .await?;
        };
        // What is on its way to Redis counts as much as what is there.
        let known = self.outlet.remembered(stream_id);
        let floor = lease.memory.floor.max(known.floor);
        let mut session = Session::new(stream_id.to_owned(), floor, now());
        session.remember(lease.memory.seen);
        session.remember(known.seen);
        self.session = Some(session);
        Some(())
    }

    /// A look that shows nothing. Where it shows at least the room, that is an event there.
    async fn failed_look(&mut self, error: &room::Error, stop: &CancellationToken) -> Outcome {
        let failure = Failure::to_look(error);
        let Some(id) = failure.stream_id.clone() else {
            return Outcome::Failed(failure);
        };
        if self.open_session(&id, stop).await.is_none() {
            return Outcome::Stopped;
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
            detail: Some(failure.detail.clone()),
            ..self.lifecycle(room, attempt, failure.reason)
        };
        if let Some(session) = self.session.as_mut() {
            self.outlet
                .send_now(session.lifecycle(control::ERROR, &data, now()).into());
        }
        failure
    }

    /// TikTok has blocked this visitor: come again as another one.
    fn renew_visitor(&mut self, error: &dial::Error) {
        if let dial::Error::Refused { message, .. } = error
            && message.contains("DEVICE_BLOCKED")
            && let Ok(direct) = Direct::new(self.shared.clone())
        {
            self.direct = direct;
        }
    }

    /// Nothing to connect to: when to look again.
    fn wait(&mut self, reason: &'static str) -> Duration {
        self.trusted = None;
        self.reconnect.reset();
        let pause = at_least(self.policy.poll);
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
        let pause = failure.pause(&mut self.reconnect, self.policy.poll);
        let attempt = self.reconnect.failures();
        let (reason, stream_id) = (failure.reason, failure.stream_id.as_deref());
        let detail = &failure.detail;
        if let Some(pause) = pause {
            tracing::warn!(
                creator = self.name,
                stage = "ingest",
                stream_id,
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
                reason,
                attempt,
                error = detail,
                "giving up until restarted"
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

    fn lifecycle(&self, room: &Room, attempt: u32, reason: &'static str) -> Lifecycle {
        Lifecycle {
            unique_id: room.unique_id.clone().unwrap_or_else(|| self.name.clone()),
            provider: direct::NAME,
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
            provider: direct::NAME,
            reason: reason.map(str::to_owned),
            detail,
            attempt: self.reconnect.failures(),
            since,
            retry_at: retry_in.map(later),
        };
        self.board.set(&self.name, status);
    }
}

/// Whether a look failed without showing anything, so that the room may well be there.
fn unclear(error: &room::Error) -> bool {
    matches!(error, room::Error::Unresolved { .. })
}

fn now() -> Timestamp {
    Clock::now().into()
}
