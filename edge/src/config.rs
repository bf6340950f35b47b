//! The settings of the Worker: variables and secrets of its environment, by name.
//!
//! A setting that is missing has its default; a wrong one is said in the log and counts as
//! missing, except where that would open a door.

use worker::Env;

use crate::log;

/// `REDIS_URL`, a secret: where the relay reads. None when it is not set.
pub(crate) fn redis_url(env: &Env) -> Option<String> {
    text(env, "REDIS_URL")
}

/// `STREAM_SHARDS`, default 1: must be what the daemon has.
pub(crate) fn shards(env: &Env) -> u32 {
    let Some(value) = text(env, "STREAM_SHARDS") else {
        return 1;
    };
    if let Ok(shards @ 1..=64) = value.parse() {
        return shards;
    }
    log::error("STREAM_SHARDS is 1 to 64; 1 is used", &[("value", &value)]);
    1
}

/// `PUBLIC_HOSTS`, default none: names besides the loopback ones under which the Worker answers,
/// separated by commas.
pub(crate) fn public_hosts(env: &Env) -> Option<String> {
    text(env, "PUBLIC_HOSTS")
}

/// Variables and secrets look the same from inside; an empty one is not set.
fn text(env: &Env, name: &str) -> Option<String> {
    env.var(name)
        .ok()
        .map(|value| value.to_string())
        .filter(|value| !value.is_empty())
}
