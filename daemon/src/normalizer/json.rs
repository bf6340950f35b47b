//! JSON with the names of any schema version to the bytes of the same protobuf message.
//!
//! Comes in: a message as the provider `euler`, or a recording, has it. Goes out: protobuf, so that
//! everything behind it exists once. By a table that the build makes of `proto/webcast.proto` each
//! name leads to its field: the newest schema's ("v3"), and behind `// also` those of the older
//! ones; where the older ones are built differently, `older` rebuilds them first. Case and
//! underscores of a name do not matter, nor whether a number is a number or a text.
//!
//! Bad input: unknown names are skipped, a value of a wrong type costs its field and no more, and
//! below [`MAX_DEPTH`] messages nothing is read. What goes out is never longer than what came in.

mod older;

use serde_json::{Map, Value};

use super::decode::{Field, Kind, SHAPES, append, append_number, shape_of};
use crate::proto::json::{Folded, number};

/// Twice as deep as any message that TikTok sends.
const MAX_DEPTH: u32 = 24;

/// The bytes of a message with this name in `webcast.proto`.
pub(super) fn to_protobuf(object: &Map<String, Value>, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(shape) = shape_of(name) {
        append_fields(object, shape, MAX_DEPTH, &mut bytes);
    }
    bytes
}

/// Writes the fields of an object; `depth` is how many messages deep it may go.
fn append_fields(object: &Map<String, Value>, shape: usize, depth: u32, bytes: &mut Vec<u8>) {
    let (Some(depth), Some(shape)) = (depth.checked_sub(1), SHAPES.get(shape)) else {
        return;
    };
    let rebuilt = older::rebuilt(shape.name, object);
    let object = rebuilt.as_ref().unwrap_or(object);

    // The best name of each field.
    let mut found: Vec<Option<(usize, &Value)>> = vec![None; shape.fields.len()];
    for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        let place = Folded::of(name).and_then(|name| {
            let names = shape.names;
            let known = names.binary_search_by(|known| known.0.as_bytes().cmp(name.as_bytes()));
            names.get(known.ok()?)
        });
        let Some(&(_, field, rank)) = place else {
            continue;
        };
        if let Some(best) = found.get_mut(field)
            && best.is_none_or(|(known, _)| rank < known)
        {
            *best = Some((rank, value));
        }
    }
    for (field, value) in shape.fields.iter().zip(found) {
        if let Some((_, value)) = value {
            append_field(field, value, depth, bytes);
        }
    }
}

fn append_field(field: &Field, value: &Value, depth: u32, bytes: &mut Vec<u8>) {
    match (value, &field.kind) {
        (Value::Array(items), _) if field.repeated => {
            for item in items {
                append_value(field, item, depth, bytes);
            }
        }
        // Some schemas have a list where others have the one.
        (Value::Array(items), _) => {
            if let Some(first) = items.first() {
                append_value(field, first, depth, bytes);
            }
        }
        (Value::Object(entries), Kind::Message(shape))
            if field.repeated && SHAPES[*shape].name.ends_with("Entry") =>
        {
            for (key, value) in entries {
                append_entry(field, *shape, (key, value), depth, bytes);
            }
        }
        _ => append_value(field, value, depth, bytes),
    }
}

/// One entry of a map. As a list, maps are lists of messages with a `key` and a `value`.
fn append_entry(
    field: &Field,
    shape: usize,
    (key, value): (&str, &Value),
    depth: u32,
    bytes: &mut Vec<u8>,
) {
    let [key_field, value_field, ..] = SHAPES[shape].fields else {
        return;
    };
    let (Ok(key), Some(depth)) = (key.parse::<i64>(), depth.checked_sub(1)) else {
        return;
    };
    let mut entry = Vec::new();
    append_number(key_field.number, key.cast_unsigned(), &mut entry);
    append_value(value_field, value, depth, &mut entry);
    append(field.number, &entry, bytes);
}

fn append_value(field: &Field, value: &Value, depth: u32, bytes: &mut Vec<u8>) {
    match (&field.kind, value) {
        (Kind::Number, value) => {
            if let Some(number) = number(value) {
                append_number(field.number, number.cast_unsigned(), bytes);
            }
        }
        (Kind::Bytes, Value::String(text)) => append(field.number, text.as_bytes(), bytes),
        // An id or a level that is a number here; 0 is what a schema without the field writes.
        (Kind::Bytes, Value::Number(number)) if number.as_f64() != Some(0.0) => {
            append(field.number, number.to_string().as_bytes(), bytes);
        }
        (Kind::Message(shape), Value::Object(object)) => {
            let mut inner = Vec::new();
            append_fields(object, *shape, depth, &mut inner);
            append(field.number, &inner, bytes);
        }
        // Some schemas have the address of a picture where others have the picture.
        (Kind::Message(shape), Value::String(url)) if SHAPES[*shape].name == "Image" => {
            let mut image = Vec::new();
            append(SHAPES[*shape].fields[0].number, url.as_bytes(), &mut image);
            append(field.number, &image, bytes);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
