//! What `cargo xtask` is made of, and what the `tests` package uses of it: child processes that
//! never outlive us, private Redis and Postgres servers, the Worker under `wrangler dev`.
//!
//! In: the checkout, the environment and a `.env` file. Out: built programs, running servers, a
//! verdict. Unix only (Linux, macOS).

pub mod bench;
pub mod check;
pub mod dev;
pub mod edge;
pub mod faults;
pub mod http;
pub mod nightly;
pub mod node;
pub mod packages;
pub mod ports;
pub mod processes;
pub mod progress;
pub mod project;
pub mod secret_scan;
pub mod servers;
pub mod settings;
pub mod stack;
pub mod stamp;
pub mod test;
pub mod tools;
pub mod ui;
pub mod wasm;
