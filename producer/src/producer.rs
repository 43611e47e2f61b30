//! Publishes and tries again what may pass. Must not know: which bus it is.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use recado_domain::event::Event;
use recado_domain::failure::Failure;
use recado_domain::ids::NotificationId;
use recado_domain::ports::{EventBus, Outcome};
use tokio::time::Instant;

/// The event is stored durably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// What names it everywhere in Recado; the same for every repetition.
    pub notification_id: NotificationId,
}

/// The event is not known to be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It was tried until the time was over. It may have been stored all the same: publish it again with the same id.
    #[error("not published in {tries} tries: {reason}; publish it again with the same id")]
    Unavailable {
        /// How often.
        tries: u32,
        /// The last failure.
        reason: String,
    },
    /// It can never be published as it is.
    #[error("refused: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The publisher stopped before there was an answer. It may have been stored all the same: publish it again with
    /// the same id.
    #[error("the publisher stopped before there was an answer; publish it again with the same id")]
    Stopped,
}

/// How long what may pass is tried: exponential backoff with full jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The ceiling of the first wait.
    pub first: Duration,
    /// The ceiling of every wait.
    pub cap: Duration,
    /// The time of all tries and waits together.
    pub total: Duration,
}

impl Default for Retry {
    /// 100 ms doubling to 3 s, for 15 s.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), cap: Duration::from_secs(3), total: Duration::from_secs(15) }
    }
}

impl Retry {
    /// The ceilings of the waits, one after the other.
    fn ceilings(&self) -> impl Iterator<Item = Duration> {
        let growing = ExponentialBuilder::new().with_min_delay(self.first).with_max_delay(self.cap);
        growing.without_max_times().build().chain(std::iter::repeat(self.cap))
    }
}

/// Publishes events to a bus.
#[derive(Debug)]
pub struct Producer<B> {
    bus: Arc<B>,
    retry: Retry,
}

impl<B> Clone for Producer<B> {
    fn clone(&self) -> Self {
        Self { bus: self.bus.clone(), retry: self.retry }
    }
}

impl<B: EventBus> Producer<B> {
    /// With the default [`Retry`].
    pub fn new(bus: B) -> Self {
        Self { bus: Arc::new(bus), retry: Retry::default() }
    }

    /// With another patience.
    #[must_use]
    pub fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// Publishes one event.
    ///
    /// # Errors
    /// When it was refused, or when the time of the [`Retry`] was over.
    pub async fn publish(&self, event: &Event) -> Result<Receipt, PublishError> {
        let answer = self.publish_batch(std::slice::from_ref(event)).await.pop();
        answer.unwrap_or(Err(PublishError::Stopped))
    }

    /// Publishes events, however many; answers each, in order. What failed and may pass is tried again, what
    /// succeeded is not.
    pub async fn publish_batch(&self, events: &[Event]) -> Vec<Result<Receipt, PublishError>> {
        let deadline = Instant::now() + self.retry.total;
        let mut ceilings = self.retry.ceilings();
        let mut batch = Batch::new(events);
        loop {
            let answers = self.try_once(&batch.to_send(), deadline).await;
            let asked = batch.settle(answers);
            let wait = ceilings.next().unwrap_or(self.retry.cap).mul_f64(rand::random()).max(asked);
            if batch.open.is_empty() || Instant::now() + wait >= deadline {
                return batch.give_up();
            }
            tracing::debug!(open = batch.open.len(), tries = batch.tries, ?wait, "publishing again");
            tokio::time::sleep(wait).await;
        }
    }

    async fn try_once(&self, events: &[Event], deadline: Instant) -> Vec<Outcome<()>> {
        if events.is_empty() {
            return Vec::new();
        }
        tokio::time::timeout_at(deadline, self.bus.publish(events)).await.unwrap_or_default()
    }
}

/// The answers of a batch so far.
struct Batch<'a> {
    events: &'a [Event],
    answers: Vec<Option<Result<Receipt, PublishError>>>,
    /// What has no answer yet, with the last failure.
    open: Vec<(usize, String)>,
    tries: u32,
}

impl<'a> Batch<'a> {
    fn new(events: &'a [Event]) -> Self {
        let open = (0..events.len()).map(|at| (at, String::new())).collect();
        Self { events, answers: vec![None; events.len()], open, tries: 0 }
    }

    fn to_send(&self) -> Vec<Event> {
        self.open.iter().map(|(at, _)| self.events[*at].clone()).collect()
    }

    /// Takes the answers for what is open; says how long the other side asked us to wait.
    fn settle(&mut self, answers: Vec<Outcome<()>>) -> Duration {
        self.tries += 1;
        let mut asked = Duration::ZERO;
        let mut answers = answers.into_iter();
        for (at, before) in std::mem::take(&mut self.open) {
            match answers.next().unwrap_or_else(|| Err(unanswered(before))) {
                Ok(()) => self.answers[at] = Some(Ok(Receipt { notification_id: self.events[at].notification_id() })),
                Err(Failure::Permanent { reason }) => self.answers[at] = Some(Err(PublishError::Refused { reason })),
                Err(Failure::Transient { retry_after, reason }) => {
                    asked = asked.max(retry_after.unwrap_or_default());
                    self.open.push((at, reason));
                }
            }
        }
        asked
    }

