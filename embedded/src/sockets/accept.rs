//! From a request to a socket: checks the upgrade, asks [`Routes::on_connect`], and only then answers.
//!
//! A request's URI holds a ticket or a token: it is never logged. Must not know: what happens on an open socket.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use recado_domain::connection::{Protocol, SUBPROTOCOL};
use recado_domain::ids::ConnectionId;
use recado_domain::limits;
use recado_domain::opening::{Declared, Origins};
use recado_domain::ports::Entropy;
use recado_runtime::system::SystemEntropy;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::connection::{self, Handle};
use super::meter::Meter;
use super::{Accepted, OpenSockets, Opening, Refusal, Routes};

/// `GET /ws`, leading to `routes`.
pub fn router<R: Routes>(sockets: OpenSockets, routes: Arc<R>) -> Router {
    Router::new().route("/ws", get(open::<R>)).with_state(Gate { sockets, routes })
}

struct Gate<R> {
    sockets: OpenSockets,
    routes: Arc<R>,
}

impl<R> Clone for Gate<R> {
    fn clone(&self) -> Self {
        Self { sockets: self.sockets.clone(), routes: self.routes.clone() }
    }
}

type Pairs = Query<Vec<(String, String)>>;

async fn open<R: Routes>(
    State(gate): State<Gate<R>>,
    meter: Option<Extension<Meter>>,
    headers: HeaderMap,
    query: Result<Pairs, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    // There is one on every connection that came in through a door.
    let meter = meter.map_or_else(Meter::new, |Extension(meter)| meter);
    match admit(gate, meter, &headers, query, upgrade).await {
        Ok(response) => response,
        Err(refusal) => {
            metrics::counter!("recado_sockets_refused_total", "status" => refusal.status.as_u16().to_string()).increment(1);
            tracing::debug!(status = refusal.status.as_u16(), detail = refusal.detail, "connection refused");
            refusal.into_response()
        }
    }
}

async fn admit<R: Routes>(
    gate: Gate<R>,
    meter: Meter,
    headers: &HeaderMap,
    query: Result<Pairs, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let upgrade = upgrade.map_err(|rejection| not_an_upgrade(&rejection))?.protocols([SUBPROTOCOL]);
    let options = &gate.sockets.shared.options;
    if !admits(&options.origins, headers) {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "foreign_origin",
            "this Origin may not connect; allow it in the server's settings (--allow-origin)",
        ));
    }
    let Query(pairs) =
        query.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "malformed_request", "the query string is not percent-encoded UTF-8"))?;
    let mut opening = read(headers, pairs)?;
    if upgrade.selected_protocol().is_some() {
        opening.protocol = Protocol::Recado;
    }
    if gate.sockets.is_draining() {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the server stops; connect again"));
    }
    let seat = gate.sockets.shared.seats.clone().try_acquire_owned().map_err(|_| {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", format!("all {} connections are in use", options.max_sockets))
    })?;
    let admission = Admission { gate, id: opening.connection.clone(), seat: Some(seat) };
    let (admission, accepted) = decide(admission, opening).await?;
    let buffers = upgrade
        .read_buffer_size(4 * 1024)
        .write_buffer_size(4 * 1024)
        .max_write_buffer_size(4 * limits::FRAME_BYTES)
        .max_frame_size(limits::CLIENT_FRAME_BYTES)
        .max_message_size(limits::CLIENT_MESSAGE_BYTES);
    // If the upgrade fails this closure is dropped, and with it the admission: `on_disconnect` runs.
    Ok(buffers.on_upgrade(move |socket| admission.enter(socket, meter, accepted)))
}

/// Asks `on_connect` in a task of its own: a client that gives up meanwhile must not stop it half way, with a row
/// registered and nobody to remove it.
async fn decide<R: Routes>(mut admission: Admission<R>, opening: Opening) -> Result<(Admission<R>, Accepted), Refusal> {
    let tracker = admission.gate.sockets.shared.tasks.clone();
    let task = tracker.spawn(async move {
        match admission.gate.routes.on_connect(&opening).await {
            Ok(accepted) => Ok((admission, accepted)),
            Err(refusal) => {
                // Nothing was registered: nothing to disconnect.
                drop(admission.seat.take());
                Err(refusal)
            }
        }
    });
    match task.await {
        Ok(decision) => decision,
        Err(error) => {
            tracing::error!(%error, "on_connect ended without an answer");
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the connection could not be opened; connect again"))
        }
    }
}

/// A connection between its request and its end. Dropped before it entered, it disconnects.
struct Admission<R: Routes> {
    gate: Gate<R>,
    id: ConnectionId,
    /// `None` when there is nothing to disconnect: refused, or done.
    seat: Option<OwnedSemaphorePermit>,
}

