//! The queue and its dead letters in memory.
//!
//! Must not know: what a message means.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use recado_domain::failure::Failure;
use recado_domain::limits;
use recado_domain::message::{ATTRIBUTE_ATTEMPT, ATTRIBUTE_REASON, Attributes};
use recado_domain::ports::{AckToken, Clock, DeadLetter, DeadLetters, Entropy, Outcome, Outgoing, Queue, Received};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::{Faults, ManualClock, SeededEntropy, later, lock};

/// A queue with its dead letters: [`Queue`] and [`DeadLetters`] both.
///
/// Visibility and delay follow the clock it was given; the wait of `receive` is tokio's time, so that it works
/// under a paused runtime, and ends early when the clock is moved and something became visible.
#[derive(Debug, Clone)]
pub struct MemoryQueue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: ManualClock,
    entropy: SeededEntropy,
    faults: Faults,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// In the order they were sent.
    messages: BTreeMap<u64, Message>,
    dead: BTreeMap<String, DeadLetter>,
    named: u64,
}

#[derive(Debug)]
struct Message {
    body: String,
    attributes: Attributes,
    visible_at: Timestamp,
    receive_count: u32,
    token: Option<AckToken>,
}

impl State {
    fn name(&mut self) -> u64 {
        self.named += 1;
        self.named
    }

    fn enqueue(&mut self, body: String, attributes: Attributes, visible_at: Timestamp) {
        let name = self.name();
        self.messages.insert(name, Message { body, attributes, visible_at, receive_count: 0, token: None });
    }

    fn leased(&mut self, token: &AckToken) -> Outcome<u64> {
        let found = self.messages.iter().find(|(_, message)| message.token.as_ref() == Some(token));
        found.map(|(name, _)| *name).ok_or_else(|| Failure::permanent("the lease of this message was lost"))
    }
}

impl MemoryQueue {
    /// An empty queue.
    pub fn new(clock: ManualClock, entropy: SeededEntropy) -> Self {
        let faults = Faults::new(&["receive", "ack", "extend", "release", "reject", "send", "list", "redrive"]);
        Self(Arc::new(Inner { clock, entropy, faults, state: Mutex::default(), arrived: Notify::new() }))
    }

    /// Scripts what goes wrong: `receive`, `ack`, `extend`, `release`, `reject`, `send`, `list`, `redrive`.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// How many messages there are, hidden ones included, dead letters not.
    pub fn depth(&self) -> usize {
        lock(&self.0.state).messages.len()
    }

    /// What there is, in the order it was sent; `delay` says how long each is still hidden.
    pub fn messages(&self) -> Vec<Outgoing> {
        let now = self.0.clock.now();
        let hidden = |until: Timestamp| Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO);
        let outgoing = |message: &Message| Outgoing {
            body: message.body.clone(),
            attributes: message.attributes.clone(),
            delay: hidden(message.visible_at),
        };
        lock(&self.0.state).messages.values().map(outgoing).collect()
    }

    /// The moment from which the next message can be received, for a simulation that moves the clock there.
    pub fn next_visible_at(&self) -> Option<Timestamp> {
        lock(&self.0.state).messages.values().map(|message| message.visible_at).min()
    }

    /// The dead letters, oldest first.
    pub fn dead(&self) -> Vec<DeadLetter> {
        lock(&self.0.state).dead.values().cloned().collect()
    }

    /// Sends without the script's faults: what a bus does inside.
    pub(crate) fn enqueue(&self, message: Outgoing) {
        let visible_at = later(self.0.clock.now(), message.delay);
        lock(&self.0.state).enqueue(message.body, message.attributes, visible_at);
        self.0.arrived.notify_waiters();
    }

    fn take(&self, max: usize, visibility: Duration) -> Vec<Received> {
        let now = self.0.clock.now();
        let mut state = lock(&self.0.state);
        let visible = state.messages.iter_mut().filter(|(_, message)| message.visible_at <= now);
        visible.take(max.min(self.max_batch())).map(|(name, message)| self.lease(*name, message, later(now, visibility))).collect()
    }

    fn lease(&self, name: u64, message: &mut Message, until: Timestamp) -> Received {
        message.receive_count += 1;
        message.visible_at = until;
        let token = AckToken(format!("{name}-{:016x}", self.0.entropy.next_u64()));
        message.token = Some(token.clone());
        Received {
            token,
            message_id: name.to_string(),
            body: message.body.clone(),
            attributes: message.attributes.clone(),
            receive_count: message.receive_count,
        }
    }

    /// Hides a leased message until `visible_at`; given back when it is not `kept`.
    fn hide(&self, token: &AckToken, hidden: Duration, kept: bool) -> Outcome<()> {
        let mut state = lock(&self.0.state);
        let name = state.leased(token)?;
        if let Some(message) = state.messages.get_mut(&name) {
            message.visible_at = later(self.0.clock.now(), hidden);
            message.token = message.token.take().filter(|_| kept);
        }
        Ok(())
    }

    fn bury(&self, received: &Received, reason: &str) -> Outcome<()> {
        let mut state = lock(&self.0.state);
        let name = state.leased(&received.token)?;
        let Some(mut message) = state.messages.remove(&name) else { return Ok(()) };
        message.attributes.insert(ATTRIBUTE_REASON.to_owned(), reason.to_owned());
        // Padded, so that ids order as they were given: a redrive changes the name, as SQS does.
        let id = format!("dead-{:020}", state.name());
        let dead_at = self.0.clock.now();
        state.dead.insert(id.clone(), DeadLetter { id, body: message.body, attributes: message.attributes, dead_at });
        Ok(())
    }

    fn revive(&self, id: &str) -> Outcome<()> {
        let mut state = lock(&self.0.state);
        let Some(mut letter) = state.dead.remove(id) else { return Err(Failure::permanent("there is no such dead letter")) };
        letter.attributes.remove(ATTRIBUTE_REASON);
        letter.attributes.remove(ATTRIBUTE_ATTEMPT);
        state.enqueue(letter.body, letter.attributes, self.0.clock.now());
        Ok(())
    }

    fn is_due(&self) -> bool {
        self.next_visible_at().is_some_and(|at| at <= self.0.clock.now())
    }

    /// Done when there is something to answer, a scripted fault included, or at `deadline`.
    async fn wait_until_due(&self, deadline: Instant) {
        loop {
            // Made before looking, so that nothing that arrives in between is missed.
            let (arrived, moved) = (self.0.arrived.notified(), self.0.clock.moved());
            if self.is_due() || self.0.faults.is_scripted("receive") {
                return;
            }
            tokio::select! {
                () = arrived => {}
                () = moved => {}
                () = sleep_until(deadline) => return,
            }
        }
    }
}

