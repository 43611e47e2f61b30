//! From a request to a socket: checks the upgrade, asks [`Routes::on_connect`], and only then answers.
//!
//! A request's URI holds a token: it is never logged. Must not know: what happens on an open socket.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use recado_domain::connection::{Protocol, SUBPROTOCOL};
use recado_domain::ids::ConnectionId;
use recado_domain::limits;
use recado_domain::ports::Entropy;
use recado_runtime::system::SystemEntropy;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::connection::{self, Handle};
use super::{Accepted, OpenSockets, Opening, Refusal, Routes};

/// Which pages may open a socket. A request without `Origin` comes from no browser and may always.
///
/// This is no authentication, the token is: it keeps a page that got hold of a token from using it elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    /// Besides the server's own: each as a browser sends it, such as `https://app.example.com`; `*` is any.
    pub allowed: Vec<String>,
    /// Pages of any port of this machine: for development.
    pub loopback: bool,
}

impl Origins {
    fn admit(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        let host = origin.split_once("://").map(|(_, host)| host);
        let own = headers.get(header::HOST).and_then(|own| own.to_str().ok());
        self.allowed.iter().any(|allowed| allowed == "*" || allowed.trim_end_matches('/').eq_ignore_ascii_case(origin))
            || host.zip(own).is_some_and(|(host, own)| host.eq_ignore_ascii_case(own))
            || (self.loopback && host.is_some_and(names_this_machine))
    }
}

/// Whether an authority (`host` or `host:port`) names this machine: `localhost` or a loopback address.
pub fn names_this_machine(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1" || host == "[::1]"
}

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
    headers: HeaderMap,
    query: Result<Pairs, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    match admit(gate, &headers, query, upgrade).await {
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
    headers: &HeaderMap,
    query: Result<Pairs, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let upgrade = upgrade.map_err(|rejection| not_an_upgrade(&rejection))?.protocols([SUBPROTOCOL]);
    let options = &gate.sockets.shared.options;
    if !options.origins.admit(headers) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "this Origin may not connect; allow it in the server's settings (--allow-origin)"));
    }
    let Query(pairs) = query.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the query string is not percent-encoded UTF-8"))?;
    let mut opening = read_query(pairs)?;
    if upgrade.selected_protocol().is_some() {
        opening.protocol = Protocol::Recado;
    }
    if gate.sockets.is_draining() {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server stops; connect again"));
    }
    let seat = gate
        .sockets
        .shared
        .seats
        .clone()
        .try_acquire_owned()
        .map_err(|_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("all {} connections are in use", options.max_sockets)))?;
    let admission = Admission { gate, id: opening.connection.clone(), seat: Some(seat) };
    let (admission, accepted) = decide(admission, opening).await?;
    let buffers = upgrade
        .read_buffer_size(4 * 1024)
        .write_buffer_size(4 * 1024)
        .max_write_buffer_size(4 * limits::FRAME_BYTES)
        .max_frame_size(limits::CLIENT_FRAME_BYTES)
        .max_message_size(limits::CLIENT_MESSAGE_BYTES);
    // If the upgrade fails this closure is dropped, and with it the admission: `on_disconnect` runs.
    Ok(buffers.on_upgrade(move |socket| admission.enter(socket, accepted)))
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
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the connection could not be opened; connect again"))
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
    async fn enter(mut self, socket: axum::extract::ws::WebSocket, accepted: Accepted) {
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
        connection::run(socket, &self.id, handle, outgoing, accepted, &*self.gate.routes, &sockets.shared.options, registered).await;
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
    Refusal::new(StatusCode::UPGRADE_REQUIRED, format!("connect with a WebSocket client (ws:// or wss://): {}", rejection.body_text()))
}