impl<R: Routes> Admission<R> {
    async fn enter(mut self, socket: axum::extract::ws::WebSocket, meter: Meter, accepted: Accepted) {
        let Some(seat) = self.seat.take() else { return };
        let tracked = self.gate.sockets.shared.tasks.token();
        let (handle, outgoing) = Handle::new(&self.gate.sockets.shared.options);
        let handle = Arc::new(handle);
        let sockets = &self.gate.sockets;
        sockets.insert(self.id.clone(), handle.clone());
        if sockets.is_draining() {
            handle.end(connection::Ending::Reason(recado_domain::connection::CloseReason::GoingAway));
        }
        tracing::debug!(connection = %self.id, "socket opened");
        let registered = Registered { sockets: sockets.clone(), id: self.id.clone() };
        connection::run(socket, meter, &self.id, handle, outgoing, accepted, &*self.gate.routes, &sockets.shared.options, registered).await;
        disconnect(&*self.gate.routes, &self.id, seat, tracked).await;
    }
}

/// Takes the socket out of the registry when dropped, whatever ended it.
pub(super) struct Registered {
    sockets: OpenSockets,
    id: ConnectionId,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sockets.remove(&self.id);
    }
}

impl<R: Routes> Drop for Admission<R> {
    fn drop(&mut self) {
        if let (Some(seat), Ok(runtime)) = (self.seat.take(), tokio::runtime::Handle::try_current()) {
            let (routes, id, tracked) = (self.gate.routes.clone(), self.id.clone(), self.gate.sockets.shared.tasks.token());
            runtime.spawn(async move { disconnect(&*routes, &id, seat, tracked).await });
        }
    }
}

async fn disconnect<R: Routes>(routes: &R, id: &ConnectionId, seat: OwnedSemaphorePermit, tracked: TaskTrackerToken) {
    if tokio::time::timeout(connection::HANDLE_WITHIN, routes.on_disconnect(id)).await.is_err() {
        tracing::warn!(connection = %id, "on_disconnect did not end in time");
    }
    drop((seat, tracked));
}

fn not_an_upgrade(rejection: &WebSocketUpgradeRejection) -> Refusal {
    Refusal::new(
        StatusCode::UPGRADE_REQUIRED,
        "not_an_upgrade",
        format!("connect with a WebSocket client (ws:// or wss://): {}", rejection.body_text()),
    )
}

fn read(headers: &HeaderMap, pairs: Vec<(String, String)>) -> Result<Opening, Refusal> {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let declared =
        Declared::read(pairs, authorization).map_err(|problem| Refusal::new(StatusCode::BAD_REQUEST, "malformed_request", problem))?;
    let Declared { credential, protocol, device } = declared;
    Ok(Opening { connection: random_id(), credential, protocol, device })
}

/// Whether a page of the request's `Origin` may connect. One that is no text is nobody's.
fn admits(origins: &Origins, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    origins.admit(text(header::ORIGIN), text(header::HOST))
}

/// 128 random bits. Padded, as the gateway's ids are: who stores them must cope with `=`.
fn random_id() -> ConnectionId {
    let bits = [SystemEntropy.next_u64().to_be_bytes(), SystemEntropy.next_u64().to_be_bytes()].concat();
    ConnectionId::new(URL_SAFE.encode(bits)).expect("24 letters, digits and signs")
}

impl IntoResponse for Refusal {
    /// A problem document (RFC 9457).
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("refused");
        let kind = format!("urn:recado:problem:{}", self.code.replace('_', "-"));
        let problem = serde_json::json!({"type": kind, "title": title, "status": self.status.as_u16(), "detail": self.detail});
        let mut response = (self.status, problem.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self.status {
            StatusCode::UPGRADE_REQUIRED => headers.insert(header::UPGRADE, HeaderValue::from_static("websocket")),
            StatusCode::SERVICE_UNAVAILABLE => headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1")),
            _ => None,
        };
        response
    }
}

#[cfg(test)]
mod tests {
    use recado_domain::opening::Credential;

    use super::*;

    #[test]
    fn headers_say_where_a_page_is_from_and_who_it_is() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static("https://a.example"));
        headers.insert(header::HOST, HeaderValue::from_static("a.example"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
        assert!(admits(&Origins::default(), &headers));
        let opening = read(&headers, Vec::new()).unwrap();
        assert_eq!(opening.credential, Some(Credential::Token("secret".to_owned())));
        assert!(!format!("{opening:?}").contains("secret"));
        headers.insert(header::ORIGIN, HeaderValue::from_bytes(b"https://a.example\xff").unwrap());
        assert!(!admits(&Origins { allowed: vec!["https://a.example".to_owned()], loopback: true }, &headers));
    }

    #[test]
    fn ids_are_unlike_each_other_and_padded() {
        let ids: std::collections::HashSet<_> = (0..100).map(|_| random_id()).collect();
        assert_eq!(ids.len(), 100);
        assert!(ids.iter().all(|id| id.as_str().len() == 24 && id.as_str().ends_with("==")));
    }
}
