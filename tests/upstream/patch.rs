//! Makes a recorded message a new one, without a schema.
//!
//! In: the payload of a capture and the ids and time it shall have now. Out: the same bytes except
//! for three numbers of its header: `common` is field 1 of the payload, and in it `msgId` is
//! field 2, `roomId` field 3, `createTime` field 4. Lengths are recomputed; everything else,
//! unknown fields and the order of fields included, stays as TikTok sent it.
//!
//! Field 1 is taken for the header only when it is length-delimited, parses as a message and
//! begins its story with a `method` (field 1) that is a string: in a few types field 1 is
//! something else, and those go through untouched. So does anything that is no protobuf.

use std::ops::Range;

/// The numbers of a message header, as recorded. 0 stands for absent, as in proto3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `common.msgId`.
    pub msg_id: i64,
    /// `common.roomId`.
    pub room_id: i64,
    /// `common.createTime`: unix ms, in some types seconds.
    pub create_time: i64,
}

const MSG_ID: u64 = 2;
const ROOM_ID: u64 = 3;
const CREATE_TIME: u64 = 4;

/// Reads the header of a payload; `None` when it has none.
pub fn header(payload: &[u8]) -> Option<Header> {
    let (_, range) = common(payload)?;
    let mut header = Header::default();
    for field in Fields(payload.get(range)?, 0) {
        let field = field?;
        if let Value::Varint(value) = field.value {
            let value = value.cast_signed();
            match field.number {
                MSG_ID => header.msg_id = value,
                ROOM_ID => header.room_id = value,
                CREATE_TIME => header.create_time = value,
                _ => {}
            }
        }
    }
    Some(header)
}

/// The payload with the numbers of `new` in its header. A number that is absent (or zero) there
/// stays so: captions and live intros have no time, and a stand-in that gave them one would hide
/// what the daemon does about that. Without a header the payload comes back as it is.
pub fn patch(payload: &[u8], new: Header) -> Vec<u8> {
    let Some((length_at, range)) = common(payload) else {
        return payload.to_vec();
    };
    let old = &payload[range.clone()];
    let mut inner = Vec::with_capacity(old.len() + 8);
    for field in Fields(old, 0) {
        // `common` parsed it a moment ago.
        let Some(field) = field else {
            return payload.to_vec();
        };
        let replacement = match (field.number, &field.value) {
            (_, Value::Varint(0)) => None,
            (MSG_ID, Value::Varint(_)) => Some(new.msg_id),
            (ROOM_ID, Value::Varint(_)) => Some(new.room_id),
            (CREATE_TIME, Value::Varint(_)) => Some(new.create_time),
            _ => None,
        };
        if let Some(value) = replacement {
            write_varint(&mut inner, field.number << 3);
            write_varint(&mut inner, value.cast_unsigned());
        } else {
            inner.extend_from_slice(&old[field.start..field.end]);
        }
    }
    let mut patched = Vec::with_capacity(payload.len() + 8);
    patched.extend_from_slice(&payload[..length_at]);
    write_varint(&mut patched, inner.len() as u64);
    patched.extend_from_slice(&inner);
    patched.extend_from_slice(&payload[range.end..]);
    patched
}

/// The last varint with this field number at the top level of a payload.
pub fn varint_field(payload: &[u8], number: u64) -> Option<u64> {
    Fields(payload, 0)
        .flatten()
        .filter(|field| field.number == number)
        .fold(None, |seen, field| {
            if let Value::Varint(value) = field.value {
                Some(value)
            } else {
                seen
            }
        })
}

/// Where the header's length and content lie in the payload.
fn common(payload: &[u8]) -> Option<(usize, Range<usize>)> {
    let mut found = None;
    for field in Fields(payload, 0) {
        let field = field?;
        if field.number == 1 && found.is_none() {
            let Value::Bytes { length_at, range } = field.value else {
                return None;
            };
            found = Some((length_at, range));
        }
    }
    let (length_at, range) = found?;
    let content = &payload[range.clone()];
    let mut method = false;
    for field in Fields(content, 0) {
        let field = field?;
        if field.number == 1 {
            let Value::Bytes { range, .. } = field.value else {
                return None;
            };
            let text = &content[range];
            method = !text.is_empty() && text.iter().all(u8::is_ascii_alphanumeric);
        }
    }
    method.then_some((length_at, range))
}

pub(crate) enum Value {
    Varint(u64),
    /// Positions in the slice that is walked.
    Bytes {
        length_at: usize,
        range: Range<usize>,
    },
    Fixed,
}

pub(crate) struct Field {
    pub(crate) number: u64,
    pub(crate) value: Value,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Walks the fields of a message; `None` as an item means that it is not one.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8], pub(crate) usize);

impl Iterator for Fields<'_> {
    type Item = Option<Field>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.1 >= self.0.len() {
            return None;
        }
        let field = read_field(self.0, self.1);
        self.1 = field.as_ref().map_or(self.0.len(), |field| field.end);
        Some(field)
    }
}

fn read_field(bytes: &[u8], start: usize) -> Option<Field> {
    let (tag, at) = read_varint(bytes, start)?;
    let number = tag >> 3;
    let (value, end) = match tag & 7 {
        0 => {
            let (value, end) = read_varint(bytes, at)?;
            (Value::Varint(value), end)
        }
        1 => (Value::Fixed, at + 8),
        2 => {
            let (length, from) = read_varint(bytes, at)?;
            let end = from.checked_add(usize::try_from(length).ok()?)?;
            (
                Value::Bytes {
                    length_at: at,
                    range: from..end,
                },
                end,
            )
        }
        5 => (Value::Fixed, at + 4),
        _ => return None,
    };
    (number != 0 && end <= bytes.len()).then_some(Field {
        number,
        value,
        start,
        end,
    })
}

pub(crate) fn read_varint(bytes: &[u8], start: usize) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.get(start..)?.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, start + index + 1));
        }
    }
    None
}

pub(crate) fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

#[cfg(test)]
mod tests;
