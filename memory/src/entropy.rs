//! Chance that repeats itself.
//!
//! Must not know: what is decided by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use recado_domain::ports::Entropy;

/// The sequence of one seed (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014;
/// our own few lines, so that no change of a library changes what a seed means). Clones draw from the same sequence.
/// No secret may come from it.
#[derive(Debug, Clone)]
pub struct SeededEntropy(Arc<AtomicU64>);

/// 2^64 divided by the golden ratio, made odd: the step of SplitMix64.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl SeededEntropy {
    /// Starts the sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn next_u64(&self) -> u64 {
        let mut bits = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_sequence_everywhere() {
        // The first numbers of the reference implementation for seed 0.
        let entropy = SeededEntropy::new(0);
        assert_eq!(entropy.next_u64(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(entropy.clone().next_u64(), 0x6e78_9e6a_a1b9_65f4);
    }
}