    fn give_up(mut self) -> Vec<Result<Receipt, PublishError>> {
        for (at, reason) in self.open {
            self.answers[at] = Some(Err(PublishError::Unavailable { tries: self.tries, reason }));
        }
        self.answers.into_iter().map(|answer| answer.unwrap_or(Err(PublishError::Stopped))).collect()
    }
}

/// A bus that answers for fewer events than it got, or not in time. What it said `before` tells more: the last try is the one
/// that the deadline cuts off.
fn unanswered(before: String) -> Failure {
    Failure::transient(if before.is_empty() { "the bus gave no answer in time".to_owned() } else { before })
}

#[cfg(test)]
mod tests {
    use recado_memory::{ManualClock, MemoryBus, MemoryQueue, SeededEntropy};

    use super::*;
    use crate::Notify;

    fn bus() -> (MemoryBus, MemoryQueue) {
        let queue = || MemoryQueue::new(ManualClock::default(), SeededEntropy::new(1));
        let inbox = queue();
        (MemoryBus::new(inbox.clone(), queue()), inbox)
    }

    fn events(count: usize) -> Vec<Event> {
        let event = |at: usize| Notify::new("/tests", "test.happened").id(at.to_string()).recipient("alice").build();
        (0..count).map(|at| event(at).expect("a valid event")).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_failed_and_may_pass_is_tried_again() {
        let (bus, queue) = bus();
        bus.faults().fail_entries("publish", &[1, 2], Failure::transient("busy"));
        bus.faults().fail_entries("publish", &[1], Failure::permanent("too strange"));
        let events = events(4);
        let answers = Producer::new(bus.clone()).publish_batch(&events).await;
        let receipt = |at: usize| Ok(Receipt { notification_id: events[at].notification_id() });
        assert_eq!(answers, [receipt(0), receipt(1), Err(PublishError::Refused { reason: "too strange".to_owned() }), receipt(3)]);
        assert_eq!((bus.faults().calls("publish"), queue.depth()), (2, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_lost_is_asked_for_again() {
        let (bus, queue) = bus();
        bus.faults().lose_answer("publish");
        assert!(Producer::new(bus).publish(&events(1)[0]).await.is_ok());
        assert_eq!(queue.depth(), 2, "the same event twice, one notification");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_down_is_given_up_in_time_and_says_how_often_it_was_tried() {
        let (bus, _) = bus();
        for _ in 0..10_000 {
            bus.faults().fail_next("publish", Failure::transient("down"));
        }
        let started = Instant::now();
        let answer = Producer::new(bus.clone()).publish(&events(1)[0]).await;
        let Err(PublishError::Unavailable { tries, reason }) = answer else { panic!("{answer:?}") };
        assert_eq!((tries as usize, reason.as_str()), (bus.faults().calls("publish"), "down"));
        assert!(tries > 3 && started.elapsed() <= Retry::default().total, "{tries} tries in {:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_was_asked_for_is_kept() {
        let (bus, _) = bus();
        bus.faults().fail_next("publish", Failure::Transient { retry_after: Some(Duration::from_secs(9)), reason: "busy".to_owned() });
        let started = Instant::now();
        assert!(Producer::new(bus.clone()).publish(&events(1)[0]).await.is_ok());
        assert!(started.elapsed() >= Duration::from_secs(9));
        bus.faults().fail_next("publish", Failure::Transient { retry_after: Some(Duration::from_secs(60)), reason: "busy".to_owned() });
        let started = Instant::now();
        assert!(Producer::new(bus).publish(&events(1)[0]).await.is_err());
        assert!(started.elapsed() < Duration::from_secs(1), "no use in waiting");
    }

    struct Silent;

    impl EventBus for Silent {
        async fn publish(&self, _: &[Event]) -> Vec<Outcome<()>> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bus_that_never_answers_does_not_hold_the_caller() {
        let answer = Producer::new(Silent).publish(&events(1)[0]).await;
        assert!(matches!(answer, Err(PublishError::Unavailable { tries: 1, .. })), "{answer:?}");
        assert!(Producer::new(Silent).publish_batch(&[]).await.is_empty());
    }

    /// Names what is wrong once, then hangs.
    #[derive(Default)]
    struct FallsSilent(std::sync::atomic::AtomicBool);

    impl EventBus for FallsSilent {
        async fn publish(&self, _: &[Event]) -> Vec<Outcome<()>> {
            if self.0.swap(true, std::sync::atomic::Ordering::Relaxed) {
                std::future::pending().await
            }
            vec![Err(Failure::transient("the endpoint's name is unknown"))]
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_cut_off_by_the_deadline_does_not_hide_the_reason_of_the_one_before() {
        let answer = Producer::new(FallsSilent::default()).publish(&events(1)[0]).await;
        let reason = "the endpoint's name is unknown".to_owned();
        assert_eq!(answer, Err(PublishError::Unavailable { tries: 2, reason }));
    }
}
