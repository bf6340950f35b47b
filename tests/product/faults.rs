//! Short names for what shall go wrong, and for who plays made-up events.

use std::time::Duration;

use upstream::{Act, Creator, Fault, Load, Mix, Place, Refusal, RetryAfter, Show, Trouble};

/// In the stream, after so many frames.
pub(crate) fn at(after_frames: u64, act: Act) -> Fault {
    Fault::Playback { after_frames, act }
}

/// To the next requests of this kind.
pub(crate) fn http(place: Place, times: u32, trouble: Trouble) -> Fault {
    Fault::Http {
        place,
        skip: 0,
        times,
        trouble,
    }
}

/// An answer with this status, as Euler words it.
pub(crate) fn status(status: u16) -> Trouble {
    Trouble::Status {
        status,
        retry_after: None,
        label: None,
        body: None,
    }
}

/// "Too many requests", to come again after so many seconds.
pub(crate) fn limited(seconds: u32, label: &str) -> Trouble {
    Trouble::Status {
        status: 429,
        retry_after: Some(RetryAfter::Seconds(seconds)),
        label: Some(label.to_owned()),
        body: None,
    }
}

/// The next signatures are refused with this status.
pub(crate) fn unsigned(times: u32, status: u16) -> Fault {
    Fault::Sign {
        skip: 0,
        times,
        refusal: Refusal::Status {
            status,
            retry_after: None,
        },
    }
}

/// Euler closes the next sockets with this code.
pub(crate) fn euler_closes(times: u32, code: u16) -> Fault {
    Fault::EulerClose {
        skip: 0,
        times,
        code,
        reason: String::new(),
    }
}

/// A creator who is live with so many small made-up events per second, without end; 0: a quiet
/// room.
pub(crate) fn chatty(name: &str, rate: f64) -> Creator {
    let load = Load {
        size: 600,
        ..Load::new(7, rate)
    };
    Creator::new(name, Show::Generated(load))
}

/// The same with gifts above all.
pub(crate) fn generous(name: &str, rate: f64, events: u64) -> Creator {
    let load = Load {
        size: 600,
        events: Some(events),
        mix: Mix {
            gift: 40,
            ..Mix::default()
        },
        ..Load::new(11, rate)
    };
    Creator::new(name, Show::Generated(load))
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
