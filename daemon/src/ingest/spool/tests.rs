//! The spool against real files, a model and a real Redis.
