//! Any bytes: no panic, no more than 16 MiB, no more than 50 ms of a processor. Here are noise,
//! damaged captures, and the worst that we can think of just within the limits.
//!
//! The allocator of this program counts, so its tests run one after the other.

#[path = "untrusted/promises.rs"]
mod promises;

use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use peakmem_alloc::{INSTRUMENTED_SYSTEM, PeakMemAlloc, PeakMemAllocTrait as _};
use promises::METHODS;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;
use shared::raw::RawData;

#[global_allocator]
static GLOBAL: &PeakMemAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fixtures(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name)
}

/// Types and payloads of the captures.
static CAPTURED: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let mut messages = Vec::new();
    for room in ["room-a", "room-b", "room-c", "room-d", "mixed"] {
        let text = std::fs::read_to_string(fixtures(&format!("captures/{room}.ndjson"))).unwrap();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let Ok(RawData::Protobuf(bytes)) =
                RawData::from_text(line["payload"].as_str().unwrap())
            else {
                panic!("captures hold base64")
            };
            messages.push((line["type"].as_str().unwrap().to_owned(), bytes));
        }
    }
    messages
});

/// Messages as a provider sends them in JSON.
static JSON: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let mut messages = Vec::new();
    for file in ["encoded-v1", "encoded-v2", "encoded-v3", "observed-v2"] {
        let text = std::fs::read_to_string(fixtures(&format!("euler-ws/{file}.ndjson"))).unwrap();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            for message in line["messages"].as_array().unwrap() {
                let kind = message["type"].as_str().unwrap().to_owned();
                messages.push((kind, message["data"].to_string()));
            }
        }
    }
    messages
});

const KIB: usize = 1024;

#[test]
fn the_promises_are_kept_for_what_is_real() {
    let _alone = alone();
    for (kind, payload) in CAPTURED.iter() {
        promises::protobuf(kind, payload);
    }
    for (kind, text) in JSON.iter() {
        promises::json(kind, text);
    }
    for entry in std::fs::read_dir(fixtures("encoded")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        promises::frame(&bytes);
        promises::inflate(&bytes);
    }
}

#[test]
fn the_bounds_are_really_measured() {
    let _alone = alone();
    INSTRUMENTED_SYSTEM.reset_peak_memory();
    drop(std::hint::black_box(vec![1_u8; 3_000_000]));
    let peak = INSTRUMENTED_SYSTEM.get_peak_memory();
    assert!((3_000_000..3_100_000).contains(&peak), "{peak}");
}

#[test]
fn the_worst_frames() {
    let _alone = alone();
    let message = |method: &str, payload: Vec<u8>| -> Bytes {
        let message = daemon::proto::frames::BaseMessage {
            method: method.to_owned(),
            payload: payload.into(),
            ..Default::default()
        };
        message.encode_to_vec().into()
    };
    let empty = vec![Bytes::new(); 5_000];
    let small = vec![message("A", vec![7; 700]); 5_000];
    let alike: Vec<Bytes> = (0..5_000_u32)
        .map(|number| message(&"M".repeat(200), number.to_be_bytes().repeat(140)))
        .collect();
    let long = vec![message("A", vec![7; 1024 * KIB]); 3];
    let too_long = vec![message("A", vec![7; 1024 * KIB + 1]); 3];
    let names = vec![message(&"M".repeat(790), vec![]); 5_000];
    let bad = vec![Bytes::from(vec![0x0a; 800]); 5_000];
    for messages in [empty, small, alike, long, too_long, names, bad] {
        let payload = promises::fetch_result(messages);
        assert!(payload.len() < 4 * 1024 * KIB, "{}", payload.len());
        promises::inflate(&payload);
    }
    // Fields, headers, parameters, groups.
    for pair in [
        [0x0a, 0x00],
        [0x12, 0x00],
        [0x2a, 0x00],
        [0x3a, 0x00],
        [0x42, 0x00],
        [0x08, 0x00],
        [0x0b, 0x0c],
        [0x0b, 0x0b],
        [0xff, 0xff],
        [0x00, 0x00],
    ] {
        let bytes = pair.repeat(1024 * KIB - 50);
        promises::frame(&bytes);
        promises::inflate(&bytes);
        promises::inflate(&bytes.repeat(3)[..4 * 1024 * KIB - 100]);
    }
    promises::inflate(&vec![0; 64 * 1024 * KIB]);
}

