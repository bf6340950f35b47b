//! The paths of the API.
//!
//! Comes in: a request that [`crate::guard`] let pass. Goes out: a JSON document, a live feed, or
//! a problem. Unknown paths and methods are problems too. All methods are read-only.

mod health;
mod params;
mod sessions;
mod streams;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use serde::Serialize;
use shared::api::RelayHealth;
use shared::identity::is_stream_id;
use worker::send::SendWrapper;
use worker::{Env, web_sys};

use crate::App;
use crate::db::{self, Db};
use crate::log;
use crate::problem::Problem;

/// The routes of issue 2; `HEAD` is answered wherever `GET` is.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/health", get(health::health))
        .route("/streams", get(streams::list))
        .route("/streams/{id}", get(streams::one))
        .route("/streams/{id}/events", get(streams::events))
        .route("/sessions", get(sessions::list))
        .route("/sessions/{id}", get(sessions::one))
        .route("/sessions/{id}/events", get(sessions::events))
        .fallback(async || Problem::not_found("nothing is at this path"))
        .method_not_allowed_fallback(other_method)
        .with_state(app)
}

/// `OPTIONS` is told the methods (axum adds the header `allow`); other methods are refused.
async fn other_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        Problem::method_not_allowed().into_response()
    }
}

/// A body that a hub is writing; see `respond` in the crate's root.
#[derive(Clone)]
pub(crate) struct LiveBody(SendWrapper<web_sys::ReadableStream>);

impl LiveBody {
    /// The runtime's own stream.
    pub(crate) fn into_stream(self) -> web_sys::ReadableStream {
        self.0.0
    }
}

/// A document as JSON.
fn json(document: &impl Serialize) -> Response {
    match serde_json::to_string(document) {
        Ok(text) => {
            let mut response = Response::new(Body::from(text));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(_) => Problem::internal().into_response(),
    }
}

impl From<db::Error> for Problem {
    fn from(error: db::Error) -> Self {
        match error {
            db::Error::Failed | db::Error::Misconfigured => Self::internal(),
            db::Error::Unreachable | db::Error::Refused | db::Error::NotMigrated => {
                log::warn("the database is away", &[("reason", error.reason())]);
                Self::unavailable("database")
            }
        }
    }
}

/// A stream as a client names it: its id, or `@` and the creator's name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum StreamName {
    Id(String),
    Creator(String),
}

impl StreamName {
    /// Reads it; what can't be a name is the name of nothing.
    fn parse(text: &str) -> Result<Self, Problem> {
        if let Some(creator) = text.strip_prefix('@') {
            if params::is_username(creator) {
                return Ok(Self::Creator(creator.to_owned()));
            }
        } else if is_stream_id(text) {
            return Ok(Self::Id(text.to_owned()));
        }
        Err(Problem::not_found(
            "a stream is named by its id or by @ and the creator's name",
        ))
    }

    /// The id: a creator stands for their newest broadcast, at this moment.
    async fn resolve(&self, db: &Db) -> Result<String, Problem> {
        match self {
            Self::Id(id) => Ok(id.clone()),
            Self::Creator(name) => db
                .current_stream(name)
                .await?
                .ok_or_else(|| Problem::not_found(format!("no broadcast of @{name} is known"))),
        }
    }
}

/// Starts the relay of a shard if it does not run.
pub(crate) async fn relay_start(env: &Env, shard: u32) -> worker::Result<()> {
    relay(env, shard, "start").await.map(|_| ())
}

async fn relay_health(env: &Env, shard: u32) -> worker::Result<RelayHealth> {
    relay(env, shard, "status").await?.json().await
}

async fn relay(env: &Env, shard: u32, what: &str) -> worker::Result<worker::Response> {
    env.durable_object("RELAY")?
        .get_by_name(&format!("relay-{shard}"))?
        .fetch_with_str(&format!("http://relay/{what}?shard={shard}"))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_named_by_id_or_creator() {
        assert_eq!(
            StreamName::parse("7301234567890123456").unwrap(),
            StreamName::Id("7301234567890123456".into())
        );
        assert_eq!(
            StreamName::parse("@room.a_1").unwrap(),
            StreamName::Creator("room.a_1".into())
        );
        for bad in ["", "@", "room-a", "73x", "@a b", "@a/b", "000"] {
            let problem = StreamName::parse(bad).unwrap_err();
            assert_eq!(problem.status(), StatusCode::NOT_FOUND, "{bad}");
        }
    }
}
