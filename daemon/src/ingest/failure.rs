//! Why an attempt failed, and when to try again.
//!
//! In: errors of the steps of an attempt. Out: a category for events and statuses, a text without
//! secrets, and the pause: by the reconnect policy, longer where TikTok or the sign server wants
//! it, and none at all where only another configuration helps.

use std::time::Duration;

use super::direct::room;
use super::direct::{dial, sign};
use super::euler;
use super::provider::{End, Room};
use super::reconnect::{Reconnect, at_least};

/// The pause after being blocked in front of the sign server, doubled each time.
const BLOCKED_FIRST: Duration = Duration::from_mins(5);
const BLOCKED_LONGEST: Duration = Duration::from_hours(1);

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: &'static str,
    pub(super) detail: String,
    /// The room, if one was found.
    pub(super) stream_id: Option<String>,
    pub(super) retry: Retry,
    /// The close code of a socket that was open.
    pub(super) close_code: Option<u16>,
}

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// By the reconnect policy.
    Policy,
    /// By the reconnect policy, and no more often than who is offline is looked at.
    Poll,
    /// By the reconnect policy, and not before.
    AtLeast(Duration),
    /// Much later.
    Long,
    /// Not at all.
    Never,
}

impl Failure {
    /// Nobody has this name. Somebody may take it.
    pub(super) fn unknown_user() -> Self {
        Self {
            reason: "unknown_user",
            detail: "TikTok knows nobody of this name".to_owned(),
            stream_id: None,
            retry: Retry::Poll,
            close_code: None,
        }
    }

    /// A look that showed no room, or one that is kept from us.
    pub(super) fn to_look(error: &room::Error) -> Self {
        let (stream_id, retry) = match error {
            room::Error::AgeRestricted(room) => (Some(room.clone()), Retry::Poll),
            room::Error::Unresolved { .. } if error.reason() == "blocked" => (None, Retry::Poll),
            room::Error::Unresolved { .. } => (None, Retry::Policy),
        };
        Self {
            reason: error.reason(),
            detail: error.to_string(),
            stream_id,
            retry,
            close_code: None,
        }
    }

    /// Another room than the one that is being read.
    pub(super) fn elsewhere(room: &Room) -> Self {
        Self {
            reason: "room_gone",
            detail: "the creator is not in this room any more".to_owned(),
            stream_id: Some(room.id.clone()),
            retry: Retry::Policy,
            close_code: None,
        }
    }

    /// No signed address.
    pub(super) fn to_sign(error: &sign::Error, room: &Room) -> Self {
        let retry = match error {
            sign::Error::Limited { wait, .. }
            | sign::Error::Failed {
                wait: Some(wait), ..
            } => Retry::AtLeast(*wait),
            sign::Error::Refused { .. } => Retry::Never,
            sign::Error::Blocked => Retry::Long,
            _ => Retry::Policy,
        };
        Self {
            reason: error.reason(),
            detail: error.to_string(),
            stream_id: Some(room.id.clone()),
            retry,
            close_code: None,
        }
    }

    /// No connection.
    pub(super) fn to_dial(error: &dial::Error, stream_id: String) -> Self {
        Self {
            reason: error.reason(),
            detail: error.to_string(),
            stream_id: Some(stream_id),
            retry: Retry::Policy,
            close_code: None,
        }
    }

    /// No connection by way of Euler.
    pub(super) fn to_euler(error: &euler::Error, room: Option<&Room>) -> Self {
        Self {
            reason: error.reason(),
            detail: error.to_string(),
            stream_id: room.map(|room| room.id.clone()),
            retry: error.retry(),
            close_code: error.close_code(),
        }
    }

    /// A connection on which nothing came.
    pub(super) fn to_deliver(end: End, stream_id: String) -> Self {
        let detail = end.detail.map(|detail| format!(": {detail}"));
        Self {
            reason: end.reason,
            detail: format!("no message arrived{}", detail.unwrap_or_default()),
            stream_id: Some(stream_id),
            retry: end.close_code.map_or(Retry::Policy, euler::retry_after),
            close_code: end.close_code,
        }
    }

