//! Bytes to a typed message, forgiving what TikTok's own clients forgive.
//!
//! Comes in: the payload of one message, bytes or JSON. Goes out: the message, or why it is none. TikTok changes
//! fields now and then: one that comes as another kind than we declare (text where a number was)
//! is left out instead of costing the message, as in clients that read with a schema of their
//! own. Text that is not UTF-8 costs nothing either (see `proto/webcast.proto`). Bytes that are
//! no protobuf at all, or end in the middle, are an error, and so is a message beyond `limits`.
//! JSON becomes the same bytes first (see `json`), so that there is one way from a message to an
//! event.

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost::{Message, Name};
use serde_json::{Map, Value};

use super::json::to_protobuf;
use super::limits::{self, Unreadable};
use crate::proto::{Value as Part, Wire};

/// How a field is written on the wire.
pub(super) enum Kind {
    /// A varint; several of them may be packed.
    Number,
    /// Text or bytes.
    Bytes,
    /// A message: its place in [`SHAPES`].
    Message(usize),
}

/// A field that we read.
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) repeated: bool,
}

/// What we read of a message.
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) fields: &'static [Field],
    /// The names that fields have in JSON, folded and sorted, each with the place of its field
    /// and its rank: where JSON has several names of a field, the lowest counts.
    pub(super) names: &'static [(&'static str, usize, usize)],
}

/// All messages of `webcast.proto` in the order of their names; made by `build.rs`.
pub(super) static SHAPES: &[Shape] = include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// The place of a message in [`SHAPES`].
pub(super) fn shape_of(name: &str) -> Option<usize> {
    SHAPES.binary_search_by(|shape| shape.name.cmp(name)).ok()
}

/// Deeper than any message; the same limit as the decoder's.
const MAX_DEPTH: u32 = 100;

/// The data of one message, as its provider delivered it.
pub(super) enum Body<'a> {
    /// TikTok's own bytes.
    Protobuf(Bytes),
    /// An object with the names of any of the schemas.
    Json(&'a Map<String, Value>),
}

impl Body<'_> {
    /// Reads a message.
    pub(super) fn decode<M: Message + Default + Name>(&self) -> Result<M, Unreadable> {
        match self {
            Self::Protobuf(payload) => decode(payload),
            Self::Json(object) => decode(&to_protobuf(object, M::NAME).into()),
        }
    }
}

/// Reads a message from its bytes.
pub(super) fn decode<M: Message + Default + Name>(payload: &Bytes) -> Result<M, Unreadable> {
    // Every message is in the table; one that were not would have no field.
    let shape = shape_of(M::NAME).unwrap_or(usize::MAX);
    limits::protobuf(payload, shape)?;
    M::decode(payload.clone())
        .or_else(|error| match without_misfits(payload, shape, MAX_DEPTH) {
            Some(repaired) => M::decode(repaired.as_slice()),
            None => Err(error),
        })
        .map_err(Unreadable::Protobuf)
}

/// The same message with only the fields we read, and of these only such that are of the declared
/// kind; `None` where the bytes are no protobuf.
fn without_misfits(payload: &[u8], shape: usize, depth: u32) -> Option<Vec<u8>> {
    let depth = depth.checked_sub(1)?;
    let fields = SHAPES.get(shape)?.fields;
    let mut kept = Vec::with_capacity(payload.len());
    let mut wire = Wire(payload);
    while !wire.0.is_empty() {
        let (number, value) = wire.field()?;
        let Some(field) = fields
            .iter()
            .find(|field| u64::from(field.number) == number)
        else {
            continue;
        };
        match (&field.kind, value) {
            (Kind::Number, Part::Number(value)) => append_number(field.number, value, &mut kept),
            (Kind::Number, Part::Bytes(packed)) if field.repeated => {
                append(field.number, packed, &mut kept);
            }
            (Kind::Bytes, Part::Bytes(bytes)) => append(field.number, bytes, &mut kept),
            (Kind::Message(inner), Part::Bytes(bytes)) => {
                let inner = without_misfits(bytes, *inner, depth)?;
                append(field.number, &inner, &mut kept);
            }
            _ => {}
        }
    }
    Some(kept)
}

/// Writes a number as a field.
pub(super) fn append_number(tag: u32, number: u64, message: &mut Vec<u8>) {
    encode_key(tag, WireType::Varint, message);
    encode_varint(number, message);
}

/// Writes text, bytes or a message as a field.
pub(super) fn append(tag: u32, bytes: &[u8], message: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, message);
    encode_varint(bytes.len() as u64, message);
    message.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::webcast::{ChatMessage, ImDeleteMessage, RoomMessage, User};

    /// `{2: "x", 6: 4}`: field 6 is a text in our schema.
    const ODD_SCENE: &[u8] = &[0x12, 1, b'x', 0x30, 4];

    #[test]
    fn a_field_of_another_kind_is_left_out() {
        let message: RoomMessage = decode(&Bytes::from_static(ODD_SCENE)).unwrap();
        assert_eq!(message.content, "x");
        assert_eq!(message.scene, "");
    }

    #[test]
    fn also_inside_another_message() {
        let user = User {
            id: 7,
            nickname: "seven".into(),
            ..User::default()
        };
        let mut inner = user.encode_to_vec();
        inner.extend([0x4a, 2, 0x0a, 0]); // avatar_thumb with an empty address: fits
        encode_key(12, WireType::LengthDelimited, &mut inner); // verified as text: does not
        inner.extend([2, b'n', b'o']);
        let mut payload = Vec::new();
        append(2, &inner, &mut payload);
        append(3, b"hello", &mut payload);
        let message: ChatMessage = decode(&payload.into()).unwrap();
        assert_eq!(message.content, "hello");
        let read = message.user.unwrap();
        assert_eq!((read.id, read.verified), (7, false));
        assert_eq!(read.nickname, "seven");
    }

    #[test]
    fn repeated_numbers_are_read_packed_and_one_by_one() {
        let mut payload = vec![0x10, 1, 0x12, 2, 2, 3, 0x18, 9];
        payload.extend([0x0a, 2, 0x40, 5]); // header whose text is a number: forces the repair
        let message: ImDeleteMessage = decode(&payload.into()).unwrap();
        assert_eq!(message.delete_msg_ids, [1, 2, 3]);
        assert_eq!(message.delete_user_ids, [9]);
    }

    #[test]
    fn text_that_is_not_utf8_costs_nothing() {
        let payload = Bytes::from_static(&[0x1a, 3, b'a', 0xff, b'b']);
        assert_eq!(
            decode::<ChatMessage>(&payload).unwrap().content,
            [b'a', 0xff, b'b'].as_slice()
        );
    }

    #[test]
    fn what_is_no_protobuf_stays_an_error() {
        for bad in [
            &[0x1a, 200, 1, b'x'][..],
            &[0xff; 12],
            &[0x0b, 1],
            &[0x12, 2, 0x08, 0x80],
        ] {
            assert!(
                decode::<ChatMessage>(&Bytes::copy_from_slice(bad)).is_err(),
                "{bad:?}"
            );
        }
    }
}
