//! Knows texts and bytes again by their hashes.
//!
//! In: traces, and a text or bytes. Out: where one of them is. A window of each trace's length is
//! moved over the text, in lower case (ASCII), with a rolling hash that finds candidates; the sha256
//! decides. The cost is one pass for each length that there is.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::Trace;

const BASE: u64 = 257;
const MODULUS: u64 = 2_147_483_647;
/// Longer ones are none of ours.
const MAX_BYTES: usize = 4_096;

/// By length, then by rolling hash.
#[derive(Clone, Debug, Default)]
pub(super) struct Traces(BTreeMap<usize, HashMap<u32, Vec<Known>>>);

#[derive(Clone, Debug)]
struct Known {
    kind: Kind,
    hash: [u8; 32],
    /// It counts in what happened up to here.
    until: i64,
}

/// What may stand beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// No digit.
    Id,
    /// No letter, digit or `_` of ASCII, where it begins or ends with one itself.
    Word,
    /// It begins with an @, and ends as a word does.
    At,
    /// Anything.
    Plain,
    /// Anything, and in raw data only: bytes as they are, as of a number.
    Bytes,
}

impl Traces {
    pub(super) fn add(&mut self, trace: &Trace, until: i64) {
        let kind = match trace.kind.as_str() {
            "id" => Kind::Id,
            "word" => Kind::Word,
            "at" => Kind::At,
            "plain" => Kind::Plain,
            "bytes" => Kind::Bytes,
            _ => return, // of a newer build
        };
        let mut hash = [0; 32];
        if hex::decode_to_slice(&trace.hash, &mut hash).is_err()
            || !(1..=MAX_BYTES).contains(&trace.bytes)
        {
            return;
        }
        let known = self.0.entry(trace.bytes).or_default();
        known
            .entry(trace.roll)
            .or_default()
            .push(Known { kind, hash, until });
    }

    /// Where a text has one that counts at that time, in order and apart.
    pub(super) fn in_text(&self, text: &str, at: i64) -> Vec<Range<usize>> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let lower = text.to_ascii_lowercase();
        let bytes = lower.as_bytes();
        let mut found: Vec<Range<usize>> = Vec::new();
        self.search(bytes, at, |kind, place| {
            if kind != Kind::Bytes && stands_alone(kind, bytes, &place) {
                found.push(place);
            }
            false
        });
        found.sort_by_key(|place| (place.start, std::cmp::Reverse(place.end)));
        let mut apart: Vec<Range<usize>> = Vec::new();
        for place in found {
            match apart.last_mut() {
                Some(last) if place.start < last.end => last.end = last.end.max(place.end),
                _ => apart.push(place),
            }
        }
        apart
    }

    /// Whether raw bytes have one, whatever stands beside it: a letter there may be the tag of the
    /// next field.
    pub(super) fn in_bytes(&self, bytes: &[u8], at: i64) -> bool {
        if self.0.is_empty() {
            return false;
        }
        self.search(bytes, at, |kind, _| kind == Kind::Bytes)
            || self.search(&bytes.to_ascii_lowercase(), at, |kind, _| {
                kind != Kind::Bytes
            })
    }

    /// Offers each place to `take`, until that says `true`.
    fn search(
        &self,
        bytes: &[u8],
        at: i64,
        mut take: impl FnMut(Kind, Range<usize>) -> bool,
    ) -> bool {
        for (&length, known) in &self.0 {
            if length > bytes.len() {
                break;
            }
            let top = (1..length).fold(1, |power, _| power * BASE % MODULUS);
            let mut roll = 0;
            for (place, byte) in bytes.iter().enumerate() {
                if place >= length {
                    let gone = u64::from(bytes[place - length]) * top % MODULUS;
                    roll = (roll + MODULUS - gone) % MODULUS;
                }
                roll = (roll * BASE + u64::from(*byte)) % MODULUS;
                if place + 1 < length {
                    continue;
                }
                let Some(candidates) = u32::try_from(roll).ok().and_then(|roll| known.get(&roll))
                else {
                    continue;
                };
                let range = place + 1 - length..place + 1;
                let hash: [u8; 32] = Sha256::digest(&bytes[range.clone()]).into();
                for candidate in candidates {
                    if candidate.hash == hash
                        && at <= candidate.until
                        && take(candidate.kind, range.clone())
                    {
                        return true;
                    }
                }
            }
        }
        false
    }
}

fn stands_alone(kind: Kind, bytes: &[u8], place: &Range<usize>) -> bool {
    let before = place.start.checked_sub(1).map(|place| bytes[place]);
    let after = bytes.get(place.end).copied();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let begins = before.is_none_or(|before| !(word(before) && word(bytes[place.start])));
    let ends = after.is_none_or(|after| !(word(after) && word(bytes[place.end - 1])));
    match kind {
        Kind::Id => {
            before.is_none_or(|byte| !byte.is_ascii_digit())
                && after.is_none_or(|byte| !byte.is_ascii_digit())
        }
        Kind::Word => begins && ends,
        Kind::At => ends,
        Kind::Plain | Kind::Bytes => true,
    }
}
