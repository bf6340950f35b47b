//! Signs of life for whoever supervises the process: `/livez`, `/readyz` and `/metrics`.
//!
//! `/livez` answers as long as the process runs its tasks; `/readyz` also asks Redis, and Postgres
//! where a stage of this process needs it, and says 503 with the reason while one is away (the
//! stages then wait, they do not fail), and warns of settings of both that can lose events, asked
//! for once a minute; `/metrics` is for Prometheus.

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

/// What the stages of this process cannot work without.
#[derive(Clone)]
pub struct Servers {
    redis: Bus,
    postgres: Option<Watched>,
    warnings: Arc<Mutex<Option<Warnings>>>,
}

/// What was unsafe about them.
struct Warnings {
    asked: Instant,
    found: Vec<String>,
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
        .with_state(servers)
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

impl Servers {
    /// Postgres, when a stage needs it.
    pub fn new(redis: Bus, postgres: Option<Watched>) -> Self {
        Self {
            redis,
            postgres,
            warnings: Arc::default(),
        }
    }

    /// Unsafe settings; asked for again after a minute, or when the last answer was none.
    async fn warnings(&self) -> Vec<String> {
        let mut known = self.warnings.lock().await;
        if let Some(known) = &*known
            && known.asked.elapsed() < SETTINGS
        {
            return known.found.clone();
        }
        let redis = self.redis.unsafe_settings().await;
        let postgres = match &self.postgres {
            Some(postgres) => postgres.unsafe_settings().await.ok(),
            None => Some(Vec::new()),
        };
        let whole = redis.is_ok() && postgres.is_some();
        let mut found = redis.unwrap_or_default();
        found.extend(postgres.unwrap_or_default());
        *known = whole.then(|| Warnings {
            asked: Instant::now(),
            found: found.clone(),
        });
        found
    }
}

async fn ready(State(servers): State<Servers>) -> (StatusCode, String) {
    let redis = async {
        let answer = servers.redis.ping().await;
        answer.map_err(|error| error.to_string())
    };
    let postgres = async {
        match &servers.postgres {
            Some(postgres) => postgres
                .answers()
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
    for sentence in servers.warnings().await {
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
