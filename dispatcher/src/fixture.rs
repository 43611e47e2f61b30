//! A dispatcher on ports in memory, and words to test it with.

use std::time::Duration;

use jiff::Timestamp;
use recado_domain::connection::{Connection, Phase, Protocol};
use recado_domain::event::Event;
use recado_domain::ids::{ConnectionId, DeliveryKey, NotificationId, RecipientKey, TenantId, UserId};
use recado_domain::message::{ATTRIBUTE_ATTEMPT, Attributes, InboxMessage, Missed, Replay, attempt_of, attributes_of};
use recado_domain::notification::InboxEntry;
use recado_domain::ports::{AckToken, Clock, Connections, Inbox, Received};
use recado_memory::{ManualClock, MemoryConnections, MemoryInbox, MemoryQueue, MemorySockets, SeededEntropy};
use recado_runtime::backoff::RetrySchedule;
use recado_runtime::consumer::{Deadline, Disposition, Handler};
use serde_json::{Value, json};

use crate::{Dispatcher, DispatcherConfig, Ports};

type MemoryPorts = Ports<MemoryQueue, MemoryQueue, MemoryInbox, MemoryConnections, MemorySockets, ManualClock, SeededEntropy>;

/// After so many attempts work is given up.
pub(crate) const MAX_ATTEMPTS: u32 = 10;

pub(crate) struct Fixture {
    pub(crate) clock: ManualClock,
    pub(crate) queue: MemoryQueue,
    pub(crate) email: MemoryQueue,
    pub(crate) inbox: MemoryInbox,
    pub(crate) connections: MemoryConnections,
    pub(crate) sockets: MemorySockets,
    pub(crate) dispatcher: Dispatcher<MemoryPorts>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut DispatcherConfig)) -> Self {
        let (clock, entropy) = (ManualClock::default(), SeededEntropy::new(7));
        let mut config = DispatcherConfig {
            retry: RetrySchedule { base: Duration::from_secs(1), cap: Duration::from_secs(60), max_attempts: MAX_ATTEMPTS },
            ..DispatcherConfig::default()
        };
        change(&mut config);
        let queue = MemoryQueue::new(clock.clone(), entropy.clone());
        let email = MemoryQueue::new(clock.clone(), entropy.clone());
        let inbox = MemoryInbox::new(clock.clone(), entropy.clone());
        let connections = MemoryConnections::new(clock.clone());
        let sockets = MemorySockets::new();
        let ports = Ports {
            inbox_queue: queue.clone(),
            email_queue: email.clone(),
            inbox: inbox.clone(),
            connections: connections.clone(),
            sockets: sockets.clone(),
            clock: clock.clone(),
            entropy,
        };
        Self { clock, queue, email, inbox, connections, sockets, dispatcher: Dispatcher::new(ports, config) }
    }

    /// Registers a connection of `user` and opens its socket.
    pub(crate) async fn connect(&self, user: &str, id: &str, phase: Phase, protocol: Protocol) -> Connection {
        let now = self.clock.now();
        let token_expires_at = now + Duration::from_secs(3600);
        let row = Connection { id: connection(id), phase, registered_at: now, token_expires_at, protocol, device: None };
        self.connections.register(&person(user), &row).await.unwrap();
        self.sockets.open(&row.id);
        row
    }

    /// A live connection of a client that acknowledges.
    pub(crate) async fn live(&self, user: &str, id: &str) -> Connection {
        self.connect(user, id, Phase::Live, Protocol::Recado).await
    }

    pub(crate) async fn handle(&self, messages: Vec<Received>) -> Vec<Disposition> {
        self.dispatcher.handle(messages, &Deadline::never()).await
    }

    /// Handles events as the topic delivers them.
    pub(crate) async fn deliver(&self, events: &[Event]) -> Vec<Disposition> {
        self.handle(events.iter().map(published).collect()).await
    }

    pub(crate) async fn replay(&self, user: &str, row: &Connection, attempt: u32) -> Disposition {
        let (recipient, registered_at) = (person(user), row.registered_at);
        let replay = Replay { recipient, connection: row.id.clone(), registered_at, missed: Missed::default() };
        let attributes = Attributes::from([(ATTRIBUTE_ATTEMPT.to_owned(), attempt.to_string())]);
        let mut answers = self.handle(vec![Received { attributes, ..received(replay.to_json()) }]).await;
        answers.pop().unwrap()
    }

    pub(crate) fn entry(&self, user: &str, event: &Event) -> Option<InboxEntry> {
        self.inbox.entry(&key(user, event))
    }

    pub(crate) fn frames(&self, id: &str) -> Vec<Value> {
        self.sockets.frames(&connection(id)).iter().map(|frame| serde_json::from_str(frame).unwrap()).collect()
    }

    /// The events whose items a socket got, in order.
    pub(crate) fn shown(&self, id: &str) -> Vec<String> {
        let frames = self.frames(id);
        let items = frames.iter().filter_map(|frame| frame["items"].as_array()).flatten();
        items.map(|item| item["event_id"].as_str().unwrap().to_owned()).collect()
    }

    /// The events that were sent on: their attempt, delay and recipients.
    pub(crate) fn events_sent_on(&self) -> Vec<(u32, Duration, Vec<String>)> {
        let sent = self.queue.messages();
        let events = sent.iter().filter_map(|message| match InboxMessage::parse(message.body.as_bytes()).unwrap() {
            InboxMessage::Event(event) => Some((attempt_of(&message.attributes), message.delay, event)),
            InboxMessage::Replay(_) => None,
        });
        let users = |event: &Event| event.data().recipients.iter().map(|recipient| recipient.id.to_string()).collect();
        events.map(|(attempt, delay, event)| (attempt, delay, users(&event))).collect()
    }

    /// The replays that were sent: their attempt, delay and connection.
    pub(crate) fn replays_sent(&self) -> Vec<(u32, Duration, String)> {
        let sent = self.queue.messages();
        let replays = sent.iter().filter_map(|message| match InboxMessage::parse(message.body.as_bytes()).unwrap() {
            InboxMessage::Replay(replay) => Some((attempt_of(&message.attributes), message.delay, replay.connection.to_string())),
            InboxMessage::Event(_) => None,
        });
        replays.collect()
    }
}

