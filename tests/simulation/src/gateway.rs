//! The gateway: sockets between clients and Lambdas that can end at any moment, as API Gateway's WebSocket APIs are.
//!
//! A socket does not exist before `$connect` answered, and may never come to exist after it. `$disconnect` is best effort.
//! A client that vanishes leaves a socket that takes frames for a while. Must not know: what a client does with a frame.

use std::sync::Arc;
use std::time::Duration;

use recado_domain::connection::{CloseReason, Protocol};
use recado_domain::ids::{ConnectionId, NotificationId, RecipientKey};
use recado_domain::limits;
use recado_domain::opening::Credential;
use recado_domain::ports::Clock;
use recado_ws_handlers::{ConnectPorts, ConnectRequest, Connected, MessagePorts, Refused, connect, disconnect, message};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::chance::{Dice, entropy, name};
use crate::coverage::Happening;
use crate::ledger::Session;
use crate::lock;
use crate::ports::{self, SimConnections, SimInbox, SimQueue, SimSockets, SimTickets, Way};
use crate::process::{Process, Role};
use crate::world::{World, short};

/// What an integration of API Gateway may take ("Amazon API Gateway quotas", integration timeout).
const LAMBDA: Duration = Duration::from_secs(29);
/// After which a silent socket is closed (same quotas, idle connection timeout).
const IDLE: Duration = Duration::from_secs(600);
/// How long a gateway takes a vanished client's frames, at the most.
const HALF_OPEN: Duration = Duration::from_secs(90);
/// How late `$disconnect` may be called.
const LATE_DISCONNECT: Duration = Duration::from_secs(120);
/// How long after a token's end a frame under way may still arrive: the longest call, there and back, for each page read.
const TOKEN_SLACK: Duration = Duration::from_secs(600);

/// A socket, from the moment its `$connect` answered.
pub(crate) struct Line {
    user: RecipientKey,
    protocol: Protocol,
    to_client: mpsc::UnboundedSender<(Instant, ToClient)>,
    /// When the last frame arrives, so that none overtakes another.
    arrives: Instant,
    active: Instant,
    token_ends: Duration,
}

/// What reaches a client.
pub(crate) enum ToClient {
    Frame(String),
    Closed(Option<CloseReason>),
}

/// The roles of the Lambdas that serve one device.
pub(crate) struct Lambdas {
    pub(crate) connect: Arc<Role>,
    pub(crate) message: Arc<Role>,
}

impl Lambdas {
    pub(crate) fn of(device: &str) -> Self {
        Self { connect: Role::new(format!("connect:{device}")), message: Role::new(format!("message:{device}")) }
    }
}

/// A client's end of a socket.
pub(crate) struct Socket {
    world: Arc<World>,
    pub(crate) id: ConnectionId,
    from_gateway: mpsc::UnboundedReceiver<(Instant, ToClient)>,
    underway: Option<(Instant, ToClient)>,
    message: Arc<Role>,
    said: u64,
}

/// Runs a Lambda to its end, its time-out, or the end of its process.
async fn invoke<T>(process: &Arc<Process>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = process.ended() => None,
        outcome = work => Some(outcome),
        () = sleep(LAMBDA) => {
            process.kill("its time is over");
            process.count(Happening::TimedOut);
            None
        }
    }
}

/// Who connects.
pub(crate) struct Caller<'a> {
    pub(crate) device: usize,
    pub(crate) lambdas: &'a Lambdas,
    pub(crate) id: ConnectionId,
    pub(crate) protocol: Protocol,
    pub(crate) credential: Credential,
    pub(crate) token_ends: Duration,
}

/// Opens a socket. `None` where it did not come to be, whatever the reason: the client tries again.
pub(crate) async fn open(world: &Arc<World>, caller: Caller<'_>) -> Option<Socket> {
    let Caller { device, lambdas, id, protocol, credential, token_ends } = caller;
    let process = Process::start(world, &lambdas.connect);
    let request = ConnectRequest { connection: id.clone(), credential: Some(credential.clone()), protocol, device: None };
    let connected = run_connect(world, &process, request).await?;
    if let Credential::Ticket(ticket) = credential
        && !lock(&world.ledger).tickets.insert(ticket)
    {
        world.violation("P5", format!("{id} was opened by a ticket that had opened another socket before"));
    }
    let user = lock(&world.ledger).devices[device].user.clone();
    if connected.recipient != user {
        world.violation("P5", format!("{id} of {} was taken for one of {}", short(&user), short(&connected.recipient)));
    }
    let (to_client, from_gateway) = mpsc::unbounded_channel();
    let now = Instant::now();
    let line = Line { user, protocol, to_client, arrives: now, active: now, token_ends };
    lock(&world.lines).insert(id.clone(), line);
    let dice = Dice::new(world.scenario.seed, &[name("opening"), name(id.as_str())]);
    let weather = &world.scenario.weather;
    if !world.is_quiet() {
        if dice.chance(weather.unopened) {
            world.count(Happening::NeverOpened);
            world.note("gateway", || format!("{id} never opens"));
            return None;
        }
        sleep(dice.up_to(weather.opening)).await;
    }
    world.sockets.open(&id);
    world.count(Happening::Opened);
    world.note("gateway", || format!("{id} is open"));
    let opened = world.elapsed();
    let session = Session { connection: id.clone(), opened, live: None, ended: None };
    lock(&world.ledger).devices[device].sessions.push(session);
    tokio::spawn(keep(world.clone(), id.clone()));
    Some(Socket { world: world.clone(), id, from_gateway, underway: None, message: lambdas.message.clone(), said: 0 })
}

