//! A process that can end at any of its calls, and how its calls reach the world.
//!
//! A call is a request on its way, its effect, and an answer on its way. Each way takes time; the effect happens whether
//! or not the caller is still there; and each entry of a batch may fail, or be applied with its answer lost. A process that
//! ended never gets an answer again: its futures are dropped where they can be reached, and stand still where they cannot,
//! which looks the same from outside. Must not know: what a call means.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use recado_domain::failure::Failure;
use recado_domain::limits;
use recado_domain::ports::{Clock, Outcome};
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;

use crate::chance::{Dice, name};
use crate::coverage::Happening;
use crate::lock;
use crate::world::World;

/// What a gateway answers to whom posts too much.
const THROTTLED: &str = "429";

/// What outlives a restart: a name, and how often it called what, so that chance goes on where it was.
#[derive(Debug)]
pub(crate) struct Role {
    name: String,
    calls: Mutex<BTreeMap<&'static str, u64>>,
    lives: Mutex<u64>,
}

impl Role {
    pub(crate) fn new(name: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), calls: Mutex::default(), lives: Mutex::default() })
    }

    pub(crate) fn name(&self) -> u64 {
        name(&self.name)
    }

    fn dice(&self, seed: u64, call: &'static str) -> Dice {
        let mut calls = lock(&self.calls);
        let nth = calls.entry(call).or_default();
        *nth += 1;
        Dice::new(seed, &[self.name(), name(call), *nth])
    }
}

/// One life of a role.
pub(crate) struct Process {
    world: Arc<World>,
    role: Arc<Role>,
    /// Which of its role's lives this is, from 1.
    pub(crate) life: u64,
    /// How far its clock is ahead, in milliseconds.
    skew: i64,
    alive: AtomicBool,
    death: Notify,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.role.name, self.life)
    }
}

impl Process {
    /// Starts the next life of a role.
    pub(crate) fn start(world: &Arc<World>, role: &Arc<Role>) -> Arc<Self> {
        let life = {
            let mut lives = lock(&role.lives);
            *lives += 1;
            *lives
        };
        let dice = Dice::new(world.scenario.seed, &[role.name(), name("skew"), life]);
        let most = world.scenario.weather.skew;
        let skew = dice.up_to(most * 2).as_millis() as i64 - most.as_millis() as i64;
        if skew.abs() >= 1_000 {
            world.count(Happening::Skewed);
        }
        Arc::new(Self { world: world.clone(), role: role.clone(), life, skew, alive: AtomicBool::new(true), death: Notify::new() })
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// The clock of this process.
    pub(crate) fn clock(self: &Arc<Self>) -> ProcessClock {
        ProcessClock(self.clone())
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.world.now().as_millisecond() + self.skew).expect("a moment of this century")
    }

    /// Ends it.
    pub(crate) fn kill(&self, why: &str) {
        if self.alive.swap(false, Ordering::Relaxed) {
            self.world.note(self, || format!("ENDS: {why}"));
            self.death.notify_one();
        }
    }

    /// Done when it has ended.
    pub(crate) async fn ended(&self) {
        while self.is_alive() {
            self.death.notified().await;
        }
    }

    /// Notes that something happened to it.
    pub(crate) fn count(&self, what: Happening) {
        self.world.count(what);
    }

    async fn die(&self, why: &str) -> Infallible {
        self.kill(why);
        std::future::pending().await
    }

    /// Calls the world: `apply` gets the entries that arrive, and answers each.
    pub(crate) async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        call: Call,
        apply: impl FnOnce(&[usize]) -> Vec<Outcome<T>> + Send + 'static,
    ) -> Vec<Outcome<T>> {
        if !self.is_alive() {
            match std::future::pending::<Infallible>().await {}
        }
        let plan = Plan::draw(&self.world, &self.role, &call);
        self.world.count(Happening::Call);
        self.world.note(self, || format!("{} {}{plan}", call.name, call.about));
        if plan.dies == Some(Moment::Before) {
            match self.die("before its call left").await {}
        }
        let (answer, answered) = oneshot::channel();
        let arriving = plan.arriving();
        let (world, process, before, label) = (self.world.clone(), self.clone(), plan.before, call.name);
        // On its own: a request that left is carried out whatever becomes of who sent it.
        let flight = async move {
            pass(before).await;
            let answers = apply(&arriving);
            if !before.is_zero() {
                world.note(&process, || format!("    {label} is applied"));
            }
            answer.send(answers).ok();
        };
        if plan.before.is_zero() {
            flight.await;
        } else {
            tokio::spawn(flight);
        }
        if plan.dies == Some(Moment::Underway) {
            match self.die("while its call was under way").await {}
        }
        let applied = answered.await.unwrap_or_default();
        pass(plan.after).await;
        if plan.dies == Some(Moment::Unanswered) {
            match self.die("before it had its answer").await {}
        }
        if !self.is_alive() {
            match std::future::pending::<Infallible>().await {}
        }
        plan.answers(applied)
    }

    /// Calls the world with one entry.
    pub(crate) async fn call_one<T: Send + 'static>(
        self: &Arc<Self>,
        call: Call,
        apply: impl FnOnce() -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let apply = |arriving: &[usize]| if arriving.is_empty() { Vec::new() } else { vec![apply()] };
        self.call(call, apply).await.pop().unwrap_or_else(|| Err(Failure::transient("no answer")))
    }
}

