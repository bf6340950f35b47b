//! The daemon: connects to TikTok LIVE rooms, normalizes what they say and stores it.
//!
//! Modules in the order an event takes: [`ingest`] publishes raw envelopes, [`normalizer`] turns
//! them into unified events, [`storage`] persists these, [`forwarder`] hands them on, [`replay`]
//! shows stored sessions again, [`actions`] does what rules ask for; [`bus`] is Redis between them.
//! [`supervise`] starts and stops the stages, [`config`] is all their settings, [`metrics`] all that
//! they count; [`failpoint`] is where tests make the process die.

pub mod actions;
pub mod bus;
pub mod config;
pub mod erasure;
pub mod failpoint;
pub mod forwarder;
pub mod http;
pub mod ingest;
pub mod metrics;
pub mod normalizer;
mod outage;
pub mod proto;
pub mod replay;
pub mod storage;
pub mod supervise;
pub mod telemetry;
