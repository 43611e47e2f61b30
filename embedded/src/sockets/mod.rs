//! The in-process WebSocket server: what API Gateway is on AWS.
//!
//! It behaves as the gateway does where the rooms could tell: `$connect` runs before the socket exists, so that a post
//! meets a 410 until then (R4); the messages of one connection are handled one after the other; a socket ends at its
//! age; frames and messages have the gateway's limits. What is better here: it ends a socket with its token, says why
//! it closes one, and answers a post only when the frame was handed to the operating system, so that what a post
//! settles (R7) has left this process.
//!
//! Must not know: tokens, inboxes, what a frame means. The composition root says so with [`Routes`].

mod accept;
mod connection;
mod door;
mod meter;
mod rate;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use recado_domain::connection::{CloseReason, Protocol};
use recado_domain::failure::Failure;
use recado_domain::frame::ServerFrame;
use recado_domain::ids::ConnectionId;
use recado_domain::limits;
use recado_domain::opening::{Credential, Origins};
use recado_domain::ports::{Entropy, Outcome, Posted, Sockets};
use recado_runtime::system::SystemEntropy;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

pub use self::accept::router;
use self::connection::{Ending, Handle};
pub use self::door::Door;
pub use self::serve::serve;

/// What happens to a connection, as on API Gateway: `$connect`, `$default`, `$disconnect`.
pub trait Routes: Send + Sync + 'static {
    /// Decides on a connection and registers it. Runs before the upgrade is answered: until it returned and the socket
    /// opened, a post to this connection answers [`Posted::Gone`].
    fn on_connect(&self, opening: &Opening) -> impl Future<Output = Result<Accepted, Refusal>> + Send;

    /// Handles one text message. The next of the same connection waits for it; it is dropped after 29 s, as the gateway
    /// gives up on an integration.
    fn on_message(&self, id: &ConnectionId, text: &str) -> impl Future<Output = ()> + Send;

    /// Runs once after a connection that was accepted has ended, whether or not its socket ever opened.
    fn on_disconnect(&self, id: &ConnectionId) -> impl Future<Output = ()> + Send;
}

/// What a client asks for when it connects. Nothing of it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The connection's name from here on.
    pub connection: ConnectionId,
    /// Who the client says it is.
    pub credential: Option<Credential>,
    /// Declared as subprotocol or by `?protocol=`.
    pub protocol: Protocol,
    /// `?device=`, at most [`limits::CLIENT_TEXT_BYTES`].
    pub device: Option<String>,
}

/// What an accepted connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The socket is closed at this moment.
    pub token_expires_at: Timestamp,
}

/// Why a connection is refused: the answer to its upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// 401 for a token or a ticket, 403 for an origin, 503 when it may work later.
    pub status: StatusCode,
    /// For programs, such as `ticket_invalid`.
    pub code: &'static str,
    /// For the developer who reads the answer. No token, no address.
    pub detail: String,
}

impl Refusal {
    /// Puts the three together.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into() }
    }
}

/// Limits and times of the server. The defaults are API Gateway's where it has one.
#[derive(Debug, Clone, PartialEq)]
pub struct SocketOptions {
    /// Which pages may connect.
    pub origins: Origins,
    /// Sockets open or opening at the same time; one more is refused with 503.
    pub max_sockets: usize,
    /// Messages, pings and pongs a client may send a second, sustained.
    pub client_frames_per_second: u32,
    /// Messages, pings and pongs a client may send at once after a quiet time.
    pub client_frames_burst: u32,
    /// How often the server pings; a peer not heard of for two and a half times as long is dead.
    pub ping_every: Duration,
    /// The age at which a socket is closed.
    pub age: Duration,
    /// How long before that age clients are told to connect again, at the latest; at the earliest, twice as long.
    pub goaway_lead: Duration,
    /// How long a frame may take to reach the operating system before the client counts as a slow consumer.
    pub write_within: Duration,
    /// How long a push waits for it ([`OpenSockets::pushes`]), much shorter: others wait for whoever pushes.
    pub push_within: Duration,
    /// Bytes that wait for one socket, at the most.
    pub buffer_bytes: u32,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            origins: Origins::default(),
            max_sockets: 10_000,
            client_frames_per_second: 50,
            client_frames_burst: 200,
            ping_every: Duration::from_secs(30),
            age: limits::CONNECTION_AGE,
            goaway_lead: Duration::from_secs(60),
            write_within: Duration::from_secs(10),
            push_within: Duration::from_millis(250),
            buffer_bytes: 256 * 1024,
        }
    }
}

/// The sockets that are open, and the way to post to them. Clones share them.
#[derive(Clone)]
pub struct OpenSockets {
    shared: Arc<Shared>,
}

struct Shared {
    options: SocketOptions,
    open: RwLock<HashMap<ConnectionId, Arc<Handle>>>,
    /// A permit for each connection from its request until its `on_disconnect` is over.
    seats: Arc<Semaphore>,
    /// What has to end before the process may: connections, and `on_disconnect` of those that never opened.
    tasks: TaskTracker,
    draining: AtomicBool,
}

