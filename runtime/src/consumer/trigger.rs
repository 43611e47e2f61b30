//! Batches that a platform polls and deletes, such as those of a Lambda event source mapping: what the consumer loop
//! does with a batch, within a deadline, and with an answer instead of a delete.
//!
//! Must not know: the platform, how its events look.

use std::sync::Arc;
use std::time::Duration;

use recado_domain::ports::{AckToken, Entropy, Queue, Received};
use tokio::time::Instant;

use super::settle::{self, Sorted};
use super::{Deadline, Handler};
use crate::backoff::RetrySchedule;

/// Handles batches one after the other.
#[derive(Debug)]
pub struct Trigger<Q, H, E> {
    /// The queue's name in logs and metrics.
    pub name: &'static str,
    /// Where messages are given back and rejected.
    pub queue: Q,
    /// What to do with them.
    pub handler: Arc<H>,
    /// Jitter.
    pub entropy: E,
    /// When and how often a message is tried again.
    pub retry: RetrySchedule,
    /// What is kept of the time of a batch for giving back and rejecting; at most half of it.
    pub margin: Duration,
}

/// What the platform has to do with the messages of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Ids of messages that stay in the queue: it must not delete them.
    pub failed: Vec<String>,
    /// Messages it may delete, for whoever has to do that by itself.
    pub done: Vec<Received>,
}

impl<Q: Queue, H: Handler, E: Entropy> Trigger<Q, H, E> {
    /// Handles a batch and settles it, in `within` at most. What is not done in time is given back like what failed.
    pub async fn handle(&self, batch: Vec<Received>, within: Duration) -> Settled {
        let end = Instant::now() + within;
        let handle_until = end - self.margin.min(within / 2);
        metrics::counter!("recado_received_total", "queue" => self.name).increment(batch.len() as u64);
        let answers = match tokio::time::timeout_at(handle_until, settle::answers(&self.handler, &batch, &Deadline::at(handle_until))).await
        {
            Ok(answers) => answers,
            Err(_) => settle::retry_all(batch.len(), "the time of the invocation was over; give it more, or smaller batches"),
        };
        let sorted = settle::sort(self.name, batch, answers, &self.retry, &self.entropy);
        self.settle(sorted, end).await
    }

    /// Deletes messages, for when the platform does not. One that is not deleted is received again.
    pub async fn delete(&self, done: Vec<Received>) {
        let tokens: Vec<AckToken> = done.into_iter().map(|message| message.token).collect();
        settle::carry_out((self.name, &self.queue), "ack", &tokens, async |queue: &Q, some: &[AckToken]| queue.ack(some).await).await;
    }

