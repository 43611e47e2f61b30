//! The three routes on the ports in memory: what each leaves behind, and what the client is told when a port fails.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use proptest::prelude::*;
use recado_domain::connection::{CloseReason, Connection, Phase, Protocol};
use recado_domain::failure::Failure;
use recado_domain::ids::{ConnectionId, DeliveryKey, NotificationId, RecipientKey, TenantId, UserId};
use recado_domain::limits;
use recado_domain::message::InboxMessage;
use recado_domain::notification::{NewEntry, Notification};
use recado_domain::opening::Credential;
use recado_domain::ports::{Clock, Connections, Inbox, Marks, TicketHolder, Tickets};
use recado_domain::position::{Cursor, Position, Resume};
use recado_domain::ticket::Ticket;
use recado_memory::{ManualClock, MemoryConnections, MemoryInbox, MemoryQueue, MemorySockets, MemoryTickets, SeededEntropy};
use recado_runtime::auth::{DevelopmentKey, KeyError, KeySet, KeySource, TokenConfig, TokenVerifier, VerifyingKey};
use serde_json::{Value, json};

use crate::{ConnectPorts, ConnectRequest, Connected, MessagePorts, Refused, connect, disconnect, message};

const MINUTE: Duration = Duration::from_secs(60);

fn token(token: impl Into<String>) -> Option<Credential> {
    Some(Credential::Token(token.into()))
}

struct World {
    clock: ManualClock,
    entropy: SeededEntropy,
    inbox: MemoryInbox,
    connections: MemoryConnections,
    sockets: MemorySockets,
    queue: MemoryQueue,
    tickets: MemoryTickets,
    key: DevelopmentKey,
    tokens: TokenVerifier<KeySet, ManualClock>,
}

impl World {
    fn new() -> Self {
        let (clock, entropy, key) = (ManualClock::default(), SeededEntropy::new(7), DevelopmentKey::generate());
        let keys = KeySet::new(vec![key.verifying_key()]).unwrap();
        Self {
            inbox: MemoryInbox::new(clock.clone(), entropy.clone()),
            connections: MemoryConnections::new(clock.clone()),
            sockets: MemorySockets::new(),
            queue: MemoryQueue::new(clock.clone(), entropy.clone()),
            tickets: MemoryTickets::new(clock.clone()),
            tokens: TokenVerifier::new(TokenConfig::default(), keys, clock.clone()),
            clock,
            entropy,
            key,
        }
    }

    fn token(&self, user: &str, ttl: Duration) -> String {
        self.key.mint(&UserId::new(user).unwrap(), &TenantId::default(), ttl, self.clock.now())
    }

    fn ports<'a, V>(
        &'a self,
        tokens: &'a V,
    ) -> ConnectPorts<'a, V, MemoryTickets, MemoryConnections, MemoryQueue, MemorySockets, ManualClock> {
        let (connections, inbox_queue, sockets, clock) = (&self.connections, &self.queue, &self.sockets, &self.clock);
        ConnectPorts { tokens, tickets: &self.tickets, connections, inbox_queue, sockets, clock, replay_delay: Duration::from_secs(1) }
    }

    async fn connect(&self, request: ConnectRequest) -> Result<Connected, Refused> {
        connect(self.ports(&self.tokens), request).await
    }

    /// Alice connects with a Recado client, and her socket opens.
    async fn alice_on(&self, device: &str) -> ConnectionId {
        self.connect(self.request(device, Protocol::Recado)).await.unwrap();
        self.sockets.open(&id(device));
        id(device)
    }

    /// As before, and her client has synced; what answered it is not among the frames looked at.
    async fn alice_live_on(&self, device: &str) -> ConnectionId {
        let id = self.alice_on(device).await;
        self.connections.mark_live(&alice(), &self.row(&id), false).await.unwrap();
        id
    }

    fn request(&self, connection: &str, protocol: Protocol) -> ConnectRequest {
        let credential = token(self.token("alice", 24 * 60 * MINUTE));
        ConnectRequest { connection: id(connection), credential, protocol, device: None }
    }

    /// A ticket for alice whose token lasts for `token_lasts`.
    async fn ticket(&self, token_lasts: Duration) -> String {
        let (ticket, now) = (Ticket::draw(&self.entropy), self.clock.now());
        let holder = TicketHolder { recipient: alice(), token_expires_at: now + token_lasts };
        self.tickets.issue(&ticket.key(), &holder, now + limits::TICKET_LIFE).await.unwrap();
        ticket.reveal()
    }

    async fn connect_with(&self, connection: &str, ticket: &str) -> Result<Connected, Refused> {
        let credential = Some(Credential::Ticket(ticket.to_owned()));
        self.connect(ConnectRequest { credential, ..self.request(connection, Protocol::Recado) }).await
    }

    fn row(&self, id: &ConnectionId) -> Connection {
        self.connections.rows(&alice()).into_iter().find(|row| row.id == *id).unwrap()
    }

    async fn say(&self, id: &ConnectionId, frame: Value) -> Result<(), Failure> {
        self.say_text(id, &frame.to_string()).await
    }

    async fn say_text(&self, id: &ConnectionId, text: &str) -> Result<(), Failure> {
        let Self { inbox, connections, sockets, clock, entropy, .. } = self;
        message(MessagePorts { inbox, connections, sockets, clock, entropy }, id, text).await
    }

    /// The frames of the answer to a `sync`.
    async fn sync(&self, id: &ConnectionId, since: Option<&str>) -> Vec<Value> {
        let before = self.frames(id).len();
        self.say(id, json!({"type": "sync", "request": "r", "since": since})).await.unwrap();
        self.frames(id).split_off(before)
    }

    fn frames(&self, id: &ConnectionId) -> Vec<Value> {
        self.sockets.frames(id).iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    /// Appends one entry and moves the clock on by a second.
    async fn append(&self, name: &str) -> Position {
        let answer = self.inbox.append(&[entry(name)]).await.pop().unwrap().unwrap();
        self.clock.advance(Duration::from_secs(1));
        answer.position
    }

    fn stored(&self, name: &str) -> recado_domain::notification::InboxEntry {
        self.inbox.entry(&DeliveryKey { recipient: alice(), notification: nid(name) }).unwrap()
    }
}

