//! Clients: one that follows docs/protocol.md, and one that only listens. Both go offline, break and come back.
//!
//! A protocol client keeps its cursor, the ids it showed and those it has yet to acknowledge; everything else is lost with a
//! socket. Must not know: what is stored, except to judge an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use recado_domain::connection::{CloseReason, Protocol};
use recado_domain::ids::{ConnectionId, DeliveryKey, NotificationId, RecipientKey};
use recado_domain::limits;
use recado_domain::opening::Credential;
use recado_domain::ports::{TicketHolder, Tickets};
use recado_domain::position::{Cursor, Position};
use recado_domain::ticket::Ticket;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use crate::chance::{Dice, entropy, name};
use crate::coverage::Happening;
use crate::gateway::{self, Caller, Lambdas, Socket, ToClient};
use crate::ledger::{Device, Ledger};
use crate::lock;
use crate::ports;
use crate::scenario::DevicePlan;
use crate::world::{Phase, World, at_once, short};

/// How late the next frame of an answer may be.
const ANSWER: Duration = Duration::from_secs(10);
/// After which a frame is sent again that was answered `try_again`.
const MOMENT: Duration = Duration::from_secs(1);
/// The longest wait between two attempts to connect.
const BACKOFF: Duration = Duration::from_secs(30);
/// How long somebody stays away whose connection was replaced by another of theirs.
const REPLACED: Duration = Duration::from_secs(120);
/// A token that outlives every run.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// One device.
pub(crate) struct Client {
    world: Arc<World>,
    /// Its place among the devices.
    at: usize,
    name: String,
    plan: DevicePlan,
    user: RecipientKey,
    lambdas: Lambdas,
    dice: Dice,
    opened: u64,
    ticket: Option<String>,
}

/// How a session ended.
enum End {
    /// Closed by the other side.
    Closed(Option<CloseReason>),
    /// The client goes away, for so long.
    Away(Duration),
    /// The server asked to come again.
    Elsewhere(Duration),
}

/// A `sync` that waits for its answer.
struct Asked {
    /// What the answer must have shown: all that was there for good when it was sent, and where it stood.
    expected: Vec<(NotificationId, Position)>,
    verdict: &'static str,
    acknowledged: Vec<NotificationId>,
}

/// What a session of a protocol client remembers.
struct Session {
    asked: BTreeMap<String, Asked>,
    requests: u64,
    /// When the answer is late, if one is awaited.
    late: Option<Instant>,
    sync: Instant,
    whim: Instant,
    synced: bool,
}

impl Client {
    pub(crate) fn new(world: &Arc<World>, at: usize) -> Self {
        let plan = world.scenario.devices[at].clone();
        let user = world.scenario.users[plan.user].clone();
        let name_ = format!("{}/{at}", short(&user));
        let dice = Dice::new(world.scenario.seed, &[name("client"), at as u64]);
        Self { world: world.clone(), at, lambdas: Lambdas::of(&name_), name: name_, plan, user, dice, opened: 0, ticket: None }
    }

    /// Connects again and again, as people do.
    pub(crate) async fn live(mut self) {
        sleep(self.plan.starts).await;
        let (mut failed, mut previous) = (0, None::<Socket>);
        loop {
            let Some(socket) = self.connect().await else {
                failed += 1;
                self.wait_up_to(Duration::from_secs(1) * (1 << failed.min(5))).await;
                continue;
            };
            failed = 0;
            let (end, mut socket) =
                if self.plan.protocol { self.converse(socket, previous.take()).await } else { self.listen(socket).await };
            match end {
                End::Closed(reason) => {
                    self.note(|| format!("lost its connection: {}", reason.map_or("gone", CloseReason::text)));
                    if reason.is_some_and(|reason| reason == CloseReason::Replaced) {
                        self.stay_away(REPLACED).await;
                    } else {
                        self.wait_up_to(Duration::from_secs(1)).await;
                    }
                }
                End::Away(time) => {
                    self.say_last_words(&mut socket);
                    self.leave(socket);
                    self.stay_away(time).await;
                }
                End::Elsewhere(wait) => {
                    self.linger(&mut socket, wait).await;
                    previous = Some(socket);
                }
            }
        }
    }

    fn note(&self, what: impl FnOnce() -> String) {
        self.world.note(&self.name, what);
    }

    fn with<T>(&self, then: impl FnOnce(&mut Device) -> T) -> T {
        then(&mut lock(&self.world.ledger).devices[self.at])
    }