/// A field of bytes.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut field);
    encode_varint(bytes.len() as u64, &mut field);
    field.extend_from_slice(bytes);
    field
}

/// As often as it fits into the longest message that is decoded, but no oftener than `most`.
fn filled(unit: &[u8], most: usize) -> Vec<u8> {
    unit.repeat((256 * KIB / unit.len()).min(most))
}

/// All of them where this program is optimised, as `cargo xtask nightly` builds it; else some.
fn thorough<T: Copy>(all: &'static [T]) -> impl Iterator<Item = T> {
    let step = if cfg!(debug_assertions) { 9 } else { 1 };
    all.iter().copied().step_by(step)
}

#[test]
fn the_worst_messages() {
    let _alone = alone();
    for kind in thorough(&METHODS) {
        if kind.starts_with("ControlEvent.") {
            continue;
        }
        for number in 1..=47 {
            // Empty parts and packed numbers, as many as are taken.
            promises::protobuf(kind, &filled(&field(number, &[]), 2_000));
            promises::protobuf(kind, &field(number, &[1; 1_990]));
        }
        for number in 1..=8 {
            // As many as there is room for.
            promises::protobuf(kind, &filled(&field(number, &[]), usize::MAX));
            promises::protobuf(kind, &field(number, &vec![1; 200 * KIB]));
        }
        for text in [&[1_u8][..], &[0xff], b"{"] {
            for number in [2, 3, 24] {
                promises::protobuf(kind, &field(number, &text.repeat(250 * KIB / text.len())));
            }
        }
    }
    for length in [255, 257, 1_023] {
        promises::protobuf("WebcastUnknownMessage", &vec![0xff; length * KIB]);
        promises::protobuf("WebcastChatMessage", &vec![0xff; length * KIB]);
    }
}

/// Patterns whose places are filled with pieces: few bytes that become many.
#[test]
fn the_worst_texts() {
    let _alone = alone();
    let piece = |length: usize| field(4, &field(11, &vec![b'x'; length]));
    let text = |pattern: &[u8], pieces: &[u8]| {
        let mut text = field(2, pattern);
        text.extend_from_slice(pieces);
        text
    };
    for (places, length) in [(40, 100), (150, 440), (20_000, 1), (1_000, 0), (10, 6_500)] {
        let shown = text(&b"{0}".repeat(places), &piece(length));
        // Of a header, of many updates of a rank, and of a battle's banner.
        let header = field(1, &field(8, &shown));
        let updates = filled(&field(2, &field(3, &shown)), 600);
        promises::protobuf("WebcastRankUpdateMessage", &header);
        promises::protobuf("WebcastRankUpdateMessage", &updates);
        promises::protobuf("WebcastBarrageMessage", &field(5, &shown));
        promises::protobuf("WebcastBarrageMessage", &field(24, &shown));
        promises::protobuf("WebcastRankTextMessage", &field(6, &shown));
    }
    for pattern in [&b"{"[..], b"{{}", b"{0", b"}{", b"{0:"] {
        let shown = text(&pattern.repeat(250 * KIB / pattern.len()), &piece(1));
        promises::protobuf("WebcastBarrageMessage", &field(5, &shown));
        promises::protobuf("WebcastRankTextMessage", &field(6, &shown));
        promises::protobuf("WebcastChatMessage", &field(1, &field(8, &shown)));
    }
    // People, as many as there may be, each with a long name.
    for length in [1, 50, 120] {
        let user = [field(3, &vec![1; length]), vec![0x08, 7]].concat();
        promises::protobuf("WebcastChatMessage", &filled(&field(28, &user), 2_000));
        promises::protobuf(
            "WebcastRoomUserSeqMessage",
            &filled(&field(2, &field(2, &user)), 1_000),
        );
        promises::protobuf(
            "WebcastGiftMessage",
            &field(7, &filled(&field(64, &user), 2_000)),
        );
    }
    // All of them different, in places that are compared with each other.
    let numbers: Vec<u8> = (0..1_990_u64)
        .flat_map(|number| {
            let mut bytes = Vec::new();
            encode_varint(number + 1, &mut bytes);
            bytes
        })
        .collect();
    promises::protobuf("WebcastChatMessage", &field(27, &numbers));
    let badges: Vec<u8> = (0..1_900_u64)
        .flat_map(|number| {
            let mut badge = vec![0x18];
            encode_varint(number, &mut badge);
            field(64, &badge)
        })
        .collect();
    promises::protobuf("WebcastChatMessage", &field(2, &badges));
}

