//! What shall go wrong.
//!
//! Plain data, in code or as JSON (`POST /stand-in/faults/{creator}`, `--fault`). Faults are
//! one-shot and counted from the moment they are armed, so that a test says exactly when something
//! goes wrong and the same run gives the same trouble. A [`Fault`] says where and when, an [`Act`]
//! what happens in the stream, a [`Trouble`] what happens to an HTTP answer.

use bytes::Bytes;
use serde::Deserialize;

use crate::ledger::Provider;

/// One JSON example of every fault, and what it does; part of the help text.
pub const EXAMPLES: [(&str, &str); 20] = [
    (
        r#"{"playback": {"afterFrames": 10, "act": "drop"}}"#,
        r#"no close frame; also: "reset" (TCP), "hang", "halfFrame", "deaf" (heartbeats unanswered)"#,
    ),
    (
        r#"{"playback": {"act": {"close": {"code": 1011, "reason": "oops"}}}}"#,
        "a close frame",
    ),
    (
        r#"{"on": {"provider": "euler", "afterFrames": 5, "act": "hang"}}"#,
        r#"any act, for the sockets of one provider: "direct" or "euler""#,
    ),
    (
        r#"{"playback": {"act": {"resend": {"count": 6, "history": true}}}}"#,
        "the last messages once more, flagged as history or not",
    ),
    (
        r#"{"playback": {"act": {"streak": {"coins": 5, "counts": [1, 3, 2], "ended": true}}}}"#,
        "a gift streak, counts in this order",
    ),
    (
        r#"{"playback": {"act": "restart"}}"#,
        "a new room id without an end",
    ),
    (
        r#"{"playback": {"act": {"interrupt": {"ms": 500}}}}"#,
        "offline for a while, then the same room",
    ),
    (
        r#"{"playback": {"act": {"pause": {"ms": 500}}}}"#,
        "status 3 for a while",
    ),
    (
        r#"{"playback": {"act": {"control": {"action": 9}}}}"#,
        "a control message",
    ),
    (
        r#"{"playback": {"act": "end"}}"#,
        "the broadcast ends; the next one has to be started",
    ),
    (
        r#"{"playback": {"act": {"gzipBomb": {"mebibytes": 64}}}}"#,
        r#"also: "wrongHeader", {"frame": {"bytes": BASE64}}"#,
    ),
    (
        r#"{"playback": {"act": {"text": {"text": "{\"timestamp\":"}}}}"#,
        "a text message, whatever it says",
    ),
    (
        r#"{"playback": {"act": {"message": {"method": "WebcastNewMessage", "payload": "/w=="}}}}"#,
        "a message in the middle of the next frame",
    ),
    (
        r#"{"http": {"place": "sign", "times": 2, "trouble": {"status": {"status": 429, "retryAfter": 3, "label": "rate_limit_account_day"}}}}"#,
        "any status; places: page, api, roomInfo, sign, roomId, socket, eulerSocket",
    ),
    (
        r#"{"http": {"place": "sign", "times": 1, "trouble": {"status": {"status": 503, "retryAfter": {"date": 60}}}}}"#,
        "Retry-After as a date",
    ),
    (
        r#"{"http": {"place": "api", "skip": 1, "times": 1, "trouble": "stall"}}"#,
        r#"also: "empty", "html", "verify", "brokenJson", "reset", {"slow": {"ms": 50}}"#,
    ),
    (
        r#"{"eulerClose": {"times": 1, "code": 4556}}"#,
        "Euler accepts and closes at once",
    ),
    (
        r#"{"sign": {"times": 1, "refusal": "missingCookie"}}"#,
        r#"also: "missingCursor", "garbage", {"status": {"status": 500}}"#,
    ),
    (
        r#"{"handshake": {"times": 1, "message": "DEVICE_BLOCKED", "status": 415}}"#,
        "a handshake refused as TikTok does it",
    ),
    (
        r#"{"captcha": {"times": 1}}"#,
        "page and API ask for a captcha",
    ),
];

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
    /// The same, but only the sockets of one provider notice. Acts that change the room, such as
    /// [`Act::Restart`], happen to both all the same.
    On {
        /// Whose sockets.
        provider: Provider,
        /// Frames from now on; 0: before the next one.
        #[serde(default)]
        after_frames: u64,
        /// What happens.
        act: Act,
    },
    /// HTTP answers go wrong, those to WebSocket handshakes included.
    Http {
        /// Which requests.
        place: Place,
        /// Requests that pass before.
        #[serde(default)]
        skip: u32,
        /// Requests that are hit.
        times: u32,
        /// What happens to them.
        trouble: Trouble,
    },
    /// Euler accepts the socket and closes it at once: 4401, 4404, 4429, 4556 …
    EulerClose {
        /// Sockets that pass before.
        #[serde(default)]
        skip: u32,
        /// Sockets that are hit.
        times: u32,
        /// Close code.
        code: u16,
        /// Close reason; empty: the code's usual name.
        #[serde(default)]
        reason: String,
    },
}

