//! A socket comes and goes: the token or ticket is judged once, the row is written before the socket exists, and who only
//! listens is promised a replay (R4).

use std::time::Duration;

use futures_util::future::join_all;
use recado_domain::connection::{CloseReason, Connection, Phase, Protocol};
use recado_domain::failure::Failure;
use recado_domain::ids::{ConnectionId, RecipientKey};
use recado_domain::limits;
use recado_domain::message::{Attributes, Missed, Replay};
use recado_domain::opening::Credential;
use recado_domain::ports::{Clock, Connections, Outgoing, Queue, Sockets, TicketHolder, Tickets};
use recado_domain::ticket::Ticket;
use recado_runtime::auth::{TokenError, VerifyToken};

/// How long a replay waits by default: most sockets are open by then, and one that is not meets a 410 and waits again.
pub const REPLAY_DELAY: Duration = Duration::from_secs(1);

/// What connecting needs of the world.
#[derive(Debug)]
pub struct ConnectPorts<'a, V, T, C, Q, S, K> {
    /// Says whom a token speaks for.
    pub tokens: &'a V,
    /// Says whom a ticket speaks for, once.
    pub tickets: &'a T,
    /// Where the connection is registered.
    pub connections: &'a C,
    /// The inbox queue: takes the replay command.
    pub inbox_queue: &'a Q,
    /// Closes replaced sockets.
    pub sockets: &'a S,
    /// Stamps the registration.
    pub clock: &'a K,
    /// How long a replay waits before it looks for the socket: [`REPLAY_DELAY`] unless configured.
    pub replay_delay: Duration,
}

impl<V, T, C, Q, S, K> Clone for ConnectPorts<'_, V, T, C, Q, S, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V, T, C, Q, S, K> Copy for ConnectPorts<'_, V, T, C, Q, S, K> {}

/// What a client asks for. Nothing of it is verified.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// As the gateway named the socket to be.
    pub connection: ConnectionId,
    /// Who the client says it is.
    pub credential: Option<Credential>,
    /// [`Protocol::Recado`] where the client declared [`recado_domain::connection::SUBPROTOCOL`].
    pub protocol: Protocol,
    /// What the client says it is; up to [`limits::CLIENT_TEXT_BYTES`].
    pub device: Option<String>,
}

/// A connection that may open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Whose.
    pub recipient: RecipientKey,
    /// The row as registered; its `token_expires_at` is when the gateway should end the socket.
    pub connection: Connection,
}

/// Why a connection may not open. Safe to show: neither token nor claims.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// The HTTP status: 400 for a request that does not hold, 401 for a token or a ticket, 503 when it may work later.
    pub status: u16,
    /// For programs and metrics.
    pub code: &'static str,
    /// For the developer who reads the answer.
    pub message: String,
}

impl Refused {
    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn later(failure: &Failure, doing: &'static str) -> Self {
        tracing::warn!(doing, reason = failure.reason(), "connection refused for now");
        Self::new(503, "unavailable", "the connection cannot be registered at the moment; try again")
    }
}

impl From<TokenError> for Refused {
    fn from(error: TokenError) -> Self {
        Self::new(error.status(), error.code(), error.to_string())
    }
}

/// Says no more than that: which of the three it was is nobody's business but its client's, and that one asks for another.
fn ticket_invalid() -> Refused {
    let message = format!("the ticket is none, was used, or is older than {} s; ask for another", limits::TICKET_LIFE.as_secs());
    Refused::new(401, "ticket_invalid", message)
}

/// Decides on a connection and registers it (`$connect`). The socket does not exist yet: it opens, or not, after this
/// answers.
///
/// # Errors
/// Why it must not open. Nothing stays registered, as far as the store can be reached.
pub async fn connect<V: VerifyToken, T: Tickets, C: Connections, Q: Queue, S: Sockets, K: Clock>(
    ports: ConnectPorts<'_, V, T, C, Q, S, K>,
    request: ConnectRequest,
) -> Result<Connected, Refused> {
    let outcome = admit(ports, request).await;
    let code = outcome.as_ref().map_or_else(|refused| refused.code, |_| "connected");
    metrics::counter!("recado_connects_total", "outcome" => code).increment(1);
    outcome
}

