//! The push frames of one connection, and the acks that they want.
//!
//! In: messages. Out: frames with this connection's own sequence, log ids and `internalExt`. A
//! client's acks are held against what was sent: right ones are counted, wrong ones written down.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    Stage, fresh,
    wire::{self, FetchResult, RoomMessage},
};

/// Payloads from here on are compressed, where they are at all; so both kinds occur.
const COMPRESS_FROM: usize = 512;
/// A fault's frame that inflates to more is not one that a client should read.
const FAULT_LIMIT: u64 = 1 << 20;
/// Every so-manieth frame wants no ack.
const NO_ACK_EVERY: i64 = 5;

/// What a connection has sent.
pub(crate) struct Frames<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) room: &'a str,
    pub(crate) room_id: i64,
    /// Whether large payloads are compressed.
    pub(crate) compress: bool,
    /// `internalExt` of each frame that wants an ack and has none yet.
    pub(crate) unconfirmed: Mutex<HashMap<i64, String>>,
}

impl Frames<'_> {
    fn unconfirmed(&self) -> MutexGuard<'_, HashMap<i64, String>> {
        self.unconfirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages as a frame of this connection; `lying`: with a wrong compress header.
    pub(crate) fn frame(&self, sequence: i64, messages: &[RoomMessage], lying: bool) -> Vec<u8> {
        let log_id = fresh::id();
        let now = fresh::now_ms();
        let result = FetchResult {
            messages: messages.to_vec(),
            cursor: format!("t-{now}_r-1_d-1_u-1_h-{sequence}"),
            fetch_interval: 1000,
            now,
            internal_ext: format!(
                "internal_src:dim|wss_push_room_id:{}|fetch_time:{now}|seq:{sequence}|\
                 wss_info:0-{now}-0-0|wrds_v:{log_id}",
                self.room_id
            ),
            need_ack: sequence % NO_ACK_EVERY != 0,
            ..FetchResult::default()
        };
        self.stage.ledger.count(|counts| {
            counts.frames += 1;
            counts.acks_wanted += u64::from(result.need_ack);
        });
        if result.need_ack {
            self.unconfirmed()
                .insert(log_id, result.internal_ext.clone());
        }
        let size: usize = messages.iter().map(|message| message.payload.len()).sum();
        let gzip = self.compress && size >= COMPRESS_FROM;
        if lying {
            wire::lying_frame(sequence, log_id, &result, gzip)
        } else {
            wire::msg_frame(sequence, log_id, &result, gzip)
        }
    }

    /// A fault's frame may be a good one, which a right client acknowledges.
    pub(crate) fn expect_ack_of(&self, bytes: &[u8]) {
        if let Ok((frame, Some(result))) = wire::read_server_frame(bytes, FAULT_LIMIT)
            && result.need_ack
            && frame.log_id != 0
        {
            self.stage.ledger.count(|counts| counts.acks_wanted += 1);
            self.unconfirmed().insert(frame.log_id, result.internal_ext);
        }
    }

    /// Takes a client's ack.
    pub(crate) fn take_ack(&self, log_id: i64, internal_ext: &[u8]) {
        let wrong = match self.unconfirmed().remove(&log_id) {
            None => format!("ack for {log_id}, which wants none or has one"),
            Some(expected) if expected.as_bytes() == internal_ext => {
                return self.stage.ledger.count(|counts| counts.acks += 1);
            }
            Some(expected) => format!(
                "ack carries {:?}, expected {expected:?}",
                String::from_utf8_lossy(internal_ext)
            ),
        };
        self.stage.ledger.violation("socket", self.room, wrong);
    }
}
