//! What the stand-in shall play, how fast, and where it shall misbehave.
//!
//! A [`Script`] is plain data: tests build it in code, the program from its arguments. Faults are
//! one-shot and counted from the moment they are added, so that a test says exactly when something
//! goes wrong and the same run gives the same trouble.

use std::{net::SocketAddr, path::Path, time::Duration};

use crate::{capture::Capture, euler::Euler, fault::Fault, load::Load};

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
    /// How Euler's side behaves.
    pub euler: Euler,
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
    /// What clients get again; `None`: what the script says.
    pub history: Option<History>,
}

/// What of a running broadcast a client gets again when it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// So many messages.
    Messages(usize),
    /// What was sent in this time before.
    Last(Duration),
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
    /// Broadcasts a capture, but the room wants a login because of its viewers' age.
    AgeRestricted(Capture),
    /// Broadcasts a capture, but only to viewers who are logged in.
    LoginWanted(Capture),
    /// Broadcasts made-up events: for measurements.
    Generated(Load),
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
            euler: Euler::default(),
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

    /// Adds `rooms` accounts, `load-0` and so on, that broadcast made-up events.
    #[must_use]
    pub fn load(mut self, rooms: usize, load: &Load) -> Self {
        self.creators.extend(
            (0..rooms)
                .map(|room| Creator::new(&format!("load-{room}"), Show::Generated(load.clone()))),
        );
        self
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
            history: None,
        }
    }

    /// An account that broadcasts a capture.
    pub fn plays(name: &str, capture: Capture) -> Self {
        Self::new(name, Show::Plays(capture))
    }

    /// Says what clients get again when they connect.
    #[must_use]
    pub fn history(mut self, history: History) -> Self {
        self.history = Some(history);
        self
    }

    /// Adds a fault.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }
}