    /// A message that was given back stays in the queue, and so does one whose reject did not succeed.
    async fn settle(&self, sorted: Sorted, end: Instant) -> Settled {
        let Sorted { mut done, back, dead } = sorted;
        let mut failed: Vec<String> = back.iter().map(|(message, _)| message.message_id.clone()).collect();
        let release: Vec<_> = back.into_iter().map(|(message, wait)| (message.token, wait)).collect();
        let releasing =
            settle::carry_out((self.name, &self.queue), "release", &release, async |queue: &Q, some: &[(AckToken, Duration)]| {
                queue.release(some).await
            });
        let rejecting = settle::carry_out((self.name, &self.queue), "reject", &dead, async |queue: &Q, some: &[(Received, String)]| {
            queue.reject(some).await
        });
        // A release that does not end in time changes nothing: the message waits for the end of its lease.
        let in_time = |settling| tokio::time::timeout_at(end, settling);
        let (_, rejected) = futures_util::join!(tokio::time::timeout_at(end, releasing), in_time(rejecting));
        let mut rejected = rejected.unwrap_or_default().into_iter();
        for (message, _) in dead {
            match rejected.next() {
                Some(Ok(())) => done.push(message),
                _ => failed.push(message.message_id),
            }
        }
        Settled { failed, done }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use recado_domain::failure::Failure;
    use recado_domain::message::ATTRIBUTE_REASON;
    use recado_domain::ports::Outgoing;
    use recado_memory::{ManualClock, MemoryQueue, SeededEntropy};

    use super::*;
    use crate::consumer::by_body::ByBody;

    struct World {
        trigger: Trigger<MemoryQueue, ByBody, SeededEntropy>,
        batch: Vec<Received>,
        clock: ManualClock,
    }

    async fn world(bodies: &[&str]) -> World {
        let clock = ManualClock::new(Timestamp::from_second(1_000_000).unwrap());
        let queue = MemoryQueue::new(clock.clone(), SeededEntropy::new(7));
        for body in bodies {
            let message = Outgoing { body: (*body).to_owned(), attributes: Default::default(), delay: Duration::ZERO };
            queue.send(&[message]).await.remove(0).unwrap();
        }
        let batch = queue.receive(10, Duration::ZERO, Duration::from_secs(180)).await.unwrap();
        assert_eq!(batch.len(), bodies.len());
        let (handler, entropy, retry) = (Arc::new(ByBody::default()), SeededEntropy::new(1), RetrySchedule::default());
        World { trigger: Trigger { name: "test", queue, handler, entropy, retry, margin: Duration::from_secs(2) }, batch, clock }
    }

    fn id_of(batch: &[Received], body: &str) -> String {
        batch.iter().find(|message| message.body == body).unwrap().message_id.clone()
    }

    const WITHIN: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn what_is_done_or_rejected_may_be_deleted_and_what_is_given_back_may_not() {
        let World { trigger, batch, clock } = world(&["one", "retry", "reject"]).await;
        let settled = trigger.handle(batch.clone(), WITHIN).await;
        assert_eq!(settled.failed, [id_of(&batch, "retry")]);
        let done: Vec<_> = settled.done.iter().map(|message| message.body.as_str()).collect();
        assert_eq!(done, ["one", "reject"]);
        assert_eq!(trigger.queue.dead()[0].attributes[ATTRIBUTE_REASON], "never");
        // Given back with the schedule's backoff, long before its lease of three minutes ends.
        clock.advance(Duration::from_secs(1));
        let again = trigger.queue.receive(10, Duration::ZERO, WITHIN).await.unwrap();
        assert_eq!(again.iter().map(|message| (message.body.as_str(), message.receive_count)).collect::<Vec<_>>(), [("retry", 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reject_that_fails_leaves_the_message_in_the_queue() {
        let World { trigger, batch, .. } = world(&["reject"]).await;
        trigger.queue.faults().fail_next("reject", Failure::permanent("access denied"));
        let settled = trigger.handle(batch.clone(), WITHIN).await;
        assert_eq!(settled, Settled { failed: vec![id_of(&batch, "reject")], done: Vec::new() });
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_tried_often_enough_is_a_dead_letter() {
        let World { trigger, mut batch, .. } = world(&["retry"]).await;
        batch[0].receive_count = RetrySchedule::default().max_attempts;
        let settled = trigger.handle(batch, WITHIN).await;
        assert!(settled.failed.is_empty());
        assert!(trigger.queue.dead()[0].attributes[ATTRIBUTE_REASON].contains("gave up after 16 attempts: not now"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_done_before_the_margin_is_given_back() {
        let World { trigger, batch, .. } = world(&["slow"]).await;
        let started = Instant::now();
        let settled = trigger.handle(batch.clone(), WITHIN).await;
        assert_eq!(settled.failed, [id_of(&batch, "slow")]);
        assert!(started.elapsed() < Duration::from_secs(29), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_margin_never_takes_more_than_half_of_the_time() {
        let World { trigger, batch, .. } = world(&["one"]).await;
        assert!(trigger.handle(batch, Duration::from_secs(1)).await.failed.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_panics_fails_its_batch_alone() {
        let World { trigger, batch, .. } = world(&["one", "panic"]).await;
        assert_eq!(trigger.handle(batch, WITHIN).await.failed.len(), 2);
        let World { trigger, batch, .. } = world(&["one"]).await;
        assert!(trigger.handle(batch, WITHIN).await.failed.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_platform_does_not_delete_can_be_deleted() {
        let World { trigger, batch, .. } = world(&["one"]).await;
        let settled = trigger.handle(batch, WITHIN).await;
        assert_eq!(trigger.queue.depth(), 1);
        trigger.delete(settled.done).await;
        assert_eq!(trigger.queue.depth(), 0);
    }
}
