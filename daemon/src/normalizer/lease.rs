//! Who normalizes a shard: the one process that holds its lease.
//!
//! In: a shard. Out: whether it is ours, and word when it is not any more. While Redis is away
//! nobody else can take it. A crash lets it lapse; whoever was stopped in the middle and comes back
//! is refused by the script that publishes.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::run::STAGE;
use crate::bus::{self, Bus, Owner, ROLE_LEASE, ROLE_RENEW, Role};

/// How long it may take to give the lease back.
const LET_GO: Duration = Duration::from_secs(1);

/// How often a standby asks whether the lease is free.
pub(super) const STANDBY: Duration = Duration::from_secs(1);

/// That this process is the normalizer of a shard.
pub(super) struct Lease {
    bus: Bus,
    role: Role,
    pub(super) owner: Owner,
    /// When it was last taken or renewed.
    pub(super) renewed: Instant,
}

impl Lease {
    /// Not ours yet.
    pub(super) fn new(bus: Bus, shard: u32) -> Self {
        Self {
            bus,
            role: Role::Normalizer(shard),
            owner: Owner::new(),
            renewed: Instant::now(),
        }
    }

    /// Takes or renews it; `false`: another process has it.
    pub(super) async fn take(&mut self) -> Result<bool, bus::Error> {
        let began = Instant::now();
        let ours = self.bus.hold(self.role, self.owner, ROLE_LEASE).await?;
        if ours {
            self.renewed = began;
        }
        Ok(ours)
    }

    /// Renews it in time, until it is lost. While Redis is away nobody else can have it.
    pub(super) async fn lost(&mut self) {
        let mut due = self.renewed + ROLE_RENEW;
        loop {
            sleep_until(due).await;
            match self.take().await {
                Ok(true) => due = self.renewed + ROLE_RENEW,
                Ok(false) => return,
                Err(error) => {
                    tracing::debug!(stage = STAGE, %error, "cannot renew the lease");
                    due = Instant::now() + STANDBY;
                }
            }
        }
    }

    /// Gives it back.
    pub(super) async fn let_go(self) {
        let let_go = self.bus.let_go(self.role, self.owner);
        if !matches!(
            timeout_at(Instant::now() + LET_GO, let_go).await,
            Ok(Ok(()))
        ) {
            tracing::debug!(stage = STAGE, "the lease lapses by itself");
        }
    }
}
