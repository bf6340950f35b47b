//! A client of the live feed, as `curl -N` or an `EventSource` would read it.

use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use serde_json::Value;

/// One dispatched event.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// `id:`, kept from the last one that had one.
    pub(crate) id: String,
    /// `event:`; empty for the unnamed ones.
    pub(crate) name: String,
    pub(crate) data: Value,
    /// When its last byte was read.
    pub(crate) at: SystemTime,
}

/// An open feed.
pub(crate) struct Feed {
    response: reqwest::Response,
    buffer: Vec<u8>,
    last_id: String,
    /// Unnamed events so far.
    pub(crate) events: Vec<Message>,
    /// Everything else: heartbeats, gaps.
    pub(crate) others: Vec<Message>,
}

impl Feed {
    /// Opens a feed; `resume` goes into `Last-Event-ID`.
    pub(crate) async fn open(url: &str, resume: Option<&str>) -> anyhow::Result<Self> {
        // Only the first call of the process installs it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut request = reqwest::Client::new()
            .get(url)
            .header("accept", "text/event-stream");
        if let Some(id) = resume {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await?.error_for_status()?;
        let kind = response.headers()["content-type"].to_str()?.to_owned();
        ensure!(
            kind.starts_with("text/event-stream"),
            "content type is {kind}"
        );
        Ok(Self {
            response,
            buffer: Vec::new(),
            last_id: String::new(),
            events: Vec::new(),
            others: Vec::new(),
        })
    }

    /// Reads until there are `count` events, or fails after `limit` of silence.
    pub(crate) async fn read_to(&mut self, count: usize, limit: Duration) -> anyhow::Result<()> {
        while self.events.len() < count {
            let chunk = tokio::time::timeout(limit, self.response.chunk())
                .await
                .with_context(|| {
                    format!("{} of {count} events, then silence", self.events.len())
                })?;
            let chunk = chunk?.with_context(|| {
                format!(
                    "the feed ended after {} of {count} events",
                    self.events.len()
                )
            })?;
            self.take(&chunk)?;
        }
        Ok(())
    }

    /// Reads whatever comes within this time.
    pub(crate) async fn read_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + time;
        while let Ok(chunk) = tokio::time::timeout_at(deadline, self.response.chunk()).await {
            self.take(&chunk?.context("the feed ended")?)?;
        }
        Ok(())
    }

    /// `eventId` of each event, in the order they came.
    pub(crate) fn ids(&self) -> Vec<&str> {
        self.events
            .iter()
            .map(|event| event.data["eventId"].as_str().unwrap_or_default())
            .collect()
    }

    fn take(&mut self, chunk: &[u8]) -> anyhow::Result<()> {
        self.buffer.extend_from_slice(chunk);
        while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
            let frame: Vec<u8> = self.buffer.drain(..end + 2).collect();
            self.take_frame(std::str::from_utf8(&frame)?)?;
        }
        Ok(())
    }

    fn take_frame(&mut self, frame: &str) -> anyhow::Result<()> {
        let mut name = String::new();
        let mut data: Vec<&str> = Vec::new();
        for line in frame.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => value.clone_into(&mut self.last_id),
                "event" => value.clone_into(&mut name),
                "data" => data.push(value),
                _ => {}
            }
        }
        if data.is_empty() {
            return Ok(());
        }
        let data = serde_json::from_str(&data.join("\n")).context("data is no JSON")?;
        let message = Message {
            id: self.last_id.clone(),
            name,
            data,
            at: SystemTime::now(),
        };
        if message.name.is_empty() {
            self.events.push(message);
        } else {
            self.others.push(message);
        }
        Ok(())
    }
}