fn id(text: &str) -> ConnectionId {
    ConnectionId::new(text).unwrap()
}

fn alice() -> RecipientKey {
    RecipientKey::new(TenantId::default(), UserId::new("alice").unwrap())
}

fn nid(name: &str) -> NotificationId {
    NotificationId::of("/test", name)
}

fn entry(name: &str) -> NewEntry {
    let notification = Notification {
        id: nid(name),
        event_id: name.to_owned(),
        source: "/test".to_owned(),
        event_type: "test.happened".to_owned(),
        time: Timestamp::UNIX_EPOCH,
        category: None,
        title: Some("a title of some length".to_owned()),
        body: None,
        url: None,
        payload: None,
        expires_at: None,
        ack_soon: false,
    };
    NewEntry { recipient: alice(), notification: Arc::new(notification) }
}

fn busy() -> Failure {
    Failure::transient("busy")
}

/// The events an answer shows, in order.
fn shown(frames: &[Value]) -> Vec<String> {
    let items = frames.iter().flat_map(|frame| frame["items"].as_array().unwrap().clone());
    items.map(|item| item["event_id"].as_str().unwrap().to_owned()).collect()
}

fn last(frames: &[Value]) -> (&Value, &Value, &str) {
    let frame = frames.last().unwrap();
    (&frame["more"], &frame["verdict"], frame["cursor"].as_str().unwrap())
}

fn position_of(cursor: &str, now: Timestamp) -> Position {
    match Cursor::resume(cursor, &alice(), now) {
        Resume::From(position) => position,
        Resume::Gap => panic!("the cursor is alice's and young"),
    }
}

fn names(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("e{n:03}")).collect()
}

// Connecting

#[tokio::test]
async fn a_row_is_written_as_connecting_before_the_replay_is_queued() {
    let world = World::new();
    let connections = world.connections.clone();
    world.queue.faults().before_next("send", move || {
        let rows = connections.rows(&alice());
        assert_eq!(rows.iter().map(|row| row.phase).collect::<Vec<_>>(), [Phase::Connecting]);
    });
    let connected = world.connect(world.request("c=", Protocol::Plain)).await.unwrap();
    assert_eq!((connected.recipient.clone(), connected.connection.clone()), (alice(), world.row(&id("c="))));
    let messages = world.queue.messages();
    assert_eq!(messages.len(), 1);
    let InboxMessage::Replay(replay) = InboxMessage::parse(messages[0].body.as_bytes()).unwrap() else { panic!("a replay") };
    assert_eq!((replay.recipient, replay.connection), (alice(), id("c=")));
    assert_eq!(replay.registered_at, connected.connection.registered_at);
}

#[tokio::test]
async fn a_client_that_declared_the_protocol_asks_for_itself() {
    let world = World::new();
    world.connect(world.request("c=", Protocol::Recado)).await.unwrap();
    assert_eq!(world.queue.depth(), 0);
}

#[tokio::test]
async fn the_row_knows_when_the_token_ends() {
    let world = World::new();
    let request = ConnectRequest { credential: token(world.token("alice", MINUTE)), ..world.request("c=", Protocol::Recado) };
    let connected = world.connect(request).await.unwrap();
    assert_eq!(connected.connection.token_expires_at, world.clock.now() + MINUTE + Duration::from_secs(30));
}