async fn run_connect(world: &Arc<World>, process: &Arc<Process>, request: ConnectRequest) -> Option<Connected> {
    let way = || Way::new(world, process);
    let (tickets, connections, inbox_queue) = (SimTickets(way()), SimConnections(way()), SimQueue::inbox(way()));
    let (sockets, clock) = (SimSockets(way()), process.clock());
    let ports = ConnectPorts {
        tokens: &world.verifier,
        tickets: &tickets,
        connections: &connections,
        inbox_queue: &inbox_queue,
        sockets: &sockets,
        clock: &clock,
        replay_delay: recado_ws_handlers::REPLAY_DELAY,
    };
    match invoke(process, connect(ports, request)).await {
        Some(Ok(connected)) => Some(connected),
        Some(Err(Refused { status, code, .. })) => {
            world.count(Happening::Refused);
            world.note(process, || format!("refuses: {status} {code}"));
            None
        }
        None => None,
    }
}

/// Ends a socket that is silent or old.
async fn keep(world: Arc<World>, id: ConnectionId) {
    let oldest = Instant::now() + limits::CONNECTION_AGE;
    loop {
        let Some(active) = lock(&world.lines).get(&id).map(|line| line.active) else { return };
        let end = (active + IDLE).min(oldest);
        if Instant::now() >= end {
            ports::close(&world, &id, None);
            return;
        }
        sleep_until(end).await;
    }
}

/// Whose a socket is.
pub(crate) fn user(world: &World, id: &ConnectionId) -> Option<RecipientKey> {
    lock(&world.lines).get(id).map(|line| line.user.clone())
}

/// A socket took a frame: it is on its way to the client.
pub(crate) fn deliver(world: &World, id: &ConnectionId, frame: &str, parsed: &Value) {
    judge_frame(world, id, parsed);
    let mut lines = lock(&world.lines);
    let Some(line) = lines.get_mut(id) else { return };
    let mut ledger = lock(&world.ledger);
    world.count(Happening::Frame);
    if line.protocol == Protocol::Plain {
        world.count(Happening::PlainFrame);
        ledger.acknowledge(&line.user, &ports::items(parsed), world.elapsed());
    }
    let weather = &world.scenario.weather;
    let dice = Dice::new(world.scenario.seed, &[name("frame"), name(id.as_str()), world.counts().of(Happening::Frame)]);
    let way = if !world.is_quiet() && dice.chance(weather.slow) { Duration::from_secs(3) } else { Duration::from_millis(30) };
    line.active = Instant::now();
    line.arrives = line.arrives.max(Instant::now() + dice.up_to(way));
    drop(ledger);
    if line.to_client.send((line.arrives, ToClient::Frame(frame.to_owned()))).is_err() {
        world.count(Happening::FrameLost);
        world.note("gateway", || format!("the client of {id} has vanished; the frame is lost"));
    }
}

