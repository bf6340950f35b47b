//! Every recorded and every encoded payload, patched: three numbers change and nothing else.

use std::{fs, path::Path};

use super::*;
use crate::capture::Capture;

const NEW: Header = Header {
    msg_id: i64::MAX,
    room_id: 5,
    create_time: 1_795_000_000_000,
};

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The top-level fields as (number, wire type, bytes with tag), with the header taken apart.
fn fields(payload: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut list = Vec::new();
    let header_at = common(payload).map(|(_, range)| range);
    for field in Fields(payload, 0) {
        let field = field.unwrap();
        match &field.value {
            Value::Bytes { range, .. } if Some(range) == header_at.as_ref() => {
                for inner in Fields(&payload[range.clone()], 0) {
                    let inner = inner.unwrap();
                    let bytes = payload[range.clone()][inner.start..inner.end].to_vec();
                    list.push((format!("common.{}", inner.number), bytes));
                }
            }
            _ => list.push((
                field.number.to_string(),
                payload[field.start..field.end].to_vec(),
            )),
        }
    }
    list
}

/// Patches and compares field by field; true when there was a header.
fn check(payload: &[u8], name: &str) -> bool {
    let patched = patch(payload, NEW);
    let Some(old) = header(payload) else {
        assert_eq!(patched, payload, "{name}: no header, so untouched");
        return false;
    };
    let keep_zero = |old: i64, new: i64| if old == 0 { 0 } else { new };
    let expected = Header {
        msg_id: keep_zero(old.msg_id, NEW.msg_id),
        room_id: keep_zero(old.room_id, NEW.room_id),
        create_time: keep_zero(old.create_time, NEW.create_time),
    };
    assert_eq!(header(&patched), Some(expected), "{name}");
    let (before, after) = (fields(payload), fields(&patched));
    assert_eq!(before.len(), after.len(), "{name}");
    for ((number, old), (same_number, new)) in before.iter().zip(&after) {
        assert_eq!(number, same_number, "{name}: the order of fields stays");
        if !matches!(number.as_str(), "common.2" | "common.3" | "common.4") {
            assert_eq!(old, new, "{name}: field {number} stays");
        }
    }
    // And back again: not one byte is lost on the way.
    assert_eq!(patch(&patched, old), payload, "{name}");
    true
}

#[test]
fn all_captures_survive_patching() {
    let mut with_header = 0;
    let mut all = 0;
    for name in ["room-a", "room-b", "room-c", "room-d", "mixed"] {
        let path = fixtures().join(format!("captures/{name}.ndjson"));
        for (index, line) in Capture::read(&path).unwrap().lines.iter().enumerate() {
            with_header += usize::from(check(&line.payload, &format!("{name} line {index}")));
            all += 1;
        }
    }
    assert_eq!((all, with_header), (1129, 1129));
}

#[test]
fn encoded_payloads_survive_patching_and_garbage_goes_through() {
    let mut without_header = Vec::new();
    for entry in fs::read_dir(fixtures().join("encoded")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("payload-") && !check(&fs::read(&path).unwrap(), &name) {
            without_header.push(name);
        }
    }
    assert_eq!(without_header, ["payload-odd-garbage.bin"]);
}

#[test]
fn a_first_field_that_is_no_header_stays() {
    // {1: 42, 2: "x"}, as in the weekly rank reward message.
    let number = b"\x08\x2a\x12\x01x";
    assert_eq!(patch(number, NEW), number);
    // {1: {1: 7, 2: 9}}: a message, but its field 1 is no string.
    let other = b"\x0a\x04\x08\x07\x10\x09";
    assert_eq!(patch(other, NEW), other);
    // {1: "hello"}: a string that is no message.
    let text = b"\x0a\x05hello";
    assert_eq!(patch(text, NEW), text);
    // A length that points past the end.
    let cut = b"\x0a\x7f\x0a\x01M";
    assert_eq!(patch(cut, NEW), cut);
    assert_eq!(patch(b"", NEW), b"");
}

#[test]
fn lengths_written_longer_than_needed_are_understood() {
    // {1: {1: "M", 2: 1}} with the length 5 in two bytes.
    let payload = b"\x0a\x85\x00\x0a\x01M\x10\x01";
    let patched = patch(payload, Header { msg_id: 300, ..NEW });
    assert_eq!(patched, b"\x0a\x06\x0a\x01M\x10\xac\x02");
}
