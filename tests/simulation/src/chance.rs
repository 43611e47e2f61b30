//! Chance that depends on nothing but a seed and a name.
//!
//! Every decision is drawn from a sequence of its own, named by who decides, what about, and for which time. So one more
//! call somewhere changes no decision elsewhere, and a seed keeps most of its meaning when code changes. Must not know:
//! what is decided.

use std::time::Duration;

use recado_domain::ports::Entropy;
use recado_memory::SeededEntropy;

/// One sequence of decisions.
#[derive(Debug)]
pub(crate) struct Dice(SeededEntropy);

impl Dice {
    /// The sequence that `names` name under `seed`.
    pub(crate) fn new(seed: u64, names: &[u64]) -> Self {
        Self(entropy(seed, names))
    }

    /// Whether something of this probability happens.
    pub(crate) fn chance(&self, probability: f64) -> bool {
        // Nothing is drawn for what cannot happen: a fault that is switched off shifts no other decision.
        probability > 0.0 && self.0.fraction() < probability
    }

    /// A number from 0 up to, not including, `end`; 0 where `end` is 0.
    pub(crate) fn below(&self, end: usize) -> usize {
        (self.0.fraction() * end as f64) as usize
    }

    /// A time of whole milliseconds from `from` up to `to`.
    pub(crate) fn between(&self, from: Duration, to: Duration) -> Duration {
        let (from, to) = (from.as_millis() as usize, to.as_millis() as usize);
        Duration::from_millis((from + self.below(to.saturating_sub(from) + 1)) as u64)
    }

    /// A time up to `to`.
    pub(crate) fn up_to(&self, to: Duration) -> Duration {
        self.between(Duration::ZERO, to)
    }

    /// One of `these`.
    pub(crate) fn pick<'a, T>(&self, these: &'a [T]) -> &'a T {
        &these[self.below(these.len())]
    }

    /// From `least` to `most`, small ones as likely as large ones are together.
    pub(crate) fn scale(&self, least: f64, most: f64) -> f64 {
        (least.ln() + (most / least).ln() * self.0.fraction()).exp()
    }
}

/// Entropy for code under test, named as a [`Dice`] is.
pub(crate) fn entropy(seed: u64, names: &[u64]) -> SeededEntropy {
    let mut state = seed;
    for name in names {
        // A step of SplitMix64 between the names mixes each of them with all before it.
        state = SeededEntropy::new(state ^ name).next_u64();
    }
    SeededEntropy::new(state)
}

/// A text as a name (FNV-1a, 64 bits).
pub(crate) fn name(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_depends_on_its_names_alone() {
        let draw = |names: &[u64]| Dice::new(7, names).below(1 << 30);
        assert_eq!(draw(&[1, 2]), draw(&[1, 2]));
        assert_ne!(draw(&[1, 2]), draw(&[2, 1]));
        assert_ne!(draw(&[1, 2]), draw(&[1, 3]));
    }

    #[test]
    fn what_cannot_happen_draws_nothing() {
        let (one, other) = (Dice::new(1, &[]), Dice::new(1, &[]));
        assert!(!one.chance(0.0));
        assert_eq!(one.below(1 << 30), other.below(1 << 30));
    }

    #[test]
    fn a_time_stays_within_its_bounds() {
        let dice = Dice::new(3, &[]);
        for _ in 0..1000 {
            let time = dice.between(Duration::from_millis(5), Duration::from_millis(7));
            assert!((5..=7).contains(&time.as_millis()));
        }
    }
}
