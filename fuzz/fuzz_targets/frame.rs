//! Any bytes as a binary WebSocket message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peakmem_alloc::{INSTRUMENTED_SYSTEM, PeakMemAlloc};

#[path = "../../daemon/tests/untrusted/promises.rs"]
#[allow(dead_code, reason = "each target keeps one of them")]
mod promises;

#[global_allocator]
static GLOBAL: &PeakMemAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

fuzz_target!(|bytes: &[u8]| promises::frame(bytes));
