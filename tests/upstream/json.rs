//! Recorded messages as JSON, the way Euler's WebSocket API spells them.
//!
//! In: a method name and the bytes of a message. Out: the JSON object of schema version v1, v2 or
//! v3. Fields come from `json/schema.txt`, which was written from the protocol's description and
//! is checked against JSON that another encoder made (`tests/fixtures/euler-ws`). As Euler does
//! it: 64-bit numbers are strings, defaults are written, absent messages are left out, what the
//! version does not know is left out, and a message that it does not know at all gives nothing.
//! A field that does not have the wire type of the table counts as absent.

use std::{collections::HashMap, sync::LazyLock};

use serde_json::{Map, Value, json};

use crate::patch::{self, Fields, read_varint};

/// Which names the fields have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The oldest.
    V1,
    /// What Euler's API speaks unless asked.
    V2,
    /// The newest.
    V3,
}

impl Naming {
    /// `v1`, `v2`, `v3`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "v1" => Some(Self::V1),
            "v2" => Some(Self::V2),
            "v3" => Some(Self::V3),
            _ => None,
        }
    }

    /// As in the query and in `workerInfo`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scalar {
    Int32,
    Int64,
    Bool,
    Text,
    Message(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Many {
    One,
    List,
    Map,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    name: &'static str,
    scalar: Scalar,
    many: Many,
}

#[derive(Debug)]
struct FieldRow {
    number: u64,
    /// By version.
    shapes: [Option<Shape>; 3],
}

type Schema = HashMap<&'static str, Vec<FieldRow>>;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| read_schema(include_str!("json/schema.txt")));

/// The message as JSON, or nothing when this version does not know its method or when the bytes
/// are no protobuf.
pub fn encode(method: &str, payload: &[u8], naming: Naming) -> Option<Value> {
    let rows = SCHEMA.get(method)?;
    if !rows.iter().any(|row| row.shapes[naming as usize].is_some()) {
        return None;
    }
    message(rows, payload, naming).map(Value::Object)
}

fn message(rows: &[FieldRow], bytes: &[u8], naming: Naming) -> Option<Map<String, Value>> {
    let mut found: HashMap<u64, Vec<Wire<'_>>> = HashMap::new();
    for field in Fields(bytes, 0) {
        let field = field?;
        let wire = match field.value {
            patch::Value::Varint(value) => Wire::Varint(value),
            patch::Value::Bytes { range, .. } => Wire::Bytes(&bytes[range]),
            patch::Value::Fixed => continue,
        };
        found.entry(field.number).or_default().push(wire);
    }
    let mut object = Map::new();
    for row in rows {
        let Some(shape) = row.shapes[naming as usize] else {
            continue;
        };
        let wires = found.get(&row.number).map_or(&[][..], Vec::as_slice);
        let value = match shape.many {
            Many::One => wires
                .last()
                .and_then(|wire| single(shape.scalar, *wire, naming))
                .or_else(|| default(shape.scalar)),
            Many::List => Some(list(shape.scalar, wires, naming)),
            Many::Map => Some(map(shape.scalar, wires, naming)),
        };
        if let Some(value) = value {
            object.insert(shape.name.to_owned(), value);
        }
    }
    Some(object)
}

#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

fn single(scalar: Scalar, wire: Wire<'_>, naming: Naming) -> Option<Value> {
    match (scalar, wire) {
        (Scalar::Int32, Wire::Varint(value)) => {
            // As proto3 reads an int32: the lower half.
            let [low @ .., _, _, _, _] = value.to_le_bytes();
            Some(json!(i32::from_le_bytes(low)))
        }
        (Scalar::Int64, Wire::Varint(value)) => Some(json!(value.cast_signed().to_string())),
        (Scalar::Bool, Wire::Varint(value)) => Some(json!(value != 0)),
        (Scalar::Text, Wire::Bytes(bytes)) => Some(json!(std::str::from_utf8(bytes).ok()?)),
        (Scalar::Message(name), Wire::Bytes(bytes)) => {
            message(&SCHEMA[name], bytes, naming).map(Value::Object)
        }
        _ => None,
    }
}

fn default(scalar: Scalar) -> Option<Value> {
    match scalar {
        Scalar::Int32 => Some(json!(0)),
        Scalar::Int64 => Some(json!("0")),
        Scalar::Bool => Some(json!(false)),
        Scalar::Text => Some(json!("")),
        Scalar::Message(_) => None,
    }
}

/// Numbers may come one by one or packed into one field.
fn list(scalar: Scalar, wires: &[Wire<'_>], naming: Naming) -> Value {
    let mut values = Vec::new();
    for wire in wires {
        match (scalar, *wire) {
            (Scalar::Int32 | Scalar::Int64 | Scalar::Bool, Wire::Bytes(packed)) => {
                let mut at = 0;
                while let Some((value, next)) = read_varint(packed, at) {
                    values.extend(single(scalar, Wire::Varint(value), naming));
                    at = next;
                }
            }
            (_, wire) => values.extend(single(scalar, wire, naming)),
        }
    }
    Value::Array(values)
}

/// Entries are messages with the key in field 1 and the value in field 2.
fn map(scalar: Scalar, wires: &[Wire<'_>], naming: Naming) -> Value {
    let mut object = Map::new();
    for wire in wires {
        let Wire::Bytes(entry) = *wire else { continue };
        let key = patch::varint_field(entry, 1).unwrap_or(0).cast_signed();
        let value = Fields(entry, 0)
            .flatten()
            .filter(|field| field.number == 2)
            .find_map(|field| match field.value {
                patch::Value::Bytes { range, .. } => {
                    single(scalar, Wire::Bytes(&entry[range]), naming)
                }
                patch::Value::Varint(value) => single(scalar, Wire::Varint(value), naming),
                patch::Value::Fixed => None,
            });
        if let Some(value) = value {
            object.insert(key.to_string(), value);
        }
    }
    Value::Object(object)
}

/// Reads the table. It is part of the program: a mistake in it is one of ours, and the first use
/// in any test finds it.
fn read_schema(text: &'static str) -> Schema {
    let mut schema = Schema::new();
    let mut current = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(field) = line.strip_prefix("  ") {
            let columns: Vec<&str> = field.split(' ').collect();
            let shape = |column: &&'static str| match *column {
                "-" => None,
                "=" => Some(shape(columns[1], columns[2])),
                other => match other.split_once(':') {
                    Some(("=", kind)) => Some(shape(columns[1], kind)),
                    Some((name, kind)) => Some(shape(name, kind)),
                    None => Some(shape(other, columns[2])),
                },
            };
            let row = FieldRow {
                number: columns[0].parse().expect("a field number"),
                shapes: [
                    columns.get(4).and_then(shape),
                    columns.get(3).and_then(shape),
                    columns.get(1).and_then(shape),
                ],
            };
            schema.get_mut(current).expect("a message").push(row);
        } else if !line.is_empty() {
            current = line;
            schema.insert(current, Vec::new());
        }
    }
    for row in schema.values().flatten() {
        for shape in row.shapes.iter().flatten() {
            if let Scalar::Message(name) = shape.scalar {
                assert!(schema.contains_key(name), "json/schema.txt lacks {name}");
            }
        }
    }
    schema
}

fn shape(name: &'static str, kind: &'static str) -> Shape {
    let (kind, many) = match (kind.strip_suffix('*'), kind.strip_suffix("{}")) {
        (Some(kind), _) => (kind, Many::List),
        (_, Some(kind)) => (kind, Many::Map),
        _ => (kind, Many::One),
    };
    let scalar = match kind {
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "bool" => Scalar::Bool,
        "string" => Scalar::Text,
        message => Scalar::Message(message),
    };
    Shape { name, scalar, many }
}

#[cfg(test)]
mod tests;
