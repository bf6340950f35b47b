//! The provider's list of gifts, for messages that do not say what a gift is.
//!
//! Comes in: `GET /webcast/gifts` of Euler's API, once a day (it asks for no paid plan). Goes out:
//! id, name, price and picture of each gift, in Redis, where the normalizer reads them. Without a
//! list gifts are still known from their messages, so every failure is harmless: it is logged when
//! it is news, and tried again later. The key travels in a header only.

use std::time::Duration;

use bytes::BytesMut;
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::bus::Bus;
use crate::normalizer::Known;

/// How often the list is fetched.
const INTERVAL: Duration = Duration::from_hours(24);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_hours(1);
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// A list of all gifts is a few MB at most.
const BODY_LIMIT: usize = 8 * 1024 * 1024;
/// More gifts than there are.
const MAX_GIFTS: usize = 10_000;

/// A gift by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gift {
    id: String,
    known: Known,
}

/// Why there is no list.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum Error {
    /// No answer.
    #[error("the list of gifts cannot be fetched: {0}")]
    Unreachable(&'static str),
    /// Another answer.
    #[error("the list of gifts is refused with status {0}")]
    Refused(StatusCode),
    /// No list.
    #[error("the list of gifts cannot be read")]
    Unreadable,
}

/// Fetches the list every day until `stop`.
pub(super) async fn keep(
    http: Client,
    base: Url,
    key: Option<SecretString>,
    bus: Bus,
    stop: CancellationToken,
) {
    let mut last_error = String::new();
    loop {
        let round = async {
            let gifts = fetch(&http, &base, key.as_ref())
                .await
                .map_err(|error| error.to_string())?;
            let listed: Vec<(String, String)> = gifts
                .iter()
                .filter_map(|gift| {
                    Some((gift.id.clone(), serde_json::to_string(&gift.known).ok()?))
                })
                .collect();
            let put = bus.put_gifts(&listed).await;
            put.map(|()| listed.len())
                .map_err(|error| error.to_string())
        };
        let wait = match stop.run_until_cancelled(round).await {
            None => return,
            Some(Ok(gifts)) => {
                tracing::info!(stage = "ingest", gifts, "list of gifts fetched");
                last_error.clear();
                INTERVAL
            }
            Some(Err(error)) => {
                if error != last_error {
                    tracing::info!(
                        stage = "ingest",
                        error,
                        "no list of gifts, going on without"
                    );
                    last_error = error;
                }
                RETRY
            }
        };
        if stop
            .run_until_cancelled(tokio::time::sleep(wait))
            .await
            .is_none()
        {
            return;
        }
    }
}

/// Fetches the list once.
pub(super) async fn fetch(
    http: &Client,
    base: &Url,
    key: Option<&SecretString>,
) -> Result<Vec<Gift>, Error> {
    let url = base
        .join("webcast/gifts")
        .map_err(|_| Error::Unreachable("not an address"))?;
    let mut request = http.get(url).timeout(TIMEOUT);
    if let Some(key) = key {
        request = request.header("x-api-key", key.expose_secret());
    }
    // The client's own words would repeat the address.
    let mut response = request
        .send()
        .await
        .map_err(|_| Error::Unreachable("no answer"))?;
    if response.status() != StatusCode::OK {
        return Err(Error::Refused(response.status()));
    }
    let mut body = BytesMut::new();
    let broken = |_| Error::Unreachable("the answer broke off");
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err(Error::Unreadable);
        }
        body.extend_from_slice(&chunk);
    }
    read(&body).ok_or(Error::Unreadable)
}

/// The gifts of an answer. Their list has been seen in several places of it, and their fields
/// with several names.
fn read(body: &[u8]) -> Option<Vec<Gift>> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let places = [
        "/response/data/gifts",
        "/data/gifts",
        "/response/gifts",
        "/gifts",
        "/data",
        "",
    ];
    let list = places
        .iter()
        .find_map(|place| answer.pointer(place)?.as_array())?;
    Some(list.iter().take(MAX_GIFTS).filter_map(gift).collect())
}

