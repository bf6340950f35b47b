//! Compiles `proto/*.proto` to Rust without `protoc`.
//!
//! In goes our own schema; out come, in `OUT_DIR`, `webcast.frames.rs` and `webcast.rs`, which
//! `src/proto.rs` includes, and `shapes.rs`, which `src/normalizer/decode.rs` includes.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use prost_build::Config;
use protox::prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use protox::prost_reflect::prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto,
};

fn main() -> Result<(), Box<dyn Error>> {
    const FILES: [&str; 2] = ["proto/frames.proto", "proto/webcast.proto"];
    println!("cargo::rerun-if-changed=proto");

    let mut schema = protox::compile(FILES, ["proto"])?;
    for file in &mut schema.file {
        if file.package() == "webcast" {
            for message in &mut file.message_type {
                texts_to_bytes(message);
            }
        }
    }
    let bodies = schema.file.iter().find(|file| file.package() == "webcast");
    std::fs::write(
        Path::new(&std::env::var("OUT_DIR")?).join("shapes.rs"),
        shapes(bodies.ok_or("there is no package webcast")?)?,
    )?;
    Config::new()
        // Slices of the frame they came in, not copies.
        .bytes(["."])
        .btree_map(["."])
        // Their names lead to their shapes.
        .enable_type_names()
        .compile_fds(schema)?;
    Ok(())
}

/// A decoded `string` field must be UTF-8 or the whole message is an error; the same bytes as a
/// `bytes` field are always read, and made text where they are used.
fn texts_to_bytes(message: &mut DescriptorProto) {
    for field in &mut message.field {
        if field.r#type() == Type::String {
            field.set_type(Type::Bytes);
        }
    }
    for nested in &mut message.nested_type {
        texts_to_bytes(nested);
    }
}

/// A field, and the names it has in older schemas' JSON.
struct Field<'a> {
    descriptor: &'a FieldDescriptorProto,
    also: Vec<String>,
}

/// A table of all messages in the order of their names. For each field its number, how it is
/// written, so that a message with a field of another kind can be read without that field, and
/// under which names JSON has it.
fn shapes(file: &FileDescriptorProto) -> Result<String, Box<dyn Error>> {
    let mut all: BTreeMap<String, Vec<Field>> = BTreeMap::new();
    for (place, message) in file.message_type.iter().enumerate() {
        let fields = message
            .field
            .iter()
            .enumerate()
            .map(|(number, descriptor)| {
                let also = also(file, place, number, descriptor);
                Field { descriptor, also }
            });
        all.insert(message.name().to_owned(), fields.collect());
        // The entries of maps; nothing else is nested.
        for entry in &message.nested_type {
            let fields = entry.field.iter().map(|descriptor| Field {
                descriptor,
                also: Vec::new(),
            });
            let name = format!("{}.{}", message.name(), entry.name());
            all.insert(name, fields.collect());
        }
    }

    let mut table = String::from("&[\n");
    for (name, fields) in &all {
        write!(table, "    Shape {{ name: \"{name}\", fields: &[")?;
        for Field { descriptor, .. } in fields {
            let kind = match descriptor.r#type() {
                Type::Message => {
                    let target = descriptor.type_name().trim_start_matches(".webcast.");
                    let index = all.keys().position(|name| name == target);
                    format!("Kind::Message({})", index.ok_or(target)?)
                }
                Type::Bytes => "Kind::Bytes".to_owned(),
                Type::Int32 | Type::Int64 | Type::Bool => "Kind::Number".to_owned(),
                other => {
                    return Err(
                        format!("{name}.{}: {other:?} is not used", descriptor.name()).into(),
                    );
                }
            };
            let repeated = descriptor.label() == Label::Repeated;
            let number = descriptor.number();
            write!(
                table,
                "Field {{ number: {number}, kind: {kind}, repeated: {repeated} }}, "
            )?;
        }
        table.push_str("], names: &[");
        for (known, (index, rank)) in names(name, fields)? {
            write!(table, "(\"{known}\", {index}, {rank}), ")?;
        }
        table.push_str("] },\n");
    }
    table.push_str("]\n");
    Ok(table)
}

/// The names behind `// also` in the schema; a header is an `event` in the oldest JSON.
fn also(
    file: &FileDescriptorProto,
    message: usize,
    field: usize,
    descriptor: &FieldDescriptorProto,
) -> Vec<String> {
    // Fields 4 (messages) of a file and 2 (fields) of a message, as descriptor.proto numbers them.
    let path = [4, message, 2, field].map(|part| i32::try_from(part).unwrap_or(-1));
    let comment = file
        .source_code_info
        .iter()
        .flat_map(|info| &info.location)
        .find(|location| location.path == path)
        .map_or("", |location| location.trailing_comments());
    let mut names: Vec<String> = comment
        .trim()
        .strip_prefix("also ")
        .unwrap_or_default()
        .split(", ")
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    if descriptor.type_name() == ".webcast.Header" {
        names.push("event".to_owned());
    }
    names
}

/// Every name of a message's fields, folded as the reader of JSON folds what it finds, with the
/// place of the field and the rank of the name: 0 is the schema's own.
fn names(message: &str, fields: &[Field]) -> Result<BTreeMap<String, (usize, usize)>, String> {
    let mut names = BTreeMap::new();
    for (index, field) in fields.iter().enumerate() {
        let own = field.descriptor.name().to_owned();
        for (rank, name) in std::iter::once(&own).chain(&field.also).enumerate() {
            let folded = name.replace('_', "").to_ascii_lowercase();
            if names.insert(folded, (index, rank)).is_some() {
                return Err(format!("{message}: two fields are called {name}"));
            }
        }
    }
    Ok(names)
}