pub(crate) fn person(user: &str) -> RecipientKey {
    RecipientKey::new(TenantId::default(), UserId::new(user).unwrap())
}

pub(crate) fn connection(id: &str) -> ConnectionId {
    ConnectionId::new(id).unwrap()
}

pub(crate) fn key(user: &str, event: &Event) -> DeliveryKey {
    DeliveryKey { recipient: person(user), notification: event.notification_id() }
}

/// The notification id of a built event.
pub(crate) fn id_of(event: &str) -> NotificationId {
    NotificationId::of("/t", event)
}

/// A message as it would be received for the first time, without attributes.
pub(crate) fn received(body: String) -> Received {
    Received {
        token: AckToken("token".to_owned()),
        message_id: "message".to_owned(),
        body,
        attributes: Attributes::new(),
        receive_count: 1,
    }
}

/// A message as the topic makes it.
pub(crate) fn published(event: &Event) -> Received {
    Received { attributes: attributes_of(event), ..received(event.to_json()) }
}

/// Builds an event, a field at a time.
pub(crate) struct Builder(Value);

impl Builder {
    pub(crate) fn new(id: &str) -> Self {
        let data = json!({"recipients": [], "title": "something happened"});
        Self(json!({"specversion": "1.0", "id": id, "source": "/t", "type": "thing.done", "data": data}))
    }

    pub(crate) fn to(mut self, users: &[&str]) -> Self {
        self.0["data"]["recipients"] = users.iter().map(|id| json!({"id": id, "email": "someone@example.com"})).collect();
        self
    }

    pub(crate) fn set(mut self, field: &str, value: Value) -> Self {
        self.0["data"][field] = value;
        self
    }

    pub(crate) fn event(self) -> Event {
        Event::from_value(self.0).unwrap()
    }
}

/// An event for these users.
pub(crate) fn event(id: &str, users: &[&str]) -> Event {
    Builder::new(id).to(users).event()
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// When something expires that already has.
pub(crate) fn before(clock: &ManualClock) -> Timestamp {
    clock.now() - seconds(1)
}

pub(crate) async fn acknowledge(inbox: &MemoryInbox, user: &str, event: &Event) {
    inbox.acknowledge(&person(user), &[event.notification_id()]).await.unwrap();
}
