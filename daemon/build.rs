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
use protox::prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto};

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
    let bodies = schema
        .file
        .iter()
        .filter(|file| file.package() == "webcast");
    let shapes = shapes(bodies.flat_map(|file| &file.message_type))?;
    std::fs::write(
        Path::new(&std::env::var("OUT_DIR")?).join("shapes.rs"),
        shapes,
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

/// A table of all messages: for each field its number and how it is written, so that a message
/// with a field of another kind can be read without that field.
fn shapes<'a>(messages: impl Iterator<Item = &'a DescriptorProto>) -> Result<String, String> {
    fn collect<'a>(
        all: &mut BTreeMap<String, &'a [FieldDescriptorProto]>,
        name: String,
        message: &'a DescriptorProto,
    ) {
        for nested in &message.nested_type {
            collect(all, format!("{name}.{}", nested.name()), nested);
        }
        all.insert(name, &message.field);
    }

    let mut all = BTreeMap::new();
    for message in messages {
        collect(&mut all, message.name().to_owned(), message);
    }
    let mut table = String::from("&[\n");
    for (name, fields) in &all {
        write!(table, "    (\"{name}\", &[").map_err(|error| error.to_string())?;
        for field in *fields {
            let kind = match field.r#type() {
                Type::Message => {
                    let target = field.type_name().trim_start_matches(".webcast.");
                    let index = all.keys().position(|name| name == target);
                    format!("Kind::Message({})", index.ok_or(target)?)
                }
                Type::Bytes => "Kind::Bytes".to_owned(),
                Type::Int32 | Type::Int64 | Type::Bool if field.label() == Label::Repeated => {
                    "Kind::Numbers".to_owned()
                }
                Type::Int32 | Type::Int64 | Type::Bool => "Kind::Number".to_owned(),
                other => return Err(format!("{name}.{}: {other:?} is not used", field.name())),
            };
            write!(table, "({}, {kind}), ", field.number()).map_err(|error| error.to_string())?;
        }
        table.push_str("]),\n");
    }
    table.push_str("]\n");
    Ok(table)
}
