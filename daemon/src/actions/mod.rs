//! What rules make happen outside: for now, where a webhook may go and how it gets there.
//!
//! In: an address that somebody wrote into a rule. Out: a request to a public server that the operator
//! allowed, or the reason why not. Who writes rules is not trusted: an address may be made to reach what
//! only this machine can reach (the cloud's metadata, a database, a router). So [`guard`] looks at the
//! address as a parser sees it, [`address`] at every IP address its name has, and [`webhook`] connects to
//! one of exactly these, once they have all passed, and follows nothing. Nothing here is kept: each try
//! begins anew.

pub mod address;
pub mod guard;
pub mod network;
pub mod webhook;

use guard::Guard;
use network::Internet;
use webhook::{Failure, Webhooks};

/// Where webhooks may go.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)] // several stages have `Options`; a group would be named after the type
pub struct Options {
    /// Hosts that webhooks may go to, separated by commas: `hooks.example.com`, `*.example.com` (what is
    /// below it), `hooks.example.com:8443` (another port than 443), `*` (every public host); none when
    /// not set
    #[arg(long, env = "WEBHOOK_ALLOW", default_value = "")]
    pub webhook_allow: Guard,
}

/// Options of `check-webhook`.
#[derive(Debug, clap::Args)]
pub struct CheckOptions {
    /// The address that a rule would name
    pub url: String,
    /// Where webhooks may go.
    #[command(flatten)]
    pub allowed: Options,
}

/// Says whether a webhook may go to this address now, and to which IP addresses it would connect. Nothing
/// is sent. Paths are not repeated: with many services they are the secret.
///
/// # Errors
/// Why it may not.
pub async fn check(options: CheckOptions) -> Result<String, Failure> {
    let webhooks = Webhooks::new(options.allowed.webhook_allow, Internet::default())?;
    let route = webhooks.route(&options.url).await?;
    let addresses: Vec<String> = route.addresses.iter().map(ToString::to_string).collect();
    Ok(format!(
        "allowed: {} connects to {}",
        route.target.origin(),
        addresses.join(", else ")
    ))
}
