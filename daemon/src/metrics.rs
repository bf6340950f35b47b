//! What the daemon counts and measures: every name, in one place, with its unit and labels.
//!
//! Comes in: facts that the stages state through the `metrics` crate. Goes out: `GET /metrics` on
//! `HEALTH_ADDR`, in Prometheus' text format. Labels are categories with few values; there is never
//! a creator, a room or a user among them, so the number of series does not grow with the traffic,
//! and nothing personal or secret can be in them. Counts begin at 0 with the process.
//!
//! A stage adds its names to its own block below, and describes them in [`describe`].

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

// ---- process

/// Gauge, always 1; label `version`.
pub const BUILD_INFO: &str = "ttlc_build_info";
/// Gauge: resident memory in bytes.
pub const RESIDENT_MEMORY: &str = "ttlc_resident_memory_bytes";

// ---- redis

/// Counter of commands that failed; labels `stage` and `class` (`unreachable`, `timeout`, `loading`, `memory`,
/// `disk`, `read_only`, `failover`, `no_group`, `refused`, `busy`, `defect`).
pub const REDIS_ERRORS: &str = "ttlc_redis_errors_total";
/// Counter of times that Redis has lost its memory, or may have; label `kind` (`wiped`,
/// `restarted`).
pub const REDIS_LOST_MEMORY: &str = "ttlc_redis_incarnations_total";

/// Histogram in seconds of commands and scripts, without waiting reads; label `command` (`ping`, `script`, `add`,
/// `acknowledge`, `look`, `trim`, `several`, `other`).
pub const REDIS_ROUND_TRIP: &str = "ttlc_redis_round_trip_seconds";

// ---- servers: Redis and Postgres, as the stages meet them

/// Counter of attempts that a server failed and that are made again; label `server` (`redis`, `postgres`).
pub const SERVER_FAILURES: &str = "ttlc_server_failures_total";
/// Counter of times that a server was back after it had failed; label `server`.
pub const RECONNECTS: &str = "ttlc_server_reconnects_total";
/// Histogram in seconds of whole transactions; label `work` (`connect`, `ping`, `store`, `dead_letters`, `forward`,
/// `partitions`, `prune`).
pub const POSTGRES_ROUND_TRIP: &str = "ttlc_postgres_round_trip_seconds";

// ---- erasure

/// Counter of messages and events that were dropped because their viewer was erased, by `stage`
/// (`normalizer`, `storage`, `forwarder`, `dead_letters`); each of them is in `gaps`.
pub const ERASED_DROPPED: &str = "ttlc_erased_dropped_total";
/// Counter of events of others out of which an erased viewer was taken, by `stage`.
pub const ERASED_REWRITTEN: &str = "ttlc_erased_rewritten_total";
/// Gauge of viewers who are erased.
pub const ERASED_USERS: &str = "ttlc_erased_users";
/// Gauge of erasures that are not finished.
pub const ERASED_OPEN: &str = "ttlc_erasures_open";

// ---- ingest: creators, connections, upstream's limits

