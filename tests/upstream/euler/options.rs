//! The query of an Euler WebSocket: who wants to see whom, and how.
//!
//! In: query and headers. Out: the options, or the close code that refuses them.

use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::Euler;
use crate::{
    json::Naming,
    request::{Query, text},
};

/// What a client asked for.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the options of the API, which are switches"
)]
pub(crate) struct Options {
    /// The creator's name, without what surrounds it.
    pub(crate) name: String,
    pub(crate) naming: Naming,
    pub(crate) bundle: bool,
    pub(crate) raw: bool,
    pub(crate) raw_bytes: bool,
    /// Seconds without messages.
    pub(crate) inactive: u64,
    normalize: bool,
}

const BOOLEANS: [&str; 7] = [
    "bundleEvents",
    "rawMessages",
    "includeRawBytes",
    "normalizeUniqueId",
    "syntheticPresence",
    "useEnterpriseApi",
    "enableTranscription",
];

impl Options {
    /// Judges a query; the error is a close code.
    pub(crate) fn read(euler: &Euler, query: &Query, headers: &HeaderMap) -> Result<Self, u16> {
        let feature = |name: &str| query.get(&format!("features.{name}"));
        let flag = |name: &str, default| match feature(name) {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(_) => Err(4400_u16),
        };
        for name in BOOLEANS {
            flag(name, false)?;
        }
        let wanted = query.get("uniqueId").unwrap_or_default();
        let normalize = flag("normalizeUniqueId", true)?;
        let name = if normalize { plain(wanted) } else { wanted };
        if name.is_empty() {
            return Err(4400);
        }
        authorize(euler, query, headers, name)?;
        let naming = Naming::parse(feature("schemaVersion").unwrap_or("v2")).ok_or(4400_u16)?;
        let inactive = match feature("closeInactiveWebSocketAfter").map(str::parse) {
            None => 60,
            Some(Ok(seconds @ 30..=3600)) => seconds,
            Some(_) => return Err(4400),
        };
        Ok(Self {
            name: name.to_owned(),
            naming,
            bundle: flag("bundleEvents", true)?,
            raw: flag("rawMessages", false)?,
            raw_bytes: flag("includeRawBytes", false)?,
            inactive,
            normalize,
        })
    }

    /// As `workerInfo` repeats them.
    pub(crate) fn features(&self) -> Value {
        json!({
            "bundleEvents": self.bundle,
            "rawMessages": self.raw,
            "includeRawBytes": self.raw_bytes,
            "normalizeUniqueId": self.normalize,
            "syntheticPresence": false,
            "closeInactiveWebSocketAfter": self.inactive,
            "schemaVersion": self.naming.name(),
        })
    }
}

/// A name out of `@name` or a live URL.
pub(crate) fn plain(wanted: &str) -> &str {
    let rest = wanted.trim();
    let rest = rest.strip_prefix("https://www.tiktok.com/").unwrap_or(rest);
    let rest = rest.split('?').next().unwrap_or(rest);
    let rest = rest.strip_suffix("/live").unwrap_or(rest);
    rest.strip_prefix('@').unwrap_or(rest)
}

fn authorize(euler: &Euler, query: &Query, headers: &HeaderMap, name: &str) -> Result<(), u16> {
    if let Some(jwt) = query.get("jwtKey").filter(|jwt| !jwt.is_empty()) {
        let token = euler.tokens.iter().find(|token| token.jwt == jwt);
        return match token {
            None if euler.tokens.is_empty() => Ok(()),
            None => Err(4401),
            Some(token)
                if token
                    .creators
                    .iter()
                    .any(|one| one.eq_ignore_ascii_case(name)) =>
            {
                Ok(())
            }
            Some(_) => Err(4403),
        };
    }
    let key = query
        .get("apiKey")
        .unwrap_or_else(|| text(headers, "x-api-key"));
    let good =
        !key.is_empty() && (euler.keys.is_empty() || euler.keys.iter().any(|one| one == key));
    if good { Ok(()) } else { Err(4401) }
}
