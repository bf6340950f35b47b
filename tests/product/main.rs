//! The whole product under test: the real `ttlc` against the stand-in, with a private Redis and a
//! private Postgres; then the real Worker under `wrangler dev`, and the page in Chromium.
//!
//! In: recorded rooms. Out: a verdict about every single message of them. The programs have to be
//! built before (`cargo xtask test` does it, or `cargo build -p daemon -p tests --bins`).

mod bad_input;
mod browser;
mod captures;
mod crashes;
mod daemon;
mod expected;
mod feed;
mod leases;
mod outages;
mod product;
mod providers;
mod reconnects;
mod rows;
mod secrets;
mod spool;
mod stand_in;
mod stores;
mod tracked;
mod whole;
