//! One run: chaos, quiet, everybody comes back, and a last event that all of them see at once.
//!
//! Must not know: what any actor does inside.

use std::cell::RefCell;
use std::sync::{Arc, Once};
use std::time::Duration;

use recado_domain::ids::NotificationId;
use recado_domain::ports::{DeadLetters, Outcome};
use recado_email_worker::Templates;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::breakage::Breakage;
use crate::chance::name;
use crate::client::Client;
use crate::coverage::Counts;
use crate::scenario::Scenario;
use crate::world::{Channel, Phase, World, at_once};
use crate::{actors, judge, lock};

/// More than any client waits with its next `sync`.
const A_WHILE: Duration = Duration::from_secs(660);
/// By when everything under way has ended: a mail that was refused often waits half an hour.
const AT_LAST: Duration = Duration::from_secs(4 * 3600);
/// By when somebody who comes back is served.
const BACK: Duration = Duration::from_secs(600);
/// By when a connected client sees what is published, with nothing else going on.
const AT_ONCE: Duration = Duration::from_secs(20);

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// What must never be and was.
    pub violations: Vec<String>,
    /// One line per event; empty unless asked for.
    pub trace: Vec<String>,
    /// How much happened.
    pub counts: Counts,
    /// How long it took, in its own time.
    pub time: Duration,
}

impl Report {
    /// What the whole story hashes to (FNV-1a, 64 bits); of a run that was traced.
    pub fn digest(&self) -> u64 {
        self.trace.iter().chain(&self.violations).fold(name(&self.counts.to_string()), |hash, line| hash.rotate_left(5) ^ name(line))
    }
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static TEMPLATES: Templates = Templates::load(None).expect("the built-in templates render");
}

/// Runs a scenario to its end. The same scenario gives the same report, line by line.
pub fn run(scenario: Scenario, breakage: Option<Breakage>, traced: bool) -> Report {
    note_panics();
    let seed = scenario.seed;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime needs no IO");
    let world = runtime.block_on(async {
        let world = World::new(scenario, breakage, traced);
        play(&world).await;
        world
    });
    let mut violations = std::mem::take(&mut lock(&world.ledger).violations);
    violations.extend(PANICS.take().into_iter().map(|panic| format!("panic: {panic}")));
    let time = runtime.block_on(async { world.elapsed() });
    Report { seed, violations, trace: world.trace(), counts: world.counts(), time }
}

/// A panic in a task of tokio is an error of its handle, which a room may swallow. Here each counts.
fn note_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            before(info);
        }));
    });
}

async fn play(world: &Arc<World>) {
    let publishers = start(world);
    sleep(world.scenario.chaos).await;
    world.enter(Phase::Quiet);
    for publisher in publishers {
        // A publisher that panicked is among the panics.
        publisher.await.ok();
    }
    sleep(A_WHILE).await;
    until(AT_LAST, || is_drained(world)).await;
    judge::when_quiet(world);
    redrive(world).await;
    come_back(world).await;
    show_the_last(world).await;
    come_back(world).await;
    judge::at_the_end(world);
}

/// Starts everybody; answers the publishers, who come to an end.
fn start(world: &Arc<World>) -> Vec<JoinHandle<()>> {
    let scenario = &world.scenario;
    (0..2).for_each(|nth| drop(tokio::spawn(actors::dispatcher(world.clone(), nth))));
    for nth in 0..scenario.workers {
        tokio::spawn(actors::email_worker(world.clone(), nth, TEMPLATES.with(Templates::clone)));
    }
    tokio::spawn(actors::feedback(world.clone()));
    for at in 0..scenario.devices.len() {
        tokio::spawn(Client::new(world, at).live());
    }
    if let Some(every) = scenario.operator {
        tokio::spawn(actors::operator(world.clone(), every));
    }
    (0..scenario.events.len()).map(|nth| tokio::spawn(actors::publisher(world.clone(), nth))).collect()
}

fn is_drained(world: &World) -> bool {
    world.channels().iter().all(|channel| channel.queue.depth() == 0)
}

/// Waits for a condition, up to a time; says whether it holds.
async fn until(most: Duration, holds: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + most;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(500)).await;
    }
    true
}

/// Sends every dead letter back: what a fault had ended has no reason to end again.
async fn redrive(world: &Arc<World>) {
    world.note("operator", || "sends every dead letter back".to_owned());
    for channel in world.channels() {
        send_back(world, channel);
    }
    until(AT_LAST, || is_drained(world)).await;
}

fn send_back(world: &World, channel: &Channel) {
    world.show(world.now());
    let ids: Vec<String> = channel.queue.dead().into_iter().map(|letter| letter.id).collect();
    let answers: Vec<Outcome<()>> = at_once(channel.queue.redrive(&ids));
    assert!(answers.iter().all(Outcome::is_ok), "a dead letter that is there can be sent back");
    channel.changed.notify_waiters();
}

/// Plain clients connect anew, the others sync: everybody finds what waits for them.
async fn come_back(world: &Arc<World>) {
    let began = world.elapsed();
    world.enter(Phase::Return);
    let all_back = || {
        let ledger = lock(&world.ledger);
        let back = |device: &crate::ledger::Device| match device.sessions.last() {
            Some(session) if !device.protocol => session.opened >= began && session.ended.is_none() && session.live.is_some(),
            _ => device.synced.is_some_and(|at| at >= began),
        };
        ledger.devices.iter().all(back) && is_drained(world)
    };
    if !until(BACK, all_back).await {
        world.violation("stuck", format!("not everybody who came back was served within {BACK:?}"));
    }
    world.enter(Phase::Present);
    // What the answers to a return showed is acknowledged by the next.
    sleep(Duration::from_secs(5)).await;
}

/// Everybody is connected and nothing goes wrong: what is published now is seen now.
async fn show_the_last(world: &Arc<World>) {
    let known = lock(&world.ledger).published.len();
    actors::publish_the_last(world).await;
    let ids: Vec<NotificationId> = lock(&world.ledger).published[known..].iter().map(|last| last.event.notification_id()).collect();
    if !until(AT_ONCE, || judge::all_showed(world, &ids)).await {
        judge::who_did_not(world, &ids).into_iter().for_each(|(promise, what)| world.violation(promise, what));
    }
    until(AT_LAST, || is_drained(world)).await;
}