fn gift(gift: &Value) -> Option<Gift> {
    let first = |names: &[&str]| names.iter().find_map(|name| gift.get(name)).cloned();
    let id = match first(&["id", "giftId", "gift_id"])? {
        Value::String(id) => id,
        Value::Number(id) => id.as_u64()?.to_string(),
        _ => return None,
    };
    let coins = match first(&["diamond_count", "diamondCount", "coins", "price"])? {
        Value::Number(coins) => coins.as_u64()?,
        Value::String(coins) => coins.parse().ok()?,
        _ => return None,
    };
    let name = first(&["name", "giftName"])?.as_str()?.trim().to_owned();
    let image = first(&["image", "icon", "giftImage"]);
    let url = image.and_then(|image| {
        let urls = image.get("url_list").or_else(|| image.get("urlList"));
        let url = urls.and_then(|urls| urls.get(0)).unwrap_or(&image);
        url.as_str().map(str::to_owned)
    });
    let whole = !name.is_empty()
        && name.len() <= 200
        && id.bytes().all(|byte| byte.is_ascii_digit())
        && (1..=20).contains(&id.len());
    whole.then(|| Gift {
        id,
        known: Known {
            name,
            coins,
            image_url: url.filter(|url| url.starts_with("https://") && url.len() <= 1_000),
        },
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;
    use axum::routing::get;
    use serde_json::json;

    use super::*;

    fn rose() -> Gift {
        Gift {
            id: "5655".into(),
            known: Known {
                name: "Rose".into(),
                coins: 1,
                image_url: Some("https://x.example/rose.webp".into()),
            },
        }
    }

    #[test]
    fn every_form_of_the_list_is_read() {
        let snake = json!({"id": 5655, "name": "Rose", "diamond_count": 1,
            "image": {"url_list": ["https://x.example/rose.webp"]}});
        let camel = json!({"giftId": "5655", "giftName": " Rose ", "diamondCount": "1",
            "image": {"urlList": ["https://x.example/rose.webp"]}});
        let flat = json!({"id": "5655", "name": "Rose", "coins": 1,
            "icon": "https://x.example/rose.webp"});
        for gift in [snake, camel, flat] {
            for answer in [
                json!({"code": 200, "response": {"data": {"gifts": [gift]}}}),
                json!({"data": {"gifts": [gift]}}),
                json!({"gifts": [gift]}),
                json!({"data": [gift]}),
                json!([gift]),
            ] {
                let read = read(answer.to_string().as_bytes());
                assert_eq!(read, Some(vec![rose()]), "{answer}");
            }
        }
    }

    #[test]
    fn what_is_no_gift_is_left_out_and_what_is_no_list_refused() {
        let gifts = json!([
            {"id": 1, "name": "", "coins": 1}, {"id": "x", "name": "X", "coins": 1},
            {"id": 2, "name": "No price"}, {"id": -3, "name": "Y", "coins": 1}, 7,
            {"id": 4, "name": "Z", "coins": -1},
            {"id": 5, "name": "Script", "coins": 1, "image": "javascript:alert(1)"},
        ]);
        let read_gifts = read(gifts.to_string().as_bytes()).unwrap();
        assert_eq!(read_gifts.len(), 1);
        assert_eq!(read_gifts[0].known.image_url, None);
        for nothing in ["", "{", "{}", "7", r#"{"gifts": {}}"#] {
            assert_eq!(read(nothing.as_bytes()), None, "{nothing}");
        }
    }

    #[tokio::test]
    async fn the_key_travels_in_a_header_and_refusals_are_told() {
        let gifts = get(|headers: HeaderMap| async move {
            if headers.get("x-api-key").is_some_and(|key| key == "secret") {
                Ok(r#"{"gifts": [{"id": 5655, "name": "Rose", "coins": 1,
                    "image": "https://x.example/rose.webp"}]}"#)
            } else {
                Err(StatusCode::UNAUTHORIZED)
            }
        });
        let app = axum::Router::new().route("/webcast/gifts", gifts);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        let base: Url = base.parse().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, app).await });

        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder().no_proxy().build().unwrap();
        let key = SecretString::from("secret");
        assert_eq!(fetch(&http, &base, Some(&key)).await, Ok(vec![rose()]));
        let refused = Err(Error::Refused(StatusCode::UNAUTHORIZED));
        assert_eq!(fetch(&http, &base, None).await, refused);
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        let gone = fetch(&http, &base, Some(&key)).await;
        assert_eq!(gone, Err(Error::Unreachable("no answer")));
    }
}
