//! The bus against a real Redis: what survives restarts, races, wiped streams and lost replies.

mod bus {
    mod hop;
    mod members;
    mod reading;
    mod rig;
    mod rooms;
    mod words;
}
