//! Signs of life for whoever supervises the process: `/livez`, `/readyz` and `/metrics`.
//!
//! `/livez` answers as long as the process runs its tasks; `/readyz` also asks Redis, and Postgres
//! where a stage of this process needs it, and says 503 with the reason while one is away (the
//! stages then wait, they do not fail), and warns of settings of Redis that can lose events;
//! `/metrics` is for Prometheus.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::metrics::Metrics;
use crate::storage::Pulse;

/// What the stages of this process cannot work without.
pub struct Servers {
    /// Every stage needs it.
    pub redis: Bus,
    /// When one needs it.
    pub postgres: Option<Pulse>,
}

/// Serves until stopped.
pub async fn run(
    address: SocketAddr,
    servers: Servers,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: choose another HEALTH_ADDR"))?;
    let routes = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Arc::new(servers))
        .route("/metrics", get(move || std::future::ready(show(&metrics))));
    axum::serve(listener, routes)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await?;
    Ok(())
}

fn show(metrics: &Metrics) -> impl IntoResponse + use<> {
    let format = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (format, metrics.render())
}

async fn ready(State(servers): State<Arc<Servers>>) -> (StatusCode, String) {
    let redis = async {
        servers
            .redis
            .ping()
            .await
            .map_err(|error| error.to_string())
    };
    let postgres = async {
        match &servers.postgres {
            Some(pulse) => pulse
                .feel()
                .await
                .map_err(|error| format!("postgres: {error}")),
            None => Ok(()),
        }
    };
    let (redis, postgres) = tokio::join!(redis, postgres);
    let away: Vec<String> = [redis, postgres]
        .into_iter()
        .filter_map(Result::err)
        .collect();
    if !away.is_empty() {
        return (StatusCode::SERVICE_UNAVAILABLE, away.join("\n") + "\n");
    }
    let mut text = "ready\n".to_owned();
    for sentence in servers.redis.unsafe_settings().await.unwrap_or_default() {
        text.extend(["warning: ", &sentence, "\n"]);
    }
    if let Some(sentence) = crate::ingest::warning() {
        text.extend(["warning: ", sentence, "\n"]);
    }
    (StatusCode::OK, text)
}

/// Asks a running process for `/readyz`.
///
/// # Errors
/// When it does not answer or is not ready.
pub async fn check(address: SocketAddr) -> anyhow::Result<()> {
    let client = reqwest::Client::builder()
        .timeout(std::time::Duration::from_secs(3))
        .no_proxy()
        .build()?;
    let answer = client
        .get(format!("http://{address}/readyz"))
        .send()
        .await
        .context("no answer")?;
    let status = answer.status();
    anyhow::ensure!(
        status.is_success(),
        "not ready: {} {}",
        status,
        answer.text().await.unwrap_or_default().trim()
    );
    Ok(())
}
