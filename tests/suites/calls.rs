//! How many calls to AWS each path makes, counted by an interceptor of the SDK: receives, deletions and retries included.
//!
//! The limits and the reason for each figure stand in docs/performance.md; what was counted is printed as rows of its
//! tables (`cargo xtask test -E 'binary(calls)' --no-capture`). The rooms' libraries run in process, on the adapters of
//! AWS. Must not know: how an adapter batches.

mod aws {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use axum::Router;
    use axum::extract::{Path, State};
    use axum::routing::post;
    use futures_util::{StreamExt, stream};
    use jiff::Timestamp;
    use recado_aws::calls::Count;
    use recado_aws::dynamo::{DynamoConnections, DynamoInbox};
    use recado_aws::settings::{Environment, Verifier};
    use recado_aws::{Calls, GatewaySockets, SqsQueue};
    use recado_dispatcher::{Dispatcher, DispatcherConfig, Ports, polling};
    use recado_domain::connection::{Connection, Phase, Protocol};
    use recado_domain::event::Event;
    use recado_domain::ids::{ConnectionId, NotificationId, RecipientKey, TenantId, UserId};
    use recado_domain::limits::{ITEM_BYTES, NAME_BYTES, RECIPIENTS, TICKET_LIFE};
    use recado_domain::notification::NewEntry;
    use recado_domain::opening::Credential;
    use recado_domain::ports::{Clock, Connections, EventBus, Inbox, Received, TicketHolder, Tickets};
    use recado_domain::ticket::Ticket;
    use recado_memory::{ManualClock, SeededEntropy};
    use recado_runtime::auth::sign;
    use recado_runtime::consumer::{Deadline, Disposition, Drained, Handler, consume};
    use recado_runtime::system::{SystemClock, SystemEntropy};
    use recado_tests::contracts::{Aws, Backend, Peer};
    use recado_tests::harness::eventually;
    use recado_ws_handlers::{ConnectPorts, ConnectRequest, MessagePorts, REPLAY_DELAY, connect, disconnect, message};
    use serde_json::{Value, json};
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    /// Notifications of each run.
    const NOTIFICATIONS: usize = 1_000;
    const SECRET: &str = "a secret of the tests, at least 32 bytes long";
    const HOUR: Duration = Duration::from_secs(3_600);

    type Inboxes = DynamoInbox<ManualClock, SeededEntropy>;
    type Rows = DynamoConnections<ManualClock, SeededEntropy>;
    type OnAws = Dispatcher<Ports<SqsQueue, SqsQueue, Inboxes, Rows, GatewaySockets, ManualClock, SeededEntropy>>;

    /// What a path cost.
    struct Bill {
        path: &'static str,
        /// Of what the limit counts: notifications, or one.
        units: usize,
        counts: BTreeMap<String, Count>,
    }

    impl Bill {
        /// Requests that left, repetitions of the SDK included.
        fn attempts(&self) -> u64 {
            self.counts.values().map(|count| count.attempts).sum()
        }

        #[expect(clippy::print_stdout, reason = "the rows of docs/performance.md")]
        fn print(&self) {
            let calls: Vec<String> = self.counts.iter().map(|(name, count)| format!("{} {name}", count.attempts)).collect();
            println!("| {} | {:.3} | {} |", self.path, self.each(), calls.join(", "));
        }

        fn each(&self) -> f64 {
            self.attempts() as f64 / self.units as f64
        }

        /// Prints it, and fails where it is above its limit.
        fn is_at_most(&self, limit: f64) {
            self.print();
            assert!(self.each() <= limit, "{}: {:.3} calls each, at most {limit}: {:#?}", self.path, self.each(), self.counts);
        }
    }

    /// An account whose calls are counted.
    struct Counted {
        aws: Aws,
        calls: Calls,
    }

    impl Counted {
        async fn fresh() -> Self {
            let calls = Calls::new();
            Self { aws: Aws::counted(calls.clone()).await, calls }
        }

        /// What `path` costs.
        async fn bill(&self, path: &'static str, units: usize, doing: impl Future<Output = ()>) -> Bill {
            self.calls.take();
            doing.await;
            Bill { path, units, counts: self.calls.take() }
        }

        fn dispatcher(&self, sockets: GatewaySockets) -> OnAws {
            let ports = Ports {
                inbox_queue: self.aws.inbox_queue().clone(),
                email_queue: self.aws.email_queue().clone(),
                inbox: self.aws.inbox().clone(),
                connections: self.aws.connections().clone(),
                sockets,
                clock: self.aws.clock().clone(),
                entropy: SeededEntropy::new(7),
            };
            Dispatcher::new(ports, DispatcherConfig::default())
        }

