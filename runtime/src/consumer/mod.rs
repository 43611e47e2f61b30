//! The loop of every queue worker: permit, poll, handle under a lease, settle, drain.
//!
//! Must not know: what a message means. A [`Handler`] says what each came to; the same handler serves a Lambda
//! [`trigger`], where the platform polls and deletes.

#[cfg(test)]
mod by_body;
mod deadline;
mod settle;
pub mod trigger;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use recado_domain::failure::Failure;
use recado_domain::ports::{AckToken, Entropy, Outcome, Queue, Received};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::deadline::Deadline;
use self::settle::{Sorted, carry_out, log_failures};
use crate::backoff::RetrySchedule;

/// What a message came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// Everything of it is durable elsewhere: delete it.
    Done,
    /// Give it back; it is received again with backoff, and given up after the schedule's attempts.
    Retry {
        /// What the other side asked us to wait.
        after: Option<Duration>,
        /// For the operator.
        reason: String,
    },
    /// It can never succeed: to the dead-letter queue.
    Reject {
        /// For the operator, kept with the dead letter.
        reason: String,
    },
}

impl From<Failure> for Disposition {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Transient { retry_after, reason } => Self::Retry { after: retry_after, reason },
            Failure::Permanent { reason } => Self::Reject { reason },
        }
    }
}

/// What a worker does with messages.
pub trait Handler: Send + Sync + 'static {
    /// Handles a batch; one answer per message, in order. It may be dropped at any await, and is when the time of
    /// `deadline` is over: what it did not finish is received again.
    fn handle(&self, batch: Vec<Received>, deadline: &Deadline) -> impl Future<Output = Vec<Disposition>> + Send;
}

/// How a consumer polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// The queue's name in logs and metrics.
    pub name: &'static str,
    /// Batches in work at the same time.
    pub concurrency: usize,
    /// Messages of one batch. Where the queue gives fewer at a time, a backlog is taken in several receives.
    pub batch: usize,
    /// How long a poll waits for the first message.
    pub wait: Duration,
    /// The lease of a message; renewed at half its time while the message is in work.
    pub visibility: Duration,
    /// When and how often a message is tried again.
    pub retry: RetrySchedule,
    /// How long batches in work may take after the stop signal.
    pub drain: Duration,
}

impl ConsumerConfig {
    /// The defaults for a queue of this name.
    pub fn named(name: &'static str) -> Self {
        Self {
            name,
            concurrency: 4,
            batch: 256,
            wait: Duration::from_secs(20),
            visibility: Duration::from_secs(60),
            retry: RetrySchedule::default(),
            drain: Duration::from_secs(10),
        }
    }
}

/// What stopping came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every batch was settled.
    Clean,
    /// The deadline passed; this many batches were given up, and will be received again.
    Abandoned(usize),
}

/// How long a poll that is under way at the stop signal may still hand over messages, so that they can be given
/// back at once rather than after their lease.
const LAST_POLL: Duration = Duration::from_millis(250);

/// So many polls that fail in a row are an error, which an alarm looks for; fewer may be a moment of the network.
const POLLS_FAIL: u32 = 3;

/// Polls until `stop`, then drains.
pub async fn consume<Q, H, E>(queue: Arc<Q>, handler: Arc<H>, entropy: Arc<E>, config: ConsumerConfig, stop: CancellationToken) -> Drained
where
    Q: Queue,
    H: Handler,
    E: Entropy,
{
    let permits = Arc::new(Semaphore::new(config.concurrency));
    let (end, deadline) = Deadline::settable();
    let worker = Arc::new(Worker { queue, handler, entropy, config, deadline });
    let mut polls_failed = 0;
    while let Some(permit) = permit(&permits, &stop).await {
        match worker.poll(&stop).await {
            Ok(batch) if batch.is_empty() => polls_failed = 0,
            Ok(batch) => {
                polls_failed = 0;
                if stop.is_cancelled() {
                    worker.give_back(&batch).await;
                } else {
                    // The permit moves into the task with the batch: a drain that holds all permits has no batch left.
                    tokio::spawn(worker.clone().work(batch, permit));
                }
            }
            Err(failure) => {
                polls_failed += 1;
                metrics::counter!("recado_poll_failures_total", "queue" => config.name).increment(1);
                let reason = failure.reason();
                match polls_failed {
                    0..POLLS_FAIL => tracing::warn!(queue = config.name, reason, polls_failed, "polling failed"),
                    _ => tracing::error!(queue = config.name, reason, polls_failed, "polling failed"),
                }
                worker.pause(polls_failed, &stop).await;
            }
        }
    }
    end.send_replace(Some(Instant::now() + config.drain));
    drain(&permits, &config).await
}

