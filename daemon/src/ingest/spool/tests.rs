//! The spool with its outbox: against a model of Redis, on real files, and with a real Redis.

mod files;
mod model;
mod redis;
mod rig;
