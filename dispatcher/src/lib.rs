//! Inbox queue to inbox entry and push: the rules R1 to R8 of ARCHITECTURE.md as phases of a batch.
//!
//! A batch is *sorted* into what each message asks for; events that asked for e-mail by their body alone are
//! *forwarded*; entries are *appended* (R1, R6); then, and only then, their recipients are *looked up* (R2); frames are
//! *pushed*; and what each message came to is *settled* (R3). Replay commands (R4, R7) go beside the events.
//!
//! Must not know: any store, any gateway, how messages are polled. [`Dispatcher`] is a [`Handler`]: the consumer
//! loop of `recado-runtime`, or a Lambda trigger, feeds it and carries out its answers. It may be dropped at any
//! await: whatever it did may be done again.
//!
//! Decided here, where the rules leave it open:
//!
//! * An entry that was there before (a redelivery, a redrive, a second publish) is pushed again, acknowledged or
//!   not, unless it was acknowledged more than a day ago: another device may have missed it. Clients deduplicate.
//! * An event that failed alike for all its recipients is given back, or rejected, as it is. One that failed for
//!   some is sent on for them alone, so that a dead letter names only those whom it concerns.
//! * Work is sent on in one call at the end of a batch. Where that fails, the message itself is given back: its
//!   recipients may then see a frame twice, and none is lost.

mod append;
mod config;
mod crowded;
mod forward;
mod plan;
mod push;
mod replay;
mod settle;
mod sort;
mod world;

#[cfg(test)]
mod fixture;

pub use config::{DispatcherConfig, polling};
pub use world::{Ports, World};

use jiff::Timestamp;
use leaky_bucket::RateLimiter;
use recado_domain::ports::{Clock, Connections, Entropy, Inbox, Queue, Received, Sockets};
use recado_runtime::consumer::{Deadline, Disposition, Handler};

use crate::crowded::Crowded;
use crate::plan::{Batch, EventMessage};
use crate::sort::Sorted;

/// Brings events and replays from the inbox queue to inboxes and sockets.
#[derive(Debug)]
pub struct Dispatcher<W> {
    world: W,
    config: DispatcherConfig,
    /// Over all batches; see [`DispatcherConfig::posts_per_second`].
    posts: Option<RateLimiter>,
    crowded: Crowded,
}

impl<Q: Queue, M: Queue, I: Inbox, C: Connections, S: Sockets, K: Clock, E: Entropy> Dispatcher<Ports<Q, M, I, C, S, K, E>> {
    /// A dispatcher on these ports.
    pub fn new(ports: Ports<Q, M, I, C, S, K, E>, config: DispatcherConfig) -> Self {
        Self { world: ports, config, posts: config.posts_per_second.map(push::bucket), crowded: Crowded::default() }
    }
}

impl<W: World> Dispatcher<W> {
    fn now(&self) -> Timestamp {
        self.world.clock().now()
    }

    /// From entries to settled messages: the order of these lines is R1, R2 and R3.
    async fn deliver(&self, events: Vec<EventMessage>) -> Vec<(usize, Disposition)> {
        if events.is_empty() {
            return Vec::new();
        }
        let batch = Batch::of(events, self.now());
        let mut fates = append::append(self, &batch).await;
        let audiences = push::lookup(self, &batch, &mut fates).await;
        let unposted = push::push(self, &batch, &audiences).await;
        settle::settle(self, &batch, &fates, &audiences, &unposted).await
    }
}

impl<W: World> Handler for Dispatcher<W> {
    /// Nothing of it needs to end: whatever is done again is seen once.
    async fn handle(&self, messages: Vec<Received>, _: &Deadline) -> Vec<Disposition> {
        let Sorted { events, replays, mut answers } = sort::sort(&messages, self.now());
        let events = forward::forward(self, &messages, events, &mut answers).await;
        let (delivered, replayed) = futures_util::join!(self.deliver(events), replay::replay_all(self, replays));
        for (at, answer) in delivered.into_iter().chain(replayed) {
            answers[at] = Some(answer);
        }
        let unanswered = || Disposition::Retry { after: None, reason: "the dispatcher came to no answer".to_owned() };
        answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
    }
}