        /// Publishes, and waits until all of it is on the inbox queue.
        async fn publish(&self, events: &[Event]) {
            let answers = self.aws.bus().publish(events).await;
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
            eventually("the topic has handed over", async || Ok((self.aws.inbox_depth().await == events.len()).then_some(())))
                .await
                .unwrap();
        }

        /// Works off what waits on the queue as a container does.
        async fn work_off(&self, path: &'static str, messages: usize, units: usize, sockets: GatewaySockets) -> Bill {
            let handler = Arc::new(Watched { dispatcher: self.dispatcher(sockets), handled: AtomicUsize::new(0) });
            let stop = CancellationToken::new();
            let queue = Arc::new(self.aws.inbox_queue().clone());
            let bill = self
                .bill(path, units, async {
                    let consuming = consume(queue, handler.clone(), Arc::new(SystemEntropy), polling(), stop.clone());
                    let stopping = async {
                        eventually("everything is handled", async || {
                            Ok((handler.handled.load(Ordering::Acquire) >= messages).then_some(()))
                        })
                        .await
                        .unwrap();
                        stop.cancel();
                    };
                    let (drained, ()) = tokio::join!(consuming, stopping);
                    assert_eq!(drained, Drained::Clean);
                })
                .await;
            assert_eq!(handler.handled.load(Ordering::Acquire), messages, "each message was handled once");
            assert_eq!(self.aws.inbox_depth().await, 0, "each message was deleted");
            bill
        }

        /// Registers a live connection for each user.
        async fn online(&self, users: &[String]) {
            let registering = users.iter().map(|user| async move {
                let row = self.row(connection(user), Protocol::Recado).live();
                self.aws.connections().register(&person(user), &row).await.unwrap();
            });
            // Collected first: see `Table::get_all`.
            let registering: Vec<_> = registering.collect();
            stream::iter(registering).buffer_unordered(32).collect::<Vec<()>>().await;
        }

        fn row(&self, id: ConnectionId, protocol: Protocol) -> Connection {
            let now = self.aws.now();
            Connection { id, phase: Phase::Connecting, registered_at: now, token_expires_at: now + HOUR, protocol, device: None }
        }
    }

    /// A dispatcher that says how many messages it has handled.
    struct Watched {
        dispatcher: OnAws,
        handled: AtomicUsize,
    }

    impl Handler for Watched {
        async fn handle(&self, batch: Vec<Received>, deadline: &Deadline) -> Vec<Disposition> {
            let answers = self.dispatcher.handle(batch, deadline).await;
            assert!(answers.iter().all(|answer| *answer == Disposition::Done), "{answers:?}");
            self.handled.fetch_add(answers.len(), Ordering::Release);
            answers
        }
    }

    /// Answers posts as API Gateway does, and keeps the ids of what each connection got. A thousand real sockets on the
    /// local AWS would take longer than everything else here, and change no count: a post is one call whoever answers it.
    /// Where one socket is enough it is a real one.
    #[derive(Clone, Default)]
    struct Gateway(Arc<Mutex<BTreeMap<String, Vec<String>>>>);

    impl Gateway {
        async fn open(&self, counted: &Counted) -> GatewaySockets {
            let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
            let endpoint = format!("http://{}/live", listener.local_addr().unwrap());
            let router = Router::new().route("/live/@connections/{id}", post(Self::take)).with_state(self.clone());
            tokio::spawn(async move { axum::serve(listener, router).await });
            GatewaySockets::new(counted.aws.clients(), &endpoint)
        }

        async fn take(State(gateway): State<Self>, Path(id): Path<String>, frame: String) {
            gateway.0.lock().unwrap().entry(id).or_default().extend(event_ids(&frame));
        }

        /// The ids of events that each connection got.
        fn shown(&self) -> BTreeMap<String, Vec<String>> {
            self.0.lock().unwrap().clone()
        }
    }

    fn event_ids(frame: &str) -> Vec<String> {
        let frame: Value = serde_json::from_str(frame).unwrap();
        let items = frame["items"].as_array().into_iter().flatten();
        items.map(|item| item["event_id"].as_str().unwrap().to_owned()).collect()
    }

    fn person(user: &str) -> RecipientKey {
        RecipientKey::new(TenantId::default(), UserId::new(user).unwrap())
    }

    fn connection(user: &str) -> ConnectionId {
        ConnectionId::new(format!("{user}=")).unwrap()
    }

