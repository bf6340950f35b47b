//! Chance that repeats itself: the same numbers for the same seed, room and lap.

const WORDS: [&str; 24] = [
    "hello",
    "from",
    "the",
    "other",
    "side",
    "love",
    "this",
    "song",
    "who",
    "won",
    "merhaba",
    "olá",
    "привет",
    "こんにちは",
    "🔥",
    "😂",
    "first",
    "time",
    "here",
    "what",
    "game",
    "is",
    "next",
    "please",
];

/// `SplitMix64`: small, quick and good enough for choosing who likes what.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64, room: &str, lap: u32) -> Self {
        // FNV-1a over the name keeps rooms apart.
        let name = room.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut dice = Self(seed ^ name ^ (u64::from(lap) << 32));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, 0 for 0.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        // The upper half of the product is below `end`.
        ((u64::from((self.next() >> 32) as u32) * u64::from(end)) >> 32) as u32
    }

    /// From 0 up to 1.
    pub(super) fn share(&mut self) -> f64 {
        f64::from(self.below(1 << 20)) / f64::from(1 << 20)
    }

    /// An index, by weights; the last one when all are 0.
    pub(super) fn choose(&mut self, weights: &[u32]) -> usize {
        let mut left = self.below(weights.iter().sum());
        for (index, &weight) in weights.iter().enumerate() {
            if left < weight {
                return index;
            }
            left -= weight;
        }
        weights.len() - 1
    }

    /// Something to say.
    pub(super) fn sentence(&mut self) -> String {
        let words = 1 + self.below(9);
        let words: Vec<_> = (0..words)
            .map(|_| WORDS[self.choose(&[1; WORDS.len()])])
            .collect();
        words.join(" ")
    }
}
