//! The forwarder against a private Redis, a private Postgres and a destination that does what the test
//! says: what arrives, in which order, under which key, and what is recorded of it.

mod forwarder {
    mod delivery;
    mod erasure;
    mod forms;
    mod outages;
    mod process;
    mod rig;
}
