//! A client says something (`$default`): who it is was settled at connect, what it says is hostile until parsed.
//!
//! Must not know: tokens. A frame never names a user; the connection's reverse item does (P5).

use jiff::Timestamp;
use recado_domain::connection::{CloseReason, Connection};
use recado_domain::failure::Failure;
use recado_domain::frame::{ClientFrame, ErrorCode, InvalidFrame, ServerFrame};
use recado_domain::ids::{ConnectionId, NotificationId, RecipientKey};
use recado_domain::ports::{Clock, Connections, Entropy, Inbox, Posted, Sockets};
use recado_domain::position::Position;
use recado_runtime::{announce, over};

/// What handling a message needs of the world.
#[derive(Debug)]
pub struct MessagePorts<'a, I, C, S, K, E> {
    /// What the frames read and change.
    pub inbox: &'a I,
    /// Says whose a socket is, and is told that it lives.
    pub connections: &'a C,
    /// Takes the answers.
    pub sockets: &'a S,
    /// Judges tokens' ends and ages, and says when a query began.
    pub clock: &'a K,
    /// Spreads reconnects.
    pub entropy: &'a E,
}

impl<I, C, S, K, E> Clone for MessagePorts<'_, I, C, S, K, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I, C, S, K, E> Copy for MessagePorts<'_, I, C, S, K, E> {}

/// Handles one message of a client and posts what answers it.
///
/// # Errors
/// When the client could not be told: neither its answer nor an `error` frame reached it. There is nothing to do but to
/// log it: the client repeats its frame when no answer comes.
pub async fn message<I: Inbox, C: Connections, S: Sockets, K: Clock, E: Entropy>(
    ports: MessagePorts<'_, I, C, S, K, E>,
    id: &ConnectionId,
    text: &str,
) -> Result<(), Failure> {
    let parsed = ClientFrame::parse(text);
    metrics::counter!("recado_client_frames_total", "type" => kind(&parsed)).increment(1);
    let (recipient, row) = match ports.connections.owner(id).await {
        Ok(Some(owner)) => owner,
        Ok(None) => return turn_away(ports.sockets, id, request_of(&parsed)).await,
        Err(failure) => return told(try_again(ports.sockets, id, request_of(&parsed), &failure).await),
    };
    if row.has_expired(ports.clock.now()) {
        return end_expired(ports.connections, ports.sockets, &recipient, id).await;
    }
    let mut client = Client { ports, recipient, row };
    let outcome = match &parsed {
        Ok(frame) => client.carry_out(frame).await,
        Err(invalid) => client.correct(invalid).await,
    };
    match outcome {
        Ok(()) => Ok(()),
        Err(Stop::Store(failure)) => told(try_again(ports.sockets, id, request_of(&parsed), &failure).await),
        Err(Stop::Post(failure)) => Err(failure),
        Err(Stop::Gone { asked }) => {
            over::gone(ports.connections, asked, &client.recipient, &client.row).await;
            Ok(())
        }
    }
}

/// Why a frame was not carried out to its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The store did not answer: the client is told to try again.
    Store(Failure),
    /// A post did not arrive, or nobody knows: no later frame may follow it (R5).
    Post(Failure),
    /// The socket has gone meanwhile, as a post begun then was told.
    Gone { asked: Timestamp },
}

/// The client that sent the message.
pub(crate) struct Client<'a, I, C, S, K, E> {
    pub(crate) ports: MessagePorts<'a, I, C, S, K, E>,
    pub(crate) recipient: RecipientKey,
    /// As the reverse item has it; live once a `sync` made it so.
    pub(crate) row: Connection,
}

