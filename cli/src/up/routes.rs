//! The rooms' functions behind the traits of the servers: what API Gateway and Lambda configuration do on AWS.
//!
//! Must not know: how a socket or a request comes in.

use std::sync::Arc;

use axum::http::StatusCode;
use recado_domain::ids::ConnectionId;
use recado_embedded::sockets::{Accepted, OpenSockets, Opening, Refusal, Routes};
use recado_embedded::{StoredConnections, StoredInbox, StoredQueue, StoredTickets};
use recado_runtime::system::{SystemClock, SystemEntropy};
use recado_ws_handlers::{ConnectPorts, ConnectRequest, MessagePorts, REPLAY_DELAY};

use super::tokens::Verifier;

/// The three routes of a socket, on this process's store.
pub(super) struct SocketRoutes {
    pub(super) tokens: Arc<Verifier>,
    pub(super) tickets: StoredTickets,
    pub(super) inbox: StoredInbox,
    pub(super) connections: StoredConnections,
    pub(super) inbox_queue: StoredQueue,
    pub(super) sockets: OpenSockets,
}

impl Routes for SocketRoutes {
    async fn on_connect(&self, opening: &Opening) -> Result<Accepted, Refusal> {
        let ports = ConnectPorts {
            tokens: &*self.tokens,
            tickets: &self.tickets,
            connections: &self.connections,
            inbox_queue: &self.inbox_queue,
            sockets: &self.sockets,
            clock: &SystemClock,
            replay_delay: REPLAY_DELAY,
        };
        let Opening { connection, credential, protocol, device } = opening.clone();
        match recado_ws_handlers::connect(ports, ConnectRequest { connection, credential, protocol, device }).await {
            Ok(connected) => Ok(Accepted { token_expires_at: connected.connection.token_expires_at }),
            Err(refused) => {
                let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Err(Refusal::new(status, refused.code, refused.message))
            }
        }
    }

    async fn on_message(&self, id: &ConnectionId, text: &str) {
        let ports = MessagePorts {
            inbox: &self.inbox,
            connections: &self.connections,
            sockets: &self.sockets,
            clock: &SystemClock,
            entropy: &SystemEntropy,
        };
        if let Err(failure) = recado_ws_handlers::message(ports, id, text).await {
            tracing::debug!(connection = %id, reason = failure.reason(), "a message could not be answered; its client repeats it");
        }
    }

    async fn on_disconnect(&self, id: &ConnectionId) {
        if let Err(failure) = recado_ws_handlers::disconnect(&self.connections, id).await {
            tracing::warn!(connection = %id, reason = failure.reason(), "a connection was not forgotten; a post that answers gone removes it");
        }
    }
}
