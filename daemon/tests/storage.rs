//! The storage writer against a private Postgres and a private Redis: what is stored, and that
//! neither a crash nor a repeat nor an outage nor a bad row changes it.

mod storage {
    mod classes;
    mod contract;
    mod dead_letters;
    mod erasure;
    mod faults;
    mod losses;
    mod migrations;
    mod remnants;
    mod retention;
    mod rig;
    mod roles;
    mod rooms;
    mod rows;
    mod statistics;
    mod throughput;
    mod verify;
}
