//! How fast one client may send: a token bucket.
//!
//! Must not know: what is sent, or what happens to who sends too much.

use tokio::time::Instant;

/// Holds up to `burst` tokens and regains `per_second`; each frame takes one.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    burst: f64,
    per_second: f64,
    filled_at: Instant,
}

impl Bucket {
    pub(super) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self { tokens: f64::from(burst), burst: f64::from(burst), per_second: f64::from(per_second), filled_at: now }
    }

    /// Takes one token; `false` when there is none.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.filled_at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.filled_at = now;
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_is_allowed_once_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(2, 3, start);
        assert_eq!((0..5).map(|_| bucket.take(start)).collect::<Vec<_>>(), [true, true, true, false, false]);
        let later = start + Duration::from_secs(1);
        assert_eq!((0..3).map(|_| bucket.take(later)).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn a_quiet_hour_saves_no_more_than_the_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(2, 3, start);
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..10).filter(|_| bucket.take(later)).count(), 3);
    }
}