    /// A token, or a ticket that was got with one. Now and then a ticket that was used already.
    fn credential(&mut self, life: Duration) -> Credential {
        let world = &self.world;
        if self.dice.chance(0.5) {
            return Credential::Token(world.key.mint(&self.user.user, &self.user.tenant, life, world.now()));
        }
        if let Some(used) = self.ticket.take()
            && !world.is_quiet()
            && self.dice.chance(0.1)
        {
            return Credential::Ticket(used);
        }
        let ticket = Ticket::draw(&entropy(world.scenario.seed, &[name("ticket"), name(&self.name), self.opened]));
        let holder = TicketHolder { recipient: self.user.clone(), token_expires_at: world.now() + life };
        at_once(world.tickets.issue(&ticket.key(), &holder, world.now() + limits::TICKET_LIFE)).expect("no fault is scripted");
        self.ticket = Some(ticket.reveal());
        Credential::Ticket(ticket.reveal())
    }

    async fn connect(&mut self) -> Option<Socket> {
        self.opened += 1;
        let world = &self.world.clone();
        let id = ConnectionId::new(format!("{}.{}=", self.name, self.opened)).expect("a connection's name");
        let life = if world.is_quiet() { DAY } else { self.plan.token };
        let credential = self.credential(life);
        let protocol = if self.plan.protocol { Protocol::Recado } else { Protocol::Plain };
        self.note(|| format!("connects as {id}"));
        let caller = Caller { device: self.at, lambdas: &self.lambdas, id, protocol, credential, token_ends: world.elapsed() + life };
        gateway::open(world, caller).await
    }

    /// Full jitter, as the protocol asks for.
    async fn wait_up_to(&self, most: Duration) {
        sleep(self.dice.up_to(most.min(BACKOFF))).await;
    }

    /// Offline, until the time is over or the user comes back for another reason.
    async fn stay_away(&self, time: Duration) {
        let mut phase = self.world.follow();
        tokio::select! {
            biased;
            _ = phase.changed() => {}
            () = sleep(time) => {}
        }
    }

    /// As a page does that is closed: it may or may not be heard.
    fn say_last_words(&self, socket: &mut Socket) {
        let unacknowledged: Vec<_> = self.with(|device| device.unacknowledged.iter().copied().collect());
        if self.plan.protocol && !unacknowledged.is_empty() {
            self.acknowledges(&unacknowledged);
            socket.say(json!({"type": "ack", "ids": unacknowledged}).to_string());
        }
    }

    fn leave(&self, socket: Socket) {
        self.world.count(Happening::SocketEnded);
        if self.dice.chance(0.5) {
            self.note(|| "vanishes".to_owned());
            socket.vanish();
        } else {
            self.note(|| "closes its connection".to_owned());
            socket.close();
        }
    }

    fn time_away(&self) -> Duration {
        if self.dice.chance(0.5) { self.dice.up_to(Duration::from_secs(3)) } else { self.dice.up_to(Duration::from_secs(240)) }
    }

    fn next_whim(&self) -> Instant {
        Instant::now() + self.dice.between(Duration::from_secs(1), self.plan.whim_every)
    }

    /// A session of a client that only listens.
    async fn listen(&mut self, mut socket: Socket) -> (End, Socket) {
        let mut phase = self.world.follow();
        let mut whim = self.next_whim();
        loop {
            tokio::select! {
                biased;
                next = socket.next() => match next {
                    ToClient::Frame(text) => self.show(&serde_json::from_str(&text).unwrap_or_default()),
                    ToClient::Closed(reason) => return (End::Closed(reason), socket),
                },
                now = phase.changed() => {
                    if now == Phase::Return {
                        return (End::Away(Duration::ZERO), socket);
                    }
                }
                () = sleep_until(whim) => {
                    whim = self.next_whim();
                    if self.breaks() {
                        return (End::Away(self.time_away()), socket);
                    }
                }
            }
        }
    }

    /// Goes on showing what comes until it is time to connect anew.
    async fn linger(&self, socket: &mut Socket, wait: Duration) {
        let over = Instant::now() + wait;
        loop {
            tokio::select! {
                biased;
                next = socket.next() => match next {
                    ToClient::Frame(text) => self.show(&serde_json::from_str(&text).unwrap_or_default()),
                    ToClient::Closed(_) => break,
                },
                () = sleep_until(over) => return,
            }
        }
        sleep_until(over).await;
    }

    fn breaks(&self) -> bool {
        !self.world.is_quiet() && self.dice.chance(self.world.scenario.weather.breaks)
    }