/// Gauge of creators by `state`: `waiting`, `connecting`, `standby`, `live`, `error`.
pub const CREATORS: &str = "ttlc_ingest_creators";
/// Gauge of open connections by `provider`.
pub const CONNECTIONS: &str = "ttlc_ingest_connections";
/// Counter of attempts that failed, by `provider` and `reason` (category of the lifecycle events).
pub const ATTEMPTS_FAILED: &str = "ttlc_ingest_attempts_failed_total";
/// Counter of connections that are over, by `provider` and `reason`.
pub const DISCONNECTS: &str = "ttlc_ingest_disconnects_total";
/// Counter of connections made, by `provider` and `reason` (`start`, `reconnect`).
pub const CONNECTS: &str = "ttlc_ingest_connects_total";
/// Counter of changes of the provider, by the `provider` that takes over.
pub const PROVIDER_CHANGES: &str = "ttlc_ingest_provider_changes_total";
/// Counter of messages taken from upstream, by `provider`.
pub const MESSAGES: &str = "ttlc_ingest_messages_total";
/// Counter of messages that upstream sent again and that were dropped, by `provider`.
pub const REPEATS: &str = "ttlc_ingest_repeats_total";
/// Counter of frames and messages that could not be read, by `provider`.
pub const MALFORMED: &str = "ttlc_ingest_malformed_total";
/// Counter of rooms lost to another daemon.
pub const LEASES_LOST: &str = "ttlc_ingest_leases_lost_total";
/// Counter of creators' tasks that panicked and were started again.
pub const TASKS_RESTARTED: &str = "ttlc_ingest_tasks_restarted_total";
/// Counter of commands of the control stream by `command`: `track`, `untrack`, `replay.start`,
/// `replay.cancel`, `bad`.
pub const COMMANDS: &str = "ttlc_ingest_commands_total";
/// Gauge of requests that may be made at once, by `host`: `tiktok_web`, `tiktok_webcast`, `euler`
/// (signing and sockets: one account).
pub const BUDGET_LEFT: &str = "ttlc_ingest_budget_left";
/// Histogram in seconds of the wait for a request's turn, by `host`.
pub const BUDGET_WAIT: &str = "ttlc_ingest_budget_wait_seconds";
/// Counter of answers "too many requests" by `host` and `label` (`minute`, `hour`, `day`, `other`).
pub const UPSTREAM_LIMITED: &str = "ttlc_ingest_upstream_limited_total";

// ---- redis, streams

/// Gauge: entries of a stream, all shards' last one looked at; label `stream`.
pub const STREAM_LENGTH: &str = "ttlc_stream_length";
/// Counter of entries that left a stream because all groups had processed them; label `stream`.
pub const STREAM_TRIMMED: &str = "ttlc_stream_trimmed_total";
/// Counter of entries that were gone before a group had read them; labels `stream`, `group`.
pub const STREAM_UNREAD_LOST: &str = "ttlc_stream_unread_lost_total";
/// Gauge: entries that a group has not read; labels `stream`, `group`.
pub const GROUP_LAG: &str = "ttlc_group_lag";
/// Gauge: entries that a group has read and not acknowledged; labels `stream`, `group`.
pub const GROUP_PENDING: &str = "ttlc_group_pending";
/// Counter of times that a stream was trimmed without a group that is too far behind; label `group`.
pub const GROUP_SKIPPED: &str = "ttlc_group_skipped_total";

// ---- storage

/// Counter of events stored; no label.
pub const STORAGE_EVENTS: &str = "ttlc_storage_events_total";
/// Counter of entries that were stored already; no label.
pub const STORAGE_DUPLICATES: &str = "ttlc_storage_duplicates_total";
/// Counter of entries that a replay showed; no label.
pub const STORAGE_REPLAYED: &str = "ttlc_storage_replayed_total";
/// Counter of entries that went to the dead letters; label `reason` (`STORAGE_REJECTED`, `POISON`, `id_collision`).
pub const STORAGE_REJECTED: &str = "ttlc_storage_rejected_total";
/// Counter of events of days without a partition: an alarm; no label.
pub const STORAGE_DEFAULT_PARTITION: &str = "ttlc_storage_default_partition_total";
/// Counter of pending entries that were trimmed away: an alarm; no label.
pub const STORAGE_TRIMMED: &str = "ttlc_storage_trimmed_unread_total";
/// Counter of numbers that were found missing and recorded in `gaps` as `trimmed`: an alarm; no label.
pub const STORAGE_LOST: &str = "ttlc_storage_lost_total";
/// Histogram of the time a batch takes from reading to the acknowledgement, in seconds; no label.
pub const STORAGE_BATCH: &str = "ttlc_storage_batch_seconds";
/// Counter of dead letters of all stages, as they are copied to Postgres; label `stage`.
pub const DEAD_LETTERS: &str = "ttlc_dead_letters_total";

