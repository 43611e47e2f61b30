//! How long a batch in work may still take.
//!
//! Whatever a handler has not finished by then is dropped where it stands. Most work is done again and nobody sees it twice; a mail
//! that has left, and is not yet recorded, is sent again. Must not know: what a handler does.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// When a batch in work is given up: known from the start, or from the moment its process is told to stop.
#[derive(Debug, Clone)]
pub struct Deadline(watch::Receiver<Option<Instant>>);

/// Sets a [`Deadline`].
pub(super) type Set = watch::Sender<Option<Instant>>;

impl Deadline {
    /// Never.
    pub fn never() -> Self {
        Self::settable().1
    }

    /// At a moment.
    pub fn at(moment: Instant) -> Self {
        let (set, deadline) = Self::settable();
        set.send_replace(Some(moment));
        deadline
    }

    /// Never, until it is set.
    pub(super) fn settable() -> (Set, Self) {
        let (set, deadline) = watch::channel(None);
        (set, Self(deadline))
    }

    /// The time that is left; [`Duration::MAX`] where nothing ends it.
    pub fn left(&self) -> Duration {
        self.0.borrow().map_or(Duration::MAX, |moment| moment.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_that_is_left_runs_out_once_there_is_an_end() {
        assert_eq!(Deadline::never().left(), Duration::MAX);
        let (set, deadline) = Deadline::settable();
        assert_eq!(deadline.clone().left(), Duration::MAX);
        set.send_replace(Some(Instant::now() + Duration::from_secs(10)));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(deadline.left(), Duration::from_secs(6));
        assert_eq!(Deadline::at(Instant::now()).left(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(deadline.left(), Duration::ZERO);
    }
}