    /// Whether it is the provider that failed, and not the creator who cannot be read.
    pub(super) fn blames_provider(&self) -> bool {
        !matches!(self.reason, "unknown_user" | "age_restricted")
    }

    /// Whether a look failed without showing anything, so that the room may well be there.
    pub(super) fn is_unclear(&self) -> bool {
        matches!(self.reason, "unresolved" | "blocked")
    }

    /// Counts the failure and says how long to wait before the same provider tries again; `None`:
    /// there is no use in trying again.
    pub(super) fn pause(&self, reconnect: &mut Reconnect, poll: Duration) -> Option<Duration> {
        let by_policy = reconnect.failed()?;
        match self.retry {
            Retry::Policy => Some(by_policy),
            Retry::Poll => Some(by_policy.max(at_least(poll))),
            Retry::AtLeast(least) => Some(by_policy.max(at_least(least))),
            Retry::Long => Some(reconnect.pause(BLOCKED_FIRST, BLOCKED_LONGEST)),
            Retry::Never => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::direct::room::Fault;

    const POLL: Duration = Duration::from_mins(1);

    /// The first pause in seconds.
    fn first(failure: &Failure) -> Option<f64> {
        failure
            .pause(&mut Reconnect::new(0), POLL)
            .map(|pause| pause.as_secs_f64())
    }

    fn sign(error: &sign::Error) -> Option<f64> {
        let failure = Failure::to_sign(error, &Room::default());
        assert_eq!(failure.reason, error.reason());
        first(&failure)
    }

    fn within(pause: Option<f64>, low: f64, high: f64) {
        let pause = pause.expect("given up");
        assert!((low..=high).contains(&pause), "{pause}");
    }

    #[test]
    fn the_sign_server_says_when() {
        let wait = Duration::from_secs(700);
        let label = String::new();
        within(sign(&sign::Error::Limited { wait, label }), 700.0, 840.0);
        let failed = |wait| sign::Error::Failed {
            status: 503,
            message: String::new(),
            wait,
        };
        within(sign(&failed(Some(wait))), 700.0, 840.0);
        within(sign(&failed(None)), 0.8, 1.2);
        within(sign(&sign::Error::UnknownRoom(String::new())), 0.8, 1.2);
        within(sign(&sign::Error::NoCookie(None)), 0.8, 1.2);
        within(sign(&sign::Error::Invalid(String::new())), 0.8, 1.2);
        within(sign(&sign::Error::Blocked), 240.0, 360.0);
        for status in [401, 402, 403] {
            let message = String::new();
            assert_eq!(sign(&sign::Error::Refused { status, message }), None);
        }
    }

    #[test]
    fn being_blocked_again_and_again_takes_longer_each_time() {
        let failure = Failure::to_sign(&sign::Error::Blocked, &Room::default());
        let mut reconnect = Reconnect::new(0);
        for minutes in [5.0, 10.0, 20.0, 40.0, 60.0, 60.0] {
            let pause = failure.pause(&mut reconnect, POLL);
            let expected = minutes * 60.0;
            within(
                pause.map(|pause| pause.as_secs_f64()),
                expected * 0.8,
                expected * 1.2,
            );
        }
    }

    #[test]
    fn tiktok_is_asked_politely_where_it_did_answer() {
        let fault = |blocked| {
            if blocked {
                Fault::Blocked("captcha")
            } else {
                Fault::Unreachable(String::new())
            }
        };
        let look = |page, api| {
            Failure::to_look(&room::Error::Unresolved {
                page: fault(page),
                api: fault(api),
            })
        };
        within(first(&Failure::unknown_user()), 60.0, 72.0);
        within(first(&look(true, false)), 60.0, 72.0);
        within(first(&look(false, true)), 60.0, 72.0);
        within(first(&look(false, false)), 0.8, 1.2);
        let restricted = Failure::to_look(&room::Error::AgeRestricted("7".to_owned()));
        within(first(&restricted), 60.0, 72.0);
        assert_eq!(restricted.stream_id.as_deref(), Some("7"));
    }

    #[test]
    fn the_last_allowed_failure_is_the_end_whatever_its_kind() {
        let mut reconnect = Reconnect::new(1);
        assert_eq!(Failure::unknown_user().pause(&mut reconnect, POLL), None);
    }
}
