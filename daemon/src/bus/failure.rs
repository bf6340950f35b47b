//! What it means that Redis did not do what it was asked.
//!
//! In: an error of the client. Out: its [`Class`]. All classes but [`Class::Defect`] are
//! infrastructure: whoever met one waits and tries again, for ever, and nothing becomes a dead
//! letter. A defect (a key of another type, a command that this server does not have) is waited out
//! as well, for a mended server takes the entry then; but it is said at once, as an error, since
//! nothing else will mend it.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::counter;

use super::Error;
use crate::metrics::REDIS_ERRORS;

/// Why Redis did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// No connection, or it broke.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// It reads its data after a start.
    Loading,
    /// Its memory is full (`OOM`): reading and acknowledging still work.
    Memory,
    /// Its disk refuses (`MISCONF`): no write works, reading groups and acknowledging neither.
    Disk,
    /// It is a replica.
    ReadOnly,
    /// A failover or a cluster that is being put in order.
    Failover,
    /// A group or its stream is gone (`NOGROUP`): made again from the start.
    NoGroup,
    /// A password or a right is missing.
    Refused,
    /// A script of somebody else takes long, or too many clients are connected.
    Busy,
    /// A key of another type, an unknown command, a reply of another form: no waiting mends it.
    Defect,
}

impl Class {
    /// As a label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Loading => "loading",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::ReadOnly => "read_only",
            Self::Failover => "failover",
            Self::NoGroup => "no_group",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Defect => "defect",
        }
    }

    /// Of an error of the client.
    pub fn of(error: &redis::RedisError) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        let code = error.code().unwrap_or_default();
        let by_code = |code: &str| {
            Some(match code {
                "LOADING" => Self::Loading,
                "OOM" => Self::Memory,
                "MISCONF" => Self::Disk,
                "READONLY" => Self::ReadOnly,
                "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" | "UNBLOCKED"
                | "NOREPLICAS" | "FAILOVER" => Self::Failover,
                "NOGROUP" => Self::NoGroup,
                "NOAUTH" | "WRONGPASS" | "NOPERM" => Self::Refused,
                "BUSY" | "NOTBUSY" => Self::Busy,
                _ => return None,
            })
        };
        if let Some(class) = by_code(code) {
            return class;
        }
        // Some servers put the code of a command inside a script into the text.
        let text = error.to_string();
        let inside = text
            .split(|c: char| !c.is_ascii_uppercase())
            .find_map(by_code);
        match inside {
            Some(class) => class,
            None if text.contains("max number of clients") => Self::Busy,
            // Only a server that answers gives a code.
            None if code.is_empty()
                && (error.is_io_error()
                    || error.is_connection_dropped()
                    || error.is_connection_refusal()
                    || error.is_unrecoverable_error()) =>
            {
                Self::Unreachable
            }
            None => Self::Defect,
        }
    }

    /// Whether another connection may find another server behind the same address, or the same one
    /// in a better state: a replica that was the primary keeps its clients.
    pub(super) fn wants_new_connection(self) -> bool {
        matches!(self, Self::Timeout | Self::ReadOnly | Self::Failover)
    }
}

impl Error {
    /// Why.
    pub fn class(&self) -> Class {
        match self {
            Self::Redis(error) => Class::of(error),
            Self::Address | Self::Reply(_) => Class::Defect,
        }
    }
}

/// Counts what a stage met, and says at once what no waiting mends: the first, and then less often.
pub fn note(stage: &'static str, error: &Error) {
    static DEFECTS: AtomicU64 = AtomicU64::new(0);
    let class = error.class();
    counter!(REDIS_ERRORS, "stage" => stage, "class" => class.label()).increment(1);
    if class == Class::Defect {
        let seen = DEFECTS.fetch_add(1, Ordering::Relaxed) + 1;
        if seen.is_power_of_two() {
            tracing::error!(stage, %error, seen, reason = "redis_defect",
                "redis refuses what it should take: a key of another type, or another server than expected; nothing is lost, and nothing goes on");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn server(line: &str) -> Class {
        let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
        let error = match reply.and_then(redis::Value::extract_error) {
            Err(error) => error,
            Ok(value) => panic!("{value:?}"),
        };
        Class::of(&error)
    }

    #[test]
    fn every_answer_has_its_class() {
        for (line, class) in [
            (
                "LOADING Redis is loading the dataset in memory",
                Class::Loading,
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                Class::Memory,
            ),
            (
                "ERR Error running script: @user_script:3: OOM command not allowed",
                Class::Memory,
            ),
            (
                "MISCONF Redis is configured to save RDB snapshots",
                Class::Disk,
            ),
            (
                "READONLY You can't write against a read only replica.",
                Class::ReadOnly,
            ),
            ("MASTERDOWN Link with MASTER is down", Class::Failover),
            ("CLUSTERDOWN The cluster is down", Class::Failover),
            (
                "UNBLOCKED force unblock from blocking operation",
                Class::Failover,
            ),
            ("NOGROUP No such key 'ttlc:raw'", Class::NoGroup),
            ("NOAUTH Authentication required.", Class::Refused),
            ("NOPERM this user has no permissions", Class::Refused),
            ("BUSY Redis is busy running a script", Class::Busy),
            ("ERR max number of clients reached", Class::Busy),
            ("WRONGTYPE Operation against a key", Class::Defect),
            ("ERR unknown command 'XAUTOCLAIM'", Class::Defect),
        ] {
            assert_eq!(server(line), class, "{line}");
        }
    }

    #[test]
    fn a_broken_connection_is_no_defect() {
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::NotFound,
        ] {
            let error = redis::RedisError::from(io::Error::new(kind, "gone"));
            assert_eq!(Class::of(&error), Class::Unreachable, "{kind}");
        }
        let late = redis::RedisError::from(io::Error::from(io::ErrorKind::TimedOut));
        assert_eq!(Class::of(&late), Class::Timeout);
    }
}
