//! One connection, from its first message to its last.
//!
//! In: a connection to a room that is ours. Out: its messages in the outbox, between a `CONNECTED`
//! and a `DISCONNECTED`, and what follows from its end. A room that is lost to another daemon is
//! left at once, without a word. A crash leaves no `DISCONNECTED`: the next start begins a session.

use std::pin::pin;

use metrics::{counter, gauge};
use shared::raw::control;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Creator, Outcome, Parts, Stop, now};
use crate::ingest::failure::Failure;
use crate::ingest::outbox::Parcel;
use crate::ingest::provider::{Connection, Delivery as _, End, Room};
use crate::ingest::session::{Lifecycle, Session};
use crate::metrics::{CONNECTIONS, CONNECTS, DISCONNECTS};

/// What becomes of a connection.
pub(super) enum Followed {
    Over(Outcome),
    /// The first choice is in the room and takes over.
    HandBack(Box<Connection>),
}

impl Creator {
    /// Reads the connection to its end, and says in the room's events how it began and ended.
    pub(super) async fn follow(
        &mut self,
        room: &Room,
        mut connection: Connection,
        stop: &Stop,
    ) -> Followed {
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