impl<I: Inbox, C: Connections, S: Sockets, K: Clock, E: Entropy> Client<'_, I, C, S, K, E> {
    async fn carry_out(&mut self, frame: &ClientFrame) -> Result<(), Stop> {
        match frame {
            ClientFrame::Sync(sync) => self.sync(sync).await,
            ClientFrame::Ack { ids } => self.acknowledge(ids).await,
            ClientFrame::Read { ids } => self.read(ids).await,
            ClientFrame::Archive { ids } => self.archive(ids).await,
            ClientFrame::ReadAll { up_to } => self.read_all(*up_to).await,
        }
    }

    pub(crate) async fn acknowledge(&self, ids: &[NotificationId]) -> Result<(), Stop> {
        if ids.is_empty() {
            return Ok(());
        }
        self.ports.inbox.acknowledge(&self.recipient, ids).await.map(|_| ()).map_err(Stop::Store)
    }

    // The updates below are durable before anybody hears of them. Whoever dies between the two leaves other devices
    // showing the old state until they load the inbox again; the update itself is never lost.

    async fn read(&self, ids: &[NotificationId]) -> Result<(), Stop> {
        if ids.is_empty() {
            return Ok(());
        }
        let changed = self.ports.inbox.mark_read(&self.recipient, ids).await.map_err(Stop::Store)?;
        if !changed.is_empty() {
            announce::read(self.devices(), &self.recipient, &changed, None, Some(&self.row.id)).await;
            self.announce_unread().await;
        }
        Ok(())
    }

    async fn archive(&self, ids: &[NotificationId]) -> Result<(), Stop> {
        if ids.is_empty() {
            return Ok(());
        }
        let changed = self.ports.inbox.archive(&self.recipient, ids).await.map_err(Stop::Store)?;
        if !changed.is_empty() {
            announce::archived(self.devices(), &self.recipient, &changed, Some(&self.row.id)).await;
            self.announce_unread().await;
        }
        Ok(())
    }

    async fn read_all(&self, up_to: Position) -> Result<(), Stop> {
        let done = self.ports.inbox.read_all(&self.recipient, up_to).await.map_err(Stop::Store)?;
        announce::read(self.devices(), &self.recipient, &done.ids, done.up_to, Some(&self.row.id)).await;
        self.announce_unread().await;
        Ok(())
    }

    /// Tells all devices, this one included, how many are unread. A count that cannot be had is not worth an error: the
    /// update before it is done, and repeating the frame would change nothing.
    async fn announce_unread(&self) {
        match self.ports.inbox.unread(&self.recipient).await {
            Ok(unread) => announce::unread(self.devices(), &self.recipient, unread, None).await,
            Err(failure) => tracing::debug!(user = %self.recipient.user, reason = failure.reason(), "unread not counted"),
        }
    }

    fn devices(&self) -> announce::Ports<'_, C, S, K> {
        announce::Ports { connections: self.ports.connections, sockets: self.ports.sockets, clock: self.ports.clock }
    }

    async fn correct(&self, invalid: &InvalidFrame) -> Result<(), Stop> {
        let InvalidFrame { code, message, request } = invalid;
        self.post(&ServerFrame::Error { code: *code, message, request: request.as_deref() }.to_json()).await
    }

    /// Posts one frame to this client.
    pub(crate) async fn post(&self, frame: &str) -> Result<(), Stop> {
        let asked = self.ports.clock.now();
        match self.ports.sockets.post(&self.row.id, frame).await {
            Ok(Posted::Delivered) => Ok(()),
            Ok(Posted::Gone) => Err(Stop::Gone { asked }),
            Err(failure) => Err(Stop::Post(failure)),
        }
    }
}

/// Answers a socket nobody knows: its row was pruned, or it was replaced and not closed. It connects again.
async fn turn_away<S: Sockets>(sockets: &S, id: &ConnectionId, request: Option<&str>) -> Result<(), Failure> {
    let message = "this connection is not known any more; connect again";
    let frame = ServerFrame::Error { code: ErrorCode::UnknownConnection, message, request }.to_json();
    // The close says the same, so it follows whether or not the frame arrived.
    if let Err(failure) = sockets.post(id, &frame).await {
        tracing::debug!(connection = %id, reason = failure.reason(), "unknown connection not told");
    }
    sockets.close(id, CloseReason::GoingAway).await
}

/// Ends a connection whose token has ended. Closed first: a close that fails leaves the row, so that the next message
/// comes here again.
async fn end_expired<C: Connections, S: Sockets>(
    connections: &C,
    sockets: &S,
    recipient: &RecipientKey,
    id: &ConnectionId,
) -> Result<(), Failure> {
    sockets.close(id, CloseReason::TokenExpired).await?;
    connections.remove(recipient, id).await
}

async fn try_again<S: Sockets>(sockets: &S, id: &ConnectionId, request: Option<&str>, failure: &Failure) -> Result<Posted, Failure> {
    tracing::warn!(connection = %id, reason = failure.reason(), "frame not carried out; the client is told to try again");
    metrics::counter!("recado_client_frames_failed_total").increment(1);
    let message = "the inbox did not answer; send the frame again";
    sockets.post(id, &ServerFrame::Error { code: ErrorCode::TryAgain, message, request }.to_json()).await
}

/// A socket that is gone needs no telling; `$disconnect`, a 410 or age removes its row.
fn told(posted: Result<Posted, Failure>) -> Result<(), Failure> {
    posted.map(|_| ())
}

fn request_of(parsed: &Result<ClientFrame, InvalidFrame>) -> Option<&str> {
    match parsed {
        Ok(ClientFrame::Sync(sync)) => Some(&sync.request),
        Ok(_) => None,
        Err(invalid) => invalid.request.as_deref(),
    }
}

fn kind(parsed: &Result<ClientFrame, InvalidFrame>) -> &'static str {
    match parsed {
        Ok(ClientFrame::Sync(_)) => "sync",
        Ok(ClientFrame::Ack { .. }) => "ack",
        Ok(ClientFrame::Read { .. }) => "read",
        Ok(ClientFrame::Archive { .. }) => "archive",
        Ok(ClientFrame::ReadAll { .. }) => "read_all",
        Err(_) => "invalid",
    }
}
