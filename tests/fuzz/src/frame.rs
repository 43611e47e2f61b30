//! What a client sends over its socket.

use std::sync::Arc;

use recado_domain::connection::{Connection, Phase, Protocol};
use recado_domain::event::Event;
use recado_domain::frame::ClientFrame;
use recado_domain::ids::{ConnectionId, RecipientKey};
use recado_domain::limits;
use recado_domain::notification::{InboxEntry, NewEntry};
use recado_domain::ports::{Connections, Inbox};
use recado_memory::{ManualClock, MemoryConnections, MemoryInbox, MemorySockets, SeededEntropy};
use recado_ws_handlers::{MessagePorts, message};
use serde_json::{Value, json};

use crate::{now, run, user};

/// Whatever a client says, it is answered within the limits and touches no inbox but its own (P5).
pub fn frame(bytes: &[u8]) {
    // A socket of text hands on nothing else (RFC 6455, 8.1).
    let Ok(text) = str::from_utf8(bytes) else { return };
    run(async {
        let world = World::new().await;
        let (of_bob, of_alice) = (world.inbox.entries(&user("bob")), world.inbox.entries(&user("alice")));
        world.alice_says(text).await;
        assert_eq!(world.inbox.entries(&user("bob")), of_bob, "a frame of alice changed bob's inbox");
        let kept: Vec<_> = world.inbox.entries(&user("alice")).iter().map(what_never_changes).collect();
        assert_eq!(kept, of_alice.iter().map(what_never_changes).collect::<Vec<_>>(), "a frame took or made an entry");
        world.answers_are_within_their_limits(text);
    });
}

fn what_never_changes(entry: &InboxEntry) -> (String, String) {
    (entry.notification.id.to_string(), entry.position.to_string())
}

struct World {
    clock: ManualClock,
    entropy: SeededEntropy,
    inbox: MemoryInbox,
    connections: MemoryConnections,
    sockets: MemorySockets,
    socket: ConnectionId,
}

impl World {
    /// Alice is connected; she and bob have an entry of the same event each.
    async fn new() -> Self {
        let (clock, entropy) = (ManualClock::new(now()), SeededEntropy::new(7));
        let world = Self {
            inbox: MemoryInbox::new(clock.clone(), entropy.clone()),
            connections: MemoryConnections::new(clock.clone()),
            sockets: MemorySockets::new(),
            socket: ConnectionId::new("L0SM9cOFvHcCIhw=").expect("an id"),
            clock,
            entropy,
        };
        let event = json!({
            "specversion": "1.0", "id": "1", "source": "/fuzz", "type": "fuzz.started",
            "data": {"recipients": [{"id": "alice"}, {"id": "bob"}], "title": "Hello"}
        });
        let notification = Arc::new(Event::from_value(event).expect("an event").notification(now()));
        let entry = |recipient: RecipientKey| NewEntry { recipient, notification: Arc::clone(&notification) };
        for appended in world.inbox.append(&[entry(user("alice")), entry(user("bob"))]).await {
            appended.expect("memory appends");
        }
        let row = Connection {
            id: world.socket.clone(),
            phase: Phase::Connecting,
            registered_at: now(),
            token_expires_at: "2026-11-24T12:00:00Z".parse().expect("a moment"),
            protocol: Protocol::Recado,
            device: None,
        };
        world.connections.register(&user("alice"), &row).await.expect("memory registers");
        world.sockets.open(&world.socket);
        world
    }

    async fn alice_says(&self, text: &str) {
        let ports = MessagePorts {
            inbox: &self.inbox,
            connections: &self.connections,
            sockets: &self.sockets,
            clock: &self.clock,
            entropy: &self.entropy,
        };
        message(ports, &self.socket, text).await.expect("an open socket takes the answer");
    }

    fn answers_are_within_their_limits(&self, text: &str) {
        let frames = self.sockets.frames(&self.socket);
        let kinds: Vec<Value> = frames
            .iter()
            .map(|frame| {
                assert!(frame.len() <= limits::FRAME_BYTES, "an answer of {} bytes", frame.len());
                serde_json::from_str::<Value>(frame).expect("an answer is JSON")["type"].clone()
            })
            .collect();
        match ClientFrame::parse(text) {
            Err(_) => assert_eq!(kinds, ["error"], "what is no frame is answered by one error"),
            Ok(ClientFrame::Sync(_)) => assert!(kinds.contains(&json!("notifications")), "a sync is answered: {kinds:?}"),
            Ok(_) => assert!(!kinds.contains(&json!("error")), "a good frame is no error: {kinds:?}"),
        }
    }
}
