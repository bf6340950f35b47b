//! The normalizer stage against a real Redis.

mod normalizer {
    mod entries;
    mod erasure;
    mod rig;
    mod streaks;
    mod takeover;
}
