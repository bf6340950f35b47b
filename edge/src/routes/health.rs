//! `GET /health`: whether the edge has what it needs. Asking also starts the relays.

use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use futures_util::future::join_all;
use http::StatusCode;
use shared::api::{DatabaseHealth, Health, HealthStatus, RelayHealth, RelayState};
use shared::streams::StreamNames;

use super::params::Params;
use super::{json, relay_health};
use crate::problem::Problem;
use crate::wait::within;
use crate::{App, config};

/// A relay that has not answered by then counts as not running.
const RELAY_TIME: Duration = Duration::from_secs(4);

/// 200 when everything is up, else 503 with the same document.
#[worker::send]
pub(super) async fn health(
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    Params::parse(query.as_deref(), &[])?;
    let shards = StreamNames::new(config::shards(app.env())).shards();
    let relays = join_all((0..shards).map(|shard| relay(&app, shard)));
    let (database, relays) = futures_util::future::join(database(&app), relays).await;
    let good = database.up
        && relays
            .iter()
            .all(|relay| relay.state == RelayState::Reading);
    let mut response = json(&Health {
        status: if good {
            HealthStatus::Ok
        } else {
            HealthStatus::Degraded
        },
        version: env!("CARGO_PKG_VERSION").to_owned(),
        at: crate::now(),
        database,
        relays,
    });
    if !good {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

async fn database(app: &App) -> DatabaseHealth {
    let checked = async { app.database().await?.check().await }.await;
    DatabaseHealth {
        up: checked.is_ok(),
        reason: checked.err().map(|error| error.reason().to_owned()),
    }
}

async fn relay(app: &App, shard: u32) -> RelayHealth {
    match within(RELAY_TIME, relay_health(app.env(), shard)).await {
        Ok(Ok(health)) => health,
        Ok(Err(_)) | Err(_) => RelayHealth {
            shard,
            state: RelayState::Retrying,
            since: crate::now(),
            delivered: 0,
            connections: 0,
            last_answer_at: None,
            last_entry_at: None,
            reason: Some("the relay does not answer".to_owned()),
        },
    }
}
