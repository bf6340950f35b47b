use bytes::Bytes;
use prost::Message as _;
use shared::event::Payload;
use shared::raw::RawData;

use super::*;
use crate::normalizer::decode::{decode, shape_of};
use crate::normalizer::normalize;
use crate::normalizer::tests::fixtures::{ROOMS, capture, encoded, envelope as raw};
use crate::proto::webcast::{ChatMessage, ImDeleteMessage, RankUpdateMessage};

fn refused<M: prost::Message + Default + prost::Name>(payload: Vec<u8>) -> Option<Exceeded> {
    match decode::<M>(&Bytes::from(payload)) {
        Err(Unreadable::Limit(exceeded)) => Some(exceeded),
        Err(Unreadable::Protobuf(_)) | Ok(_) => None,
    }
}

#[test]
fn parts_are_counted_before_they_are_made() {
    // Empty mentions, two bytes of tag and one of length.
    let mention = [0xe2, 0x01, 0x00];
    assert_eq!(refused::<ChatMessage>(mention.repeat(PARTS_LIMIT)), None);
    assert_eq!(
        refused::<ChatMessage>(mention.repeat(PARTS_LIMIT + 1)),
        Some(Exceeded::Parts)
    );
    // Packed numbers, and numbers one by one.
    let packed = |count: usize| {
        let message = ImDeleteMessage {
            delete_msg_ids: vec![1; count],
            ..Default::default()
        };
        message.encode_to_vec()
    };
    assert_eq!(refused::<ImDeleteMessage>(packed(PARTS_LIMIT)), None);
    assert_eq!(
        refused::<ImDeleteMessage>(packed(PARTS_LIMIT + 1)),
        Some(Exceeded::Parts)
    );
    assert_eq!(
        refused::<ImDeleteMessage>([0x10, 1].repeat(PARTS_LIMIT + 1)),
        Some(Exceeded::Parts)
    );
    // Entries of a map.
    assert_eq!(
        refused::<crate::proto::webcast::LinkMicArmies>([0x1a, 0x00].repeat(PARTS_LIMIT + 1)),
        Some(Exceeded::Parts)
    );
    // Inside another message, and behind a group, which the decoder skips.
    let mut nested = vec![0x0a, 0x00, 0x13, 0x14];
    let update = [0x12, 0x02, 0x1a, 0x00].repeat(PARTS_LIMIT / 2 + 1);
    nested.extend(update);
    assert_eq!(refused::<RankUpdateMessage>(nested), Some(Exceeded::Parts));
}

#[test]
fn fields_and_bytes_are_counted_too() {
    // The addresses of a picture: `user` { `avatar_thumb` { `url_list` } }.
    let picture = |count: usize| {
        let urls = [0x0a, 0x00].repeat(count);
        let mut user = vec![0x4a];
        prost::encoding::encode_varint(urls.len() as u64, &mut user);
        user.extend(urls);
        let mut chat = vec![0x12];
        prost::encoding::encode_varint(user.len() as u64, &mut chat);
        chat.extend(user);
        chat
    };
    assert_eq!(refused::<ChatMessage>(picture(FIELDS_LIMIT - 2)), None);
    assert_eq!(
        refused::<ChatMessage>(picture(FIELDS_LIMIT - 1)),
        Some(Exceeded::Fields)
    );
    let text = |length: usize| {
        let mut chat = vec![0x1a];
        prost::encoding::encode_varint(length as u64, &mut chat);
        chat.resize(chat.len() + length, b'x');
        chat
    };
    assert_eq!(refused::<ChatMessage>(text(DECODED_LIMIT - 4)), None);
    assert_eq!(
        refused::<ChatMessage>(text(DECODED_LIMIT)),
        Some(Exceeded::Decoded(DECODED_LIMIT + 4))
    );
}

#[test]
fn beyond_the_limits_a_typed_message_is_refused_and_any_other_passes() {
    let bytes = [0x12, 0x00].repeat(DECODED_LIMIT);
    let refused = normalize(&raw(
        "WebcastChatMessage",
        RawData::Protobuf(bytes.clone()),
        1,
    ));
    let error = refused.unwrap_err().error;
    assert_eq!(
        error,
        "WebcastChatMessage: has 524288 bytes, more than the 262144 that are decoded"
    );
    for kind in ["WebcastPollMessage", "WebcastUnknownMessage"] {
        let event = normalize(&raw(kind, RawData::Protobuf(bytes.clone()), 1)).unwrap();
        let Payload::Raw(passed) = event.payload else {
            panic!("{kind} is raw")
        };
        assert_eq!(passed.decoded, None);
        assert_eq!(
            RawData::from_text(passed.raw.as_str().unwrap()).unwrap(),
            RawData::Protobuf(bytes.clone())
        );
    }
}

