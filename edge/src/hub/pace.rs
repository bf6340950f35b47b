//! How often a hub writes: at once, or gathered when it would be too often.
//!
//! Comes in: each delivery, with the number of clients it goes to. Goes out: whether to gather.
//! Measured over the last whole second, by what would be written without gathering, so that
//! gathering does not end itself.

/// Above so many writes a second a hub gathers events.
const MAX_WRITES_PER_SECOND: u64 = 2_000;

/// Time between two writes to a client while gathering, in milliseconds.
pub(crate) const GATHER_MS: u32 = 75;

/// Counts the writes that deliveries ask for.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    second: i64,
    writes: u64,
    last_second: u64,
}

impl Pace {
    /// Counts a delivery to `clients` and answers whether to gather.
    pub(crate) fn gathers(&mut self, now_ms: i64, clients: u64) -> bool {
        let second = now_ms.div_euclid(1_000);
        if second != self.second {
            self.last_second = if second == self.second + 1 {
                self.writes
            } else {
                0
            };
            self.second = second;
            self.writes = 0;
        }
        self.writes += clients;
        self.writes.max(self.last_second) > MAX_WRITES_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_writes_go_at_once() {
        let mut pace = Pace::default();
        for now in (0..10_000).step_by(10) {
            assert!(!pace.gathers(now, 20), "100 × 20 a second is the limit");
        }
    }

    #[test]
    fn many_writes_are_gathered_until_they_are_few_again() {
        let mut pace = Pace::default();
        let gathered = (0..3_000).filter(|now| pace.gathers(*now, 10)).count();
        assert!(
            (2_700..2_900).contains(&gathered),
            "from the 201st delivery on: {gathered}"
        );
        assert!(pace.gathers(3_500, 10), "the second before was busy");
        assert!(!pace.gathers(4_500, 10));
        assert!(!pace.gathers(60_000, 10));
    }
}
