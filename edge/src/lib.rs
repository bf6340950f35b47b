//! The Worker: REST documents and live feeds of what the daemon stores and publishes.
//!
//! Read in this order: [`routes`] is what clients see, [`db`] what is stored, [`bus`] and
//! [`relay`] bring what is live from Redis, [`hub`] hands it to clients. Every request is checked
//! by [`guard`] first; errors are [`problem`] documents. Nothing is kept in memory that can't be
//! lost: after a crash clients resume with their cursors, and the relay reads on where it
//! acknowledged.

mod bus;
mod config;
mod db;
mod guard;
mod hub;
mod log;
mod problem;
mod relay;
mod routes;
mod wait;

use std::future::Future;
use std::sync::Arc;

use axum::body::Body;
use http::Response;
use shared::streams::StreamNames;
use shared::time::Timestamp;
use tower::ServiceExt;
use worker::{
    Context, Env, HttpRequest, ScheduleContext, ScheduledEvent, event, response_to_wasm, web_sys,
};

pub use hub::StreamHub;
pub use relay::Relay;

/// What a request has at hand: bindings and the request's own lifetime.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

struct Inner {
    env: Env,
    context: Context,
}

impl App {
    /// The bindings.
    pub(crate) fn env(&self) -> &Env {
        &self.0.env
    }

    /// Keeps going after the answer has been given.
    pub(crate) fn wait_until(&self, future: impl Future<Output = ()> + 'static) {
        self.0.context.wait_until(future);
    }

    /// Connects to the database.
    pub(crate) async fn database(&self) -> Result<db::Db, db::Error> {
        db::Db::connect(self.env(), &db::Background::Request(self.clone())).await
    }
}

/// The clock. In production it stands still while code runs and moves with every wait.
pub(crate) fn now() -> Timestamp {
    let ms = worker::Date::now().as_millis();
    Timestamp::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Runs once for each instance.
#[event(start)]
fn start() {
    std::panic::set_hook(Box::new(|panic| {
        // The place only: the message may hold data.
        let place = panic
            .location()
            .map_or_else(String::new, ToString::to_string);
        log::error("panic", &[("place", &place)]);
    }));
}

/// A request.
#[event(fetch)]
async fn fetch(
    request: HttpRequest,
    env: Env,
    context: Context,
) -> worker::Result<web_sys::Response> {
    let hosts = config::public_hosts(&env);
    let app = App(Arc::new(Inner { env, context }));
    let response = match guard::check(&request, hosts.as_deref()) {
        Ok(()) => match routes::router(app).oneshot(request.map(Body::new)).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        Err(problem) => axum::response::IntoResponse::into_response(problem),
    };
    respond(guard::secure(response))
}

/// Hands the answer to the runtime. The body of a live feed comes from a hub and goes on as it
/// is, without passing through this code.
fn respond(mut response: Response<Body>) -> worker::Result<web_sys::Response> {
    let Some(feed) = response.extensions_mut().remove::<routes::LiveBody>() else {
        return response_to_wasm(response);
    };
    let headers = worker::Headers::from(response.headers());
    Ok(worker::ResponseBuilder::new()
        .with_status(response.status().as_u16())
        .with_headers(headers)
        .stream(feed.into_stream())
        .into())
}

/// Once a minute in production: a relay that is not running is started.
#[event(scheduled)]
async fn scheduled(_event: ScheduledEvent, env: Env, _context: ScheduleContext) {
    let shards = StreamNames::new(config::shards(&env)).shards();
    for shard in 0..shards {
        if routes::relay_start(&env, shard).await.is_err() {
            log::error("a relay can't be reached", &[("shard", &shard.to_string())]);
        }
    }
}
