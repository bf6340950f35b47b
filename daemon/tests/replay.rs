//! Replays against a private Redis and a private Postgres: what is shown, at what pace, and that
//! neither a crash nor an outage nor a repeat shows anything twice or leaves anything out.

mod replay {
    mod commands;
    mod ends;
    mod program;
    mod rig;
    mod shows;
    mod troubles;
}
