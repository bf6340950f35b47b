//! The whole product under test: the real `ttlc` against the stand-in, with a private Redis and a
//! private Postgres; then the real Worker under `wrangler dev`, and the page in Chromium.
//!
//! In: recorded rooms. Out: a verdict about every single message of them. The programs have to be
//! built before (`cargo xtask test` does it, or `cargo build -p daemon -p tests --bins`).

mod attempts;
mod bad_input;
mod broadcasts;
mod browser;
mod captures;
mod crashes;
mod daemon;
mod euler_closes;
mod euler_forms;
mod expected;
mod fallback;
mod faults;
mod feed;
mod gifts;
mod health;
mod leases;
mod limits;
mod load;
mod matrix;
mod outages;
mod overflow;
mod product;
mod providers;
mod proxy;
mod reconnects;
mod repeats;
mod replays;
mod rows;
mod secrets;
mod shards;
mod spool;
mod stand_in;
mod stores;
mod tracked;
mod trouble;
mod unknown;
mod watch;
mod whole;
