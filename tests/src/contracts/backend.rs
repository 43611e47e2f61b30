//! What runs under the contracts: a set of fresh ports, and a hand on their clock.
//!
//! Must not know: the contracts.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use recado_domain::connection::CloseReason;
use recado_domain::ids::ConnectionId;
use recado_domain::ports::{Clock, Connections, DeadLetters, EventBus, Inbox, MailClaims, Mailer, Queue, Sockets, Suppressions, Tickets};
use recado_embedded::mailbox::PAGE_MAILS;
use recado_embedded::sockets::{Accepted, OpenSockets, Opening, Refusal, Routes, SocketOptions};
use recado_embedded::{
    Mailbox, QueueName, Store, StoredBus, StoredClaims, StoredConnections, StoredDeadLetters, StoredInbox, StoredQueue, StoredSuppressions,
    StoredTickets,
};
use recado_memory::{
    ManualClock, MemoryBus, MemoryClaims, MemoryConnections, MemoryInbox, MemoryMailer, MemoryQueue, MemorySockets, MemorySuppressions,
    MemoryTickets, SeededEntropy,
};
use recado_runtime::system::SystemClock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::harness::{DEADLINE, eventually};

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
    /// See [`Suppressions`].
    type Suppressions: Suppressions;
    /// See [`Tickets`].
    type Tickets: Tickets;
    /// See [`Mailer`].
    type Mailer: Mailer;
    /// See [`Sockets`].
    type Sockets: Sockets;
    /// The other end of an open socket.
    type Peer: Peer;

    /// Starts an empty one.
    fn fresh() -> impl Future<Output = Self>;

    /// Lets time pass: moves the clock where the backend takes one, waits where it does not.
    fn advance(&self, by: Duration) -> impl Future<Output = ()>;

    /// Now, by the clock of the backend.
    fn now(&self) -> Timestamp;

    /// How far from [`Backend::now`] a time may be that a queue notes: nothing where both have one clock that stands.
    fn clock_tolerance(&self) -> Duration {
        Duration::ZERO
    }

    /// The code that a client reads when it is closed for this reason.
    fn close_code(&self, reason: CloseReason) -> u16 {
        reason.code()
    }

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

    /// To whom nothing more is sent.
    fn suppressions(&self) -> &Self::Suppressions;

    /// Connection tickets.
    fn tickets(&self) -> &Self::Tickets;

    /// Hands mail over.
    fn mailer(&self) -> &Self::Mailer;

    /// Everything that was handed over, oldest first.
    fn mails(&self) -> impl Future<Output = Vec<Mail>>;

    /// The open sockets.
    fn sockets(&self) -> &Self::Sockets;

    /// Opens a socket.
    fn connect(&self) -> impl Future<Output = (ConnectionId, Self::Peer)>;
}

/// A mail's sender, recipient and message.
pub type Mail = (String, String, Vec<u8>);

/// A client at the other end of a socket. Waits for what it is asked for, as long as a test may.
pub trait Peer {
    /// The next frames.
    fn frames(&mut self, count: usize) -> impl Future<Output = Vec<String>>;

    /// The code it is closed with.
    fn closed(&mut self) -> impl Future<Output = u16>;

    /// Goes away.
    fn leave(self) -> impl Future<Output = ()>;
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
    suppressions: MemorySuppressions,
    tickets: MemoryTickets,
    mailer: MemoryMailer,
    sockets: MemorySockets,
    opened: AtomicU64,
}

/// A socket in memory.
pub struct MemoryPeer {
    sockets: MemorySockets,
    id: ConnectionId,
    taken: usize,
}

impl Peer for MemoryPeer {
    async fn frames(&mut self, count: usize) -> Vec<String> {
        let frames = self.sockets.frames(&self.id);
        let taken = self.taken..self.taken + count;
        self.taken = taken.end;
        frames.get(taken).expect("a post in memory arrives at once").to_vec()
    }

    async fn closed(&mut self) -> u16 {
        self.sockets.closed(&self.id).expect("a close in memory arrives at once").code()
    }

    async fn leave(self) {
        self.sockets.vanish(&self.id);
    }
}

impl Backend for Memory {
    type Bus = MemoryBus;
    type Queue = MemoryQueue;
    type DeadLetters = MemoryQueue;
    type Inbox = MemoryInbox;
    type Connections = MemoryConnections;
    type Claims = MemoryClaims;
    type Suppressions = MemorySuppressions;
    type Tickets = MemoryTickets;
    type Mailer = MemoryMailer;
    type Sockets = MemorySockets;
    type Peer = MemoryPeer;

