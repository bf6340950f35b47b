//! Compiles `proto/*.proto` to Rust without `protoc`.
//!
//! In goes our own schema; out come `webcast.frames.rs` and `webcast.rs` in `OUT_DIR`, which
//! `src/proto.rs` includes.

use std::error::Error;

use prost_build::Config;
use protox::prost_reflect::prost_types::DescriptorProto;
use protox::prost_reflect::prost_types::field_descriptor_proto::Type;

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
    Config::new()
        // Slices of the frame they came in, not copies.
        .bytes(["."])
        .btree_map(["."])
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