/// A permit before polling, so that nothing is leased that nobody works on; `None` once stopped.
async fn permit(permits: &Arc<Semaphore>, stop: &CancellationToken) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        permit = permits.clone().acquire_owned() => permit.ok(),
    }
}

async fn drain(permits: &Semaphore, config: &ConsumerConfig) -> Drained {
    let all = u32::try_from(config.concurrency).unwrap_or(u32::MAX);
    let drained = match tokio::time::timeout(config.drain, permits.acquire_many(all)).await {
        Ok(_) => Drained::Clean,
        Err(_) => Drained::Abandoned(config.concurrency.saturating_sub(permits.available_permits())),
    };
    tracing::info!(queue = config.name, ?drained, "consumer stopped");
    drained
}

/// The sizes of up to `calls` receives of up to `most` messages each, for `room` messages.
fn calls(room: usize, most: usize, calls: usize) -> Vec<usize> {
    (0..calls).map(|call| room.saturating_sub(call * most).min(most)).take_while(|size| *size > 0).collect()
}

struct Worker<Q, H, E> {
    queue: Arc<Q>,
    handler: Arc<H>,
    entropy: Arc<E>,
    config: ConsumerConfig,
    deadline: Deadline,
}

impl<Q: Queue, H: Handler, E: Entropy> Worker<Q, H, E> {
    /// Takes what is there, up to a batch. A receive that comes back full says that there is more: then as many receives
    /// again are made at once, without waiting, for as long as all of them come back full. So a backlog is taken in few
    /// round trips, and never more than half of the calls find nothing.
    async fn poll(&self, stop: &CancellationToken) -> Outcome<Vec<Received>> {
        let config = &self.config;
        let most = self.queue.max_batch().min(config.batch);
        let mut batch = self.first(most, stop).await?;
        let (mut full, mut made) = (batch.len() == most, 1);
        while full && batch.len() < config.batch && !stop.is_cancelled() {
            let sizes = calls(config.batch - batch.len(), most, made);
            let receives = sizes.iter().map(|size| self.queue.receive(*size, Duration::ZERO, config.visibility));
            for (received, size) in join_all(receives).await.into_iter().zip(&sizes) {
                // What fails now fails again in the next poll, which says so; what is in hand is worked off meanwhile.
                let received = received.unwrap_or_default();
                full &= received.len() == *size;
                batch.extend(received);
            }
            made += sizes.len();
        }
        Ok(batch)
    }

    /// Waits for the first messages.
    async fn first(&self, most: usize, stop: &CancellationToken) -> Outcome<Vec<Received>> {
        let receive = self.queue.receive(most, self.config.wait, self.config.visibility);
        tokio::pin!(receive);
        tokio::select! {
            // In a fixed order here and below: where both are there, messages that have come are not left to their lease.
            biased;
            received = &mut receive => received,
            () = stop.cancelled() => tokio::time::timeout(LAST_POLL, receive).await.unwrap_or(Ok(Vec::new())),
        }
    }

