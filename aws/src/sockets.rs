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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Answer, Script};
    use serde_json::json;

    const POST: &str = "POST /live/@connections/abc%3D";
    const DELETE: &str = "DELETE /live/@connections/abc%3D";

    fn sockets(script: &Script) -> GatewaySockets {
        GatewaySockets::new(&script.clients(), "https://api.execute-api.eu-west-1.example/live")
    }

    fn id() -> ConnectionId {
        ConnectionId::new("abc=").unwrap()
    }

    /// What posting comes to when API Gateway answers this.
    async fn posted(status: u16, code: &'static str, message: &'static str) -> Outcome<Posted> {
        let script = Script::default().then(POST, move |_| Answer::Body(status, json!({"__type": code, "message": message})));
        let outcome = sockets(&script).post(&id(), "{}").await;
        script.end();
        outcome
    }

    #[tokio::test]
    async fn a_frame_is_posted_as_it_is() {
        let script = Script::default().then(POST, |body| {
            assert_eq!(body, r#"{"type":"unread"}"#);
            Answer::Ok(json!({}))
        });
        assert_eq!(sockets(&script).post(&id(), r#"{"type":"unread"}"#).await, Ok(Posted::Delivered));
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_gone() {
        assert_eq!(posted(410, "GoneException", "").await, Ok(Posted::Gone));
        assert_eq!(posted(400, "BadRequestException", "Invalid connectionId: abc=").await, Ok(Posted::Gone));
        assert!(posted(400, "BadRequestException", "something else").await.is_err_and(|failure| !failure.is_transient()));
    }

    #[tokio::test]
    async fn a_rate_or_a_slow_client_is_transient_and_a_frame_too_large_is_not() {
        assert!(posted(429, "LimitExceededException", "").await.is_err_and(|failure| failure.is_transient()));
        assert!(posted(413, "PayloadTooLargeException", "").await.is_err_and(|failure| !failure.is_transient()));
    }

    #[tokio::test]
    async fn a_missing_permission_is_named() {
        let failure = posted(403, "ForbiddenException", "Forbidden").await.unwrap_err();
        assert!(failure.is_transient() && failure.reason().contains("execute-api:ManageConnections"), "{failure}");
    }

    #[tokio::test]
    async fn a_frame_above_the_limit_is_never_sent() {
        let frame = "x".repeat(limits::FRAME_BYTES + 1);
        let failure = sockets(&Script::default()).post(&id(), &frame).await.unwrap_err();
        assert!(!failure.is_transient() && failure.reason().contains("30720"), "{failure}");
    }

    #[tokio::test]
    async fn closing_what_is_gone_is_done() {
        for (status, body) in [(204, json!({})), (410, json!({"__type": "GoneException"}))] {
            let script = Script::default().then(DELETE, move |_| Answer::Body(status, body));
            assert_eq!(sockets(&script).close(&id(), CloseReason::Replaced).await, Ok(()));
            script.end();
        }
        let script = Script::default().then(DELETE, |_| Answer::Lost);
        assert!(sockets(&script).close(&id(), CloseReason::Replaced).await.is_err_and(|failure| failure.is_transient()));
    }
}