/// Which requests a [`Fault::Http`] hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Place {
    /// `/@{name}/live`
    Page,
    /// `/api-live/user/room/`
    Api,
    /// `/webcast/room/info/`
    RoomInfo,
    /// `/webcast/rooms/{room_id}/connect` and `/webcast/fetch`
    Sign,
    /// `/webcast/anchors/{name}/room_id`
    RoomId,
    /// The handshake of TikTok's socket.
    Socket,
    /// The handshake of Euler's socket.
    EulerSocket,
}

/// What happens to an HTTP answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Trouble {
    /// An error status, with a JSON body like the sign server's unless told otherwise.
    Status {
        /// Any status.
        status: u16,
        /// When to come again.
        #[serde(default)]
        retry_after: Option<RetryAfter>,
        /// `limit_label`, such as `rate_limit_account_day`; a 429 names the minute by itself.
        #[serde(default)]
        label: Option<String>,
        /// A body of its own.
        #[serde(default)]
        body: Option<String>,
    },
    /// 200 and an empty body.
    Empty,
    /// 200 and a page that holds no data.
    Html,
    /// 302 to a page that wants to verify the visitor.
    Verify,
    /// 200 and JSON that breaks off.
    BrokenJson,
    /// The request is taken and never answered.
    Stall,
    /// The right answer, one byte at a time.
    Slow {
        /// Milliseconds between two bytes.
        ms: u64,
    },
    /// Half of the right answer, then a TCP reset.
    Reset,
}

/// `Retry-After`: in JSON a number of seconds, or `{"date": seconds}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum RetryAfter {
    /// As seconds.
    Seconds(u32),
    /// As an HTTP date.
    Date {
        /// That many seconds from now.
        date: u32,
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
    /// The connection is reset (TCP RST).
    Reset,
    /// Half of a frame is written, then nothing any more.
    HalfFrame,
    /// Heartbeats are no longer answered; messages keep coming.
    Deaf,
    /// The next frame's compress header says the contrary of what its payload is.
    WrongHeader,
    /// A frame that inflates to this many MiB.
    GzipBomb {
        /// How big.
        mebibytes: u32,
    },
    /// The last messages of the broadcast come again.
    Resend {
        /// How many.
        count: usize,
        /// Whether they are flagged as history.
        #[serde(default)]
        history: bool,
    },
    /// One frame with a gift streak whose counts come in this order.
    Streak {
        /// Price of the gift.
        coins: u32,
        /// `repeatCount` of each message.
        counts: Vec<u32>,
        /// Whether a message with `repeatEnd` and the highest count follows.
        #[serde(default)]
        ended: bool,
    },
    /// A control message: 1 paused, 2 resumed, 3 ended, 4 suspended, others unknown. It only says
    /// so: the broadcast goes on.
    Control {
        /// Its action.
        action: u32,
    },
    /// The host pauses: a control message, status 3, no messages; resumes after this time.
    Pause {
        /// Milliseconds.
        ms: u64,
    },
    /// The sockets drop and the broadcast goes on in a room with a new id. No end is announced.
    Restart,
    /// The sockets drop and the creator is offline; later the same room goes on.
    Interrupt {
        /// Milliseconds.
        ms: u64,
    },
    /// The broadcast ends. [`crate::Upstream::start_broadcast`] begins the next one.
    End,
}

fn base64_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let text = String::deserialize(deserializer)?;
    BASE64_STANDARD
        .decode(text)
        .map(Bytes::from)
        .map_err(serde::de::Error::custom)
}
