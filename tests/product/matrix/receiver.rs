//! The operator's endpoint that the forwarder sends to.
//!
//! In: requests. Out: when each idempotency key came, however often; and the answer that the test
//! wants. Away means that the port refuses, and nothing of what was taken is forgotten.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::SystemTime,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use tokio::{net::TcpListener, task::JoinHandle};

/// An answer that never comes.
pub(crate) const HANG: u16 = 0;

/// A server that takes events.
pub(crate) struct Receiver {
    address: std::net::SocketAddr,
    taken: Arc<Taken>,
    serving: Option<JoinHandle<()>>,
}

struct Taken {
    answer: AtomicU16,
    /// Every request by its key.
    times: Mutex<HashMap<String, Vec<SystemTime>>>,
}

impl Receiver {
    /// Takes everything.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut receiver = Self {
            address: listener.local_addr().expect("an address"),
            taken: Arc::new(Taken {
                answer: AtomicU16::new(200),
                times: Mutex::default(),
            }),
            serving: None,
        };
        receiver.serve(listener);
        receiver
    }

    fn serve(&mut self, listener: TcpListener) {
        let router = Router::new().fallback(take).with_state(self.taken.clone());
        self.serving = Some(tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves");
        }));
    }

    /// For `FORWARD_URL`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// Answers everything so from now on; [`HANG`]: never.
    pub(crate) fn answers(&self, status: u16) {
        self.taken.answer.store(status, Ordering::Relaxed);
    }

    /// Goes away.
    pub(crate) async fn leave(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // Only then is the port free; it was aborted, which is no news.
            let _ = serving.await;
        }
    }

    /// Comes back at the same address.
    pub(crate) async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await;
        self.serve(listener.expect("its own port"));
    }

    /// When each key came.
    pub(crate) fn times(&self) -> HashMap<String, Vec<SystemTime>> {
        let times = self.taken.times.lock();
        times.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
    }
}

async fn take(State(taken): State<Arc<Taken>>, headers: HeaderMap) -> StatusCode {
    let answer = taken.answer.load(Ordering::Relaxed);
    if answer == HANG {
        std::future::pending::<()>().await;
    }
    let key = headers.get("idempotency-key");
    let key = key.and_then(|key| key.to_str().ok()).unwrap_or_default();
    if (200..300).contains(&answer) {
        let mut times = taken.times.lock().unwrap_or_else(PoisonError::into_inner);
        times
            .entry(key.to_owned())
            .or_default()
            .push(SystemTime::now());
    }
    StatusCode::from_u16(answer).expect("a status")
}