    fn users(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("user-{n}")).collect()
    }

    fn event(id: usize, users: &[String]) -> Event {
        let recipients: Vec<Value> = users.iter().map(|id| json!({ "id": id })).collect();
        Event::from_value(json!({
            "specversion": "1.0", "id": format!("e{id}"), "source": "/calls", "type": "publication.permission_granted",
            "data": { "recipients": recipients, "title": "You can now view Q3 plan", "url": "/publications/42" }
        }))
        .unwrap()
    }

    /// One event for each user.
    fn one_each(users: &[String]) -> Vec<Event> {
        users.iter().enumerate().map(|(at, user)| event(at, std::slice::from_ref(user))).collect()
    }

    #[tokio::test]
    async fn publishing_costs_a_tenth_of_a_call_each() {
        let counted = Counted::fresh().await;
        let events = one_each(&users(NOTIFICATIONS));
        let publishing = async {
            let answers = counted.aws.bus().publish(&events).await;
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        };
        counted.bill("1,000 events published at once", NOTIFICATIONS, publishing).await.is_at_most(0.1);
    }

    /// About as large as a valid event can be: a hundred people with long names, and an item at its limit.
    fn large(id: usize) -> Event {
        let recipients: Vec<Value> = users(RECIPIENTS).iter().map(|id| json!({ "id": id, "name": "n".repeat(NAME_BYTES) })).collect();
        Event::from_value(json!({
            "specversion": "1.0", "id": format!("e{id}"), "source": "/calls", "type": "publication.permission_granted",
            "data": { "recipients": recipients, "payload": "x".repeat(ITEM_BYTES - 1_024) }
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn large_events_are_published_in_calls_that_sns_takes() {
        let counted = Counted::fresh().await;
        let events: Vec<Event> = (0..20).map(large).collect();
        // "Amazon SNS endpoints and quotas": 256 KiB for all entries of a PublishBatch together. A few bytes of each are its attributes.
        let in_one = 256 * 1024 / (events[0].to_json().len() + 100);
        assert!((2..10).contains(&in_one), "{in_one}");
        let bill = counted.bill("20 events of 50 KiB published", 20, counted.publish(&events)).await;
        bill.print();
        let calls = bill.counts["SNS.PublishBatch"].attempts;
        assert_eq!(usize::try_from(calls).unwrap(), events.len().div_ceil(in_one));
    }

    #[tokio::test]
    async fn a_thousand_people_online_cost_little_more_than_a_post_each() {
        let (counted, gateway) = (Counted::fresh().await, Gateway::default());
        let users = users(NOTIFICATIONS);
        counted.online(&users).await;
        counted.publish(&one_each(&users)).await;
        let sockets = gateway.open(&counted).await;
        let bill = counted.work_off("1,000 users online, one notification each", NOTIFICATIONS, NOTIFICATIONS, sockets).await;
        let shown = gateway.shown();
        assert_eq!(shown.len(), NOTIFICATIONS);
        assert!(shown.values().all(|ids| ids.len() == 1));
        bill.is_at_most(1.35);
    }

    #[tokio::test]
    async fn a_thousand_notifications_for_one_person_ride_together() {
        let counted = Counted::fresh().await;
        let (id, mut peer) = counted.aws.connect().await;
        let user = users(1);
        let row = counted.row(id, Protocol::Recado).live();
        counted.aws.connections().register(&person(&user[0]), &row).await.unwrap();
        counted.publish(&(0..NOTIFICATIONS).map(|n| event(n, &user)).collect::<Vec<_>>()).await;
        let sockets = counted.aws.sockets().clone();
        let bill = counted.work_off("1,000 notifications for one user online", NOTIFICATIONS, NOTIFICATIONS, sockets).await;
        let mut shown = Vec::new();
        while shown.len() < NOTIFICATIONS {
            shown.extend(event_ids(&peer.frames(1).await[0]));
        }
        shown.sort_unstable();
        shown.dedup();
        assert_eq!(shown.len(), NOTIFICATIONS, "each arrived once");
        bill.is_at_most(0.45);
    }

    #[tokio::test]
    async fn who_is_away_costs_no_post() {
        let (counted, gateway) = (Counted::fresh().await, Gateway::default());
        counted.publish(&one_each(&users(NOTIFICATIONS))).await;
        let sockets = gateway.open(&counted).await;
        let bill = counted.work_off("1,000 users offline, one notification each", NOTIFICATIONS, NOTIFICATIONS, sockets).await;
        assert!(gateway.shown().is_empty());
        bill.is_at_most(0.4);
    }

    #[tokio::test]
    async fn lists_of_a_hundred_recipients_share_receive_and_deletion() {
        let (counted, gateway) = (Counted::fresh().await, Gateway::default());
        let users = users(NOTIFICATIONS);
        let lists: Vec<Event> = users.chunks(RECIPIENTS).enumerate().map(|(at, users)| event(at, users)).collect();
        counted.publish(&lists).await;
        let sockets = gateway.open(&counted).await;
        let events = NOTIFICATIONS / RECIPIENTS;
        counted.work_off("10 events to 100 users offline each", events, NOTIFICATIONS, sockets).await.is_at_most(0.06);
    }

    /// Whose connections and frames are counted.
    const ALICE: &str = "alice";

    impl Counted {
        fn tokens(&self) -> Verifier {
            let mut env = Environment::of([("RECADO_TOKEN_SECRET", SECRET)]);
            let tokens = env.tokens();
            env.complete(|| tokens).unwrap()
        }

        async fn connects(&self, path: &'static str, credential: Credential, protocol: Protocol) -> (ConnectionId, Bill) {
            let (id, tokens) = (ConnectionId::new(format!("{path}=").replace(' ', "-")).unwrap(), self.tokens());
            let clock = SystemClock;
            let ports = ConnectPorts {
                tokens: &tokens,
                tickets: self.aws.tickets(),
                connections: self.aws.connections(),
                inbox_queue: self.aws.inbox_queue(),
                sockets: self.aws.sockets(),
                clock: &clock,
                replay_delay: REPLAY_DELAY,
            };
            let request = ConnectRequest { connection: id.clone(), credential: Some(credential), protocol, device: None };
            let bill = self.bill(path, 1, async { drop(connect(ports, request).await.unwrap()) }).await;
            (id, bill)
        }

        async fn says(&self, path: &'static str, id: &ConnectionId, frame: &Value) -> Bill {
            let (clock, entropy) = (SystemClock, SystemEntropy);
            let ports = MessagePorts {
                inbox: self.aws.inbox(),
                connections: self.aws.connections(),
                sockets: self.aws.sockets(),
                clock: &clock,
                entropy: &entropy,
            };
            self.bill(path, 1, Box::pin(async { message(ports, id, &frame.to_string()).await.unwrap() })).await
        }

        /// A ticket as http-api gives it out.
        async fn ticket(&self) -> Credential {
            let ticket = Ticket::draw(&SystemEntropy);
            let holder = TicketHolder { recipient: person(ALICE), token_expires_at: self.aws.now() + HOUR };
            self.aws.tickets().issue(&ticket.key(), &holder, self.aws.now() + TICKET_LIFE).await.unwrap();
            Credential::Ticket(ticket.reveal())
        }
    }

    fn token() -> Credential {
        let (user, now) = (UserId::new(ALICE).unwrap(), SystemClock.now());
        Credential::Token(sign(SECRET.as_bytes(), &user, &TenantId::default(), HOUR, now).unwrap())
    }

    #[tokio::test]
    async fn connecting_and_disconnecting_cost_three_calls() {
        let counted = Counted::fresh().await;
        let (id, bill) = counted.connects("connect with a token", token(), Protocol::Recado).await;
        bill.is_at_most(2.0);
        let ticket = counted.ticket().await;
        counted.connects("connect with a ticket", ticket, Protocol::Recado).await.1.is_at_most(3.0);
        counted.connects("connect of a plain client", token(), Protocol::Plain).await.1.is_at_most(3.0);
        // The one way that takes another: it has both to be redeemed and to be promised a replay (R4).
        let ticket = counted.ticket().await;
        counted.connects("connect of a plain client with a ticket", ticket, Protocol::Plain).await.1.is_at_most(4.0);
        let leaving = async { disconnect(counted.aws.connections(), &id).await.unwrap() };
        counted.bill("disconnect", 1, leaving).await.is_at_most(3.0);
    }

    /// An entry that is 500 bytes as an item in a frame.
    fn entry(n: usize) -> NewEntry {
        let of_body = |body: usize| {
            let event = json!({
                "specversion": "1.0", "id": format!("e{n:04}"), "source": "/calls", "type": "publication.permission_granted",
                "time": "2026-01-01T00:00:00Z",
                "data": { "recipients": [{ "id": ALICE }], "title": "You can now view Q3 plan", "body": "x".repeat(body) }
            });
            Event::from_value(event).unwrap().notification(Timestamp::UNIX_EPOCH)
        };
        let body = 500 - of_body(1).rendered_bytes() + 1;
        let notification = of_body(body);
        assert_eq!(notification.rendered_bytes(), 500);
        NewEntry { recipient: person(ALICE), notification: Arc::new(notification) }
    }

    /// A connection of Alice on a real socket, and a hundred entries that wait for her.
    async fn waiting() -> (Counted, ConnectionId, impl Peer, Vec<NotificationId>) {
        let counted = Counted::fresh().await;
        let (id, peer) = counted.aws.connect().await;
        counted.aws.connections().register(&person(ALICE), &counted.row(id.clone(), Protocol::Recado)).await.unwrap();
        let entries: Vec<NewEntry> = (0..100).map(entry).collect();
        let appended = counted.aws.inbox().append(&entries).await;
        assert!(appended.iter().all(Result::is_ok), "{appended:?}");
        let ids = entries.iter().map(|entry| entry.notification.id).collect();
        (counted, id, peer, ids)
    }

    /// The answer to a `sync`: its event ids, and its cursor.
    async fn answer(peer: &mut impl Peer) -> (Vec<String>, String) {
        let mut shown = Vec::new();
        loop {
            let frame = peer.frames(1).await.remove(0);
            shown.extend(event_ids(&frame));
            let frame: Value = serde_json::from_str(&frame).unwrap();
            if frame["more"] == false {
                return (shown, frame["cursor"].as_str().unwrap().to_owned());
            }
        }
    }

    #[tokio::test]
    async fn a_sync_that_answers_a_hundred_entries_costs_six_calls_at_the_most() {
        let (counted, id, mut peer, ids) = waiting().await;
        let bill = counted.says("first `sync`, 100 entries of 500 bytes", &id, &json!({ "type": "sync", "request": "1" })).await;
        let (shown, cursor) = answer(&mut peer).await;
        assert_eq!(shown.len(), 100);
        bill.is_at_most(6.0);
        let since = json!({ "type": "sync", "request": "2", "since": cursor });
        let bill = counted.says("`sync` since a cursor, 100 entries of 500 bytes", &id, &since).await;
        assert_eq!(answer(&mut peer).await.0.len(), 100);
        bill.is_at_most(4.0);
        let acknowledging = json!({ "type": "sync", "request": "3", "since": cursor, "ack": ids[..25] });
        let with_ids = counted.says("the same, acknowledging 25 ids", &id, &acknowledging).await;
        assert_eq!(answer(&mut peer).await.0.len(), 100);
        assert_eq!(with_ids.attempts(), bill.attempts() + 1);
        with_ids.is_at_most(5.0);
    }

    #[tokio::test]
    async fn a_keep_alive_costs_three_calls() {
        let counted = Counted::fresh().await;
        let (id, mut peer) = counted.aws.connect().await;
        counted.aws.connections().register(&person(ALICE), &counted.row(id.clone(), Protocol::Recado)).await.unwrap();
        counted.says("first `sync` of an empty inbox", &id, &json!({ "type": "sync", "request": "1" })).await.is_at_most(5.0);
        let (_, cursor) = answer(&mut peer).await;
        let since = json!({ "type": "sync", "request": "2", "since": cursor });
        counted.says("`sync` since a cursor, nothing new", &id, &since).await.is_at_most(3.0);
        assert!(answer(&mut peer).await.0.is_empty());
    }

    #[tokio::test]
    async fn acknowledging_twenty_five_ids_is_one_call() {
        let (counted, id, mut peer, ids) = waiting().await;
        let acknowledging = async {
            let changed = counted.aws.inbox().acknowledge(&person(ALICE), &ids[..25]).await.unwrap();
            assert_eq!(changed.len(), 25);
        };
        counted.bill("25 ids acknowledged", 1, acknowledging).await.is_at_most(1.0);
        // As clients do: whose the connection is is known from then on.
        counted.says("first `sync`", &id, &json!({ "type": "sync", "request": "1" })).await.print();
        answer(&mut peer).await;
        let frame = json!({ "type": "ack", "ids": ids[25..50] });
        let bill = counted.says("`ack` of 25 ids, as a frame of its own", &id, &frame).await;
        assert_eq!(counted.aws.inbox().acknowledge(&person(ALICE), &ids[25..50]).await.unwrap(), [], "it was carried out");
        bill.is_at_most(1.0);
    }

    #[tokio::test]
    async fn the_first_frame_that_a_process_gets_of_a_connection_costs_one_call_more() {
        let (counted, id, _peer, ids) = waiting().await;
        let frame = json!({ "type": "ack", "ids": ids[..25] });
        counted.says("`ack` of 25 ids, the first frame of its connection", &id, &frame).await.is_at_most(2.0);
        let frame = json!({ "type": "ack", "ids": ids[25..50] });
        counted.says("`ack` of 25 ids, the second", &id, &frame).await.is_at_most(1.0);
    }
}
