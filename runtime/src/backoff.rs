//! How long to wait before the next try of work that a queue carries.
//!
//! Retries within a process use `backon`; this is for delays that outlive the process, where only the number of the
//! try is known.

use std::time::Duration;

use recado_domain::ports::Entropy;

/// How work is tried again: exponential backoff with full jitter
/// (AWS Architecture Blog, "Exponential Backoff And Jitter").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySchedule {
    /// The ceiling of the first wait.
    pub base: Duration,
    /// The ceiling of every wait.
    pub cap: Duration,
    /// Tries before the work is given up as a dead letter.
    pub max_attempts: u32,
}

impl Default for RetrySchedule {
    /// 200 ms doubling to 2 min, 16 tries: at most a quarter of an hour before an operator has to look, half of it on average.
    fn default() -> Self {
        Self { base: Duration::from_millis(200), cap: Duration::from_secs(120), max_attempts: 16 }
    }
}

impl RetrySchedule {
    /// The wait before the try after `attempt` (counted from 1), at least what the other side asked for, within the cap.
    pub fn delay(&self, attempt: u32, retry_after: Option<Duration>, entropy: &impl Entropy) -> Duration {
        let asked = retry_after.unwrap_or(Duration::ZERO).min(self.cap);
        full_jitter(attempt, self.base, self.cap, entropy).max(asked)
    }
}

/// A random time below `base` · 2^(`attempt` − 1), and never above `cap`. `attempt` counts from 1.
pub fn full_jitter(attempt: u32, base: Duration, cap: Duration, entropy: &impl Entropy) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    base.saturating_mul(1 << doublings).min(cap).mul_f64(entropy.fraction())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Always(u64);

    impl Entropy for Always {
        fn next_u64(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let (base, cap) = (Duration::from_secs(1), Duration::from_secs(10));
        let ceilings: Vec<u64> = (1..=6).map(|n| full_jitter(n, base, cap, &Always(u64::MAX)).as_millis().div_ceil(1000) as u64).collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 10, 10]);
        assert_eq!(full_jitter(u32::MAX, base, cap, &Always(0)), Duration::ZERO);
    }

    #[test]
    fn what_the_other_side_asks_for_is_the_least_within_the_cap() {
        let schedule = RetrySchedule::default();
        assert_eq!(schedule.delay(1, Some(Duration::from_secs(5)), &Always(0)), Duration::from_secs(5));
        assert_eq!(schedule.delay(1, Some(Duration::from_secs(5000)), &Always(0)), schedule.cap);
    }
}
