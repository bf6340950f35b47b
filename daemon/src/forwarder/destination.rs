//! One request to the operator's endpoint, and what its end means.
//!
//! In: a message. Out: an [`Answer`]. A status is the answer, as soon as it has come; what follows it is
//! read to 64 KiB, so that the connection can be used again, and never looked at. Redirects are not
//! followed. Errors are told without the address, which may hold a secret.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use tokio::time::{Instant, timeout};

use super::breaker::Sign;
use super::format::Message;
use super::options::Settings;
use crate::failpoint;

/// For making a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of an answer is read, and for how long.
const BODY_BYTES: usize = 64 << 10;
const BODY_TIME: Duration = Duration::from_secs(1);
/// A destination that asks for more time than that is asked again after it.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// 2xx.
    Taken(u16),
    /// It will never take this: 4xx, but for those below.
    Refused(u16),
    /// It may take it later.
    Later {
        /// Its status, when there was one.
        status: Option<u16>,
        /// Why, as a label.
        reason: &'static str,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
}

impl Answer {
    /// The status, where there was one.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Taken(status) | Self::Refused(status) => Some(*status),
            Self::Later { status, .. } => *status,
        }
    }

    /// What it says of the destination.
    pub(super) fn sign(&self) -> Sign {
        match self {
            Self::Taken(_) | Self::Refused(_) => Sign::Well,
            Self::Later {
                status: None | Some(429 | 502 | 503 | 504),
                ..
            } => Sign::Away,
            Self::Later { .. } => Sign::Ill,
        }
    }
}

/// The endpoint.
pub(super) struct Destination {
    settings: Settings,
    client: Client,
}

impl Destination {
    /// Prepares it; nothing is sent.
    pub(super) fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .user_agent(concat!("ttlc/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            // Only our own settings count.
            .no_proxy()
            .no_gzip()
            .no_deflate()
            .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout))
            .build()
            .map_err(reqwest::Error::without_url)?;
        Ok(Self { settings, client })
    }

    /// Sends a message, and says how that ended and how long it took.
    pub(super) async fn send(&self, message: &Message) -> (Answer, Duration) {
        let begun = Instant::now();
        let mut request = self
            .client
            .post(self.settings.url.clone())
            .header(CONTENT_TYPE, message.content_type)
            .header("idempotency-key", &message.key)
            .body(message.body.clone());
        if let Some(authorization) = &self.settings.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(signer) = &self.settings.signer {
            // The time is that of the attempt; the id stays.
            let timestamp = jiff::Timestamp::now().as_second();
            request = request
                .header("webhook-id", &message.key)
                .header("webhook-timestamp", timestamp)
                .header(
                    "webhook-signature",
                    signer.sign(&message.key, timestamp, &message.body),
                );
        }
        let answer = match timeout(self.settings.timeout, request.send()).await {
            Err(_) => Answer::Later {
                status: None,
                reason: "timeout",
                wait: None,
            },
            Ok(Err(error)) => Answer::Later {
                status: None,
                reason: reason(&error),
                wait: None,
            },
            Ok(Ok(response)) => {
                failpoint::reach("after_http_sent");
                let answer = judge(response.status(), response.headers());
                let _ = timeout(BODY_TIME, pass_over(response)).await;
                answer
            }
        };
        (answer, begun.elapsed())
    }
}

fn reason(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "timeout"
    } else if error.is_connect() {
        "connect"
    } else {
        "broken"
    }
}

fn judge(status: StatusCode, headers: &HeaderMap) -> Answer {
    let code = status.as_u16();
    let reason = match code {
        200..=299 => return Answer::Taken(code),
        408 | 425 => "status_4xx",
        429 => "status_429",
        400..=499 => return Answer::Refused(code),
        500..=599 => "status_5xx",
        // Not followed: the operator has to name the real address.
        300..=399 => "redirect",
        _ => "status_other",
    };
    let wait = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(retry_after);
    Answer::Later {
        status: Some(code),
        reason,
        wait,
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110 §10.2.3); at most an hour.
pub(crate) fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    let wait = if let Ok(seconds) = text.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let date = jiff::fmt::rfc2822::parse(text).ok()?;
        Duration::try_from(date.timestamp().duration_since(jiff::Timestamp::now()))
            .unwrap_or_default()
    };
    Some(wait.min(LONGEST_WAIT))
}

async fn pass_over(mut response: Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > BODY_BYTES {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, retry_after: Option<&str>) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(text) = retry_after {
            headers.insert(RETRY_AFTER, text.parse().unwrap());
        }
        judge(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn every_class_of_status_has_its_meaning() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(judged(status, None), Answer::Taken(status));
        }
        for status in [400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 451, 499] {
            assert_eq!(judged(status, Some("7")), Answer::Refused(status));
        }
        for status in [
            301, 302, 304, 307, 408, 425, 429, 500, 501, 502, 503, 504, 599, 600,
        ] {
            let answer = judged(status, Some(" 7 "));
            let Answer::Later {
                status: seen, wait, ..
            } = answer
            else {
                panic!("{status} is for ever");
            };
            assert_eq!((seen, wait), (Some(status), Some(Duration::from_secs(7))));
            assert_ne!(answer.sign(), Sign::Well);
        }
        assert_eq!(judged(503, None).sign(), Sign::Away);
        assert_eq!(judged(500, None).sign(), Sign::Ill);
    }

    #[test]
    fn a_date_is_a_time_to_wait_too() {
        let date = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(100);
        let text = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let wait = retry_after(&text).unwrap();
        assert!(
            wait > Duration::from_secs(95) && wait <= Duration::from_secs(100),
            "{wait:?}"
        );
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::ZERO)
        );
        assert_eq!(retry_after("99999999"), Some(LONGEST_WAIT));
        for nonsense in ["", "soon", "-1", "1.5", "Sun, 06 Nov"] {
            assert_eq!(retry_after(nonsense), None, "{nonsense}");
        }
    }
}
