//! The real clock and real chance: the only place that asks the operating system for either.

use jiff::Timestamp;
use recado_domain::ports::{Clock, Entropy};

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system for the time")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The thread's generator, seeded by the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_and_chance_differs() {
        let released: Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
        let now = SystemClock.now();
        assert!(now > released && SystemClock.now() >= now, "{now}");
        // Three draws of 64 bits that are equal do not happen.
        let draws = [(); 3].map(|()| SystemEntropy.next_u64());
        assert!(draws.iter().any(|draw| *draw != draws[0]), "{draws:?}");
    }
}
