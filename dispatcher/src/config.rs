//! How the dispatcher posts and tries again.
//!
//! Must not know: where the values come from.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use recado_runtime::backoff::RetrySchedule;
use recado_runtime::consumer::ConsumerConfig;

/// Messages that a container takes at once where so many wait: two full writes of 25 entries on DynamoDB, and five full
/// receives of SQS. More would save no call but a part of a lookup, and hold more frames in memory.
const BATCH: usize = 50;
/// Batches that a container has in work at the same time. They wait for answers most of the time; where all of them are
/// in work, messages wait on the queue and come in larger batches, which cost fewer calls each.
const BATCHES_AT_ONCE: usize = 8;

/// How a container polls the inbox queue: up to 50 messages a batch, 8 batches at once.
pub fn polling() -> ConsumerConfig {
    ConsumerConfig { batch: BATCH, concurrency: BATCHES_AT_ONCE, ..ConsumerConfig::named("inbox") }
}

/// The dispatcher's settings. None of them can make it lose anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DispatcherConfig {
    /// Connections that one batch posts to, and entries that it stamps again, at the same time.
    pub concurrency: NonZeroUsize,
    /// Posts a second of this dispatcher, over all its batches; `None` where nothing counts them. On AWS the account's
    /// requests (10,000/s, or 2,500/s in newer Regions) are shared by everything, *including* posts
    /// ("Amazon API Gateway quotas"): give each dispatcher its share.
    pub posts_per_second: Option<NonZeroU32>,
    /// What one post may take; longer is a transient failure of its connection.
    pub post_timeout: Duration,
    /// When and how often work that was sent on is tried again, and after which attempt it ends as a dead letter.
    /// How often a message that was *given back* is tried is the consumer's own schedule.
    pub retry: RetrySchedule,
    /// How long a replay that met 410 waits while its socket may still be opening (R4).
    pub opening_wait: Duration,
}

impl Default for DispatcherConfig {
    /// 64 connections at a time, any number of posts a second, 10 s a post, the schedule's own default, 2 s.
    fn default() -> Self {
        Self {
            concurrency: NonZeroUsize::MIN.saturating_add(63),
            posts_per_second: None,
            post_timeout: Duration::from_secs(10),
            retry: RetrySchedule::default(),
            opening_wait: Duration::from_secs(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_takes_fifty_messages_at_once_and_works_on_eight_such_batches() {
        let polling = polling();
        assert_eq!((polling.name, polling.batch, polling.concurrency), ("inbox", 50, 8));
        assert_eq!(DispatcherConfig::default().concurrency.get(), 64);
    }
}