// ---- forwarder

/// Counter of events that the destination took; no label.
pub const FORWARDED: &str = "ttlc_forwarder_forwarded_total";
/// Counter of requests to be repeated; label `reason` (`timeout`, `connect`, `broken`, `status_4xx` (408, 425),
/// `status_429`, `status_5xx`, `redirect`, `status_other`).
pub const FORWARD_RETRIED: &str = "ttlc_forwarder_retried_total";
/// Counter of events that became dead letters; label `reason` (`FORWARD_REJECTED`, `FORWARD_EXHAUSTED`,
/// `FORWARD_UNREACHABLE`, `FORWARD_UNREADABLE`).
pub const FORWARD_DEAD: &str = "ttlc_forwarder_dead_lettered_total";
/// Counter of events that need not be sent; label `reason` (`replay`, `type`, `known`).
pub const FORWARD_SKIPPED: &str = "ttlc_forwarder_skipped_total";
/// Counter of entries trimmed before they were forwarded: an alarm; label `kind` (`unread`, `pending`).
pub const FORWARD_LOST: &str = "ttlc_forwarder_lost_total";
/// Gauge: age of the oldest event that was read and is not settled, in seconds; label `shard`.
pub const FORWARD_LAG: &str = "ttlc_forwarder_lag_seconds";
/// Gauge: rooms with something to be sent; label `shard`.
pub const FORWARD_LANES: &str = "ttlc_forwarder_lanes_open";
/// Gauge of the circuit breaker: 0 closed, 1 open, 2 open with a probe under way.
pub const FORWARD_BREAKER: &str = "ttlc_forwarder_breaker";
/// Gauge: 1 where this process forwards, 0 where it stands by; label `shard`.
pub const FORWARD_ACTIVE: &str = "ttlc_forwarder_active";
/// Histogram in seconds: a request, up to its answer.
pub const FORWARD_REQUEST: &str = "ttlc_forwarder_request_seconds";

// ---- replay

/// Gauge: replays that this process shows.
pub const REPLAYS_RUNNING: &str = "ttlc_replays_running";
/// Counter of replays that are over; label `outcome` (`done`, `cancelled`, `failed`).
pub const REPLAYS_ENDED: &str = "ttlc_replays_ended_total";
/// Counter of events that replays have sent.
pub const REPLAY_SENT: &str = "ttlc_replay_sent_total";
/// Counter of events that replays have left out; label `reason` (`made`: the normalizer makes it again,
/// `no_raw`: its raw data is gone, `unreadable`).
pub const REPLAY_SKIPPED: &str = "ttlc_replay_skipped_total";

// ---- normalizer

/// Counter of events published; label `type`, an `eventType`.
pub const NORMALIZER_EVENTS: &str = "ttlc_normalizer_events_total";
/// Counter of messages that became no event; label `reason`, as in the dead letters.
pub const NORMALIZER_REJECTED: &str = "ttlc_normalizer_rejected_total";
/// Counter of gift streaks concluded without their end.
pub const NORMALIZER_TIMEOUTS: &str = "ttlc_normalizer_streak_timeouts_total";
/// Gauge: gift streaks that go on; label `shard`.
pub const NORMALIZER_STREAKS: &str = "ttlc_normalizer_streaks_open";
/// Gauge: 1 where this process normalizes, 0 where it stands by; label `shard`.
pub const NORMALIZER_ACTIVE: &str = "ttlc_normalizer_active";
/// Histogram in seconds: decoding, mapping and checking a message; the mean of each batch.
pub const NORMALIZER_MESSAGE: &str = "ttlc_normalizer_message_seconds";
/// Histogram in seconds: checking an event against the contract and writing its JSON; a sample.
pub const NORMALIZER_VALIDATION: &str = "ttlc_normalizer_validation_seconds";
/// Histogram in seconds: publishing a batch.
pub const NORMALIZER_HOP: &str = "ttlc_normalizer_hop_seconds";

