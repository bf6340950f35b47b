//! `GET /streams`, `/streams/{id}` and the live feed `/streams/{id}/events`.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use shared::api::{List, StreamPage};
use shared::streams::StreamNames;
use worker::ResponseBody;
use worker::send::SendWrapper;

use super::params::{After, Params};
use super::{LiveBody, StreamName, json, relay_start};
use crate::db::StreamFilter;
use crate::problem::Problem;
use crate::wait::within;
use crate::{App, config, log};

/// A hub that has not answered by then is unavailable.
const HUB_TIME: Duration = Duration::from_secs(15);

/// What a browser's `EventSource` sends when it reconnects.
const LAST_EVENT_ID: &str = "last-event-id";

/// Broadcasts, newest first.
#[worker::send]
pub(super) async fn list(
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let params = Params::parse(query.as_deref(), &["limit", "after", "status", "username"])?;
    let filter = StreamFilter {
        limit: params.items()?,
        after: params.list_cursor(List::Streams)?,
        status: params.status()?,
        username: params.username()?,
    };
    let (items, next) = app.database().await?.streams(&filter).await?;
    Ok(json(&StreamPage { items, next }))
}

/// One broadcast.
#[worker::send]
pub(super) async fn one(
    State(app): State<App>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let name = StreamName::parse(&name)?;
    Params::parse(query.as_deref(), &[])?;
    let db = app.database().await?;
    let id = name.resolve(&db).await?;
    match db.stream(&id).await? {
        Some(stream) => Ok(json(&stream)),
        None => Err(Problem::not_found(format!("no stream has the id {id}"))),
    }
}

/// The live feed. `Last-Event-ID` goes before `after`, which a reconnecting `EventSource` repeats
/// from its first request.
#[worker::send]
pub(super) async fn events(
    State(app): State<App>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = StreamName::parse(&name)?;
    let params = Params::parse(query.as_deref(), &["after"])?;
    let (field, text) = match headers.get(LAST_EVENT_ID) {
        Some(value) if !value.is_empty() => {
            ("Last-Event-ID", Some(value.to_str().unwrap_or_default()))
        }
        _ => ("after", params.get("after")),
    };
    let after = text.map(|text| After::parse(field, text)).transpose()?;

    let id = match &name {
        // Whether it exists is for the hub to say, which may know without the database.
        StreamName::Id(id) => id.clone(),
        StreamName::Creator(_) => name.resolve(&app.database().await?).await?,
    };
    let from = match (after, &name) {
        (None, _) => String::new(),
        (Some(After::Start), _) => "&after=start".to_owned(),
        (Some(After::Cursor(cursor)), _) if cursor.stream_id == id => format!("&after={cursor}"),
        // The creator has begun a new broadcast since: the feed says so and begins with it.
        (Some(After::Cursor(cursor)), StreamName::Creator(_)) => {
            format!("&after=start&left={}", cursor.seq_no)
        }
        (Some(after), StreamName::Id(_)) => {
            after.of_stream(field, &id)?;
            String::new()
        }
    };

    let shard = StreamNames::new(config::shards(app.env())).shard_of(&id);
    let env = app.env().clone();
    app.wait_until(async move {
        if relay_start(&env, shard).await.is_err() {
            log::error("a relay can't be reached", &[("shard", &shard.to_string())]);
        }
    });
    if method == Method::HEAD {
        return match app.database().await?.stream(&id).await? {
            Some(_) => Ok(feed_head(&id, StatusCode::OK)),
            None => Err(Problem::not_found(format!("no stream has the id {id}"))),
        };
    }
    open(&app, &id, &from).await
}

/// Asks the stream's hub.
async fn open(app: &App, id: &str, from: &str) -> Result<Response, Problem> {
    let asking = async {
        app.env()
            .durable_object("STREAM_HUB")?
            .get_by_name(id)?
            .fetch_with_str(&format!("http://hub/feed?stream={id}{from}"))
            .await
    };
    let Ok(Ok(answer)) = within(HUB_TIME, asking).await else {
        log::error("a hub does not answer", &[("streamId", id)]);
        return Err(Problem::unavailable("live feed of this stream"));
    };
    let status =
        StatusCode::from_u16(answer.status_code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = if status == StatusCode::OK {
        feed_head(id, status)
    } else {
        let mut response = status.into_response();
        for name in ["content-type", "retry-after"] {
            if let Ok(Some(value)) = answer.headers().get(name)
                && let Ok(value) = HeaderValue::from_str(&value)
            {
                response
                    .headers_mut()
                    .insert(HeaderName::from_static(name), value);
            }
        }
        response
    };
    let (_, body) = answer.into_parts();
    if let ResponseBody::Stream(stream) = body {
        response
            .extensions_mut()
            .insert(LiveBody(SendWrapper::new(stream)));
    }
    Ok(response)
}

/// The head of a feed; it says which stream it is, which `@name` does not.
fn feed_head(id: &str, status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(HeaderName::from_static("stream-id"), id);
    }
    response
}
