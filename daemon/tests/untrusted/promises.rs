//! What is promised of any bytes: no panic, no more than 16 MiB, no more than 50 ms.
//!
//! In: any bytes. Out: nothing; a broken promise is a panic. Shared by the tests beside this file
//! and by the fuzz targets (`fuzz/`): the program that includes this file sets
//! [`peakmem_alloc::INSTRUMENTED_SYSTEM`] as its allocator.

use std::cell::RefCell;
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use daemon::ingest::Frames;
use daemon::normalizer::{Contract, Lines, Reason, normalize};
use daemon::proto::MESSAGE_LIMIT;
use daemon::proto::frames::{FetchResult, PushFrame};
use flate2::Compression;
use flate2::write::GzEncoder;
use peakmem_alloc::{INSTRUMENTED_SYSTEM, PeakMemAllocTrait as _};
use prost::Message as _;
use rustix::time::{ClockId, clock_gettime};
use shared::raw::{Envelope, RawData, Source};
use shared::time::Timestamp;

/// What one frame or message may take beside what it came in, in bytes.
const MEMORY: usize = 16 * 1024 * 1024;
/// What it may take of a processor.
const TIME: Duration = Duration::from_millis(50);

/// Every type that is read, some that are not, and one that nobody knows.
pub(crate) const METHODS: [&str; 42] = [
    "WebcastChatMessage",
    "WebcastGiftMessage",
    "WebcastLikeMessage",
    "WebcastMemberMessage",
    "WebcastSocialMessage",
    "WebcastSubNotifyMessage",
    "WebcastEmoteChatMessage",
    "WebcastLinkMicBattle",
    "WebcastLinkMicArmies",
    "WebcastBarrageMessage",
    "WebcastRoomUserSeqMessage",
    "WebcastControlMessage",
    "WebcastQuestionNewMessage",
    "WebcastLiveIntroMessage",
    "WebcastEnvelopeMessage",
    "WebcastImDeleteMessage",
    "WebcastGoalUpdateMessage",
    "WebcastPollMessage",
    "WebcastRankUpdateMessage",
    "WebcastRankTextMessage",
    "WebcastHourlyRankRewardMessage",
    "WebcastCaptionMessage",
    "WebcastRoomPinMessage",
    "RoomMessage",
    "WebcastSystemMessage",
    "WebcastUnauthorizedMemberMessage",
    "WebcastOecLiveShoppingMessage",
    "WebcastLinkMicFanTicketMethod",
    "LinkMicMethod",
    "WebcastLinkMessage",
    "WebcastLinkLayerMessage",
    "WebcastLinkMicBattlePunishFinish",
    "WebcastLinkmicBattleTaskMessage",
    "WebcastToastMessage",
    "WebcastSubPinEventMessage",
    "WebcastInRoomBannerMessage",
    "WebcastCapsuleMessage",
    "WebcastAISummaryMessage",
    "ControlEvent.CONNECTED",
    "ControlEvent.DISCONNECTED",
    "ControlEvent.ERROR",
    "ControlEvent.GAP",
];

/// A frame as it comes from the socket.
pub(crate) fn frame(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    within_bounds("the frame", || {
        let now = Timestamp::from_millis(1_763_800_000_000);
        let mut frames = Frames::new("7301", None, now);
        let Ok(taken) = frames.take(&bytes, now) else {
            return;
        };
        let numbers: Vec<u64> = taken
            .envelopes
            .iter()
            .map(|envelope| envelope.seq_no)
            .collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        assert!(taken.envelopes.len() + taken.damaged.len() <= 5_000);
    });
}

/// The payload of a frame, as it is and compressed; also what is no compressed payload, said to be.
pub(crate) fn inflate(payload: &[u8]) {
    frame(&push_frame(payload.to_vec()));
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    if encoder.write_all(payload).is_ok()
        && let Ok(compressed) = encoder.finish()
    {
        frame(&push_frame(compressed));
    }
    let mut claimed = vec![0x1f, 0x8b, 0x08];
    claimed.extend(payload);
    frame(&push_frame(claimed));
}

/// A push frame with a payload.
pub(crate) fn push_frame(payload: Vec<u8>) -> Vec<u8> {
    let frame = PushFrame {
        log_id: 1,
        payload_encoding: "pb".to_owned(),
        payload_type: "msg".to_owned(),
        payload: payload.into(),
        ..PushFrame::default()
    };
    frame.encode_to_vec()
}

/// The payload of a frame with these messages, each as its bytes are.
#[allow(dead_code, reason = "only the tests make frames of messages")]
pub(crate) fn fetch_result(messages: Vec<Bytes>) -> Vec<u8> {
    let result = FetchResult {
        messages,
        ..FetchResult::default()
    };
    result.encode_to_vec()
}

