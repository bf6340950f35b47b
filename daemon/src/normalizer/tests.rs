//! The normalizer against what TikTok really sent: every captured message, every encoded payload,
//! and bytes that nobody would send on purpose.

mod captured;
mod check;
mod check_raw;
pub(super) mod fixtures;
mod golden;
mod hostile;
mod json;
mod methods;
mod observed;
mod properties;
mod readable;