/// P5 and R5, of one frame.
fn judge_frame(world: &World, id: &ConnectionId, frame: &Value) {
    let found = {
        let (lines, ledger) = (lock(&world.lines), lock(&world.ledger));
        let Some(line) = lines.get(id) else { return };
        let ids = frame["ids"].as_array().into_iter().flatten().filter_map(|id| id.as_str()?.parse::<NotificationId>().ok());
        let mut found: Vec<(&'static str, String)> = ids
            .chain(ports::items(frame))
            .filter(|one| !ledger.concerns(*one, &line.user))
            .map(|one| ("P5", format!("{id} of {} was told of {}", short(&line.user), ledger.name(one))))
            .collect();
        if frame["type"] == "notifications" && frame.get("more").is_none() && frame.get("cursor").is_some() {
            found.push(("R5", format!("a live frame to {id} carries a cursor")));
        }
        if frame["type"] == "notifications" && world.elapsed() > line.token_ends + TOKEN_SLACK {
            found.push(("P5", format!("{id} was shown something long after its token had ended")));
        }
        found
    };
    found.into_iter().for_each(|(promise, what)| world.violation(promise, what));
}

/// A socket was closed: its client hears it, and `$disconnect` runs, or not.
pub(crate) fn closed(world: &Arc<World>, id: &ConnectionId, reason: Option<CloseReason>) {
    if reason.is_some() {
        world.count(Happening::Evicted);
    }
    world.note("gateway", || format!("{id} is closed: {}", reason.map_or("gone", CloseReason::text)));
    if let Some(line) = lock(&world.lines).get_mut(id) {
        line.arrives = line.arrives.max(Instant::now());
        // Where the client has vanished nobody hears it.
        line.to_client.send((line.arrives, ToClient::Closed(reason))).ok();
    }
    let now = world.elapsed();
    if let Some(session) = lock(&world.ledger).session(id) {
        session.ended.get_or_insert(now);
    }
    let dice = Dice::new(world.scenario.seed, &[name("disconnect"), name(id.as_str())]);
    if !world.is_quiet() && dice.chance(world.scenario.weather.forgotten) {
        world.count(Happening::Forgotten);
        world.note("gateway", || format!("$disconnect of {id} is never called"));
        return;
    }
    let late = if world.is_quiet() { Duration::ZERO } else { dice.up_to(LATE_DISCONNECT) };
    tokio::spawn(run_disconnect(world.clone(), id.clone(), late));
}

async fn run_disconnect(world: Arc<World>, id: ConnectionId, late: Duration) {
    sleep(late).await;
    let role = Role::new(format!("disconnect:{id}"));
    // An asynchronous invocation that fails is tried twice more ("Understanding retry behavior in Lambda").
    for _ in 0..3 {
        let process = Process::start(&world, &role);
        let connections = SimConnections(Way::new(&world, &process));
        if let Some(Ok(())) = invoke(&process, disconnect(&connections, &id)).await {
            return;
        }
    }
}

impl Socket {
    /// What comes next. It may be dropped while it waits, and loses nothing.
    pub(crate) async fn next(&mut self) -> ToClient {
        if self.underway.is_none() {
            self.underway = self.from_gateway.recv().await;
        }
        if let Some((arrives, _)) = self.underway {
            sleep_until(arrives).await;
        }
        self.underway.take().map_or(ToClient::Closed(None), |(_, what)| what)
    }

    /// Sends a frame; a Lambda of its own handles it.
    pub(crate) fn say(&mut self, text: String) {
        self.said += 1;
        let dice = Dice::new(self.world.scenario.seed, &[name("said"), name(self.id.as_str()), self.said]);
        let way = if self.world.is_quiet() { Duration::from_millis(20) } else { self.world.scenario.weather.usual };
        tokio::spawn(run_message(self.world.clone(), self.id.clone(), self.message.clone(), text, dice.up_to(way)));
    }

    /// Says goodbye.
    pub(crate) fn close(self) {
        ports::close(&self.world, &self.id, None);
    }

    /// Is gone without a word: the gateway notices later.
    pub(crate) fn vanish(self) {
        let (world, id) = (self.world.clone(), self.id.clone());
        let now = world.elapsed();
        if let Some(session) = lock(&world.ledger).session(&id) {
            session.ended.get_or_insert(now);
        }
        let dice = Dice::new(world.scenario.seed, &[name("vanish"), name(id.as_str())]);
        tokio::spawn(async move {
            sleep(dice.up_to(HALF_OPEN)).await;
            ports::close(&world, &id, None);
        });
    }
}

async fn run_message(world: Arc<World>, id: ConnectionId, role: Arc<Role>, text: String, way: Duration) {
    sleep(way).await;
    if !world.sockets.is_open(&id) {
        world.count(Happening::Unheard);
        return world.note("gateway", || format!("{id} is closed; the client's frame is lost"));
    }
    if let Some(line) = lock(&world.lines).get_mut(&id) {
        line.active = Instant::now();
    }
    let process = Process::start(&world, &role);
    let to = || Way::new(&world, &process);
    let (inbox, connections, sockets, clock) = (SimInbox(to()), SimConnections(to()), SimSockets(to()), process.clock());
    let chance = entropy(world.scenario.seed, &[name("goaway"), role.name(), process.life]);
    let ports = MessagePorts { inbox: &inbox, connections: &connections, sockets: &sockets, clock: &clock, entropy: &chance };
    world.note(&process, || format!("handles {} at {}", brief_text(&world, &text), clock.now()));
    if let Some(Err(failure)) = invoke(&process, message(ports, &id, &text)).await {
        world.note(&process, || format!("could not tell its client: {failure}"));
    }
}

fn brief_text(world: &World, text: &str) -> String {
    serde_json::from_str(text).map_or_else(|_| "no JSON".to_owned(), |frame: Value| brief(world, &frame))
}

/// A frame in a few words.
pub(crate) fn brief(world: &World, frame: &Value) -> String {
    let mut words = vec![frame["type"].as_str().unwrap_or("?").to_owned()];
    let ids = |list: &Value| {
        let ids: Vec<NotificationId> = list.as_array().into_iter().flatten().filter_map(|id| id.as_str()?.parse().ok()).collect();
        world.names_of(&ids)
    };
    words.push(format!("[{}{}]", world.names_of(&ports::items(frame)), ids(&frame["ids"])));
    for field in ["request", "more", "verdict", "code", "count", "since"] {
        if let Some(value) = frame.get(field).filter(|value| !value.is_null()) {
            words.push(format!("{field}={value}"));
        }
    }
    if frame["ack"].as_array().is_some_and(|ack| !ack.is_empty()) {
        words.push(format!("ack=[{}]", ids(&frame["ack"])));
    }
    words.join(" ")
}