// ---- spool

/// Gauge: bytes on the disk, published ones included.
pub const SPOOL_BYTES: &str = "ttlc_spool_bytes";
/// Gauge: bytes that are not published yet, in memory or on the disk.
pub const SPOOL_BACKLOG: &str = "ttlc_spool_backlog_bytes";
/// Gauge: bytes of messages whose room another daemon has.
pub const SPOOL_ORPHANS: &str = "ttlc_spool_orphan_bytes";
/// Gauge: 1 while the disk refuses messages.
pub const SPOOL_BROKEN: &str = "ttlc_spool_broken";
/// Gauge: age of the oldest message that is not published, in seconds.
pub const SPOOL_AGE: &str = "ttlc_spool_oldest_age_seconds";
/// Counter of messages and dead letters taken in.
pub const SPOOL_RECORDS: &str = "ttlc_spool_records_total";
/// Counter of messages dropped because the spool was full; label `class`.
pub const SPOOL_DROPPED: &str = "ttlc_spool_dropped_total";
/// Counter of damaged places that were skipped.
pub const SPOOL_DAMAGED: &str = "ttlc_spool_damaged_total";
/// Counter of writes that the disk refused.
pub const SPOOL_DISK_ERRORS: &str = "ttlc_spool_disk_errors_total";
/// Histogram of writing and syncing, in seconds.
pub const SPOOL_SYNC: &str = "ttlc_spool_sync_seconds";
/// Counter of messages that went to Redis.
pub const PUBLISHED: &str = "ttlc_ingest_published_total";
/// Counter of messages published again because Redis had lost them.
pub const REFILLED: &str = "ttlc_ingest_refilled_total";
/// Counter of rooms of which Redis has lost messages that nothing can publish again.
pub const REDIS_LOST: &str = "ttlc_ingest_redis_lost_total";
/// Histogram of publishing one batch, in seconds.
pub const PUBLISH: &str = "ttlc_ingest_publish_seconds";

/// Bounds of histograms in seconds: from a fast script to a time-out.
const SECONDS: [f64; 10] = [
    0.000_01, 0.000_1, 0.000_5, 0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0,
];
/// Alarms without labels are there from the start: a rise from nothing to 1 is none for Prometheus.
const FROM_ZERO: [&str; 12] = [
    LEASES_LOST,
    TASKS_RESTARTED,
    STORAGE_EVENTS,
    STORAGE_DUPLICATES,
    STORAGE_DEFAULT_PARTITION,
    STORAGE_TRIMMED,
    FORWARDED,
    SPOOL_RECORDS,
    SPOOL_DAMAGED,
    SPOOL_DISK_ERRORS,
    PUBLISHED,
    REFILLED,
];
/// How often the exporter tidies its samples.
const UPKEEP: Duration = Duration::from_secs(5);

/// The recorder of this process, for [`crate::http`] to show.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the recorder. Call once, first of all; what is counted before is lost.
    ///
    /// # Errors
    /// When there is one already.
    pub fn install() -> Result<Self, BuildError> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .install_recorder()?;
        describe();
        for name in FROM_ZERO {
            counter!(name).absolute(0);
        }
        gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self(handle))
    }

    /// All metrics, in Prometheus' text format.
    pub fn render(&self) -> String {
        if let Some(bytes) = resident_memory() {
            gauge!(RESIDENT_MEMORY).set(bytes);
        }
        self.0.render()
    }

    /// Tidies up for ever; without it histograms would grow while nobody asks.
    pub async fn upkeep(self) {
        loop {
            tokio::time::sleep(UPKEEP).await;
            self.0.run_upkeep();
        }
    }
}