#[test]
fn data_is_limited_before_it_is_read() {
    let refuse = |text: &str| {
        let rejection = envelope(|field| (field == "data").then_some(text)).unwrap_err();
        rejection.error
    };
    let missing = "field `schemaVersion` is missing";
    let base64 = "AAAA".repeat(MESSAGE_LIMIT / 3 + 1);
    assert_eq!(refuse(&base64), missing);
    assert!(refuse(&(base64 + "AAAA")).starts_with("field `data` has "));
    let json = |length: usize| format!("{{\"a\":\"{}\"}}", "\\\"".repeat((length - 8) / 2));
    assert_eq!(refuse(&json(MESSAGE_LIMIT)), missing);
    assert!(refuse(&json(MESSAGE_LIMIT + 2)).starts_with("field `data` has "));
    // Quoted punctuation is text; unquoted, it is values.
    let quoted = format!("{{\"a\":\"{}\"}}", "{,\\\"[".repeat(100_000));
    assert_eq!(refuse(&quoted), missing);
    for bomb in ["[],", "{\"\":0},", "0,", "[{}],"] {
        let text = format!("{{\"a\":[{}0]}}", bomb.repeat(100_000));
        assert_eq!(
            refuse(&text),
            "field `data` is JSON of too many values",
            "{bomb}"
        );
    }
}

/// The dearest text for its length: what is passed unread must be within the limit.
#[test]
fn a_short_text_cannot_exceed_the_cost() {
    let bomb = "{\"\":0},".repeat(JSON_FREE / 7);
    let cost = (OBJECT_COST + 2 * VALUE_COST) * (JSON_FREE / 7);
    assert!(bomb.len() <= JSON_FREE && cost <= JSON_COST_LIMIT);
    assert!(bomb.len() + 7 > JSON_FREE);
}

/// The limits are far from what TikTok sends.
#[test]
fn captures_are_far_from_the_limits() {
    let (mut longest, mut parts, mut fields) = (0, 0, 0);
    let cases = ROOMS.into_iter().flat_map(capture).chain(encoded());
    for case in cases {
        let method = &case.envelope.kind;
        let name = method.strip_prefix("Webcast").unwrap_or(method);
        let payload = case.payload();
        assert!(payload.len() * 20 < MESSAGE_LIMIT, "{}", case.name);
        let Some(shape) = shape_of(name) else {
            continue;
        };
        let mut count = Count::default();
        count.message(payload, shape, MAX_DEPTH).unwrap();
        longest = longest.max(payload.len());
        parts = parts.max(count.parts);
        fields = fields.max(count.fields);
    }
    println!("{longest} bytes, {parts} parts, {fields} fields");
    assert!(longest * 5 < DECODED_LIMIT);
    assert!(parts * 10 < PARTS_LIMIT, "{parts}");
    assert!(fields * 10 < FIELDS_LIMIT, "{fields}");
    assert!(parts > 20 && fields > 100, "nothing was counted");
}

/// Both decoders end at a depth; a dependency that switches this off (prost's feature
/// `no-recursion-limit`, `serde_json`'s `unbounded_depth`) would let a stranger overflow the stack.
#[test]
fn depth_is_limited_by_the_decoders() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Nested {
        #[prost(message, optional, boxed, tag = "1")]
        inner: Option<Box<Nested>>,
    }
    let nested = |depth: usize| {
        let mut bytes = Vec::new();
        for _ in 0..depth {
            let mut outer = vec![0x0a];
            prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
            outer.append(&mut bytes);
            bytes = outer;
        }
        Nested::decode(bytes.as_slice())
    };
    assert!(nested(100).is_ok());
    assert!(nested(101).is_err());
    // Unknown groups, one inside the other.
    let groups = |depth: usize| {
        let mut bytes = vec![0x13; depth];
        bytes.extend(vec![0x14; depth]);
        Nested::decode(bytes.as_slice())
    };
    assert!(groups(99).is_ok());
    assert!(groups(101).is_err());

    let json = |depth: usize| {
        let text = "[".repeat(depth) + &"]".repeat(depth);
        serde_json::from_str::<serde_json::Value>(&text)
    };
    assert!(json(127).is_ok());
    assert!(json(128).is_err());
}