    async fn fresh() -> Self {
        let (clock, entropy) = (ManualClock::default(), SeededEntropy::new(7));
        let queue = || MemoryQueue::new(clock.clone(), entropy.clone());
        let (inbox_queue, email_queue) = (queue(), queue());
        Self {
            bus: MemoryBus::new(inbox_queue.clone(), email_queue.clone()),
            inbox: MemoryInbox::new(clock.clone(), entropy.clone()),
            connections: MemoryConnections::new(clock.clone()),
            claims: MemoryClaims::new(clock.clone()),
            suppressions: MemorySuppressions::new(clock.clone()),
            tickets: MemoryTickets::new(clock.clone()),
            mailer: MemoryMailer::new(),
            sockets: MemorySockets::new(),
            opened: AtomicU64::new(0),
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

    fn suppressions(&self) -> &MemorySuppressions {
        &self.suppressions
    }

    fn tickets(&self) -> &MemoryTickets {
        &self.tickets
    }

    fn mailer(&self) -> &MemoryMailer {
        &self.mailer
    }

    async fn mails(&self) -> Vec<Mail> {
        self.mailer.sent().into_iter().map(|mail| (mail.from, mail.to, mail.message)).collect()
    }

    fn sockets(&self) -> &MemorySockets {
        &self.sockets
    }

    async fn connect(&self) -> (ConnectionId, MemoryPeer) {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let id = ConnectionId::new(format!("socket-{number}=")).expect("a short id");
        self.sockets.open(&id);
        (id.clone(), MemoryPeer { sockets: self.sockets.clone(), id, taken: 0 })
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
    suppressions: StoredSuppressions,
    tickets: StoredTickets,
    mailbox: Mailbox,
    sockets: OpenSockets,
    /// Where the socket server listens.
    address: SocketAddr,
    /// The names of connections, in the order in which they were accepted.
    accepted: Mutex<mpsc::UnboundedReceiver<ConnectionId>>,
    _folder: tempfile::TempDir,
}

/// Accepts whoever comes, and says how the server named them.
struct AcceptAll(mpsc::UnboundedSender<ConnectionId>);

impl Routes for AcceptAll {
    async fn on_connect(&self, opening: &Opening) -> Result<Accepted, Refusal> {
        self.0.send(opening.connection.clone()).expect("the backend is there");
        Ok(Accepted { token_expires_at: SystemClock.now() + Duration::from_secs(3600) })
    }

    async fn on_message(&self, _: &ConnectionId, _: &str) {}

    async fn on_disconnect(&self, _: &ConnectionId) {}
}

/// A WebSocket client.
pub struct SocketPeer(pub(super) WebSocketStream<MaybeTlsStream<TcpStream>>);

impl SocketPeer {
    async fn next(&mut self) -> Message {
        let next = tokio::time::timeout(DEADLINE, self.0.next()).await.expect("something comes in time");
        next.expect("the socket is open").expect("the socket works")
    }
}

impl Peer for SocketPeer {
    async fn frames(&mut self, count: usize) -> Vec<String> {
        let mut frames = Vec::with_capacity(count);
        while frames.len() < count {
            if let Message::Text(text) = self.next().await {
                frames.push(text.to_string());
            }
        }
        frames
    }

    async fn closed(&mut self) -> u16 {
        loop {
            if let Message::Close(close) = self.next().await {
                return close.expect("the server says why").code.into();
            }
        }
    }

    async fn leave(mut self) {
        self.0.close(None).await.expect("the socket is open");
    }
}

impl Backend for Embedded {
    type Bus = StoredBus;
    type Queue = StoredQueue;
    type DeadLetters = StoredDeadLetters;
    type Inbox = StoredInbox;
    type Connections = StoredConnections;
    type Claims = StoredClaims;
    type Suppressions = StoredSuppressions;
    type Tickets = StoredTickets;
    type Mailer = Mailbox;
    type Sockets = OpenSockets;
    type Peer = SocketPeer;

    async fn fresh() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = ManualClock::default();
        let sockets = OpenSockets::new(SocketOptions::default());
        let (accept, accepted) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the port is known");
        let app = recado_embedded::sockets::router(sockets.clone(), Arc::new(AcceptAll(accept)));
        // Ends with the runtime of the test.
        tokio::spawn(async move { axum::serve(listener, app).await });
        let store = Store::open(folder.path(), Arc::new(clock.clone()), Arc::new(SeededEntropy::new(7))).expect("an empty folder opens");
        Self {
            bus: store.bus(),
            inbox_queue: store.inbox_queue(),
            email_queue: store.email_queue(),
            dead_letters: store.dead_letters(QueueName::Inbox),
            inbox: store.inbox(),
            connections: store.connections(),
            claims: store.claims(),
            suppressions: store.suppressions(),
            tickets: store.tickets(),
            mailbox: store.mailbox(),
            sockets,
            address,
            accepted: Mutex::new(accepted),
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

    fn suppressions(&self) -> &StoredSuppressions {
        &self.suppressions
    }

    fn tickets(&self) -> &StoredTickets {
        &self.tickets
    }

    fn mailer(&self) -> &Mailbox {
        &self.mailbox
    }

    async fn mails(&self) -> Vec<Mail> {
        let mut mails = Vec::new();
        for listed in self.mailbox.list(None, PAGE_MAILS).await.expect("the mailbox answers").into_iter().rev() {
            let mail = self.mailbox.get(listed.id).await.expect("the mailbox answers").expect("it was listed");
            mails.push((mail.from, mail.summary.to, mail.message));
        }
        mails
    }

    fn sockets(&self) -> &OpenSockets {
        &self.sockets
    }

    async fn connect(&self) -> (ConnectionId, SocketPeer) {
        // One at a time, so that the name that comes is the one of this socket.
        let mut accepted = self.accepted.lock().await;
        let open = self.sockets.count();
        let (socket, _) = connect_async(format!("ws://{}/ws", self.address)).await.expect("the server accepts");
        let id = accepted.recv().await.expect("the server runs");
        // The answer to the upgrade leaves before the socket is entered.
        let entered = async || Ok((self.sockets.count() > open).then_some(()));
        eventually("the socket is open", entered).await.expect("it opens");
        (id, SocketPeer(socket))
    }
}