    /// A session of a client that follows the protocol. `previous` is closed once this one has synced.
    async fn converse(&mut self, mut socket: Socket, mut previous: Option<Socket>) -> (End, Socket) {
        let mut phase = self.world.follow();
        let now = Instant::now();
        let mut session = Session { asked: BTreeMap::new(), requests: 0, late: None, sync: now, whim: self.next_whim(), synced: false };
        self.sync(&mut session, &mut socket);
        loop {
            let due = session.late.map_or(session.sync, |late| late.min(session.sync));
            tokio::select! {
                biased;
                next = socket.next() => match next {
                    ToClient::Closed(reason) => return (End::Closed(reason), socket),
                    ToClient::Frame(text) => {
                        if let Some(end) = self.frame(&mut session, &serde_json::from_str(&text).unwrap_or_default()) {
                            return (end, socket);
                        }
                        if session.synced && let Some(old) = previous.take() {
                            old.close();
                        }
                    }
                },
                now = phase.changed() => {
                    if now == Phase::Return {
                        self.sync(&mut session, &mut socket);
                    }
                }
                () = sleep_until(due) => self.sync(&mut session, &mut socket),
                () = sleep_until(session.whim) => {
                    session.whim = self.next_whim();
                    if self.breaks() {
                        return (End::Away(self.time_away()), socket);
                    }
                    if !self.world.is_quiet() {
                        self.idea(&mut socket);
                    }
                }
            }
        }
    }

    fn sync(&self, session: &mut Session, socket: &mut Socket) {
        session.requests += 1;
        let request = format!("{}-{}", self.opened, session.requests);
        let (cursor, acknowledged) = self.with(|device| {
            // More than a frame takes never come together here.
            (device.cursor.clone(), device.unacknowledged.iter().copied().collect::<Vec<_>>())
        });
        let (since, verdict) = self.perhaps_a_wrong_one(cursor);
        self.acknowledges(&acknowledged);
        socket.say(json!({"type": "sync", "request": request, "since": since, "ack": acknowledged}).to_string());
        session.asked.insert(request, Asked { expected: self.settled(), verdict, acknowledged });
        session.late = Some(Instant::now() + ANSWER);
        session.sync = Instant::now() + self.plan.sync_every;
    }

    /// The cursor to send, and the verdict it must meet. Now and then it is damaged, or another user's: both answer `gap`.
    fn perhaps_a_wrong_one(&self, cursor: Option<String>) -> (Option<String>, &'static str) {
        if self.world.is_quiet() || !self.dice.chance(0.03) {
            return (cursor, "complete");
        }
        let others = self.world.scenario.users.iter().filter(|user| **user != self.user);
        let wrong = match others.clone().next() {
            Some(other) if self.dice.chance(0.5) => Cursor::new(Position::floor(self.world.now())).encode(other),
            _ => "damaged".to_owned(),
        };
        (Some(wrong), "gap")
    }

    /// What the user's inbox holds for good: stored, and carried by no message any more. What expires or is put away may be
    /// missing from an answer.
    fn settled(&self) -> Vec<(NotificationId, Position)> {
        let world = &self.world;
        let entries = world.inbox.entries(&self.user).into_iter();
        let lasting = entries.filter(|entry| entry.notification.expires_at.is_none() && entry.archived_at.is_none());
        let unshown = self.with(|device| lasting.filter(|entry| !device.shown.contains_key(&entry.notification.id)).collect::<Vec<_>>());
        let settled = unshown.into_iter().filter(|entry| !world.is_queued(&entry.notification.event_id, &self.user));
        settled.map(|entry| (entry.notification.id, entry.position)).collect()
    }

    /// Takes a frame; says how the session ends, if it does.
    fn frame(&self, session: &mut Session, frame: &Value) -> Option<End> {
        let request = frame["request"].as_str();
        match frame["type"].as_str() {
            Some("notifications") => {
                self.show(frame);
                if let Some(request) = request {
                    if session.late.is_some() {
                        session.late = Some(Instant::now() + ANSWER);
                    }
                    if frame["more"] == false {
                        self.answered(session, request, frame);
                    }
                }
            }
            Some("error") => match frame["code"].as_str() {
                Some("try_again") => session.sync = session.sync.min(Instant::now() + MOMENT),
                Some("unknown_connection") => {
                    self.world.count(Happening::Unknown);
                    return Some(End::Away(MOMENT));
                }
                _ => {}
            },
            Some("goaway") => {
                self.world.count(Happening::GoneAway);
                let wait = frame["reconnect_after_ms"].as_u64().unwrap_or_default();
                return Some(End::Elsewhere(Duration::from_millis(wait)));
            }
            _ => {}
        }
        None
    }

    fn show(&self, frame: &Value) {
        let ids = ports::items(frame);
        if ids.is_empty() {
            return;
        }
        let at = self.world.elapsed();
        let highest = frame["items"].as_array().into_iter().flatten().filter_map(|item| item["position"].as_str()).max();
        let new = self.with(|device| {
            device.highest = device.highest.take().max(highest.map(str::to_owned));
            let new: Vec<_> = ids.into_iter().filter(|id| !device.shown.contains_key(id)).collect();
            device.shown.extend(new.iter().map(|id| (*id, at)));
            device.unacknowledged.extend(new.iter());
            new
        });
        if !new.is_empty() {
            self.note(|| format!("SHOWS {}", self.world.names_of(&new)));
        }
    }

