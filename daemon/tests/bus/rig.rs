//! A private Redis, and what the tests put into it.

use std::collections::HashMap;
use std::time::Duration;

use daemon::bus::rooms::by_room;
use daemon::bus::{
    self, Batch, Bus, Claim, Consumer, DeadLetter, Hop, Memory, Outcome, Owner, Published,
};
use secrecy::SecretString;
use shared::raw::{Envelope, RawData, Source};
use shared::streams::{GROUP_NORMALIZER, StreamNames};
use shared::time::Timestamp;
use uuid::Uuid;
use xtask::servers::{Durability, PrivateRedis};

const PATIENCE: Duration = Duration::from_secs(30);
pub(super) const ROOM: &str = "7301234567890123456";

/// One of several owners of rooms and leases.
pub(super) fn owner(number: u128) -> Owner {
    Owner::from(Uuid::from_u128(number))
}

pub(super) struct Redis {
    pub(super) server: PrivateRedis,
    pub(super) bus: Bus,
}

impl Redis {
    pub(super) fn start() -> Self {
        Self::start_sharded(1)
    }

    pub(super) fn start_sharded(shards: u32) -> Self {
        let server = PrivateRedis::temporary(Durability::Fast).unwrap();
        let bus = Bus::new(&SecretString::from(server.url()), StreamNames::new(shards)).unwrap();
        Self { server, bus }
    }

    pub(super) async fn ask<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let client = redis::Client::open(self.server.url()).unwrap();
        // Not the client's half a second, which a busy machine takes.
        let patient = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&patient)
            .await
            .unwrap();
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut connection).await.unwrap()
    }

    /// Takes a room for an owner; what Redis remembers of it.
    pub(super) async fn claim(&self, room: &str, number: u128) -> Memory {
        match self.bus.claim_room(room, owner(number)).await.unwrap() {
            Claim::Held(memory) => memory,
            taken @ Claim::Taken(_) => panic!("{taken:?}"),
        }
    }

    /// Publishes as the first owner, which takes the rooms before.
    pub(super) async fn publish(&self, envelopes: &[Envelope]) {
        let published = self.try_publish(envelopes).await.unwrap();
        assert_eq!(published, Published::default());
    }

    pub(super) async fn try_publish(
        &self,
        envelopes: &[Envelope],
    ) -> Result<Published, bus::Error> {
        let mut tokens = HashMap::new();
        for envelope in envelopes {
            if !tokens.contains_key(&envelope.stream_id) {
                let token = self.claim(&envelope.stream_id, 1).await.token;
                tokens.insert(envelope.stream_id.clone(), token);
            }
        }
        let batches = by_room(envelopes, |room| tokens[room]);
        self.bus.publish(owner(1), &batches).await
    }

    /// The numbers in the raw stream, in its order.
    pub(super) async fn raw_numbers(&self) -> Vec<u64> {
        let entries: Vec<(String, HashMap<String, String>)> = self.ask("XRANGE ttlc:raw - +").await;
        entries
            .iter()
            .map(|(_, fields)| fields["seqNo"].parse().unwrap())
            .collect()
    }

    pub(super) fn normalizer(&self) -> Consumer {
        self.bus
            .consumer("ttlc:raw".into(), GROUP_NORMALIZER, "slot-0")
    }
}

pub(super) fn envelope(stream_id: &str, seq_no: u64) -> Envelope {
    Envelope {
        stream_id: stream_id.into(),
        session_id: Uuid::from_u128(1),
        source: Source::Live,
        kind: "WebcastChatMessage".into(),
        seq_no,
        timestamp: Timestamp::from_millis(1_763_800_000_000),
        ingested_at: Timestamp::from_millis(1_763_800_000_100),
        data: RawData::Protobuf(vec![1, 2, 3]),
        msg_id: None,
        backlog: false,
        replay_of: None,
    }
}

pub(super) fn event(raw_id: &str) -> Hop {
    Hop {
        raw_id: Some(raw_id.into()),
        outcomes: vec![an_event()],
    }
}

pub(super) fn an_event() -> Outcome {
    Outcome::Event {
        json: "{}".into(),
        normalized_at: Timestamp::from_millis(0),
        raw: "AQID".into(),
    }
}

pub(super) fn dead(raw_id: &str) -> Hop {
    Hop {
        raw_id: Some(raw_id.into()),
        outcomes: vec![Outcome::DeadLetter(a_dead_letter())],
    }
}

pub(super) fn a_dead_letter() -> DeadLetter {
    DeadLetter {
        stage: "normalizer",
        reason: "PARSE_ERROR",
        error: "no".into(),
        payload: "{}".into(),
        failed_at: Timestamp::from_millis(0),
    }
}

pub(super) fn batch(number: u64, hops: &[Hop]) -> Batch {
    Batch {
        number,
        hops: hops.to_vec(),
        state: Vec::new(),
    }
}

pub(super) async fn read(consumer: &mut Consumer) -> Vec<String> {
    consumer
        .read(100, Duration::from_millis(20))
        .await
        .unwrap()
        .into_iter()
        .map(|entry| entry.id)
        .collect()
}
