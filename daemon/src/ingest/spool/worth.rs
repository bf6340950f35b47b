//! What is dropped first when the spool is nearly full, and the gap that says so.
//!
//! In: a message's type and how full the spool is; numbers that were dropped. Out: whether to keep
//! it, and one `ControlEvent.GAP` for each contiguous run of dropped numbers of a session. The gap
//! takes the first dropped number as its own, so that every number is accounted for once.

use std::time::Instant;

use serde_json::json;
use shared::raw::{Envelope, RawData, Source, control};
use shared::time::Timestamp;
use uuid::Uuid;

/// Why numbers are missing.
pub(in crate::ingest) mod reason {
    /// The spool was full.
    pub(in crate::ingest) const FULL: &str = "spool_full";
    /// A record on the disk was damaged.
    pub(in crate::ingest) const DAMAGED: &str = "spool_damaged";
    /// Another daemon has published the same messages under other numbers.
    pub(in crate::ingest) const REPEAT: &str = "repeat";
    /// They have waited too long for their room, which another daemon has.
    pub(in crate::ingest) const ORPHANED: &str = "orphaned";
    /// Redis has lost them, and the spool had them no more; storage takes what it has not stored.
    pub(in crate::ingest) const REDIS_LOST: &str = shared::raw::REDIS_LOST;
}

/// Classes of messages, the least worth first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::ingest) enum Worth {
    /// Likes and joins: many, and later ones carry the totals.
    Crowd,
    /// Viewer counts, and types that nothing depends on.
    Rest,
    /// Follows and shares.
    Social,
    /// What people say.
    Talk,
    /// Gifts, subscriptions, battles, the life of the room and of our connection.
    Money,
}

impl Worth {
    pub(in crate::ingest) fn of(kind: &str) -> Self {
        match kind {
            "WebcastLikeMessage" | "WebcastMemberMessage" => Self::Crowd,
            "WebcastSocialMessage" => Self::Social,
            "WebcastChatMessage" | "WebcastEmoteChatMessage" | "WebcastQuestionNewMessage" => {
                Self::Talk
            }
            "WebcastGiftMessage"
            | "WebcastSubNotifyMessage"
            | "WebcastLinkMicBattle"
            | "WebcastLinkMicArmies"
            | "WebcastBarrageMessage"
            | "WebcastControlMessage" => Self::Money,
            kind if kind.starts_with("ControlEvent.") => Self::Money,
            _ => Self::Rest,
        }
    }

    /// From which part of the spool in per cent these are dropped.
    fn limit(self) -> u64 {
        match self {
            Self::Crowd => 80,
            Self::Rest => 88,
            Self::Social => 94,
            Self::Talk => 97,
            Self::Money => 100,
        }
    }

    /// Whether `used` of `most` bytes leave room for one of these.
    pub(in crate::ingest) fn fits(self, used: u64, most: u64) -> bool {
        used < most / 100 * self.limit()
    }

    /// For metrics and logs.
    pub(in crate::ingest) fn name(self) -> &'static str {
        match self {
            Self::Crowd => "crowd",
            Self::Rest => "rest",
            Self::Social => "social",
            Self::Talk => "talk",
            Self::Money => "money",
        }
    }
}

/// Contiguous numbers of a session that are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ingest) struct Run {
    pub(in crate::ingest) token: u64,
    pub(in crate::ingest) stream_id: String,
    pub(in crate::ingest) session_id: Uuid,
    pub(in crate::ingest) from: u64,
    pub(in crate::ingest) to: u64,
    pub(in crate::ingest) since: Instant,
    pub(in crate::ingest) at: Timestamp,
}

impl Run {
    /// One dropped message.
    pub(in crate::ingest) fn new(token: u64, envelope: &Envelope) -> Self {
        // A gap that is dropped itself stands for all its numbers.
        let to = last_number(envelope);
        Self {
            token,
            stream_id: envelope.stream_id.clone(),
            session_id: envelope.session_id,
            from: envelope.seq_no,
            to,
            since: Instant::now(),
            at: envelope.ingested_at,
        }
    }

    /// Takes one more in; `false` if it does not follow.
    pub(in crate::ingest) fn extend(&mut self, envelope: &Envelope) -> bool {
        let follows = envelope.session_id == self.session_id && envelope.seq_no == self.to + 1;
        if follows {
            self.to = last_number(envelope);
        }
        follows
    }

    /// The gap as an envelope.
    pub(in crate::ingest) fn gap(&self, reason: &str) -> Envelope {
        let data = json!({
            "fromSeq": self.from,
            "toSeq": self.to,
            "reason": reason,
            "count": self.to - self.from + 1,
        });
        Envelope {
            stream_id: self.stream_id.clone(),
            session_id: self.session_id,
            source: Source::Live,
            kind: control::GAP.to_owned(),
            seq_no: self.from,
            timestamp: self.at,
            ingested_at: self.at,
            data: RawData::Json(data.as_object().cloned().unwrap_or_default()),
            msg_id: None,
            backlog: false,
            replay_of: None,
        }
    }
}

/// The last number that an envelope accounts for: its own, or the end of a gap.
pub(in crate::ingest) fn last_number(envelope: &Envelope) -> u64 {
    match &envelope.data {
        RawData::Json(data) if envelope.kind == control::GAP => data
            .get("toSeq")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(envelope.seq_no),
        _ => envelope.seq_no,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likes_go_first_and_gifts_last() {
        let order = [
            "WebcastLikeMessage",
            "WebcastRoomUserSeqMessage",
            "WebcastSocialMessage",
            "WebcastChatMessage",
            "WebcastGiftMessage",
        ];
        for (used, kept) in [(79, 5), (80, 4), (90, 3), (96, 2), (99, 1), (100, 0)] {
            let fitting: Vec<_> = order
                .iter()
                .filter(|kind| Worth::of(kind).fits(used * 1_000, 100_000))
                .collect();
            assert_eq!(fitting.len(), kept, "{used} %: {fitting:?}");
            assert!(order.ends_with(&fitting.into_iter().copied().collect::<Vec<_>>()));
        }
        assert_eq!(Worth::of(control::DISCONNECTED), Worth::Money);
    }
}
