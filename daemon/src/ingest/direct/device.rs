//! The browser that we are towards TikTok: one preset, the same in headers, parameters and signing.
//!
//! In: nothing. Out: the web parameters, the headers and the cookies of one visitor. TikTok shows
//! a captcha to visitors whose User-Agent and parameters disagree, so all of them come from here
//! (protocol sheet §1).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::Rng as _;
use reqwest::cookie::CookieStore;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

/// Chrome on Windows. `browser_name` and `browser_version` are its two sides of the first `/`.
pub(super) const USER_AGENT: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 \
                                     (KHTML, like Gecko) Chrome/146.0.0.0 Safari/537.36";

/// What both the web and the socket parameters say about the browser.
pub(super) const BROWSER: [(&str, &str); 11] = [
    ("aid", "1988"),
    ("app_language", "en"),
    ("app_name", "tiktok_web"),
    ("browser_language", "en-US"),
    ("browser_online", "true"),
    ("browser_platform", "Win32"),
    ("cookie_enabled", "true"),
    ("screen_height", "1080"),
    ("screen_width", "1920"),
    ("tz_name", "Europe/Berlin"),
    ("webcast_language", "en"),
];

/// What only requests to the web hosts say.
const WEB: [(&str, &str); 14] = [
    ("channel", "tiktok_web"),
    ("data_collection_enabled", "true"),
    ("device_platform", "web_pc"),
    ("focus_state", "true"),
    ("from_page", "user"),
    ("history_len", "10"),
    ("is_fullscreen", "false"),
    ("is_page_visible", "true"),
    ("os", "windows"),
    ("priority_region", ""),
    ("referer", "https://www.tiktok.com/"),
    ("region", "DE"),
    ("root_referer", "https://www.tiktok.com/"),
    ("user_is_login", "true"),
];

/// Cookies that stay off an anonymous socket.
const NOT_ON_SOCKETS: [&str; 5] = [
    "sessionid",
    "sessionid_ss",
    "sid_tt",
    "sid_guard",
    "tt-target-idc",
];

/// `browser_name` and `browser_version`.
pub(super) fn browser_name_and_version() -> (&'static str, &'static str) {
    USER_AGENT.split_once('/').unwrap_or((USER_AGENT, ""))
}

/// One visitor: a random device and the cookies it was given.
#[derive(Debug)]
pub(super) struct Device {
    device_id: String,
    cookies: Mutex<BTreeMap<String, String>>,
}

impl Device {
    /// A visitor whom TikTok has never seen.
    pub(super) fn new() -> Self {
        let device_id =
            rand::rng().random_range(7_000_000_000_000_000_000_u64..8_000_000_000_000_000_000);
        let cookies = BTreeMap::from([("tt-target-idc".to_owned(), "useast1a".to_owned())]);
        Self {
            device_id: device_id.to_string(),
            cookies: Mutex::new(cookies),
        }
    }

    /// The parameters of every request to the web hosts.
    pub(super) fn web_params(&self) -> Vec<(&'static str, &str)> {
        let (name, version) = browser_name_and_version();
        let mut params: Vec<(&'static str, &str)> = BROWSER.to_vec();
        params.extend([("browser_name", name), ("browser_version", version)]);
        params.extend(WEB);
        params.push(("device_id", &self.device_id));
        params
    }

    /// The cookies of an anonymous socket, as the header has them.
    pub(super) fn socket_cookies(&self) -> String {
        cookie_line(
            self.jar()
                .iter()
                .filter(|(name, _)| !NOT_ON_SOCKETS.contains(&name.as_str())),
        )
    }

    /// Takes one `Set-Cookie` value; what has no name or an unsafe character is ignored.
    pub(super) fn set_cookie(&self, line: &str) -> bool {
        let pair = line.split(';').next().unwrap_or_default();
        let Some((name, value)) = pair.split_once('=') else {
            return false;
        };
        let (name, value) = (name.trim(), value.trim());
        let safe = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b';' | b',');
        if name.is_empty() || value.is_empty() || !name.bytes().chain(value.bytes()).all(safe) {
            return false;
        }
        let mut jar = self.jar();
        // Bounded: a server that makes up names must not fill the memory.
        if jar.len() < 100 || jar.contains_key(name) {
            jar.insert(name.to_owned(), value.to_owned());
        }
        true
    }

    fn jar(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One jar for all of TikTok's hosts: its pages and APIs share what one of them has set.
impl CookieStore for Device {
    fn set_cookies(&self, lines: &mut dyn Iterator<Item = &HeaderValue>, _: &Url) {
        for line in lines.filter_map(|line| line.to_str().ok()) {
            self.set_cookie(line);
        }
    }

    fn cookies(&self, _: &Url) -> Option<HeaderValue> {
        HeaderValue::from_str(&cookie_line(self.jar().iter())).ok()
    }
}

fn cookie_line<'a>(cookies: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    cookies
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join("; ")
}

/// The headers of every request to the web hosts, but for the cookies.
pub(super) fn web_headers() -> HeaderMap {
    const HEADERS: [(&str, &str); 9] = [
        ("user-agent", USER_AGENT),
        ("accept", "text/html,application/json,application/protobuf"),
        ("accept-language", "en-US,en;q=0.9"),
        ("cache-control", "max-age=0"),
        ("referer", "https://www.tiktok.com/"),
        ("origin", "https://www.tiktok.com"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-mode", "cors"),
        ("sec-fetch-dest", "empty"),
    ];
    let header = |(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    HEADERS.into_iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preset_agrees_with_itself() {
        let device = Device::new();
        let params: BTreeMap<_, _> = device.web_params().into_iter().collect();
        assert_eq!(
            params.len(),
            device.web_params().len(),
            "no parameter twice"
        );
        assert_eq!(
            format!("{}/{}", params["browser_name"], params["browser_version"]),
            USER_AGENT
        );
        assert_eq!(web_headers()["user-agent"], USER_AGENT);
        assert_eq!(params["browser_name"], "Mozilla");
        assert_eq!(params["device_platform"], "web_pc");
        assert!(USER_AGENT.contains("Windows") && params["os"] == "windows");
        let id = params["device_id"];
        assert!(id.len() == 19 && id.bytes().all(|byte| byte.is_ascii_digit()));
        assert_ne!(params["device_id"], Device::new().device_id);
    }

    #[test]
    fn cookies_are_kept_and_the_socket_gets_only_the_anonymous_ones() {
        let device = Device::new();
        assert!(device.set_cookie("ttwid=from-the-page; Path=/; HttpOnly"));
        assert!(device.set_cookie("ttwid=1%7Csigned; Domain=tiktok.com"));
        assert!(device.set_cookie("sessionid=secret"));
        for bad in [
            "",
            "ttwid",
            "=x",
            "ttwid=; Path=/",
            "a=b\r\nx: y",
            "na me=x",
        ] {
            assert!(!device.set_cookie(bad), "{bad:?}");
        }
        assert_eq!(device.socket_cookies(), "ttwid=1%7Csigned");
        let all = device
            .cookies(&"https://www.tiktok.com".parse().unwrap())
            .unwrap();
        assert_eq!(
            all,
            "sessionid=secret; tt-target-idc=useast1a; ttwid=1%7Csigned"
        );
    }
}