async fn pass(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

/// What is called.
pub(crate) struct Call {
    name: &'static str,
    about: String,
    entries: usize,
    kind: Kind,
}

/// What can go wrong with a call besides what always can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ordinary,
    /// A write to an inbox that takes a position: it may be late.
    Write,
    /// A post: it may be answered 429.
    Post,
    /// It answers as it should or is not answered at all: what an operator does by hand.
    Careful,
}

impl Call {
    pub(crate) fn new(world: &World, name: &'static str, about: impl FnOnce() -> String) -> Self {
        let about = if world.is_traced() { about() } else { String::new() };
        Self { name, about, entries: 1, kind: Kind::Ordinary }
    }

    pub(crate) fn of(self, entries: usize) -> Self {
        Self { entries, ..self }
    }

    pub(crate) fn write(self) -> Self {
        Self { kind: Kind::Write, ..self }
    }

    pub(crate) fn post(self) -> Self {
        Self { kind: Kind::Post, ..self }
    }

    pub(crate) fn careful(self) -> Self {
        Self { kind: Kind::Careful, ..self }
    }
}

/// When a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Before,
    Underway,
    Unanswered,
}

/// What becomes of one entry.
#[derive(Debug, Clone)]
enum Fate {
    Answered,
    Fails(Failure),
    Lost,
}

/// What becomes of a call.
struct Plan {
    before: Duration,
    after: Duration,
    dies: Option<Moment>,
    fates: Vec<Fate>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.before + self.after >= Duration::from_secs(1) {
            write!(f, " ({:?} there, {:?} back)", self.before, self.after)?;
        }
        for (at, fate) in self.fates.iter().enumerate() {
            match fate {
                Fate::Answered => {}
                Fate::Fails(failure) => write!(f, " [entry {at} FAILS: {failure}]")?,
                Fate::Lost => write!(f, " [entry {at}: ANSWER LOST]")?,
            }
        }
        Ok(())
    }
}

impl Plan {
    fn draw(world: &World, role: &Role, call: &Call) -> Self {
        let weather = &world.scenario.weather;
        let dice = role.dice(world.scenario.seed, call.name);
        if world.is_quiet() {
            let way = || dice.up_to(Duration::from_millis(20));
            return Self { before: way(), after: way(), dies: None, fates: vec![Fate::Answered; call.entries] };
        }
        let way = || if dice.chance(weather.slow) { dice.up_to(weather.slowest) } else { dice.up_to(weather.usual) };
        let late = call.kind == Kind::Write && dice.chance(weather.late);
        let (before, after) = (if late { dice.between(limits::W, limits::W * 3 / 2) } else { way() }, way());
        let dies = dice.chance(weather.dies).then(|| *dice.pick(&[Moment::Before, Moment::Underway, Moment::Unanswered]));
        // Either all of it, as when a request does not arrive, or each entry by itself.
        let alike = call.entries > 1 && dice.chance(0.5);
        let mut fates: Vec<Fate> = (0..if alike { 1 } else { call.entries }).map(|_| fate(world, &dice, call.kind)).collect();
        fates.resize(call.entries, fates.first().cloned().unwrap_or(Fate::Answered));
        let plan = Self { before, after, dies, fates };
        plan.count(world);
        plan
    }

    fn count(&self, world: &World) {
        if self.before.max(self.after) >= Duration::from_secs(1) {
            world.count(Happening::Slow);
        }
        match self.dies {
            Some(Moment::Before) => world.count(Happening::DiedBefore),
            Some(Moment::Underway) => world.count(Happening::DiedUnderway),
            Some(Moment::Unanswered) => world.count(Happening::DiedUnanswered),
            None => {}
        }
        for fate in &self.fates {
            match fate {
                Fate::Answered => {}
                Fate::Fails(Failure::Transient { reason, .. }) if reason == THROTTLED => world.count(Happening::Throttled),
                Fate::Fails(Failure::Transient { .. }) => world.count(Happening::Transient),
                Fate::Fails(Failure::Permanent { .. }) => world.count(Happening::Permanent),
                Fate::Lost => world.count(Happening::LostAnswer),
            }
        }
    }

    fn arriving(&self) -> Vec<usize> {
        (0..self.fates.len()).filter(|at| !matches!(self.fates[*at], Fate::Fails(_))).collect()
    }

    fn answers<T>(self, applied: Vec<Outcome<T>>) -> Vec<Outcome<T>> {
        let mut applied = applied.into_iter();
        let answer = |fate| match fate {
            Fate::Answered => applied.next().unwrap_or_else(|| Err(Failure::transient("no answer"))),
            Fate::Fails(failure) => Err(failure),
            Fate::Lost => {
                applied.next();
                Err(Failure::transient("the answer was lost"))
            }
        };
        self.fates.into_iter().map(answer).collect()
    }
}

fn fate(world: &World, dice: &Dice, kind: Kind) -> Fate {
    let weather = &world.scenario.weather;
    if kind == Kind::Careful {
        return if dice.chance(weather.lost) { Fate::Lost } else { Fate::Answered };
    }
    if kind == Kind::Post && dice.chance(weather.throttled) {
        let retry_after = dice.chance(0.5).then(|| dice.up_to(Duration::from_secs(5)));
        return Fate::Fails(Failure::Transient { retry_after, reason: THROTTLED.to_owned() });
    }
    if dice.chance(weather.transient) {
        return Fate::Fails(Failure::transient("busy"));
    }
    if dice.chance(weather.permanent) {
        return Fate::Fails(Failure::permanent("refused for good"));
    }
    if dice.chance(weather.lost) { Fate::Lost } else { Fate::Answered }
}

/// What a process thinks the time is.
#[derive(Clone)]
pub(crate) struct ProcessClock(Arc<Process>);

impl Clock for ProcessClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
}
