//! The numbers of a room that were published, by session: what Redis may have lost.
//!
//! In: numbers in their order. Out: what of a range of numbers was ever given out. The last
//! [`SESSIONS`] sessions of a room are remembered.

use std::collections::VecDeque;

use uuid::Uuid;

/// Sessions of a room that are remembered: one is a connection.
const SESSIONS: usize = 16;

/// Numbers of one session, which are contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ingest) struct Span {
    pub(in crate::ingest) session_id: Uuid,
    pub(in crate::ingest) first: u64,
    pub(in crate::ingest) last: u64,
}

/// The sessions of a room, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::ingest) struct Spans(VecDeque<Span>);

impl Spans {
    /// Takes note of numbers of a session, which come after those before.
    pub(in crate::ingest) fn note(&mut self, session_id: Uuid, first: u64, last: u64) {
        // What comes late belongs to a session that is not the last one.
        if let Some(known) = self.0.iter_mut().rfind(|it| it.session_id == session_id) {
            known.first = known.first.min(first);
            known.last = known.last.max(last);
            return;
        }
        if self.0.len() >= SESSIONS {
            self.0.pop_front();
        }
        self.0.push_back(Span {
            session_id,
            first,
            last,
        });
    }

    /// The session that was noted last.
    pub(in crate::ingest) fn latest(&self) -> Option<Span> {
        self.0.back().copied()
    }

    /// What was given out of `from` to `to`, by session.
    pub(in crate::ingest) fn between(&self, from: u64, to: u64) -> Vec<Span> {
        let mut spans: Vec<Span> = self
            .0
            .iter()
            .map(|span| Span {
                first: span.first.max(from),
                last: span.last.min(to),
                ..*span
            })
            .filter(|span| span.first <= span.last)
            .collect();
        spans.sort_unstable_by_key(|span| span.first);
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_that_were_given_out_are_between() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut spans = Spans::default();
        assert!(spans.between(0, u64::MAX).is_empty());
        spans.note(one, 10, 10);
        spans.note(one, 11, 19);
        spans.note(two, 100, 105);
        let span = |session_id, first, last| Span {
            session_id,
            first,
            last,
        };
        assert_eq!(spans.latest(), Some(span(two, 100, 105)));
        assert_eq!(
            spans.between(0, 1_000),
            [span(one, 10, 19), span(two, 100, 105)]
        );
        assert_eq!(
            spans.between(15, 101),
            [span(one, 15, 19), span(two, 100, 101)]
        );
        assert!(spans.between(20, 99).is_empty());
        for session in 3..40 {
            spans.note(Uuid::from_u128(session), 1_000, 1_000);
        }
        assert_eq!(spans.0.len(), SESSIONS);
    }
}