async fn admit<V: VerifyToken, T: Tickets, C: Connections, Q: Queue, S: Sockets, K: Clock>(
    ports: ConnectPorts<'_, V, T, C, Q, S, K>,
    request: ConnectRequest,
) -> Result<Connected, Refused> {
    let ConnectRequest { connection: id, credential, protocol, device } = request;
    // First, so that a request that does not hold uses up no ticket.
    let device = checked_device(device)?;
    let TicketHolder { recipient, token_expires_at } = identify(ports, credential).await?;
    let registered_at = ports.clock.now();
    let connection = Connection { id, phase: Phase::Connecting, registered_at, token_expires_at, protocol, device };

    // Whoever dies from here on leaves a `connecting` row without a socket: dispatchers skip it, and its age prunes it.
    let registered = match ports.connections.register(&recipient, &connection).await {
        Ok(registered) => registered,
        Err(failure) => {
            // The answer may have been lost after the write.
            withdraw(ports.connections, &recipient, &connection.id).await;
            return Err(Refused::later(&failure, "register"));
        }
    };
    close_replaced(ports.sockets, &registered.replaced).await;
    if protocol == Protocol::Plain
        && let Err(failure) = queue_replay(ports, &recipient, &connection).await
    {
        // A plain client that is let in without a replay would never see what is pending.
        withdraw(ports.connections, &recipient, &connection.id).await;
        return Err(Refused::later(&failure, "queue the replay"));
    }
    tracing::debug!(connection = %connection.id, user = %recipient.user, ?protocol, "connection registered");
    Ok(Connected { recipient, connection })
}

/// Whom a credential speaks for, and until when.
async fn identify<V: VerifyToken, T: Tickets, C, Q, S, K: Clock>(
    ports: ConnectPorts<'_, V, T, C, Q, S, K>,
    credential: Option<Credential>,
) -> Result<TicketHolder, Refused> {
    match credential {
        None => Err(Refused::new(401, "credential_missing", "a connection needs a ticket or a token: /ws?ticket=… or /ws?token=…")),
        Some(Credential::Token(token)) => {
            let identity = ports.tokens.verify(&token).await?;
            Ok(TicketHolder { recipient: identity.recipient, token_expires_at: identity.expires_at })
        }
        Some(Credential::Ticket(ticket)) => {
            let ticket = Ticket::read(&ticket).ok_or_else(ticket_invalid)?;
            let redeemed = ports.tickets.redeem(&ticket.key()).await.map_err(|failure| Refused::later(&failure, "redeem the ticket"))?;
            let holder = redeemed.ok_or_else(ticket_invalid)?;
            // A ticket carries its token's rights, never more.
            if holder.token_expires_at <= ports.clock.now() { Err(TokenError::Expired.into()) } else { Ok(holder) }
        }
    }
}

fn checked_device(device: Option<String>) -> Result<Option<String>, Refused> {
    let Some(device) = device.filter(|device| !device.is_empty()) else { return Ok(None) };
    let problem = if device.len() > limits::CLIENT_TEXT_BYTES {
        format!("`device` is {} bytes, the limit is {}", device.len(), limits::CLIENT_TEXT_BYTES)
    } else if device.contains(char::is_control) {
        "`device` has a control character; remove it".to_owned()
    } else {
        return Ok(Some(device));
    };
    Err(Refused::new(400, "invalid_device", problem))
}

async fn close_replaced<S: Sockets>(sockets: &S, replaced: &[Connection]) {
    let closing = replaced.iter().map(|row| async move {
        match sockets.close(&row.id, CloseReason::Replaced).await {
            Ok(()) => tracing::debug!(connection = %row.id, "replaced connection closed"),
            // Its row is gone: it is pushed to no more, and its next `sync` makes it one of the user's again, the
            // oldest, to be replaced by the next connection.
            Err(failure) => tracing::warn!(connection = %row.id, reason = failure.reason(), "replaced connection not closed"),
        }
    });
    join_all(closing).await;
}

async fn queue_replay<V, T, C, Q: Queue, S, K>(
    ports: ConnectPorts<'_, V, T, C, Q, S, K>,
    recipient: &RecipientKey,
    connection: &Connection,
) -> Result<(), Failure> {
    let registered_at = connection.registered_at;
    let replay = Replay { recipient: recipient.clone(), connection: connection.id.clone(), registered_at, missed: Missed::default() };
    let delay = ports.replay_delay.min(limits::QUEUE_DELAY);
    let message = Outgoing { body: replay.to_json(), attributes: Attributes::new(), delay };
    let answer = ports.inbox_queue.send(&[message]).await.pop();
    answer.unwrap_or_else(|| Err(Failure::transient("the queue gave no answer")))
}

/// Takes a registration back. Where that fails too, age prunes the row; until then dispatchers skip it.
async fn withdraw<C: Connections>(connections: &C, recipient: &RecipientKey, id: &ConnectionId) {
    if let Err(failure) = connections.remove(recipient, id).await {
        tracing::debug!(connection = %id, reason = failure.reason(), "registration not taken back; pruned by age later");
    }
}

/// Forgets a connection (`$disconnect`). Best effort on API Gateway: what it misses, a 410 or age prunes. One that is
/// not known is forgotten already.
///
/// # Errors
/// When the store did not answer; may be repeated.
pub async fn disconnect<C: Connections>(connections: &C, id: &ConnectionId) -> Result<(), Failure> {
    let Some((recipient, _)) = connections.owner(id).await? else { return Ok(()) };
    connections.remove(&recipient, id).await?;
    metrics::counter!("recado_disconnects_total").increment(1);
    tracing::debug!(connection = %id, user = %recipient.user, "connection forgotten");
    Ok(())
}
