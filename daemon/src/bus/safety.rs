//! Whether this Redis keeps what it accepts: reported at start, and in `/readyz`.
//!
//! Comes in: the server's version and settings. Goes out: one sentence for each that can lose
//! events. None of them stops the daemon: a laptop may well run without persistence. A managed
//! Redis often hides its settings; then nothing is said, for nothing is known.

use std::collections::HashMap;

use super::{Bus, Error};

/// The first major version with everything the daemon uses.
const MAJOR: u32 = 7;

impl Bus {
    /// What is unsafe about this Redis, in sentences for the operator; empty when all is well.
    pub async fn unsafe_settings(&self) -> Result<Vec<String>, Error> {
        let mut connection = self.manager.clone();
        let info: String = redis::cmd("INFO")
            .arg("server")
            .query_async(&mut connection)
            .await?;
        let version = info
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:"))
            .unwrap_or_default();
        let mut settings = HashMap::new();
        for name in ["maxmemory-policy", "appendonly", "appendfsync"] {
            let found: Result<HashMap<String, String>, _> = redis::cmd("CONFIG")
                .arg("GET")
                .arg(name)
                .query_async(&mut connection)
                .await;
            match found {
                Ok(found) => settings.extend(found),
                // Hidden: nothing to say. Anything else is an outage.
                Err(error) if error.code().is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(judge(version, |name| {
            settings.get(name).map(String::as_str)
        }))
    }
}

fn judge<'a>(version: &str, setting: impl Fn(&str) -> Option<&'a str>) -> Vec<String> {
    let mut found = Vec::new();
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < MAJOR) {
        found.push(format!(
            "redis {version} is older than {MAJOR}: lost entries cannot be counted"
        ));
    }
    if let Some(policy) = setting("maxmemory-policy")
        && policy != "noeviction"
    {
        found.push(format!(
            "maxmemory-policy is {policy}: redis may throw streams away when its memory is full; set noeviction"
        ));
    }
    match (setting("appendonly"), setting("appendfsync")) {
        (Some("no"), _) => found.push(
            "appendonly is off: a crash of redis loses everything since its last snapshot; set appendonly yes"
                .to_owned(),
        ),
        (Some("yes"), Some("no")) => found.push(
            "appendfsync is no: a power cut may lose half a minute; set everysec or always".to_owned(),
        ),
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(version: &str, settings: &[(&str, &'static str)]) -> Vec<String> {
        judge(version, |name| {
            settings
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| *value)
        })
    }

    #[test]
    fn what_can_lose_events_is_named() {
        let safe = [
            ("maxmemory-policy", "noeviction"),
            ("appendonly", "yes"),
            ("appendfsync", "everysec"),
        ];
        assert!(judged("7.0.15", &safe).is_empty());
        assert!(judged("8.2.0", &[]).is_empty(), "hidden settings");
        assert_eq!(judged("6.2.1", &safe).len(), 1);
        let evicts = judged("7.2", &[("maxmemory-policy", "allkeys-lru")]);
        assert!(evicts[0].contains("noeviction"), "{evicts:?}");
        assert!(judged("7.2", &[("appendonly", "no")])[0].contains("appendonly yes"));
        let cached = [("appendonly", "yes"), ("appendfsync", "no")];
        assert!(judged("7.2", &cached)[0].contains("appendfsync"));
    }
}
