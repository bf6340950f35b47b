//! How many requests an account has made, in three windows at once.

use std::sync::{Mutex, PoisonError};

use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::Limits;
use crate::fresh;

/// Name of the label, length in seconds.
const WINDOWS: [(&str, i64); 3] = [("minute", 60), ("hour", 3_600), ("day", 86_400)];

/// Requests counted per window: the window's start (unix s) and how many.
#[derive(Debug, Default)]
pub(crate) struct Quota(Mutex<[(i64, u32); 3]>);

/// A limit that is used up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exceeded {
    pub(crate) label: &'static str,
    /// Seconds until it is good again.
    pub(crate) wait: u32,
}

impl Quota {
    /// Counts one request, unless that would be too many.
    pub(crate) fn take(&self, limits: &Limits) -> Result<(), Exceeded> {
        let mut windows = self.windows();
        let now = fresh::now_ms() / 1000;
        for (index, label) in [
            "rate_limit_account_minute",
            "rate_limit_account_hour",
            "rate_limit_account_day",
        ]
        .into_iter()
        .enumerate()
        {
            let (start, used) = windows[index];
            if used >= max(limits, index) {
                let wait = u32::try_from(start + WINDOWS[index].1 - now).unwrap_or(1);
                return Err(Exceeded { label, wait });
            }
        }
        for (_, used) in windows.iter_mut() {
            *used += 1;
        }
        Ok(())
    }

    fn windows(&self) -> std::sync::MutexGuard<'_, [(i64, u32); 3]> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = fresh::now_ms() / 1000;
        for ((_, length), window) in WINDOWS.iter().zip(windows.iter_mut()) {
            if now >= window.0 + length {
                *window = (now, 0);
            }
        }
        windows
    }

    /// `GET /accounts/me/rate_limits`
    pub(crate) fn describe(&self, limits: &Limits) -> Value {
        let windows = self.windows();
        let mut all = json!({ "code": 200 });
        for (index, (name, length)) in WINDOWS.iter().enumerate() {
            let (start, used) = windows[index];
            let reset = jiff::Timestamp::from_second(start + length).unwrap_or_default();
            all[*name] = json!({
                "max": max(limits, index),
                "remaining": max(limits, index) - used.min(max(limits, index)),
                "reset_at": reset.to_string(),
            });
        }
        all
    }

    /// What good answers say about the minute.
    pub(crate) fn tell(&self, limits: &Limits, headers: &mut HeaderMap) {
        let (start, used) = self.windows()[0];
        headers.insert("x-ratelimit-limit", limits.minute.into());
        headers.insert(
            "x-ratelimit-remaining",
            limits.minute.saturating_sub(used).into(),
        );
        headers.insert("x-ratelimit-reset", (start + WINDOWS[0].1).into());
    }
}

fn max(limits: &Limits, window: usize) -> u32 {
    [limits.minute, limits.hour, limits.day][window]
}
