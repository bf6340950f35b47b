//! What the stand-in shall play, how fast, and where it shall misbehave.
//!
//! A [`Script`] is plain data: tests build it in code, the program from its arguments. Faults are
//! one-shot and counted from the moment they are added, so that a test says exactly when something
//! goes wrong and the same run gives the same trouble.

use std::{net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use serde::Deserialize;

use crate::capture::Capture;

/// The whole performance.
#[derive(Clone, Debug)]
pub struct Script {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Who exists. Every other name is unknown.
    pub creators: Vec<Creator>,
    /// How fast captures play.
    pub pace: Pace,
    /// How often a capture plays; `None`: for ever.
    pub laps: Option<u32>,
    /// How long a creator is shown offline between two broadcasts.
    pub offline_pause: Duration,
    /// How many recent messages a client gets again when it connects to a running broadcast.
    pub history: usize,
    /// A client that sends no heartbeat for this long is disconnected.
    pub heartbeat_timeout: Duration,
    /// How long a signed socket address is good for.
    pub signed_life: Duration,
    /// What [`crate::Upstream::sent`] will know.
    pub record: Record,
}

/// How much of what was sent is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Nothing but counts: for playing without end.
    Counts,
    /// Every message, its payload left empty: for measurements.
    Ids,
    /// Every message with its payload.
    Everything,
}

/// How fast captures play.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// No pause between frames: as fast as clients read.
    AsFastAsPossible,
    /// By the recorded times.
    Recorded {
        /// No pause is longer than this (captures hold holes of hours and days).
        max_gap: Duration,
        /// 2.0 plays at double speed; the cut comes first.
        speed: f64,
    },
    /// A fixed time between two frames.
    Every(Duration),
}

/// One account.
#[derive(Clone, Debug)]
pub struct Creator {
    /// Its unique id; spelling matters in answers, not in questions.
    pub name: String,
    /// What it does.
    pub show: Show,
    /// Faults from the start.
    pub faults: Vec<Fault>,
}

/// What an account does.
#[derive(Clone, Debug)]
pub enum Show {
    /// Broadcasts a capture: each lap is a new broadcast, and so is what follows a recorded end.
    Plays(Capture),
    /// Was live once and is not now.
    Offline,
    /// Exists and has never been live: an empty room id.
    NeverLive,
    /// TikTok answers with a captcha page instead of data.
    Captcha,
}

/// Something that goes wrong. Counted from when the fault is added; one-shot unless it says so.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Fault {
    /// The page and the web API ask for a captcha: `times` requests after the first `skip`.
    Captcha {
        /// Requests that pass before.
        #[serde(default)]
        skip: u32,
        /// Requests that are hit.
        times: u32,
    },
    /// Signing fails: `times` requests after the first `skip`.
    Sign {
        /// Requests that pass before.
        #[serde(default)]
        skip: u32,
        /// Requests that are hit.
        times: u32,
        /// The answer.
        refusal: Refusal,
    },
    /// The WebSocket handshake is refused as TikTok does it, with HTTP 200 and two headers.
    Handshake {
        /// Handshakes that pass before.
        #[serde(default)]
        skip: u32,
        /// Handshakes that are hit.
        times: u32,
        /// `Handshake-Msg`, such as `DEVICE_BLOCKED`.
        message: String,
        /// `Handshake-Status`.
        status: u32,
    },
    /// Something happens in the stream once this creator's playback has sent that many frames.
    Playback {
        /// Frames from now on; 0: before the next one.
        #[serde(default)]
        after_frames: u64,
        /// What happens.
        act: Act,
    },
}

/// How a signing request is refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Refusal {
    /// An HTTP error with a JSON body, as the sign server sends it.
    Status {
        /// 401, 402, 403, 404, 420, 429, 500, 503 …
        status: u16,
        /// `Retry-After`, seconds.
        #[serde(default)]
        retry_after: Option<u32>,
    },
    /// 200 without `X-Set-TT-Cookie`.
    MissingCookie,
    /// 200 with a fetch result that has no cursor.
    MissingCursor,
    /// 200 with a body that is no protobuf.
    Garbage,
}

/// What happens in the stream, to every connected client.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Act {
    /// The connection ends without a close frame (1006).
    Drop,
    /// The connection ends with a close frame.
    Close {
        /// Close code.
        code: u16,
        /// Close reason.
        #[serde(default)]
        reason: String,
    },
    /// The connection stays open and falls silent: no frames, no answers.
    Hang,
    /// These bytes as one binary WebSocket message: garbage, or a frame of `tests/fixtures`.
    Frame {
        /// Base64 in JSON.
        #[serde(deserialize_with = "base64_bytes")]
        bytes: Bytes,
    },
    /// A text message, which TikTok never sends.
    Text {
        /// Its content.
        text: String,
    },
    /// One more message in the middle of the next frame: a garbage payload, an unknown method.
    Message {
        /// Method name.
        method: String,
        /// Base64 in JSON; sent as it is.
        #[serde(deserialize_with = "base64_bytes")]
        payload: Bytes,
    },
}

impl Script {
    /// Nobody on stage, as fast as possible, one lap: what tests start from.
    pub fn new() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 0).into(),
            creators: Vec::new(),
            pace: Pace::AsFastAsPossible,
            laps: Some(1),
            offline_pause: Duration::from_millis(200),
            history: 6,
            heartbeat_timeout: Duration::from_secs(30),
            signed_life: Duration::from_secs(30),
            record: Record::Everything,
        }
    }

    /// Adds an account.
    #[must_use]
    pub fn creator(mut self, creator: Creator) -> Self {
        self.creators.push(creator);
        self
    }

    /// Adds one account for each capture file of a folder, named as the file (`room-a`).
    pub fn captures(mut self, folder: &Path) -> anyhow::Result<Self> {
        use anyhow::Context;
        let mut paths = std::fs::read_dir(folder)
            .with_context(|| format!("can't read the captures folder {}", folder.display()))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()?;
        paths.retain(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".ndjson") && !name.ends_with(".expected.ndjson")
        });
        paths.sort();
        anyhow::ensure!(
            !paths.is_empty(),
            "no captures (*.ndjson) in {}",
            folder.display()
        );
        for path in paths {
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            self.creators
                .push(Creator::plays(&name, Capture::read(&path)?));
        }
        Ok(self)
    }
}

impl Default for Script {
    fn default() -> Self {
        Self::new()
    }
}

impl Creator {
    /// An account that does what `show` says.
    pub fn new(name: &str, show: Show) -> Self {
        Self {
            name: name.to_owned(),
            show,
            faults: Vec::new(),
        }
    }

    /// An account that broadcasts a capture.
    pub fn plays(name: &str, capture: Capture) -> Self {
        Self::new(name, Show::Plays(capture))
    }

    /// Adds a fault.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }
}

fn base64_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let text = String::deserialize(deserializer)?;
    BASE64_STANDARD
        .decode(text)
        .map(Bytes::from)
        .map_err(serde::de::Error::custom)
}
