//! A client for the routers' tests: requests without a network, on ports in memory.
//!
//! Must not know: what the routes should answer.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use jiff::Timestamp;
use recado_domain::connection::{Connection, Phase, Protocol};
use recado_domain::event::Event;
use recado_domain::ids::{ConnectionId, NotificationId, RecipientKey, TenantId, UserId};
use recado_domain::notification::NewEntry;
use recado_domain::opening::Origins;
use recado_domain::ports::{Clock, Connections, Inbox};
use recado_memory::{ManualClock, MemoryBus, MemoryConnections, MemoryInbox, MemoryQueue, MemorySockets, MemoryTickets, SeededEntropy};
use recado_runtime::auth::Identity;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::auth::{AuthError, Authenticate};
use crate::{EventsState, InboxState, PublishKeys, TicketsState, admit_pages, complete, events_router, inbox_router, tickets_router};

/// Takes `tenant/user` for a token; `down` for one whose keys cannot be loaded.
pub(crate) struct PlainTokens {
    expires_at: Timestamp,
}

/// How long its tokens last from the start of the world.
pub(crate) const TOKEN_LASTS: Duration = Duration::from_secs(3600);

impl Authenticate for PlainTokens {
    async fn authenticate(&self, token: &str) -> Result<Identity, AuthError> {
        if token == "down" {
            return Err(AuthError::Unavailable);
        }
        let (tenant, user) = token.split_once('/').ok_or(AuthError::Invalid)?;
        Ok(Identity { recipient: key(tenant, user), expires_at: self.expires_at })
    }
}

pub(crate) fn key(tenant: &str, user: &str) -> RecipientKey {
    RecipientKey::new(TenantId::new(tenant).expect("a tenant"), UserId::new(user).expect("a user"))
}

/// All routers and the ports below them.
pub(crate) struct World {
    pub(crate) inbox: MemoryInbox,
    pub(crate) connections: MemoryConnections,
    pub(crate) sockets: MemorySockets,
    pub(crate) clock: ManualClock,
    pub(crate) bus: MemoryBus,
    pub(crate) queue: MemoryQueue,
    pub(crate) tickets: MemoryTickets,
    router: Router,
}

/// What was answered.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl World {
    pub(crate) fn new(keys: &[&str]) -> Self {
        let clock = ManualClock::default();
        let entropy = SeededEntropy::new(7);
        let inbox = MemoryInbox::new(clock.clone(), entropy.clone());
        let connections = MemoryConnections::new(clock.clone());
        let sockets = MemorySockets::new();
        let queue = MemoryQueue::new(clock.clone(), entropy.clone());
        let bus = MemoryBus::new(queue.clone(), MemoryQueue::new(clock.clone(), entropy.clone()));
        let tickets = MemoryTickets::new(clock.clone());
        let auth = Arc::new(PlainTokens { expires_at: clock.now() + TOKEN_LASTS });
        let state = InboxState {
            auth: auth.clone(),
            inbox: Arc::new(inbox.clone()),
            connections: Arc::new(connections.clone()),
            sockets: Arc::new(sockets.clone()),
            clock: Arc::new(clock.clone()),
        };
        let for_tickets = TicketsState {
            auth,
            tickets: Arc::new(tickets.clone()),
            clock: Arc::new(clock.clone()),
            entropy: Arc::new(entropy),
            socket_url: "wss://recado.example/notify/ws".parse().expect("a URL"),
        };
        let keys = PublishKeys::new(keys.iter().map(|key| (*key).to_owned())).expect("keys of the right length");
        let events = events_router(EventsState { bus: Arc::new(bus.clone()), keys });
        let origins = Origins { allowed: vec!["https://app.example.com".to_owned()], loopback: false };
        let users = admit_pages(inbox_router(state).merge(tickets_router(for_tickets)), origins);
        let router = complete(users.merge(events));
        Self { inbox, connections, sockets, clock, bus, queue, tickets, router }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("a router answers");
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 4 * 1024 * 1024).await.expect("a body in memory");
        Answer { status: parts.status, headers: parts.headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(Request::get(path).header("authorization", format!("Bearer {token}")).body(Body::empty()).expect("a request")).await
    }

    pub(crate) async fn post(&self, token: &str, path: &str, body: impl ToString) -> Answer {
        let request = Request::post(path).header("authorization", format!("Bearer {token}")).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).expect("a request")).await
    }

    pub(crate) async fn publish(&self, media_type: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::post("/events").header("content-type", media_type);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).expect("a request")).await
    }

    /// Puts a notification into an inbox.
    pub(crate) async fn arrive(&self, recipient: &RecipientKey, id: &str) -> NotificationId {
        let event = Event::from_value(event(id)).expect("a valid event");
        let notification = Arc::new(event.notification(self.clock.now()));
        let id = notification.id;
        self.inbox.append(&[NewEntry { recipient: recipient.clone(), notification }]).await.remove(0).expect("no fault is scripted");
        id
    }

    /// Opens a live connection.
    pub(crate) async fn connect(&self, recipient: &RecipientKey, id: &str) -> ConnectionId {
        let now = self.clock.now();
        let id = ConnectionId::new(id).expect("an id");
        let connection = Connection {
            id: id.clone(),
            phase: Phase::Live,
            registered_at: now,
            token_expires_at: now + std::time::Duration::from_secs(3600),
            protocol: Protocol::Recado,
            device: None,
        };
        self.connections.register(recipient, &connection).await.expect("no fault is scripted");
        self.sockets.open(&id);
        id
    }

    /// What a connection was posted, as JSON.
    pub(crate) fn frames(&self, id: &ConnectionId) -> Vec<Value> {
        self.sockets.frames(id).iter().map(|frame| serde_json::from_str(frame).expect("a frame is JSON")).collect()
    }
}

/// A valid event.
pub(crate) fn event(id: &str) -> Value {
    json!({ "specversion": "1.0", "id": id, "source": "/tests", "type": "test.happened", "data": { "recipients": [{ "id": "alice" }], "title": "Hello" } })
}