/// What each name means, for `# HELP`.
fn describe() {
    describe_gauge!(BUILD_INFO, "Always 1; the label says which build runs");
    describe_gauge!(RESIDENT_MEMORY, Unit::Bytes, "Memory of the process");
    describe_counter!(REDIS_ERRORS, "Redis commands that failed, by stage");
    describe_histogram!(REDIS_ROUND_TRIP, Unit::Seconds, "Commands and scripts");
    describe_counter!(SERVER_FAILURES, "Attempts that a server failed, by server");
    describe_counter!(RECONNECTS, "Times that a server was back, by server");
    describe_histogram!(POSTGRES_ROUND_TRIP, Unit::Seconds, "Transactions, by work");

    describe_counter!(
        ERASED_DROPPED,
        "Messages and events that were dropped because their viewer was erased, by stage"
    );
    describe_counter!(
        ERASED_REWRITTEN,
        "Events of others out of which an erased viewer was taken, by stage"
    );
    describe_gauge!(ERASED_USERS, "Viewers who are erased");
    describe_gauge!(ERASED_OPEN, "Erasures that are not finished");
    describe_counter!(
        REDIS_LOST_MEMORY,
        "Times that Redis was wiped or started again, by kind"
    );
    describe_gauge!(CREATORS, "Followed creators, by state");
    describe_gauge!(CONNECTIONS, "Open connections to rooms");
    describe_counter!(ATTEMPTS_FAILED, "Attempts to read a room that failed");
    describe_counter!(DISCONNECTS, "Connections to rooms that are over");
    describe_counter!(CONNECTS, "Connections to rooms that were made");
    describe_counter!(PROVIDER_CHANGES, "Changes to another provider");
    describe_counter!(MESSAGES, "Messages taken from rooms");
    describe_counter!(REPEATS, "Messages sent again by upstream and dropped");
    describe_counter!(MALFORMED, "Frames and messages that cannot be read");
    describe_counter!(LEASES_LOST, "Rooms lost to another daemon");
    describe_counter!(TASKS_RESTARTED, "Creators' tasks that panicked");
    describe_counter!(COMMANDS, "Commands of the control stream");
    describe_gauge!(BUDGET_LEFT, "Requests that may be made at once");
    describe_histogram!(BUDGET_WAIT, Unit::Seconds, "Wait for a request's turn");
    describe_counter!(UPSTREAM_LIMITED, "Answers of upstream: too many requests");
    describe_gauge!(STREAM_LENGTH, "Entries of a stream");
    describe_counter!(
        STREAM_TRIMMED,
        "Entries trimmed after all groups processed them"
    );
    describe_counter!(
        STREAM_UNREAD_LOST,
        "Entries lost to a group before it read them"
    );
    describe_gauge!(GROUP_LAG, "Entries that a group has not read");
    describe_gauge!(GROUP_PENDING, "Entries read and not acknowledged");
    describe_counter!(GROUP_SKIPPED, "Times a group too far behind was left out");

    describe_counter!(STORAGE_EVENTS, "Events stored");
    describe_counter!(STORAGE_DUPLICATES, "Entries that were stored already");
    describe_counter!(STORAGE_REPLAYED, "Entries that a replay showed");
    describe_counter!(
        STORAGE_REJECTED,
        "Entries that could not be stored, by reason"
    );
    describe_counter!(
        STORAGE_DEFAULT_PARTITION,
        "Events of days without a partition"
    );
    describe_counter!(STORAGE_TRIMMED, "Unread entries that were trimmed away");
    describe_counter!(
        STORAGE_LOST,
        "Numbers that Redis lost before they were stored"
    );
    describe_histogram!(
        STORAGE_BATCH,
        Unit::Seconds,
        "From reading a batch to its acknowledgement"
    );
    describe_counter!(DEAD_LETTERS, "Dead letters copied to Postgres, by stage");

    describe_counter!(NORMALIZER_EVENTS, "Events published, by type");
    describe_counter!(NORMALIZER_REJECTED, "Messages that became no event");
    describe_counter!(
        NORMALIZER_TIMEOUTS,
        "Gift streaks concluded without their end"
    );
    describe_gauge!(NORMALIZER_STREAKS, "Gift streaks that go on");
    describe_gauge!(NORMALIZER_ACTIVE, "1 where this process normalizes");
    describe_histogram!(
        NORMALIZER_MESSAGE,
        Unit::Seconds,
        "Work on a message, mean of a batch"
    );
    describe_histogram!(
        NORMALIZER_VALIDATION,
        Unit::Seconds,
        "Checking an event, sampled"
    );
    describe_histogram!(NORMALIZER_HOP, Unit::Seconds, "Publishing a batch");

    describe_replay();
    describe_forwarder();
    describe_spool();
}