#[tokio::test]
async fn a_connection_that_may_not_open_says_why_and_leaves_no_row() {
    let world = World::new();
    let good = || world.request("c=", Protocol::Plain);
    let old = world.token("alice", MINUTE);
    world.clock.advance(2 * MINUTE);
    let foreign = DevelopmentKey::generate().mint(&alice().user, &alice().tenant, MINUTE, world.clock.now());
    let cases = [
        (ConnectRequest { credential: None, ..good() }, 401, "credential_missing"),
        (ConnectRequest { credential: token(""), ..good() }, 401, "token_malformed"),
        (ConnectRequest { credential: token("a.b.c"), ..good() }, 401, "token_malformed"),
        (ConnectRequest { credential: token(old), ..good() }, 401, "token_expired"),
        (ConnectRequest { credential: token(foreign), ..good() }, 401, "token_signature"),
        (ConnectRequest { device: Some("x".repeat(129)), ..good() }, 400, "invalid_device"),
        (ConnectRequest { device: Some("a\nb".to_owned()), ..good() }, 400, "invalid_device"),
    ];
    for (request, status, code) in cases {
        let refused = world.connect(request).await.unwrap_err();
        assert_eq!((refused.status, refused.code), (status, code));
    }
    assert_eq!((world.connections.rows(&alice()).len(), world.queue.depth()), (0, 0));
}

#[tokio::test]
async fn a_ticket_opens_a_connection_that_ends_with_the_token_it_was_got_with() {
    let world = World::new();
    let connected = world.connect_with("c=", &world.ticket(5 * MINUTE).await).await.unwrap();
    assert_eq!(connected.recipient, alice());
    assert_eq!(connected.connection.token_expires_at, world.clock.now() + 5 * MINUTE);
    assert_eq!(world.connections.rows(&alice()).len(), 1);
}

#[tokio::test]
async fn a_ticket_that_was_used_has_ended_or_never_was_one_opens_nothing() {
    let world = World::new();
    let used = world.ticket(MINUTE).await;
    world.connect_with("first=", &used).await.unwrap();
    let late = world.ticket(MINUTE).await;
    world.clock.advance(limits::TICKET_LIFE);
    let (foreign, token) = (Ticket::draw(&world.entropy).reveal(), world.token("alice", MINUTE));
    for ticket in [&used, &late, &foreign, &token, "", "a ticket"] {
        let refused = world.connect_with("second=", ticket).await.unwrap_err();
        assert_eq!((refused.status, refused.code), (401, "ticket_invalid"), "{refused:?}");
        assert!(ticket.is_empty() || !format!("{refused:?}").contains(&format!("{ticket:?}")));
    }
    assert_eq!(world.connections.rows(&alice()).len(), 1);
}

#[tokio::test]
async fn a_ticket_never_outlives_its_token() {
    let world = World::new();
    let ticket = world.ticket(Duration::from_secs(10)).await;
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(world.connect_with("c=", &ticket).await.unwrap_err().code, "token_expired");
}

#[tokio::test]
async fn a_store_of_tickets_that_does_not_answer_refuses_for_now() {
    let world = World::new();
    let ticket = world.ticket(MINUTE).await;
    world.tickets.faults().fail_next("redeem", busy());
    assert_eq!(world.connect_with("c=", &ticket).await.unwrap_err().status, 503);
    assert!(world.connect_with("c=", &ticket).await.is_ok());
}

#[tokio::test]
async fn a_request_that_does_not_hold_uses_up_no_ticket() {
    let world = World::new();
    let ticket = world.ticket(MINUTE).await;
    let credential = Some(Credential::Ticket(ticket.clone()));
    let request = ConnectRequest { credential, device: Some("a\nb".to_owned()), ..world.request("c=", Protocol::Recado) };
    assert_eq!(world.connect(request).await.unwrap_err().status, 400);
    assert!(world.connect_with("c=", &ticket).await.is_ok());
}

#[tokio::test]
async fn keys_out_of_reach_refuse_for_now() {
    struct OutOfReach;
    impl KeySource for OutOfReach {
        async fn key(&self, _: Option<&str>) -> Result<Arc<VerifyingKey>, KeyError> {
            Err(KeyError::Unavailable)
        }
    }
    let world = World::new();
    let tokens = TokenVerifier::new(TokenConfig::default(), OutOfReach, world.clock.clone());
    let refused = connect(world.ports(&tokens), world.request("c=", Protocol::Plain)).await.unwrap_err();
    assert_eq!(refused.status, 503);
}

#[tokio::test]
async fn a_store_that_does_not_answer_refuses_for_now_and_keeps_no_row() {
    let world = World::new();
    world.connections.faults().lose_answer("register");
    let refused = world.connect(world.request("c=", Protocol::Plain)).await.unwrap_err();
    assert_eq!((refused.status, world.connections.rows(&alice()).len(), world.queue.depth()), (503, 0, 0));
}

