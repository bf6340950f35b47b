//! Headless Chromium by its own debugging protocol: open a page, ask it things.
//!
//! Just the three commands that a test needs, over the WebSocket that Chromium opens with
//! `--remote-debugging-port`; a browser-driving library would be larger than the product's own
//! dependencies. The browser has a fresh profile, talks to nobody but the page, and is stopped
//! when dropped.

use std::{process::Command, time::Duration};

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};
use xtask::{
    processes::{Process, TemporaryFolder, silent},
    tools,
};

use crate::stores::{blocking, until};

const PATIENCE: Duration = Duration::from_mins(1);

/// A browser with one page.
pub(crate) struct Page {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    last_id: u64,
    /// Exceptions and error messages of the page, in order.
    pub(crate) complaints: Vec<String>,
    // Dropped before its profile folder goes.
    _process: Process,
    _profile: TemporaryFolder,
}

impl Page {
    /// Starts a browser and opens the address.
    pub(crate) async fn open(url: &str) -> anyhow::Result<Self> {
        let (process, profile) = blocking(|| {
            let profile = TemporaryFolder::new("chromium")?;
            let mut command = Command::new(tools::chromium()?);
            command
                .args([
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-quic",
                ])
                .args([
                    "--no-first-run",
                    "--no-default-browser-check",
                    "--disable-sync",
                ])
                .args([
                    "--disable-background-networking",
                    "--disable-component-update",
                ])
                .args([
                    "--disable-dev-shm-usage",
                    "--mute-audio",
                    "--window-size=1280,900",
                ])
                .args(["--remote-debugging-port=0", "about:blank"])
                .arg(format!("--user-data-dir={}", profile.path().display()))
                // Fonts and settings go into the profile, not into somebody's home.
                .env("HOME", profile.path());
            Ok((Process::start("chromium", command, silent())?, profile))
        })
        .await;
        let port_file = profile.path().join("DevToolsActivePort");
        let address = until(PATIENCE, async || {
            let text = std::fs::read_to_string(&port_file).context("chromium does not answer")?;
            let (port, path) = text
                .split_once('\n')
                .context("the port file is half written")?;
            ensure!(path.starts_with('/'), "the port file is half written");
            Ok(format!("ws://127.0.0.1:{port}{}", path.trim()))
        })
        .await;
        let (socket, _) = tokio_tungstenite::connect_async(address).await?;
        let mut page = Self {
            socket,
            session: String::new(),
            last_id: 0,
            complaints: Vec::new(),
            _process: process,
            _profile: profile,
        };
        let target = page
            .command("Target.createTarget", json!({ "url": "about:blank" }))
            .await?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = page.command("Target.attachToTarget", attach).await?;
        page.session = attached["sessionId"]
            .as_str()
            .context("no session")?
            .to_owned();
        page.command("Runtime.enable", json!({})).await?;
        page.command("Log.enable", json!({})).await?;
        page.command("Page.navigate", json!({ "url": url })).await?;
        Ok(page)
    }

    /// The value of a JavaScript expression, or of the promise it makes.
    pub(crate) async fn ask(&mut self, expression: &str) -> anyhow::Result<Value> {
        let ask = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let mut answer = self.command("Runtime.evaluate", ask).await?;
        ensure!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer:#}"
        );
        Ok(answer["result"]["value"].take())
    }

    async fn command(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        let mut command = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(command.to_string())).await?;
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            let message = next.with_context(|| format!("no answer to {method}"))?;
            let Message::Text(text) = message.context("chromium is gone")?? else {
                continue;
            };
            let mut message: Value = serde_json::from_str(&text)?;
            if message["id"] == id {
                if !message["error"].is_null() {
                    bail!("{method}: {}", message["error"]);
                }
                return Ok(message["result"].take());
            }
            self.note(&message);
        }
    }

    /// Keeps what the page complains about.
    fn note(&mut self, message: &Value) {
        let params = &message["params"];
        let complaint = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => &params["exceptionDetails"],
            Some("Runtime.consoleAPICalled") if params["type"] == "error" => &params["args"],
            Some("Log.entryAdded") if params["entry"]["level"] == "error" => &params["entry"],
            _ => return,
        };
        self.complaints.push(complaint.to_string());
    }
}