    /// The last frame of an answer has come.
    fn answered(&self, session: &mut Session, request: &str, frame: &Value) {
        let cursor = frame["cursor"].as_str().map(str::to_owned);
        let at = self.world.elapsed();
        self.with(|device| {
            device.cursor = cursor;
            device.synced = Some(at);
        });
        session.synced = true;
        session.late = None;
        self.world.count(Happening::Synced);
        if frame["verdict"] == "gap" {
            self.world.count(Happening::Gap);
        }
        let Some(Asked { expected, verdict, acknowledged }) = session.asked.remove(request) else { return };
        let missing: Vec<(NotificationId, Position)> = self.with(|device| {
            acknowledged.iter().for_each(|id| {
                device.unacknowledged.remove(id);
            });
            expected.into_iter().filter(|(id, _)| !device.shown.contains_key(id)).collect()
        });
        if frame["verdict"] != verdict {
            self.world.violation("P3", format!("{} asked for {request} and was told {}, not {verdict}", self.name, frame["verdict"]));
        }
        let key = |notification| DeliveryKey { recipient: self.user.clone(), notification };
        // What was stamped again meanwhile, since its event came again, may have moved past the query. It is pushed then (R2), and
        // stands above the cursor (R6).
        let still = |(id, position): &(NotificationId, Position)| {
            self.world.inbox.entry(&key(*id)).is_some_and(|entry| entry.archived_at.is_none() && entry.position == *position)
        };
        let missing: Vec<NotificationId> = missing.into_iter().filter(still).map(|(id, _)| id).collect();
        if !missing.is_empty() {
            let events: Vec<_> = missing.iter().map(|id| self.world.name_of(*id)).collect();
            self.world.violation("P3", format!("{} was told {verdict} for {request}, without {}", self.name, events.join(", ")));
        }
    }

    /// What people and their clients do besides.
    fn idea(&self, socket: &mut Socket) {
        let (shown, unacknowledged, highest) = self.with(|device| {
            let shown: Vec<_> = device.shown.keys().copied().collect();
            (shown, device.unacknowledged.iter().copied().collect::<Vec<_>>(), device.highest.clone())
        });
        let some = |dice: &Dice| if shown.is_empty() { Vec::new() } else { vec![*dice.pick(&shown)] };
        if self.dice.chance(self.plan.reads_all) {
            if let Some(up_to) = highest {
                socket.say(json!({"type": "read_all", "up_to": up_to}).to_string());
            }
            return;
        }
        match self.dice.below(7) {
            0 | 1 => {
                self.acknowledges(&unacknowledged);
                socket.say(json!({"type": "ack", "ids": unacknowledged}).to_string());
            }
            2 => {
                let ids = some(&self.dice);
                self.remembers(&ids, |ledger| &mut ledger.read);
                socket.say(json!({"type": "read", "ids": ids}).to_string());
            }
            3 if self.dice.chance(0.3) => {
                let ids = some(&self.dice);
                self.remembers(&ids, |ledger| &mut ledger.archived);
                socket.say(json!({"type": "archive", "ids": ids}).to_string());
            }
            4 => self.say_nonsense(socket),
            _ => {}
        }
    }

    fn acknowledges(&self, ids: &[NotificationId]) {
        let at = self.world.elapsed();
        lock(&self.world.ledger).acknowledge(&self.user, ids, at);
    }

    fn remembers(&self, ids: &[NotificationId], of: fn(&mut Ledger) -> &mut BTreeSet<DeliveryKey>) {
        let keys = ids.iter().map(|id| DeliveryKey { recipient: self.user.clone(), notification: *id });
        of(&mut lock(&self.world.ledger)).extend(keys);
    }

    /// What a hostile or broken client sends: nothing of it may touch anybody else's inbox, or end anything.
    fn say_nonsense(&self, socket: &mut Socket) {
        let others: Vec<NotificationId> = {
            let ledger = lock(&self.world.ledger);
            let of_others = ledger.published.iter().map(|published| published.event.notification_id());
            of_others.filter(|id| !ledger.concerns(*id, &self.user)).collect()
        };
        let nonsense = [
            "{".to_owned(),
            "[]".to_owned(),
            json!({"type": "dance"}).to_string(),
            json!({"type": "sync"}).to_string(),
            json!({"type": "ack", "ids": others}).to_string(),
            json!({"type": "read", "ids": others, "user": "bob", "tenant": "acme"}).to_string(),
            json!({"type": "archive", "ids": others}).to_string(),
        ];
        socket.say(self.dice.pick(&nonsense).clone());
    }
}
