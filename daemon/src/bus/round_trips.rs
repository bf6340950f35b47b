//! How long Redis takes, by kind of command.
//!
//! Comes in: commands, on their way to a connection. Goes out: the same, and a measurement of each,
//! whatever its answer. The waiting reads of a [`Consumer`](super::Consumer) have a connection of
//! their own and are not among them: how long they take says how quiet a stream is.

use std::future::Future;
use std::time::Instant;

use metrics::histogram;
use redis::aio::ConnectionLike;
use redis::{Arg, Cmd, Pipeline, RedisFuture, Value};

use crate::metrics::REDIS_ROUND_TRIP;

/// A connection whose commands are timed.
#[derive(Clone)]
pub(super) struct Timed<C>(pub(super) C);

impl<C: ConnectionLike + Send> ConnectionLike for Timed<C> {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(timed(kind(command), self.0.req_packed_command(command)))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let asking = self.0.req_packed_commands(commands, offset, count);
        Box::pin(timed("several", asking))
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

async fn timed<T>(kind: &'static str, asking: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let answer = asking.await;
    histogram!(REDIS_ROUND_TRIP, "command" => kind).record(begun.elapsed());
    answer
}

/// The label of a command: those of every moment by what they do, the rest as one.
fn kind(command: &Cmd) -> &'static str {
    let name = match command.args_iter().next() {
        Some(Arg::Simple(name)) => name,
        _ => b"",
    };
    match name {
        b"PING" => "ping",
        b"EVALSHA" | b"EVAL" | b"SCRIPT" => "script",
        b"XADD" => "add",
        b"XACK" => "acknowledge",
        b"XINFO" | b"XPENDING" | b"XRANGE" | b"XREVRANGE" | b"XLEN" => "look",
        b"XTRIM" => "trim",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_few_kinds() {
        let kind = |words: &[&str]| {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            super::kind(&command)
        };
        assert_eq!(kind(&["EVALSHA", "abc", "0"]), "script");
        assert_eq!(kind(&["XINFO", "GROUPS", "ttlc:raw"]), "look");
        assert_eq!(kind(&["HGETALL", "ttlc:gifts"]), "other");
        assert_eq!(super::kind(&Cmd::new()), "other");
    }
}