#[test]
fn the_worst_json() {
    let _alone = alone();
    let whole = 1024 * KIB;
    for kind in thorough(&METHODS) {
        for unit in [
            "[],",
            "{},",
            "{\"\":0},",
            "0,",
            "\"\",",
            "[{\"\":[]}],",
            "1e308,",
            "null,",
        ] {
            for length in [28 * KIB, 150 * KIB, whole - 20] {
                let items = unit.repeat(length / unit.len());
                promises::json(kind, &format!("{{\"user\":[{items}0]}}"));
            }
        }
        for text in ["x", "\\u0000", "\\u0001", "\\\"", "\u{1f339}"] {
            let long = text.repeat((whole - 20) / text.len());
            promises::json(kind, &format!("{{\"content\":\"{long}\"}}"));
        }
        let depth =
            |open: &str, close: &str, depth| open.repeat(depth) + "0" + &close.repeat(depth);
        for deep in [60, 126, 128, 50_000] {
            promises::json(kind, &format!("{{\"user\":{}}}", depth("[", "]", deep)));
            promises::json(kind, &depth("{\"user\":", "}", deep));
        }
        let members: Vec<String> = (0..20_000)
            .map(|number| format!("\"{number}\":0"))
            .collect();
        let members = members.join(",");
        promises::json(kind, &format!("{{{members}}}"));
    }
    for line in ["[", "{\"data\":", "{},", "\"", "0,", "{\"data\":{\"\":{}},"] {
        promises::line(line.repeat(4 * whole / line.len()).as_bytes());
    }
}

/// What fuzzing starts from: the encoded set whole, and of each captured type the shortest. With
/// `TTLC_FUZZ_SEEDS` set they are written there, in a folder for each target.
#[test]
fn the_seeds_of_fuzzing_keep_the_promises() {
    let _alone = alone();
    let mut seeds: Vec<(&str, Vec<u8>)> = Vec::new();
    let numbered = |kind: &str| {
        let place = METHODS.iter().position(|known| *known == kind);
        u8::try_from(place.unwrap_or(METHODS.len() - 5)).unwrap()
    };
    let index = std::fs::read_to_string(fixtures("encoded/index.json")).unwrap();
    let mut protobuf: std::collections::BTreeMap<&str, &[u8]> = std::collections::BTreeMap::new();
    for (kind, payload) in CAPTURED.iter() {
        let shortest = protobuf.entry(kind).or_insert(payload);
        if payload.len() < shortest.len() {
            *shortest = payload;
        }
    }
    let messages = |kind: &str, payload: &[u8]| [&[numbered(kind)], payload].concat();
    for (kind, payload) in protobuf {
        seeds.push(("protobuf_event", messages(kind, payload)));
    }
    for entry in serde_json::from_str::<Vec<Value>>(&index).unwrap() {
        let bytes =
            std::fs::read(fixtures("encoded").join(entry["file"].as_str().unwrap())).unwrap();
        match entry["kind"].as_str().unwrap() {
            "payload" => {
                let kind = entry["method"].as_str().unwrap();
                seeds.push(("protobuf_event", messages(kind, &bytes)));
            }
            "fetch-result" => {
                seeds.push(("frame", promises::push_frame(bytes.clone())));
                seeds.push(("inflate", bytes));
            }
            _ if bytes.len() < 10 * KIB => seeds.push(("frame", bytes)),
            _ => {} // the bomb, which is longer than what is made up
        }
    }
    for (kind, payload) in CAPTURED.iter().step_by(100) {
        let message = daemon::proto::frames::BaseMessage {
            method: kind.clone(),
            payload: payload.clone().into(),
            ..Default::default()
        };
        let messages = vec![message.encode_to_vec().into(); 2];
        seeds.push(("inflate", promises::fetch_result(messages)));
    }
    for (kind, text) in JSON.iter().filter(|(_, text)| text.len() < 16_000) {
        seeds.push(("json_event", messages(kind, text.as_bytes())));
    }
    let folder = std::env::var_os("TTLC_FUZZ_SEEDS").map(std::path::PathBuf::from);
    let mut targets = std::collections::BTreeSet::new();
    for (number, (target, bytes)) in seeds.iter().enumerate() {
        targets.insert(*target);
        match *target {
            "frame" => promises::frame(bytes),
            "inflate" => promises::inflate(bytes),
            "protobuf_event" => promises::protobuf_event(bytes),
            "json_event" => promises::json_event(bytes),
            other => panic!("{other} is no target"),
        }
        if let Some(folder) = &folder {
            let folder = folder.join(target);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("seed-{number:03}")), bytes).unwrap();
        }
    }
    assert_eq!(targets.len(), 4, "{targets:?}");
}

