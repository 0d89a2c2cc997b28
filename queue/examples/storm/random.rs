//! SplitMix64: the same seed, the same numbers.

#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// One of many generators of a run.
    pub(crate) fn new(seed: u64, which: u64) -> Self {
        let mut random = Self(seed);
        Self(random.next() ^ which.wrapping_mul(0xD6E8_FEB8_6659_FD93))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    pub(crate) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    /// From 0 to 64 KiB; small ones are as frequent as large ones.
    pub(crate) fn size(&mut self) -> usize {
        let most = 1 << self.below(17);
        self.below(most + 1)
    }
}