    async fn pause(&self, polls_failed: u32, stop: &CancellationToken) {
        let wait = self.config.retry.delay(polls_failed, None, &*self.entropy);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    async fn give_back(&self, batch: &[Received]) {
        let back: Vec<_> = batch.iter().map(|message| (message.token.clone(), Duration::ZERO)).collect();
        log_failures(self.config.name, "release", &self.queue.release(&back).await);
    }

    async fn work(self: Arc<Self>, batch: Vec<Received>, permit: OwnedSemaphorePermit) {
        metrics::counter!("recado_received_total", "queue" => self.config.name).increment(batch.len() as u64);
        let dispositions = tokio::select! {
            biased;
            dispositions = settle::answers(&self.handler, &batch, &self.deadline) => dispositions,
            never = self.keep_lease(&batch) => match never {},
        };
        self.settle(batch, dispositions).await;
        drop(permit);
    }

    /// Renews the lease at half its time until dropped: one lost renewal still leaves room for another.
    async fn keep_lease(&self, batch: &[Received]) -> std::convert::Infallible {
        let tokens: Vec<AckToken> = batch.iter().map(|message| message.token.clone()).collect();
        loop {
            tokio::time::sleep(self.config.visibility / 2).await;
            log_failures(self.config.name, "extend", &self.queue.extend(&tokens, self.config.visibility).await);
        }
    }

    async fn settle(&self, batch: Vec<Received>, dispositions: Vec<Disposition>) {
        let ConsumerConfig { name, retry, .. } = &self.config;
        let Sorted { done, back, dead } = settle::sort(name, batch, dispositions, retry, &*self.entropy);
        let queue = (*name, &*self.queue);
        let done: Vec<_> = done.into_iter().map(|message| message.token).collect();
        let back: Vec<_> = back.into_iter().map(|(message, wait)| (message.token, wait)).collect();
        carry_out(queue, "ack", &done, async |queue: &Q, some: &[AckToken]| queue.ack(some).await).await;
        carry_out(queue, "release", &back, async |queue: &Q, some: &[(AckToken, Duration)]| queue.release(some).await).await;
        carry_out(queue, "reject", &dead, async |queue: &Q, some: &[(Received, String)]| queue.reject(some).await).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use jiff::Timestamp;
    use recado_domain::ports::Outgoing;
    use recado_memory::{ManualClock, MemoryQueue, SeededEntropy};
    use tokio::task::JoinHandle;

    use super::by_body::ByBody;
    use super::*;

    type TestQueue = MemoryQueue;

    struct Running {
        queue: Arc<TestQueue>,
        clock: ManualClock,
        handler: Arc<ByBody>,
        stop: CancellationToken,
        task: JoinHandle<Drained>,
    }

    async fn start(bodies: &[&str]) -> Running {
        let clock = ManualClock::new(Timestamp::from_second(1_000_000).unwrap());
        let queue = Arc::new(MemoryQueue::new(clock.clone(), SeededEntropy::new(7)));
        for body in bodies {
            let message = Outgoing { body: (*body).to_owned(), attributes: Default::default(), delay: Duration::ZERO };
            queue.send(&[message]).await.remove(0).unwrap();
        }
        let config = ConsumerConfig { batch: 1, wait: Duration::from_secs(1), ..ConsumerConfig::named("test") };
        let handler = Arc::new(ByBody::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(consume(queue.clone(), handler.clone(), Arc::new(SeededEntropy::new(1)), config, stop.clone()));
        Running { queue, clock, handler, stop, task }
    }

    async fn until(condition: impl Fn() -> bool) {
        let waiting = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(600), waiting).await.expect("the condition holds in time");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_leaves_the_queue_and_what_is_rejected_is_a_dead_letter_with_its_reason() {
        let running = start(&["done", "reject"]).await;
        until(|| running.queue.depth() == 0).await;
        let dead = running.queue.dead();
        assert_eq!(dead.len(), 1);
        assert!(dead[0].attributes.values().any(|value| value == "never"));
        running.stop.cancel();
        assert_eq!(running.task.await.unwrap(), Drained::Clean);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_is_tried_again_and_given_up_in_the_end() {
        let running = start(&["retry"]).await;
        until(|| {
            running.clock.advance(Duration::from_secs(200));
            !running.queue.dead().is_empty()
        })
        .await;
        let attempts = RetrySchedule::default().max_attempts;
        assert_eq!(running.handler.handled.load(Ordering::SeqCst), attempts as usize);
        assert!(running.queue.dead()[0].attributes.values().any(|reason| reason.contains("gave up after 16 attempts: not now")));
    }

    /// Chance that always draws the longest wait.
    struct Longest;

    impl Entropy for Longest {
        fn next_u64(&self) -> u64 {
            u64::MAX
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_fails_is_repeated_ever_later_until_one_succeeds() {
        let queue = Arc::new(MemoryQueue::new(ManualClock::default(), SeededEntropy::new(7)));
        let fail = || queue.faults().fail_next("receive", Failure::transient("busy"));
        (0..5).for_each(|_| fail());
        queue.faults().after_next("receive", || {});
        fail();
        let config = ConsumerConfig { wait: Duration::from_secs(1), ..ConsumerConfig::named("test") };
        let (handler, stop) = (Arc::new(ByBody::default()), CancellationToken::new());
        tokio::spawn(consume(queue.clone(), handler.clone(), Arc::new(Longest), config, stop.clone()));
        // Looked at every 5 ms, and timers count whole milliseconds: to 50 ms.
        let polled = async |times: usize, began: Instant| {
            until(|| queue.faults().calls("receive") >= times).await;
            (began.elapsed().as_millis() + 25) / 50 * 50
        };
        let began = Instant::now();
        assert_eq!(polled(6, began).await, 200 + 400 + 800 + 1_600 + 3_200);
        let failed_again = Instant::now();
        assert_eq!(polled(8, failed_again).await, 1_000 + 200, "one that succeeds ends the row, even if it finds nothing");
        assert_eq!(handler.batches.load(Ordering::SeqCst), 0, "nothing is nothing to handle");
        stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_poll_still_brings_after_the_stop_is_given_back_at_once() {
        let clock = ManualClock::new(Timestamp::from_second(1_000_000).unwrap());
        let queue = Arc::new(MemoryQueue::new(clock, SeededEntropy::new(7)));
        let message = Outgoing { body: "done".to_owned(), attributes: Default::default(), delay: Duration::ZERO };
        queue.send(&[message]).await.remove(0).unwrap();
        let (handler, stop) = (Arc::new(ByBody::default()), CancellationToken::new());
        let stopping = stop.clone();
        queue.faults().after_next("receive", move || stopping.cancel());
        let config = ConsumerConfig::named("test");
        assert_eq!(consume(queue.clone(), handler.clone(), Arc::new(Longest), config, stop).await, Drained::Clean);
        assert_eq!(handler.batches.load(Ordering::SeqCst), 0);
        let again = queue.receive(1, Duration::ZERO, config.visibility).await.unwrap();
        assert_eq!(again.iter().map(|message| message.receive_count).collect::<Vec<_>>(), [2], "long before its lease ends");
    }

    #[test]
    fn receives_of_a_batch_fit_its_room() {
        assert_eq!(calls(40, 10, 1), [10]);
        assert_eq!(calls(30, 10, 2), [10, 10]);
        assert_eq!(calls(15, 10, 4), [10, 5]);
        assert!(calls(0, 10, 4).is_empty());
    }

    /// How many receives and batches it takes to work off so many messages, 50 a batch, until the first empty poll.
    async fn worked_off(messages: usize) -> (usize, Vec<usize>) {
        let queue = Arc::new(MemoryQueue::new(ManualClock::default(), SeededEntropy::new(7)));
        for _ in 0..messages {
            let message = Outgoing { body: "done".to_owned(), attributes: Default::default(), delay: Duration::ZERO };
            queue.send(&[message]).await.remove(0).unwrap();
        }
        let config = ConsumerConfig { batch: 50, wait: Duration::ZERO, ..ConsumerConfig::named("test") };
        let worker = Worker {
            queue: queue.clone(),
            handler: Arc::new(ByBody::default()),
            entropy: Arc::new(SeededEntropy::new(1)),
            config,
            deadline: Deadline::never(),
        };
        let mut batches = Vec::new();
        loop {
            match worker.poll(&CancellationToken::new()).await.unwrap().len() {
                0 => return (queue.faults().calls("receive"), batches),
                size => batches.push(size),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_is_taken_in_whole_batches_and_a_short_answer_is_worked_on_at_once() {
        // Two full batches of five receives; two receives that are full, and two that find nothing; the last, empty poll.
        assert_eq!(worked_off(120).await, (5 + 5 + 4 + 1, vec![50, 50, 20]));
        assert_eq!(worked_off(7).await, (1 + 1, vec![7]));
        // One receive that finds nothing tells that ten were all.
        assert_eq!(worked_off(10).await, (2 + 1, vec![10]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_receive_that_fails_after_others_keeps_nothing_back() {
        let queue = Arc::new(MemoryQueue::new(ManualClock::default(), SeededEntropy::new(7)));
        for _ in 0..30 {
            let message = Outgoing { body: "done".to_owned(), attributes: Default::default(), delay: Duration::ZERO };
            queue.send(&[message]).await.remove(0).unwrap();
        }
        let faults = queue.clone();
        queue.faults().after_next("receive", move || faults.faults().fail_next("receive", Failure::transient("busy")));
        let config = ConsumerConfig { batch: 50, ..ConsumerConfig::named("test") };
        let worker = Worker {
            queue,
            handler: Arc::new(ByBody::default()),
            entropy: Arc::new(SeededEntropy::new(1)),
            config,
            deadline: Deadline::never(),
        };
        assert_eq!(worker.poll(&CancellationToken::new()).await.unwrap().len(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_panics_leaves_the_consumer_alive() {
        let running = start(&["panic", "done"]).await;
        until(|| running.handler.handled.load(Ordering::SeqCst) >= 2).await;
        until(|| running.queue.depth() == 1).await;
        assert!(!running.task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_what_is_in_work_up_to_its_deadline() {
        let running = start(&["slow"]).await;
        until(|| running.handler.handled.load(Ordering::SeqCst) == 1).await;
        running.stop.cancel();
        assert_eq!(running.task.await.unwrap(), Drained::Abandoned(1));
        assert_eq!(running.queue.depth(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_renewed_while_its_message_is_in_work() {
        let running = start(&["slow"]).await;
        until(|| running.handler.handled.load(Ordering::SeqCst) == 1).await;
        // 100 s of work under a lease of 60 s: both clocks move together, and nobody else gets the message.
        for _ in 0..98 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            running.clock.advance(Duration::from_secs(1));
        }
        until(|| running.queue.depth() == 0).await;
        assert_eq!(running.handler.handled.load(Ordering::SeqCst), 1);
    }
}