fn read_query(pairs: Vec<(String, String)>) -> Result<Opening, Refusal> {
    let bad = |detail: String| Refusal::new(StatusCode::BAD_REQUEST, detail);
    let (mut token, mut device, mut protocol) = (None, None, None);
    for (name, value) in pairs {
        let (slot, limit) = match name.as_str() {
            "token" => (&mut token, limits::TOKEN_BYTES),
            "device" => (&mut device, limits::CLIENT_TEXT_BYTES),
            "protocol" => (&mut protocol, limits::CLIENT_TEXT_BYTES),
            _ => continue,
        };
        if value.len() > limit {
            return Err(bad(format!("`{name}` is {} bytes, the limit is {limit}", value.len())));
        }
        if slot.replace(value).is_some() {
            return Err(bad(format!("`{name}` is given twice; give it once")));
        }
    }
    if device.as_ref().is_some_and(|device: &String| device.chars().any(char::is_control)) {
        return Err(bad("`device` has a control character; remove it".to_owned()));
    }
    let protocol = match protocol.as_deref() {
        None => Protocol::Plain,
        Some(SUBPROTOCOL) => Protocol::Recado,
        Some(_) => return Err(bad(format!("`protocol` is none this server speaks; it knows {SUBPROTOCOL}"))),
    };
    Ok(Opening { connection: random_id(), token, protocol, device: device.filter(|device| !device.is_empty()) })
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
        let problem = serde_json::json!({"title": title, "status": self.status.as_u16(), "detail": self.detail});
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
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn pairs(given: &[(&str, &str)]) -> Vec<(String, String)> {
        given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_page_of_another_origin_is_refused_unless_it_is_allowed() {
        let foreign = headers(&[(header::ORIGIN, "https://evil.example"), (header::HOST, "recado.example")]);
        assert!(!Origins { allowed: Vec::new(), loopback: true }.admit(&foreign));
        assert!(Origins { allowed: vec!["https://evil.example/".to_owned()], loopback: false }.admit(&foreign));
        assert!(Origins { allowed: vec!["*".to_owned()], loopback: false }.admit(&foreign));
    }

    #[test]
    fn no_origin_and_the_own_origin_are_admitted() {
        assert!(Origins::default().admit(&headers(&[(header::HOST, "a.example")])));
        assert!(Origins::default().admit(&headers(&[(header::ORIGIN, "https://A.example:8443"), (header::HOST, "a.example:8443")])));
        assert!(!Origins::default().admit(&headers(&[(header::ORIGIN, "null"), (header::HOST, "a.example")])));
    }

    #[test]
    fn loopback_pages_are_admitted_in_development_only() {
        for origin in ["http://localhost:5173", "http://127.0.0.1", "http://[::1]:8420"] {
            let headers = headers(&[(header::ORIGIN, origin), (header::HOST, "a.example")]);
            assert!(Origins { allowed: Vec::new(), loopback: true }.admit(&headers), "{origin}");
            assert!(!Origins::default().admit(&headers), "{origin}");
        }
        let disguised = headers(&[(header::ORIGIN, "http://localhost.evil.example"), (header::HOST, "a.example")]);
        assert!(!Origins { allowed: Vec::new(), loopback: true }.admit(&disguised));
    }

    #[test]
    fn a_parameter_given_twice_is_refused() {
        for name in ["token", "device", "protocol"] {
            let refusal = read_query(pairs(&[(name, SUBPROTOCOL), (name, SUBPROTOCOL)])).unwrap_err();
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
            assert!(refusal.detail.contains(name), "{}", refusal.detail);
        }
    }

    #[test]
    fn a_query_is_read_and_what_is_unknown_ignored() {
        let opening = read_query(pairs(&[("token", "t"), ("device", "phone"), ("protocol", "recado.v1"), ("x", "1"), ("x", "2")])).unwrap();
        assert_eq!(opening.token.as_deref(), Some("t"));
        assert_eq!(opening.device.as_deref(), Some("phone"));
        assert_eq!(opening.protocol, Protocol::Recado);
    }

    #[test]
    fn a_token_above_the_limit_is_refused_without_repeating_it() {
        let refusal = read_query(vec![("token".to_owned(), "s".repeat(limits::TOKEN_BYTES + 1))]).unwrap_err();
        assert!(refusal.detail.contains("8193") && !refusal.detail.contains("ss"));
    }

    #[test]
    fn an_opening_does_not_show_its_token() {
        let opening = read_query(pairs(&[("token", "secret")])).unwrap();
        assert!(!format!("{opening:?}").contains("secret"));
    }

    #[test]
    fn ids_are_unlike_each_other_and_padded() {
        let ids: std::collections::HashSet<_> = (0..100).map(|_| random_id()).collect();
        assert_eq!(ids.len(), 100);
        assert!(ids.iter().all(|id| id.as_str().len() == 24 && id.as_str().ends_with("==")));
    }
}
