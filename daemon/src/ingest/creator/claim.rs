//! Whose a room is: taking it, standing by, giving it back.
//!
//! In: a room that is live. Out: its lease, and the session that numbers its messages. A room that
//! another daemon reads is left alone, and asked for every 2 s. Redis away: asked for as long as it
//! takes. After a crash the session begins above every number that Redis and the spool know.

use std::time::Duration;

use super::{Creator, Stop, now};
use crate::bus::LEASE;
use crate::ingest::reconnect::jittered;
use crate::ingest::session::Session;

/// Between two tries to take a room that another daemon reads: Redis only is asked.
const STANDBY_POLL: Duration = Duration::from_secs(2);

/// Between two questions whether Redis is back.
const REDIS_RETRY: Duration = Duration::from_secs(1);

/// How the claim of a room ended.
pub(super) enum Claimed {
    /// It is ours, and its session is there.
    Ours,
    /// It is ours after another daemon had it for a while: what we know of it is old.
    Late,
    /// Told to stop.
    Stopped,
}

impl Creator {
    /// Makes the room ours and its session the one of the coming attempt. Asks Redis for as long as
    /// it takes.
    pub(super) async fn claim(&mut self, stream_id: &str, stop: &Stop) -> Claimed {
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
    pub(super) async fn give_back(&mut self) {
        if self.lease.take().is_some()
            && let Some(session) = &self.session
        {
            Box::pin(self.parts.leases.release(session.stream_id())).await;
        }
    }
}
