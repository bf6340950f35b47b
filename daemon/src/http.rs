//! Signs of life for whoever supervises the process: `/livez` and `/readyz`.
//!
//! `/livez` answers as long as the process runs its tasks; `/readyz` also asks Redis, and says
//! 503 with the reason while it is away (the stages then wait, they do not fail).

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;

/// Serves until stopped.
pub async fn run(address: SocketAddr, bus: Bus, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: choose another HEALTH_ADDR"))?;
    let routes = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(bus);
    axum::serve(listener, routes)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await?;
    Ok(())
}

async fn ready(State(bus): State<Bus>) -> (StatusCode, String) {
    match bus.ping().await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
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