#[tokio::test]
async fn a_replay_that_cannot_be_queued_refuses_for_now_and_keeps_no_row() {
    let world = World::new();
    world.queue.faults().fail_next("send", busy());
    let refused = world.connect(world.request("c=", Protocol::Plain)).await.unwrap_err();
    assert_eq!((refused.status, world.connections.rows(&alice()).len()), (503, 0));
    assert_eq!(world.connections.owner(&id("c=")).await, Ok(None));
}

#[tokio::test]
async fn one_connection_more_than_the_cap_closes_the_oldest() {
    let world = World::new();
    for n in 0..=limits::CONNECTIONS_PER_USER {
        world.alice_on(&format!("c{n}")).await;
        world.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(world.sockets.closed(&id("c0")), Some(CloseReason::Replaced));
    assert_eq!(world.sockets.closed(&id("c1")), None);
    assert_eq!(world.connections.rows(&alice()).len(), limits::CONNECTIONS_PER_USER);
}

#[tokio::test]
async fn a_replaced_socket_that_cannot_be_closed_does_not_refuse_the_new_one() {
    let world = World::new();
    for n in 0..limits::CONNECTIONS_PER_USER {
        world.alice_on(&format!("c{n}")).await;
    }
    world.sockets.faults().fail_next("close", busy());
    assert!(world.connect(world.request("new", Protocol::Recado)).await.is_ok());
}

#[tokio::test]
async fn a_disconnect_forgets_the_connection_and_is_repeated_without_harm() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    disconnect(&world.connections, &id).await.unwrap();
    assert_eq!(world.connections.rows(&alice()), []);
    disconnect(&world.connections, &id).await.unwrap();
}

// Syncing

#[tokio::test]
async fn a_sync_settles_then_becomes_live_then_reads() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    world.append("seen").await;
    let (inbox, key) = (world.inbox.clone(), DeliveryKey { recipient: alice(), notification: nid("seen") });
    world.connections.faults().before_next("mark_live", move || assert!(inbox.entry(&key).unwrap().acked_at.is_some()));
    let connections = world.connections.clone();
    world.inbox.faults().before_next("page", move || assert_eq!(connections.rows(&alice())[0].phase, Phase::Live));
    world.say(&id, json!({"type": "sync", "request": "1", "ack": [nid("seen"), nid("unknown")]})).await.unwrap();
    assert_eq!(world.inbox.faults().calls("page"), 1);
    assert_eq!(world.inbox.entries(&alice()).len(), 1);
}

#[tokio::test]
async fn an_empty_answer_still_ends_with_a_cursor_and_a_verdict() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    let frames = world.sync(&id, None).await;
    let (more, verdict, cursor) = last(&frames);
    assert_eq!((frames.len(), more, verdict), (1, &json!(false), &json!("complete")));
    assert_eq!(frames[0]["request"], "r");
    assert_eq!(position_of(cursor, world.clock.now()), Position::floor(world.clock.now()));
    let cursor = cursor.to_owned();
    world.clock.advance(10 * MINUTE);
    assert_eq!(last(&world.sync(&id, Some(&cursor)).await).2, cursor);
}

#[tokio::test]
async fn a_resume_gives_what_came_since_and_the_overlap_before_it() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    world.append("long ago").await;
    world.clock.advance(2 * MINUTE);
    world.append("just before").await;
    let cursor = Cursor::new(world.append("cursor").await).encode(&alice());
    let newest = world.append("new").await;
    let frames = world.sync(&id, Some(&cursor)).await;
    assert_eq!(shown(&frames), ["just before", "cursor", "new"]);
    let (more, verdict, cursor) = last(&frames);
    assert_eq!((more, verdict), (&json!(false), &json!("complete")));
    assert_eq!(position_of(cursor, world.clock.now()), newest);
}

#[tokio::test]
async fn a_long_answer_comes_in_frames_of_which_the_last_alone_has_the_cursor() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    let start = Cursor::new(Position::floor(world.clock.now())).encode(&alice());
    for name in names(0..500) {
        world.append(&name).await;
    }
    for since in [Some(start.as_str()), None] {
        let before = world.sockets.frames(&id).len();
        let frames = world.sync(&id, since).await;
        assert_eq!(shown(&frames), names(0..500));
        assert!(frames.len() > 3, "{} frames", frames.len());
        assert!(world.sockets.frames(&id)[before..].iter().all(|text| text.len() <= limits::FRAME_BYTES));
        let (end, earlier) = frames.split_last().unwrap();
        for frame in earlier {
            assert_eq!((&frame["more"], frame.get("cursor"), frame.get("verdict")), (&json!(true), None, None));
        }
        assert_eq!((&end["more"], &end["verdict"]), (&json!(false), &json!("complete")));
    }
}

