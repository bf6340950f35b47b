//! The daemon: connects to TikTok LIVE rooms, normalizes what they say and stores it.
//!
//! Modules in the order an event takes: [`ingest`] publishes raw envelopes, [`normalizer`] turns
//! them into unified events, [`storage`] persists these, [`forwarder`] hands them on; [`bus`] is Redis between them.
//! [`supervise`] starts and stops the stages, [`config`] is all their settings, [`metrics`] all that
//! they count; [`failpoint`] is where tests make the process die.

pub mod bus;
pub mod config;
pub mod failpoint;
pub mod forwarder;
pub mod http;
pub mod ingest;
pub mod metrics;
pub mod normalizer;
pub mod proto;
pub mod storage;
pub mod supervise;
pub mod telemetry;
