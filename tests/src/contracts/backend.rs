//! What runs under the contracts: a set of fresh ports, and a hand on their clock.
//!
//! Must not know: the contracts.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use recado_domain::ports::{Clock, Connections, DeadLetters, EventBus, Inbox, MailClaims, Queue};
use recado_embedded::{QueueName, Store, StoredBus, StoredClaims, StoredConnections, StoredDeadLetters, StoredInbox, StoredQueue};
use recado_memory::{ManualClock, MemoryBus, MemoryClaims, MemoryConnections, MemoryInbox, MemoryQueue, SeededEntropy};

/// The ports of one deployment that nobody else uses.
pub trait Backend: Sized {
    /// See [`EventBus`].
    type Bus: EventBus;
    /// See [`Queue`].
    type Queue: Queue;
    /// See [`DeadLetters`].
    type DeadLetters: DeadLetters;
    /// See [`Inbox`].
    type Inbox: Inbox;
    /// See [`Connections`].
    type Connections: Connections;
    /// See [`MailClaims`].
    type Claims: MailClaims;

    /// Starts an empty one.
    fn fresh() -> impl Future<Output = Self>;

    /// Lets time pass: moves the clock where the backend takes one, waits where it does not.
    fn advance(&self, by: Duration) -> impl Future<Output = ()>;

    /// Now, by the clock of the backend.
    fn now(&self) -> Timestamp;

    /// Publishes into both queues.
    fn bus(&self) -> &Self::Bus;

    /// Where every event goes.
    fn inbox_queue(&self) -> &Self::Queue;

    /// Where events go that ask for mail.
    fn email_queue(&self) -> &Self::Queue;

    /// The dead letters of the inbox queue.
    fn dead_letters(&self) -> &Self::DeadLetters;

    /// The inboxes.
    fn inbox(&self) -> &Self::Inbox;

    /// Who is connected.
    fn connections(&self) -> &Self::Connections;

    /// Who sends which mail.
    fn claims(&self) -> &Self::Claims;
}

/// Everything in memory.
pub struct Memory {
    clock: ManualClock,
    bus: MemoryBus,
    inbox_queue: MemoryQueue,
    email_queue: MemoryQueue,
    inbox: MemoryInbox,
    connections: MemoryConnections,
    claims: MemoryClaims,
}

impl Backend for Memory {
    type Bus = MemoryBus;
    type Queue = MemoryQueue;
    type DeadLetters = MemoryQueue;
    type Inbox = MemoryInbox;
    type Connections = MemoryConnections;
    type Claims = MemoryClaims;

    async fn fresh() -> Self {
        let (clock, entropy) = (ManualClock::default(), SeededEntropy::new(7));
        let queue = || MemoryQueue::new(clock.clone(), entropy.clone());
        let (inbox_queue, email_queue) = (queue(), queue());
        Self {
            bus: MemoryBus::new(inbox_queue.clone(), email_queue.clone()),
            inbox: MemoryInbox::new(clock.clone(), entropy.clone()),
            connections: MemoryConnections::new(clock.clone()),
            claims: MemoryClaims::new(clock.clone()),
            inbox_queue,
            email_queue,
            clock,
        }
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn bus(&self) -> &MemoryBus {
        &self.bus
    }

    fn inbox_queue(&self) -> &MemoryQueue {
        &self.inbox_queue
    }

    fn email_queue(&self) -> &MemoryQueue {
        &self.email_queue
    }

    fn dead_letters(&self) -> &MemoryQueue {
        &self.inbox_queue
    }

    fn inbox(&self) -> &MemoryInbox {
        &self.inbox
    }

    fn connections(&self) -> &MemoryConnections {
        &self.connections
    }

    fn claims(&self) -> &MemoryClaims {
        &self.claims
    }
}

/// Everything in a folder, on a clock that stands still.
pub struct Embedded {
    clock: ManualClock,
    bus: StoredBus,
    inbox_queue: StoredQueue,
    email_queue: StoredQueue,
    dead_letters: StoredDeadLetters,
    inbox: StoredInbox,
    connections: StoredConnections,
    claims: StoredClaims,
    _folder: tempfile::TempDir,
}

impl Backend for Embedded {
    type Bus = StoredBus;
    type Queue = StoredQueue;
    type DeadLetters = StoredDeadLetters;
    type Inbox = StoredInbox;
    type Connections = StoredConnections;
    type Claims = StoredClaims;

    async fn fresh() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = ManualClock::default();
        let store = Store::open(folder.path(), Arc::new(clock.clone()), Arc::new(SeededEntropy::new(7))).expect("an empty folder opens");
        Self {
            bus: store.bus(),
            inbox_queue: store.inbox_queue(),
            email_queue: store.email_queue(),
            dead_letters: store.dead_letters(QueueName::Inbox),
            inbox: store.inbox(),
            connections: store.connections(),
            claims: store.claims(),
            clock,
            _folder: folder,
        }
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn bus(&self) -> &StoredBus {
        &self.bus
    }

    fn inbox_queue(&self) -> &StoredQueue {
        &self.inbox_queue
    }

    fn email_queue(&self) -> &StoredQueue {
        &self.email_queue
    }

    fn dead_letters(&self) -> &StoredDeadLetters {
        &self.dead_letters
    }

    fn inbox(&self) -> &StoredInbox {
        &self.inbox
    }

    fn connections(&self) -> &StoredConnections {
        &self.connections
    }

    fn claims(&self) -> &StoredClaims {
        &self.claims
    }
}
