//! The guard for webhooks against all that is known to get around such guards: addresses written in odd
//! ways, names that change their mind, servers that point elsewhere.

#[path = "webhooks/addresses.rs"]
mod addresses;
#[path = "webhooks/command.rs"]
mod command;
#[path = "webhooks/corpus.rs"]
mod corpus;
#[path = "webhooks/rebinding.rs"]
mod rebinding;
#[path = "webhooks/redirects.rs"]
mod redirects;
#[path = "webhooks/rig.rs"]
mod rig;
