//! Names of the Redis streams, their groups and their fields: everything both sides must spell
//! the same way. Keys that only the daemon uses are in its `bus.rs`.

/// Consumer group of the normalizer on the raw stream.
pub const GROUP_NORMALIZER: &str = "normalizer";
/// Consumer group of the storage writer on the events stream.
pub const GROUP_STORAGE: &str = "storage";
/// Consumer group of the edge's relay on the events stream.
pub const GROUP_API: &str = "api";
/// Consumer group of the forwarder on the events stream.
pub const GROUP_FORWARDER: &str = "forwarder";
/// Consumer group of whoever looks after dead letters.
pub const GROUP_OPS: &str = "ops";
/// Consumer group of action delivery on the actions stream.
pub const GROUP_ACTIONS: &str = "actions";
/// Consumer group of ingest on the control stream.
pub const GROUP_INGEST: &str = "ingest";

/// Field names of an entry of the events stream.
pub mod events {
    /// The UnifiedEvent v1 as JSON.
    pub const EVENT: &str = "event";
    /// When the normalizer made it (RFC 3339); optional.
    pub const NORMALIZED_AT: &str = "normalizedAt";
    /// The raw envelope's `data`, untouched.
    pub const RAW: &str = "raw";
}

/// Field names of an entry of the dead-letter stream.
pub mod dlq {
    /// The stage that gave up: `ingest` (a frame it cannot read), `normalizer`, `storage`, `forwarder`, `actions`.
    pub const STAGE: &str = "stage";
    /// The category, such as `PARSE_ERROR`.
    pub const REASON: &str = "reason";
    /// What went wrong, free of secrets.
    pub const ERROR: &str = "error";
    /// The original entry, all its fields as a JSON object.
    pub const PAYLOAD: &str = "payload";
    /// When (RFC 3339).
    pub const FAILED_AT: &str = "failedAt";
}

/// Makes the names for a number of shards, `STREAM_SHARDS`.
///
/// With one shard they are exactly the names of the contract. With more, each gets the suffix
/// `:{k}`; the braces keep the streams of a shard in one Redis Cluster slot, which the one-script
/// hop from raw to events needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamNames {
    shards: u32,
}

impl StreamNames {
    /// Names for `shards` shards; 0 counts as 1.
    pub fn new(shards: u32) -> Self {
        Self {
            shards: shards.max(1),
        }
    }

    /// How many shards there are, at least 1.
    pub fn shards(self) -> u32 {
        self.shards
    }

    /// The shard of a room: a stable hash (FNV-1a) of its `streamId`, the same in every build.
    pub fn shard_of(self, stream_id: &str) -> u32 {
        let hash = stream_id
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        u32::try_from(hash % u64::from(self.shards)).unwrap_or(0)
    }

    /// Raw envelopes, written by ingest.
    pub fn raw(self, shard: u32) -> String {
        self.name("ttlc:raw", shard)
    }

    /// Unified events, written by the normalizer.
    pub fn events(self, shard: u32) -> String {
        self.name("ttlc:events", shard)
    }

    /// What could not be processed, written by any stage.
    pub fn dlq(self, shard: u32) -> String {
        self.name("ttlc:dlq", shard)
    }

    /// Claimed actions, written by the edge.
    pub fn actions(self, shard: u32) -> String {
        self.name("ttlc:actions", shard)
    }

    /// Commands to ingest, written by the edge.
    pub fn control(self, shard: u32) -> String {
        self.name("ttlc:control", shard)
    }

    fn name(self, base: &str, shard: u32) -> String {
        if self.shards == 1 {
            base.to_owned()
        } else {
            format!("{base}:{{{shard}}}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_shard_has_the_plain_names() {
        let names = StreamNames::new(1);
        assert_eq!(names.raw(0), "ttlc:raw");
        assert_eq!(names.events(0), "ttlc:events");
        assert_eq!(names.dlq(0), "ttlc:dlq");
        assert_eq!(names.actions(0), "ttlc:actions");
        assert_eq!(names.control(0), "ttlc:control");
        assert_eq!(names.shard_of("7301234567890123456"), 0);
        assert_eq!(StreamNames::new(0), names);
    }

    #[test]
    fn four_shards_spread_rooms_and_keep_each_where_it_is() {
        let names = StreamNames::new(4);
        assert_eq!(names.raw(3), "ttlc:raw:{3}");
        let mut counts = [0_u32; 4];
        for room in 0..4_000_u64 {
            let id = (7_301_234_567_890_000_000 + room * 7_919).to_string();
            counts[names.shard_of(&id) as usize] += 1;
        }
        assert!(counts.iter().all(|&count| count > 700), "{counts:?}");
        // Pinned: a room that moved to another shard would lose its order.
        assert_eq!(names.shard_of("7301234567890123456"), 3);
    }
}