fn describe_replay() {
    describe_gauge!(REPLAYS_RUNNING, "Replays that this process shows");
    describe_counter!(REPLAYS_ENDED, "Replays that are over, by outcome");
    describe_counter!(REPLAY_SENT, "Events that replays have sent");
    describe_counter!(
        REPLAY_SKIPPED,
        "Events that replays have left out, by reason"
    );
}

fn describe_forwarder() {
    describe_counter!(FORWARDED, "Events that the destination took");
    describe_counter!(FORWARD_RETRIED, "Requests to be repeated, by reason");
    describe_counter!(FORWARD_DEAD, "Events not taken, by reason");
    describe_counter!(FORWARD_SKIPPED, "Events that need not be sent, by reason");
    describe_counter!(FORWARD_LOST, "Entries trimmed before they were forwarded");
    describe_gauge!(
        FORWARD_LAG,
        Unit::Seconds,
        "Age of the oldest unsettled event"
    );
    describe_gauge!(FORWARD_LANES, "Rooms with something to be sent");
    describe_gauge!(FORWARD_BREAKER, "0 closed, 1 open, 2 probing");
    describe_gauge!(FORWARD_ACTIVE, "1 where this process forwards");
    describe_histogram!(
        FORWARD_REQUEST,
        Unit::Seconds,
        "A request to the destination"
    );
}

fn describe_spool() {
    describe_gauge!(SPOOL_BYTES, Unit::Bytes, "The spool on the disk");
    describe_gauge!(SPOOL_BACKLOG, Unit::Bytes, "Received and not published yet");
    describe_gauge!(
        SPOOL_ORPHANS,
        Unit::Bytes,
        "Messages whose room another daemon has"
    );
    describe_gauge!(SPOOL_BROKEN, "1 while the spool's disk refuses messages");
    describe_gauge!(
        SPOOL_AGE,
        Unit::Seconds,
        "Age of the oldest unpublished message"
    );
    describe_counter!(SPOOL_RECORDS, "Messages and dead letters taken in");
    describe_counter!(SPOOL_DROPPED, "Messages dropped by a full spool, by class");
    describe_counter!(SPOOL_DAMAGED, "Damaged places of the spool");
    describe_counter!(SPOOL_DISK_ERRORS, "Writes that the spool's disk refused");
    describe_histogram!(SPOOL_SYNC, Unit::Seconds, "Writing and syncing the spool");
    describe_counter!(PUBLISHED, "Messages published by ingest");
    describe_counter!(REFILLED, "Messages published again that Redis had lost");
    describe_counter!(
        REDIS_LOST,
        "Times that Redis had lost messages of a room for good"
    );
    describe_histogram!(PUBLISH, Unit::Seconds, "Publishing one batch");
}

/// Resident memory in bytes, where the system tells it.
#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floats; memory is far below 2^53"
)]
fn resident_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some((kib * 1024) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::install().unwrap();
        counter!(REDIS_ERRORS, "stage" => "test").increment(3);
        let text = metrics.render();
        assert!(
            text.contains("ttlc_redis_errors_total{stage=\"test\"} 3"),
            "{text}"
        );
        assert!(text.contains("# HELP ttlc_redis_errors_total"), "{text}");
        assert!(Metrics::install().is_err(), "one recorder a process");
    }
}
