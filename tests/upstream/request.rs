//! What every request of a web client carries, and what is wrong with the one at hand.
//!
//! In: a request's address and headers. Out: entries in the list of violations. TikTok does not
//! answer such requests with an error but sooner or later with a captcha, so nothing fails here.

use axum::http::{HeaderMap, Uri, header};
use url::form_urlencoded;

use crate::Stage;

/// Parameters with the one value they may have; an empty value means any.
const WEB_PARAMS: [(&str, &str); 28] = [
    ("aid", "1988"),
    ("app_language", ""),
    ("app_name", "tiktok_web"),
    ("browser_language", ""),
    ("browser_name", ""),
    ("browser_online", "true"),
    ("browser_platform", ""),
    ("browser_version", ""),
    ("cookie_enabled", "true"),
    ("device_platform", "web_pc"),
    ("focus_state", "true"),
    ("from_page", "user"),
    ("history_len", ""),
    ("is_fullscreen", "false"),
    ("is_page_visible", "true"),
    ("screen_height", ""),
    ("screen_width", ""),
    ("tz_name", ""),
    ("referer", "https://www.tiktok.com/"),
    ("root_referer", "https://www.tiktok.com/"),
    ("channel", "tiktok_web"),
    ("data_collection_enabled", "true"),
    ("os", ""),
    ("priority_region", ""),
    ("region", ""),
    ("user_is_login", ""),
    ("webcast_language", ""),
    ("device_id", ""),
];

/// The query of a request, decoded as servers do it: `+` and `%20` are spaces.
#[derive(Debug)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn of(uri: &Uri) -> Self {
        Self(
            form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of a parameter, in order.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A header's text, empty when absent.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// A cookie's value.
pub(crate) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}

/// Checks a request to `www.` or `webcast.tiktok.com`.
pub(crate) fn check_web(stage: &Stage, room: &str, uri: &Uri, headers: &HeaderMap) {
    let query = Query::of(uri);
    let wrong = |what: String| {
        stage
            .ledger
            .violation("web", room, format!("{}: {what}", uri.path()));
    };
    for (name, wanted) in WEB_PARAMS {
        match query.get(name) {
            None => wrong(format!("parameter {name} is missing")),
            Some(value) if wanted.is_empty() || value == wanted => {}
            Some(value) => wrong(format!("parameter {name} is {value:?}, not {wanted:?}")),
        }
    }
    let device = query.get("device_id").unwrap_or_default();
    if device.len() != 19 || !device.bytes().all(|byte| byte.is_ascii_digit()) {
        wrong(format!("parameter device_id is {device:?}, not 19 digits"));
    }
    check_browser(&query, headers, wrong);
    let accept = text(headers, "accept-language");
    if accept.is_empty() {
        wrong("header Accept-Language is missing".to_owned());
    }
    let euler = ["apiKey", "jwtKey"]
        .iter()
        .any(|name| query.get(name).is_some())
        || ["x-api-key", "x-jwt-key"]
            .iter()
            .any(|name| headers.contains_key(*name));
    if euler {
        wrong("a key of Euler's was sent to TikTok".to_owned());
    }
    if cookie(headers, "sessionid").is_some() {
        wrong("a session cookie was sent where none is needed".to_owned());
    }
}

/// Checks that the browser named in the parameters is the one of the User-Agent header.
pub(crate) fn check_browser(query: &Query, headers: &HeaderMap, wrong: impl Fn(String)) {
    let agent = text(headers, "user-agent");
    let (name, version) = agent.split_once('/').unwrap_or((agent, ""));
    if name != "Mozilla" {
        wrong(format!("User-Agent {agent:?} is no browser's"));
    }
    for (param, wanted) in [("browser_name", name), ("browser_version", version)] {
        let value = query.get(param).unwrap_or_default();
        if value != wanted {
            wrong(format!(
                "parameter {param} is {value:?}, the User-Agent says {wanted:?}"
            ));
        }
    }
}