#[tokio::test]
async fn an_entry_appended_while_the_query_runs_is_shown_but_not_passed_by_the_cursor() {
    for since in [true, false] {
        let world = World::new();
        let id = world.alice_on("c=").await;
        let cursor = Cursor::new(world.append("before").await).encode(&alice());
        let began = world.clock.now();
        let (clock, inbox) = (world.clock.clone(), world.inbox.clone());
        world.inbox.faults().before_next(if since { "since" } else { "page" }, move || {
            clock.advance(Duration::from_secs(5));
            assert!(inbox.append(&[entry("meanwhile")]).now_or_never().unwrap()[0].is_ok());
        });
        let frames = world.sync(&id, since.then_some(cursor.as_str())).await;
        assert_eq!(shown(&frames), ["before", "meanwhile"]);
        assert_eq!(position_of(last(&frames).2, world.clock.now()), Position::floor(began));
    }
}

#[tokio::test]
async fn a_cursor_that_cannot_be_resumed_is_a_gap_with_the_newest_page() {
    let world = World::new();
    let old = Cursor::new(world.append("old").await).encode(&alice());
    world.clock.advance(limits::RETENTION);
    let id = world.alice_on("c=").await;
    world.append("new").await;
    let bob = RecipientKey::new(TenantId::default(), UserId::new("bob").unwrap());
    let foreign = Cursor::new(Position::floor(world.clock.now())).encode(&bob);
    let ahead = Cursor::new(Position::floor(world.clock.now() + MINUTE)).encode(&alice());
    for since in [old.as_str(), &foreign, &ahead, "damaged", ""] {
        let frames = world.sync(&id, Some(since)).await;
        assert_eq!(last(&frames).1, "gap", "{since}");
        assert!(shown(&frames).contains(&"new".to_owned()));
        let resumed = world.sync(&id, Some(last(&frames).2)).await;
        assert_eq!(last(&resumed).1, "complete");
    }
}

#[tokio::test]
async fn a_quiet_inbox_is_complete_however_long_and_its_newest_entry_comes_again_for_a_day_alone() {
    let world = World::new();
    world.append("newest").await;
    let id = world.alice_on("c=").await;
    let mut cursor = last(&world.sync(&id, None).await).2.to_owned();
    let (start, day) = (world.clock.now(), Duration::from_secs(24 * 3600));
    for (days, comes_again) in [(0, true), (1, true), (2, false), (20, false), (40, false), (60, false)] {
        world.clock.set(start + day * days + 2 * MINUTE);
        let id = world.alice_on(&format!("c{days}=")).await;
        let frames = world.sync(&id, Some(&cursor)).await;
        assert_eq!((shown(&frames).is_empty(), last(&frames).1), (!comes_again, &json!("complete")), "after {days} days");
        cursor = last(&frames).2.to_owned();
    }
}

#[tokio::test]
async fn without_a_cursor_old_pending_entries_come_before_the_newest_page_and_once_each() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    for name in names(0..250) {
        world.append(&name).await;
    }
    // All but the first five and every tenth of the last hundred are settled.
    let settled: Vec<_> = (5..250).filter(|n| *n < 150 || n % 10 != 0).map(|n| nid(&format!("e{n:03}"))).collect();
    world.inbox.acknowledge(&alice(), &settled).await.unwrap();
    let frames = world.sync(&id, None).await;
    let expected: Vec<_> = names(0..5).into_iter().chain(names(150..250)).collect();
    assert_eq!(shown(&frames), expected);
}

#[tokio::test]
async fn a_pending_entry_that_is_archived_still_comes() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    world.append("put away").await;
    world.append("plain").await;
    world.inbox.archive(&alice(), &[nid("put away")]).await.unwrap();
    assert_eq!(shown(&world.sync(&id, None).await), ["put away", "plain"]);
}

#[tokio::test]
async fn a_finished_pending_query_spares_the_next_what_is_settled() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    world.append("settled").await;
    let pending = world.append("pending").await;
    world.inbox.acknowledge(&alice(), &[nid("settled")]).await.unwrap();
    world.clock.advance(10 * MINUTE);
    world.sync(&id, None).await;
    assert_eq!(world.inbox.marks(&alice()).await.unwrap().pending_from, Some(pending));
    // The entry that stands exactly at the mark is still found.
    world.sync(&id, None).await;
    assert_eq!(world.inbox.marks(&alice()).await.unwrap().pending_from, Some(pending));
    world.inbox.acknowledge(&alice(), &[nid("pending")]).await.unwrap();
    world.sync(&id, None).await;
    let began = Position::floor(world.clock.now());
    assert_eq!(world.inbox.marks(&alice()).await.unwrap().pending_from, Some(began.back(limits::W)));
}