/// A method by its place, which is a byte of the input.
fn method(number: u8) -> &'static str {
    METHODS[usize::from(number) % METHODS.len()]
}

/// A message's protobuf; the first byte says which type.
pub(crate) fn protobuf_event(bytes: &[u8]) {
    if let Some((number, payload)) = bytes.split_first() {
        protobuf(method(*number), payload);
    }
}

/// A message's protobuf, through the text that it is in Redis to the text of its event.
pub(crate) fn protobuf(kind: &str, payload: &[u8]) {
    // Ingest takes no longer ones.
    let payload = &payload[..payload.len().min(MESSAGE_LIMIT)];
    let text = RawData::Protobuf(payload.to_vec()).to_text();
    within_bounds(kind, || {
        let Ok(data) = RawData::from_text(&text) else {
            panic!("base64 is read")
        };
        outcome(kind, data);
    });
}

/// What the normalizer makes of data: an event that keeps the contract, or a parse error.
fn outcome(kind: &str, data: RawData) {
    let now = Timestamp::from_millis(1_763_800_000_000);
    let envelope = Envelope {
        stream_id: "7301".to_owned(),
        session_id: uuid::Uuid::from_u128(7),
        source: Source::Live,
        kind: kind.to_owned(),
        seq_no: 1,
        timestamp: now,
        ingested_at: now,
        data,
        msg_id: None,
        backlog: false,
        replay_of: None,
    };
    match normalize(&envelope) {
        Ok(event) => CONTRACT.with_borrow(|contract| {
            let json = contract
                .json(&event)
                .unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert!(
                !json.contains("\\u0000"),
                "{kind}: a text that Postgres refuses"
            );
        }),
        Err(rejection) => {
            assert_eq!(rejection.reason, Reason::ParseError, "{kind}: {rejection}");
            assert!(
                rejection.error.len() < 1_000,
                "{kind}: an error as long as its message"
            );
        }
    }
}

thread_local! {
    static CONTRACT: RefCell<Contract> = RefCell::new(Contract::new().expect("the schema compiles"));
    static LINES: RefCell<Lines> = RefCell::new(Lines::new().expect("the schema compiles"));
}

/// A message's JSON; the first byte says which type.
pub(crate) fn json_event(bytes: &[u8]) {
    if let Some((number, text)) = bytes.split_first() {
        json(method(*number), &String::from_utf8_lossy(text));
    }
}

/// A message's JSON, as the text that it is in Redis, through the limits, to the text of its event.
pub(crate) fn json(kind: &str, text: &str) {
    let line = serde_json::json!({
        "schemaVersion": "raw.v1", "streamId": "7301", "source": "live", "seqNo": 1,
        "sessionId": "01980000-0000-7000-8000-000000000001", "type": kind, "data": text,
        "timestamp": "2026-11-22T15:04:05.678Z", "ingestedAt": "2026-11-22T15:04:05.678Z",
    })
    .to_string();
    self::line(line.as_bytes());
}

/// A line of `ttlc normalize`.
pub(crate) fn line(line: &[u8]) {
    within_bounds("the line", || {
        let answer = LINES.with_borrow_mut(|lines| lines.answer(line));
        assert!(answer.starts_with('{') && !answer.contains('\n'));
        assert!(
            !answer.contains("VALIDATION_ERROR") || answer.contains("\"schemaVersion\""),
            "{answer}"
        );
        assert!(
            !answer.contains("panicked on it"),
            "{}",
            String::from_utf8_lossy(line)
        );
    });
}

/// Does the work and holds it to its bounds.
fn within_bounds(what: &str, work: impl Fn()) {
    // What is made once and kept is not the message's.
    CONTRACT.with_borrow(|_| ());
    LINES.with_borrow(|_| ());
    INSTRUMENTED_SYSTEM.reset_peak_memory();
    let mut took = measured(&work);
    let memory = INSTRUMENTED_SYSTEM.get_peak_memory();
    assert!(memory <= MEMORY, "{what} takes {memory} bytes");
    // Time is disturbed by what else the machine does, also time on the processor.
    for _ in 0..4 {
        if took <= TIME * slowness() {
            return;
        }
        took = took.min(measured(&work));
    }
    panic!("{what} takes {took:?} of a processor");
}

/// How much slower than the product this program may be: as it is built for tests it is not
/// optimised, and for fuzzing every branch is counted. In a plain release build the bound is exact
/// (`cargo xtask nightly` runs the tests so).
#[allow(unexpected_cfgs, reason = "set by what builds the fuzz targets")]
fn slowness() -> u32 {
    if cfg!(fuzzing) {
        4
    } else if cfg!(debug_assertions) {
        20
    } else {
        1
    }
}

fn measured(work: impl Fn()) -> Duration {
    let begun = processor_time();
    work();
    processor_time().saturating_sub(begun)
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
