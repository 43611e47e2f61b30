//! Open sockets behind API Gateway (`@connections`).
//!
//! API Gateway closes with a code of its own: whatever the reason, the client reads 1000 and no text, since
//! `DeleteConnection` carries neither. A client there learns why from how its next connection is answered. Must not
//! know: whose socket it is, what a frame says.

use aws_sdk_apigatewaymanagement::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_apigatewaymanagement::primitives::Blob;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use recado_domain::connection::CloseReason;
use recado_domain::failure::Failure;
use recado_domain::ids::ConnectionId;
use recado_domain::limits;
use recado_domain::ports::{Outcome, Posted, Sockets};

use crate::clients::Clients;
use crate::failure::failure_of;

/// The sockets of one WebSocket API and stage.
#[derive(Debug, Clone)]
pub struct GatewaySockets {
    connections: aws_sdk_apigatewaymanagement::Client,
}

impl GatewaySockets {
    /// The endpoint is `https://{api}.execute-api.{region}.amazonaws.com/{stage}`.
    pub fn new(clients: &Clients, endpoint: &str) -> Self {
        Self { connections: clients.sockets(endpoint) }
    }
}

impl Sockets for GatewaySockets {
    async fn post(&self, id: &ConnectionId, frame: &str) -> Outcome<Posted> {
        if frame.len() > limits::FRAME_BYTES {
            return Err(Failure::permanent(format!("the frame is {} bytes; a frame has {} at the most", frame.len(), limits::FRAME_BYTES)));
        }
        let call = self.connections.post_to_connection().connection_id(id.as_str()).data(Blob::new(frame));
        match call.send().await {
            Ok(_) => Ok(Posted::Delivered),
            Err(error) if is_gone(&error) => Ok(Posted::Gone),
            Err(error) => Err(failure_of(&error)),
        }
    }

    async fn close(&self, id: &ConnectionId, reason: CloseReason) -> Outcome<()> {
        tracing::debug!(connection = %id, reason = reason.text(), "closing a socket, whose client reads 1000");
        match self.connections.delete_connection().connection_id(id.as_str()).send().await {
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(failure_of(&error)),
        }
    }
}

/// 410, or 400 for an id that API Gateway never gave to a socket.
fn is_gone<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    let unknown = || error.code() == Some("BadRequestException") && error.message().is_some_and(|text| text.contains("connectionId"));
    status == Some(410) || (status == Some(400) && unknown())
}