impl fmt::Debug for OpenSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSockets").field("open", &self.count()).finish_non_exhaustive()
    }
}

/// How long clients may take to follow a `goaway` when the server stops; each gets a random part of it.
const RECONNECT_SPREAD: Duration = Duration::from_secs(5);

impl OpenSockets {
    /// No socket yet.
    pub fn new(options: SocketOptions) -> Self {
        let seats = Arc::new(Semaphore::new(options.max_sockets.min(Semaphore::MAX_PERMITS)));
        Self {
            shared: Arc::new(Shared {
                options,
                open: RwLock::default(),
                seats,
                tasks: TaskTracker::new(),
                draining: AtomicBool::new(false),
            }),
        }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.shared.open.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The way to the same sockets for whoever pushes to many of them.
    pub fn pushes(&self) -> Pushes {
        Pushes { sockets: self.clone() }
    }

    /// Refuses new connections from here on, and asks each open one to connect again, at a random moment of the next
    /// seconds. Returns when all were told or `within` is over.
    pub async fn say_goaway(&self, within: Duration) {
        self.shared.draining.store(true, Ordering::Release);
        let told: FuturesUnordered<_> = self.handles().into_iter().map(|handle| async move { handle.post(&goaway()).await }).collect();
        if tokio::time::timeout(within, told.count()).await.is_err() {
            tracing::info!("not every client could be told to connect again");
        }
    }

    /// Closes every socket and waits until all have ended, their `on_disconnect` included. Answers how many had not
    /// when `within` was over.
    pub async fn close_all(&self, within: Duration) -> usize {
        self.shared.draining.store(true, Ordering::Release);
        let deadline = Instant::now() + within;
        for handle in self.handles() {
            handle.end(Ending::Reason(CloseReason::GoingAway));
        }
        self.shared.tasks.close();
        match tokio::time::timeout_at(deadline, self.shared.tasks.wait()).await {
            Ok(()) => 0,
            Err(_) => self.shared.tasks.len(),
        }
    }

    fn fits(&self, frame: &str) -> Outcome<()> {
        match frame.len() {
            0..=limits::FRAME_BYTES => Ok(()),
            bytes => Err(Failure::permanent(format!("a frame of {bytes} bytes, the limit is {}", limits::FRAME_BYTES))),
        }
    }

    fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }

    fn handle(&self, id: &ConnectionId) -> Option<Arc<Handle>> {
        self.shared.open.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn handles(&self) -> Vec<Arc<Handle>> {
        self.shared.open.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn insert(&self, id: ConnectionId, handle: Arc<Handle>) {
        self.shared.open.write().unwrap_or_else(PoisonError::into_inner).insert(id, handle);
        metrics::gauge!("recado_sockets_open").increment(1);
    }

    fn remove(&self, id: &ConnectionId) {
        if self.shared.open.write().unwrap_or_else(PoisonError::into_inner).remove(id).is_some() {
            metrics::gauge!("recado_sockets_open").decrement(1);
        }
    }
}

fn goaway() -> String {
    let wait = RECONNECT_SPREAD.mul_f64(SystemEntropy.fraction());
    ServerFrame::Goaway { reconnect_after_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) }.to_json()
}

/// Posts to [`OpenSockets`] that do not wait for a client that does not read.
///
/// An answer to a client's own message may wait for that client. A dispatcher may not: it has others to serve, and
/// what it could not hand over is pending and is replayed (R7).
#[derive(Debug, Clone)]
pub struct Pushes {
    sockets: OpenSockets,
}

impl Sockets for Pushes {
    /// Answers `Delivered` when the frame was handed to the operating system, and fails as transient once the client
    /// has not taken a frame for [`SocketOptions::push_within`]; at once, while it has not taken the one before.
    async fn post(&self, id: &ConnectionId, frame: &str) -> Outcome<Posted> {
        self.sockets.fits(frame)?;
        match self.sockets.handle(id) {
            Some(handle) => handle.push(frame, self.sockets.shared.options.push_within).await,
            None => Ok(Posted::Gone),
        }
    }

    async fn close(&self, id: &ConnectionId, reason: CloseReason) -> Outcome<()> {
        self.sockets.close(id, reason).await
    }
}

impl Sockets for OpenSockets {
    /// Answers `Delivered` when the frame was handed to the operating system. A client that does not read for
    /// [`SocketOptions::write_within`] is closed as a slow consumer, and the post fails as transient.
    async fn post(&self, id: &ConnectionId, frame: &str) -> Outcome<Posted> {
        self.fits(frame)?;
        match self.handle(id) {
            Some(handle) => handle.post(frame).await,
            None => Ok(Posted::Gone),
        }
    }

    async fn close(&self, id: &ConnectionId, reason: CloseReason) -> Outcome<()> {
        if let Some(handle) = self.handle(id) {
            handle.end(Ending::Reason(reason));
        }
        Ok(())
    }
}