impl Queue for MemoryQueue {
    fn max_batch(&self) -> usize {
        limits::AWS_BATCH_ENTRIES
    }

    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Outcome<Vec<Received>> {
        if !wait.is_zero() {
            self.wait_until_due(Instant::now() + wait.min(limits::QUEUE_POLL)).await;
        }
        self.0.faults.one("receive", || Ok(self.take(max, visibility)))
    }

    async fn ack(&self, tokens: &[AckToken]) -> Vec<Outcome<()>> {
        self.0.faults.each("ack", tokens.len(), |at| {
            let mut state = lock(&self.0.state);
            let name = state.leased(&tokens[at])?;
            state.messages.remove(&name);
            Ok(())
        })
    }

    async fn extend(&self, tokens: &[AckToken], visibility: Duration) -> Vec<Outcome<()>> {
        self.0.faults.each("extend", tokens.len(), |at| self.hide(&tokens[at], visibility, true))
    }

    async fn release(&self, messages: &[(AckToken, Duration)]) -> Vec<Outcome<()>> {
        let answers = self.0.faults.each("release", messages.len(), |at| self.hide(&messages[at].0, messages[at].1, false));
        self.0.arrived.notify_waiters();
        answers
    }

    async fn reject(&self, messages: &[(Received, String)]) -> Vec<Outcome<()>> {
        self.0.faults.each("reject", messages.len(), |at| self.bury(&messages[at].0, &messages[at].1))
    }

    async fn send(&self, messages: &[Outgoing]) -> Vec<Outcome<()>> {
        self.0.faults.each("send", messages.len(), |at| {
            let message = &messages[at];
            if message.delay > limits::QUEUE_DELAY {
                return Err(Failure::permanent(format!("a delay of {:?} is above the limit of {:?}", message.delay, limits::QUEUE_DELAY)));
            }
            self.enqueue(message.clone());
            Ok(())
        })
    }
}

impl DeadLetters for MemoryQueue {
    async fn list(&self, max: usize) -> Outcome<Vec<DeadLetter>> {
        self.0.faults.one("list", || Ok(lock(&self.0.state).dead.values().take(max).cloned().collect()))
    }

    async fn redrive(&self, ids: &[String]) -> Vec<Outcome<()>> {
        let answers = self.0.faults.each("redrive", ids.len(), |at| self.revive(&ids[at]));
        self.0.arrived.notify_waiters();
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);
    const LONG: Duration = Duration::from_secs(20);

    fn queue() -> (MemoryQueue, ManualClock) {
        let clock = ManualClock::default();
        (MemoryQueue::new(clock.clone(), SeededEntropy::new(1)), clock)
    }

    fn message(delay: Duration) -> Outgoing {
        Outgoing { body: "hello".to_owned(), attributes: Attributes::new(), delay }
    }

    #[tokio::test]
    async fn a_waiting_receive_gets_what_is_sent_meanwhile() {
        let (queue, _) = queue();
        let waiting = queue.receive(1, LONG, LEASE);
        let sending = async { queue.send(&[message(Duration::ZERO)]).await };
        let (received, _) = tokio::join!(waiting, sending);
        assert_eq!(received.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_waiting_receive_gets_what_the_clock_makes_visible() {
        let (queue, clock) = queue();
        queue.send(&[message(Duration::from_secs(60))]).await;
        let moving = async { clock.advance(Duration::from_secs(60)) };
        let (received, ()) = tokio::join!(queue.receive(1, LONG, LEASE), moving);
        assert_eq!(received.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_receive_of_an_empty_queue_ends_with_its_wait() {
        let (queue, _) = queue();
        assert!(queue.receive(1, Duration::from_millis(5), LEASE).await.unwrap().is_empty());
        assert!(queue.receive(1, Duration::ZERO, LEASE).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_the_message_leased() {
        let (queue, clock) = queue();
        queue.send(&[message(Duration::ZERO)]).await;
        queue.faults().lose_answer("receive");
        assert!(queue.receive(1, Duration::ZERO, LEASE).await.unwrap_err().is_transient());
        assert_eq!(queue.next_visible_at(), Some(clock.now() + LEASE));
        assert_eq!(queue.messages()[0].delay, LEASE);
    }
}
