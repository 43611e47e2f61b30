//! A clock that stands until it is moved.
//!
//! Must not know: what is measured by it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use recado_domain::ports::Clock;
use tokio::sync::Notify;

use crate::{later, lock};

/// Time as a test decides it. Clones show the same time.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Hand>);

#[derive(Debug)]
struct Hand {
    now: Mutex<Timestamp>,
    moved: Notify,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(Hand { now: Mutex::new(now), moved: Notify::new() }))
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        let mut now = lock(&self.0.now);
        *now = later(*now, by);
        drop(now);
        self.0.moved.notify_waiters();
    }

    /// Sets it, backwards too: real clocks are corrected.
    pub fn set(&self, to: Timestamp) {
        *lock(&self.0.now) = to;
        self.0.moved.notify_waiters();
    }

    /// Done when the clock is moved after this call.
    pub(crate) fn moved(&self) -> impl Future<Output = ()> + Send + '_ {
        self.0.moved.notified()
    }
}

impl Default for ManualClock {
    /// A clock that stands at 2026-01-01T00:00:00Z.
    fn default() -> Self {
        Self::new(later(Timestamp::UNIX_EPOCH, Duration::from_secs(1_767_225_600)))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *lock(&self.0.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_show_the_same_time() {
        let clock = ManualClock::default();
        let other = clock.clone();
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(other.now().to_string(), "2026-01-01T00:00:01.5Z");
    }
}