#[tokio::test]
async fn a_mark_that_would_pass_over_nothing_is_not_moved() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    world.append("pending").await;
    world.clock.advance(10 * MINUTE);
    world.sync(&id, None).await;
    assert_eq!(world.inbox.faults().calls("advance_pending"), 0);
    assert_eq!(world.inbox.faults().calls("marks"), 0, "they come with the newest page");
}

#[tokio::test]
async fn a_finished_pending_query_of_an_inbox_longer_than_a_page_moves_the_mark() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    for name in names(0..150) {
        world.append(&name).await;
    }
    let settled: Vec<_> = names(0..20).iter().map(|name| nid(name)).collect();
    world.inbox.acknowledge(&alice(), &settled).await.unwrap();
    world.clock.advance(10 * MINUTE);
    world.sync(&id, None).await;
    let first = world.inbox.pending(&alice(), Marks::default(), Position::MIN, 1).await.unwrap().entries[0].position;
    assert_eq!(world.inbox.marks(&alice()).await.unwrap().pending_from, Some(first));
}

#[tokio::test]
async fn an_unfinished_pending_query_advances_nothing() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    world.append("settled").await;
    world.inbox.acknowledge(&alice(), &[nid("settled")]).await.unwrap();
    world.clock.advance(10 * MINUTE);
    world.inbox.faults().fail_next("pending", busy());
    world.sync(&id, None).await;
    assert_eq!(world.inbox.marks(&alice()).await.unwrap().pending_from, None);
    assert_eq!(world.inbox.faults().calls("advance_pending"), 0);
}

#[tokio::test]
async fn after_a_post_that_failed_no_later_frame_of_the_answer_follows() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    let start = Cursor::new(Position::floor(world.clock.now())).encode(&alice());
    for name in names(0..300) {
        world.append(&name).await;
    }
    for since in [Some(start.as_str()), None] {
        let before = world.frames(&id).len();
        world.sockets.faults().after_next("post", || {});
        world.sockets.faults().fail_next("post", busy());
        let outcome = world.say(&id, json!({"type": "sync", "request": "r", "since": since})).await;
        assert_eq!(outcome, Err(busy()));
        let frames = world.frames(&id).split_off(before);
        assert_eq!((frames.len(), &frames[0]["more"], frames[0].get("cursor")), (1, &json!(true), None));
        assert_eq!(world.inbox.faults().calls("advance_pending"), 0);
    }
}

#[tokio::test]
async fn a_socket_that_went_away_during_its_answer_is_forgotten() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    world.sockets.vanish(&id);
    world.say(&id, json!({"type": "sync", "request": "r"})).await.unwrap();
    assert_eq!(world.connections.rows(&alice()), []);
}

#[tokio::test]
async fn a_sync_creates_a_lost_row_again() {
    let world = World::new();
    for n in 0..=limits::CONNECTIONS_PER_USER {
        world.sockets.faults().fail_next("close", busy());
        world.alice_on(&format!("c{n}")).await;
        world.clock.advance(Duration::from_secs(1));
    }
    assert!(world.connections.rows(&alice()).iter().all(|row| row.id != id("c0")));
    world.sync(&id("c0"), None).await;
    assert_eq!(world.row(&id("c0")).phase, Phase::Live);
}

#[tokio::test]
async fn a_store_that_fails_in_the_middle_of_an_answer_asks_to_try_again() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    let since = Cursor::new(Position::floor(world.clock.now())).encode(&alice());
    for (port, operation, since) in [
        (world.inbox.faults(), "since", Some(since)),
        (world.inbox.faults(), "page", None),
        (world.inbox.faults(), "pending", None),
        (world.connections.faults(), "mark_live", None),
        (world.connections.faults(), "owner", None),
    ] {
        port.fail_next(operation, busy());
        let frames = world.sync(&id, since.as_deref()).await;
        assert_eq!(frames.len(), 1, "{operation}");
        assert_eq!((&frames[0]["type"], &frames[0]["code"]), (&json!("error"), &json!("try_again")), "{operation}");
        assert_eq!(frames[0]["request"], "r", "{operation}");
    }
    world.inbox.faults().fail_next("acknowledge", busy());
    world.say(&id, json!({"type": "sync", "request": "r", "ack": [nid("x")]})).await.unwrap();
    assert_eq!(world.frames(&id).last().unwrap()["code"], "try_again");
}

#[tokio::test]
async fn a_connection_near_its_age_is_asked_to_connect_again_after_its_answer() {
    let world = World::new();
    let id = world.alice_on("c=").await;
    world.clock.advance(104 * MINUTE);
    assert_eq!(world.sync(&id, None).await.len(), 1);
    world.clock.advance(6 * MINUTE);
    let frames = world.sync(&id, None).await;
    assert_eq!((&frames[0]["more"], &frames[1]["type"]), (&json!(false), &json!("goaway")));
    assert!(frames[1]["reconnect_after_ms"].as_u64().unwrap() < 30_000);
}

