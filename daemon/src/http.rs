//! Signs of life for whoever supervises the process: `/livez`, `/readyz` and `/metrics`.
//!
//! `/livez` answers as long as the process runs its tasks; `/readyz` also asks Redis, and says
//! 503 with the reason while it is away (the stages then wait, they do not fail), and warns of
//! settings of Redis and Postgres that can lose events, asked for once a minute; `/metrics` is for
//! Prometheus.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::metrics::Metrics;
use crate::storage::safety::Watched;

/// How long an answer about settings is good for: probes come every few seconds.
const SETTINGS: Duration = Duration::from_mins(1);

/// Serves until stopped.
pub async fn run(
    address: SocketAddr,
    bus: Bus,
    database: Option<Watched>,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: choose another HEALTH_ADDR"))?;
    let routes = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Probed {
            bus,
            database,
            warnings: Arc::default(),
        })
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

/// Unsafe settings, and when they were asked for.
type Found = (Instant, Vec<String>);

/// What is asked.
#[derive(Clone)]
struct Probed {
    bus: Bus,
    database: Option<Watched>,
    /// What was found, and when.
    warnings: Arc<Mutex<Option<Found>>>,
}

impl Probed {
    /// Unsafe settings; asked for again after a minute, or when the last answer was none.
    async fn warnings(&self) -> Vec<String> {
        let mut known = self.warnings.lock().await;
        if let Some((at, found)) = &*known
            && at.elapsed() < SETTINGS
        {
            return found.clone();
        }
        let redis = self.bus.unsafe_settings().await;
        let postgres = match &self.database {
            Some(database) => database.unsafe_settings().await.ok(),
            None => Some(Vec::new()),
        };
        let whole = redis.is_ok() && postgres.is_some();
        let mut found = redis.unwrap_or_default();
        found.extend(postgres.unwrap_or_default());
        *known = whole.then(|| (Instant::now(), found.clone()));
        found
    }
}

async fn ready(State(probed): State<Probed>) -> (StatusCode, String) {
    match probed.bus.ping().await {
        Ok(()) => {
            let mut text = "ready\n".to_owned();
            for sentence in probed.warnings().await {
                text.extend(["warning: ", &sentence, "\n"]);
            }
            if let Some(sentence) = crate::ingest::warning() {
                text.extend(["warning: ", sentence, "\n"]);
            }
            (StatusCode::OK, text)
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
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