/// The list that fuzzing chooses from has everything that we know.
#[test]
fn every_type_is_tried() {
    // Others are of the provider's making, such as `roomInfo`.
    let of_tiktok = JSON.iter().filter(|(kind, _)| kind.starts_with("Webcast"));
    for (kind, _) in of_tiktok {
        let known = METHODS.contains(&kind.as_str())
            || METHODS.contains(&kind.trim_start_matches("Webcast"));
        assert!(known, "{kind} is not in METHODS");
    }
}

fn any_method() -> impl Strategy<Value = String> {
    prop_oneof![
        9 => select(METHODS.to_vec()).prop_map(str::to_owned),
        1 => "[A-Za-z.]{1,20}",
    ]
    .prop_filter("our own messages are JSON", |kind| {
        !kind.starts_with("ControlEvent.")
    })
}

/// A message of fields whose numbers and kinds are TikTok's, and whose content is anything.
fn any_fields() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        (1..70_u32, any::<u64>()).prop_map(|(number, value)| {
            let mut field = Vec::new();
            encode_key(number, WireType::Varint, &mut field);
            encode_varint(value, &mut field);
            field
        }),
        (1..70_u32, any::<Vec<u8>>()).prop_map(|(number, bytes)| field(number, &bytes)),
        (1..70_u32, ".{0,20}").prop_map(|(number, text)| field(number, text.as_bytes())),
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        (1..70_u32, prop::collection::vec(inner, 0..8), 1..60_usize).prop_map(
            |(number, parts, times)| {
                let field = field(number, &parts.concat());
                let room = 20 * KIB / field.len();
                field.repeat(times.min(room.max(1)))
            },
        )
    })
}

fn damaged(mut bytes: Vec<u8>, damage: &[(Index, u8)], keep: Option<Index>) -> Vec<u8> {
    for (place, byte) in damage {
        if !bytes.is_empty() {
            let place = place.index(bytes.len());
            bytes[place] ^= byte;
        }
    }
    if let Some(keep) = keep {
        bytes.truncate(keep.index(bytes.len() + 1));
    }
    bytes
}

fn any_damage() -> impl Strategy<Value = (Vec<(Index, u8)>, Option<Index>)> {
    let flips = prop::collection::vec((any::<Index>(), any::<u8>()), 0..6);
    (flips, prop::option::weighted(0.3, any::<Index>()))
}

proptest! {
    #[test]
    fn noise(kind in any_method(), bytes in prop::collection::vec(any::<u8>(), 0..3_000)) {
        let _alone = alone();
        promises::frame(&bytes);
        promises::inflate(&bytes);
        promises::protobuf(&kind, &bytes);
        promises::json(&kind, &String::from_utf8_lossy(&bytes));
        promises::line(&bytes);
    }

    #[test]
    fn fields_of_any_kind(kind in any_method(), bytes in any_fields()) {
        let _alone = alone();
        promises::protobuf(&kind, &bytes);
        promises::inflate(&bytes);
    }

    #[test]
    fn damaged_captures(first in any::<Index>(), second in any::<Index>(), (damage, keep) in any_damage()) {
        let _alone = alone();
        let (kind, payload) = first.get(&CAPTURED);
        let (_, other) = second.get(&CAPTURED);
        // The begin of one and the end of another.
        let cut = second.index(payload.len() + 1);
        let spliced = [&payload[..cut], &other[other.len() / 2..]].concat();
        promises::protobuf(kind, &damaged(spliced, &damage, keep));
        promises::protobuf(kind, &damaged(payload.clone(), &damage, keep));
    }

    #[test]
    fn damaged_json(index in any::<Index>(), (damage, keep) in any_damage()) {
        let _alone = alone();
        let (kind, text) = index.get(&JSON);
        let bytes = damaged(text.clone().into_bytes(), &damage, keep);
        promises::json(kind, &String::from_utf8_lossy(&bytes));
    }
}