// Updates

#[tokio::test]
async fn an_acknowledgement_settles_by_id() {
    let world = World::new();
    let id = world.alice_live_on("c=").await;
    world.append("a").await;
    world.append("b").await;
    world.say(&id, json!({"type": "ack", "ids": [nid("a"), nid("unknown")]})).await.unwrap();
    assert!(world.stored("a").acked_at.is_some() && world.stored("b").acked_at.is_none());
    assert_eq!(world.frames(&id), Vec::<Value>::new());
}

#[tokio::test]
async fn a_read_and_an_archive_are_told_to_the_other_devices_and_the_count_to_all() {
    let world = World::new();
    let (phone, desk) = (world.alice_live_on("phone").await, world.alice_live_on("desk").await);
    let opening = world.alice_on("opening").await;
    for name in ["a", "b", "c"] {
        world.append(name).await;
    }
    world.say(&phone, json!({"type": "read", "ids": [nid("a"), nid("unknown")]})).await.unwrap();
    let (read, unread) = (json!({"type": "read", "ids": [nid("a")]}), json!({"type": "unread", "count": 2, "capped": false}));
    assert_eq!(world.frames(&desk), [read, unread.clone()]);
    assert_eq!(world.frames(&phone), [unread]);
    world.say(&desk, json!({"type": "archive", "ids": [nid("b")]})).await.unwrap();
    let (archive, unread) = (json!({"type": "archive", "ids": [nid("b")]}), json!({"type": "unread", "count": 1, "capped": false}));
    assert_eq!(world.frames(&phone)[1..], [archive, unread.clone()]);
    assert_eq!(world.frames(&desk)[2..], [unread]);
    assert_eq!(world.frames(&opening), Vec::<Value>::new());
    assert!(world.stored("a").read_at.is_some() && world.stored("b").archived_at.is_some());
}

#[tokio::test]
async fn what_was_read_before_is_not_told_again() {
    let world = World::new();
    let (phone, desk) = (world.alice_live_on("phone").await, world.alice_live_on("desk").await);
    world.append("a").await;
    world.inbox.mark_read(&alice(), &[nid("a")]).await.unwrap();
    for frame in [json!({"type": "read", "ids": [nid("a")]}), json!({"type": "read", "ids": []}), json!({"type": "archive", "ids": []})] {
        world.say(&phone, frame).await.unwrap();
    }
    assert_eq!(world.frames(&desk), Vec::<Value>::new());
}

#[tokio::test]
async fn read_all_is_told_with_its_position_and_leaves_what_came_later_unread() {
    let world = World::new();
    let (phone, desk) = (world.alice_live_on("phone").await, world.alice_live_on("desk").await);
    world.append("long ago").await;
    world.clock.advance(2 * MINUTE);
    let seen = world.append("just now").await;
    world.append("later").await;
    world.say(&phone, json!({"type": "read_all", "up_to": seen})).await.unwrap();
    let frames = world.frames(&desk);
    assert_eq!((&frames[0]["type"], &frames[0]["ids"]), (&json!("read"), &json!([nid("just now")])));
    let up_to: Position = frames[0]["up_to"].as_str().unwrap().parse().unwrap();
    assert!(up_to >= world.stored("long ago").position && up_to <= seen);
    let unread = json!({"type": "unread", "count": 1, "capped": false});
    assert_eq!((&frames[1], world.frames(&phone)), (&unread, vec![unread.clone()]));
}

#[tokio::test]
async fn a_device_that_cannot_be_told_does_not_undo_the_update() {
    let world = World::new();
    let (phone, desk) = (world.alice_live_on("phone").await, world.alice_live_on("desk").await);
    world.append("a").await;
    world.sockets.vanish(&desk);
    world.say(&phone, json!({"type": "read", "ids": [nid("a")]})).await.unwrap();
    assert!(world.stored("a").read_at.is_some());
    assert_eq!(world.connections.rows(&alice()).len(), 1);
    world.append("b").await;
    world.connections.faults().fail_next("of_users", busy());
    world.say(&phone, json!({"type": "read", "ids": [nid("b")]})).await.unwrap();
    world.inbox.faults().fail_next("unread", busy());
    world.say(&phone, json!({"type": "read_all", "up_to": world.stored("b").position})).await.unwrap();
    assert!(world.frames(&phone).iter().all(|frame| frame["type"] == "unread"));
}

#[tokio::test]
async fn an_update_the_store_did_not_take_asks_to_try_again() {
    let world = World::new();
    let id = world.alice_live_on("c=").await;
    let frames = [
        ("acknowledge", json!({"type": "ack", "ids": [nid("a")]})),
        ("mark_read", json!({"type": "read", "ids": [nid("a")]})),
        ("archive", json!({"type": "archive", "ids": [nid("a")]})),
        ("read_all", json!({"type": "read_all", "up_to": Position::MIN})),
    ];
    for (operation, frame) in frames {
        world.inbox.faults().fail_next(operation, busy());
        world.say(&id, frame).await.unwrap();
        assert_eq!(world.frames(&id).last().unwrap()["code"], "try_again", "{operation}");
    }
}

// Who may speak

#[tokio::test]
async fn a_frame_that_is_not_understood_is_answered_and_nothing_else_happens() {
    let world = World::new();
    let id = world.alice_live_on("c=").await;
    let cases = [
        (json!({"type": "dance", "request": "7"}).to_string(), "unknown_type", json!("7")),
        ("{".to_owned(), "invalid_frame", Value::Null),
        (json!({"type": "sync", "request": ""}).to_string(), "limit_exceeded", json!("")),
        (json!({"type": "read_all", "up_to": "now"}).to_string(), "invalid_frame", Value::Null),
        ("x".repeat(limits::CLIENT_MESSAGE_BYTES + 1), "limit_exceeded", Value::Null),
    ];
    for (text, code, request) in cases {
        world.say_text(&id, &text).await.unwrap();
        let frame = world.frames(&id).pop().unwrap();
        assert_eq!((frame["type"].as_str(), frame["code"].as_str(), &frame["request"]), (Some("error"), Some(code), &request));
    }
    assert!(world.sockets.is_open(&id));
}

#[tokio::test]
async fn a_connection_nobody_knows_is_told_and_closed() {
    let world = World::new();
    world.sockets.open(&id("ghost"));
    world.say(&id("ghost"), json!({"type": "sync", "request": "7"})).await.unwrap();
    let frame = world.frames(&id("ghost")).pop().unwrap();
    assert_eq!((&frame["code"], &frame["request"]), (&json!("unknown_connection"), &json!("7")));
    assert_eq!(world.sockets.closed(&id("ghost")), Some(CloseReason::GoingAway));
}

#[tokio::test]
async fn an_expired_token_ends_the_connection_and_reads_nothing() {
    let world = World::new();
    let request = ConnectRequest { credential: token(world.token("alice", MINUTE)), ..world.request("c=", Protocol::Recado) };
    world.connect(request).await.unwrap();
    world.sockets.open(&id("c="));
    world.append("secret").await;
    world.clock.advance(2 * MINUTE);
    world.sockets.faults().fail_next("close", busy());
    assert_eq!(world.say(&id("c="), json!({"type": "sync", "request": "1"})).await, Err(busy()));
    world.say(&id("c="), json!({"type": "sync", "request": "1"})).await.unwrap();
    assert_eq!(world.sockets.closed(&id("c=")), Some(CloseReason::TokenExpired));
    assert_eq!((world.connections.rows(&alice()), world.frames(&id("c="))), (vec![], vec![]));
}

#[tokio::test]
async fn nobody_reads_anothers_inbox() {
    let world = World::new();
    world.append("for alice").await;
    let credential = token(world.token("bob", MINUTE));
    world.connect(ConnectRequest { credential, ..world.request("bobs", Protocol::Recado) }).await.unwrap();
    world.sockets.open(&id("bobs"));
    let frames = world.sync(&id("bobs"), None).await;
    assert_eq!(shown(&frames), Vec::<String>::new());
    let forged = json!({"type": "read", "ids": [nid("for alice")], "user": "alice", "tenant": "default"});
    world.say(&id("bobs"), forged).await.unwrap();
    assert!(world.stored("for alice").read_at.is_none());
}

fn frame_like() -> impl Strategy<Value = String> {
    let kind = prop_oneof![Just("sync"), Just("ack"), Just("read"), Just("archive"), Just("read_all"), Just("x")];
    let text = || proptest::option::of(any::<String>());
    (kind, text(), text(), proptest::collection::vec(any::<String>(), 0..3)).prop_map(|(kind, request, since, ids)| {
        json!({"type": kind, "request": request, "since": since, "ids": ids, "ack": ids, "up_to": since}).to_string()
    })
}

proptest! {
    #[test]
    fn arbitrary_text_is_answered_and_the_connection_stays(texts in proptest::collection::vec(prop_oneof![any::<String>(), frame_like()], 1..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let id = world.alice_live_on("c=").await;
            world.append("a").await;
            for text in &texts {
                world.say_text(&id, text).await.unwrap();
            }
            assert!(world.sockets.is_open(&id));
            assert!(world.stored("a").read_at.is_none());
        });
    }
}
