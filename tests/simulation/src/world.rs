//! What all actors of a run share: stores in memory, time, the trace, and the ledger of what happened.
//!
//! Must not know: what actors do, how a run is judged.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use recado_domain::address::AddressKey;
use recado_domain::connection::Connection;
use recado_domain::ids::{ConnectionId, NotificationId, RecipientKey};
use recado_domain::ports::{Clock, SuppressionCause, Suppressions};
use recado_memory::{
    ManualClock, MemoryClaims, MemoryConnections, MemoryInbox, MemoryMailer, MemoryQueue, MemorySockets, MemorySuppressions, MemoryTickets,
};
use recado_runtime::auth::{DevelopmentKey, KeySet, TokenConfig, TokenVerifier};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::breakage::Breakage;
use crate::chance::{entropy, name};
use crate::coverage::{Counts, Happening};
use crate::gateway::Line;
use crate::ledger::Ledger;
use crate::lock;
use crate::scenario::{Scenario, Stamps};

/// A queue, and word of what comes into it.
pub(crate) struct Channel {
    pub(crate) name: &'static str,
    pub(crate) queue: MemoryQueue,
    pub(crate) changed: Notify,
}

/// The name of the one of the two.
pub(crate) const EMAIL_QUEUE: &str = "email queue";

/// What a run is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everything that can go wrong does.
    Chaos,
    /// Faults have stopped; whatever is under way comes to its end.
    Quiet,
    /// Everybody comes back to look: plain clients connect anew, the others sync.
    Return,
    /// Everybody is there.
    Present,
}

/// Somebody who has to know when the phase changes. (Not tokio's `watch`, which wakes in random order.)
pub(crate) struct Follower {
    world: Arc<World>,
    seen: u64,
}

impl Follower {
    /// The next phase.
    pub(crate) async fn changed(&mut self) -> Phase {
        loop {
            let changed = self.world.phase_changed.notified();
            let (nth, phase) = *lock(&self.world.phase);
            if nth != self.seen {
                self.seen = nth;
                return phase;
            }
            changed.await;
        }
    }
}

/// Everything.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) breakage: Option<Breakage>,
    began: (Instant, Timestamp),
    /// The clock of the stores. It is set to the caller's before each call, so that each call sees its caller's time.
    hand: ManualClock,
    trace: Option<Mutex<Vec<String>>>,
    pub(crate) ledger: Mutex<Ledger>,
    counts: Mutex<Counts>,
    pub(crate) inbox: MemoryInbox,
    pub(crate) connections: MemoryConnections,
    pub(crate) sockets: MemorySockets,
    pub(crate) mailer: MemoryMailer,
    pub(crate) claims: MemoryClaims,
    pub(crate) suppressions: MemorySuppressions,
    pub(crate) tickets: MemoryTickets,
    pub(crate) inbox_queue: Channel,
    pub(crate) email_queue: Channel,
    pub(crate) feedback_queue: Channel,
    /// What a broken lookup remembers.
    pub(crate) cache: Mutex<BTreeMap<RecipientKey, (Duration, Vec<Connection>)>>,
    /// What the actors should do now.
    phase: Mutex<(u64, Phase)>,
    phase_changed: Notify,
    pub(crate) lines: Mutex<BTreeMap<ConnectionId, Line>>,
    pub(crate) key: DevelopmentKey,
    pub(crate) verifier: TokenVerifier<KeySet, TrueClock>,
}

impl World {
    pub(crate) fn new(scenario: Scenario, breakage: Option<Breakage>, traced: bool) -> Arc<Self> {
        let seed = scenario.seed;
        let hand = ManualClock::default();
        let began = (Instant::now(), hand.now());
        let channel =
            |queue| Channel { name: queue, queue: MemoryQueue::new(hand.clone(), entropy(seed, &[name(queue)])), changed: Notify::new() };
        let positions = entropy(seed, &[name("positions")]);
        let inbox = match scenario.stamps {
            Stamps::Store => MemoryInbox::new(hand.clone(), positions),
            Stamps::Caller => MemoryInbox::stamped_by_callers(hand.clone(), positions),
        };
        let key = DevelopmentKey::from_text(&"A".repeat(43)).expect("32 zero bytes are a key");
        let keys = KeySet::new(vec![key.verifying_key()]).expect("one key is a set");
        Arc::new(Self {
            breakage,
            began,
            trace: traced.then(Mutex::default),
            ledger: Mutex::new(Ledger::new(&scenario)),
            counts: Mutex::default(),
            inbox,
            connections: MemoryConnections::new(hand.clone()),
            sockets: MemorySockets::new(),
            mailer: MemoryMailer::new(),
            claims: MemoryClaims::new(hand.clone()),
            suppressions: suppressions(&scenario, &hand),
            tickets: MemoryTickets::new(hand.clone()),
            inbox_queue: channel("inbox queue"),
            email_queue: channel(EMAIL_QUEUE),
            feedback_queue: channel("feedback queue"),
            cache: Mutex::default(),
            phase: Mutex::new((0, Phase::Chaos)),
            phase_changed: Notify::new(),
            lines: Mutex::default(),
            verifier: TokenVerifier::new(TokenConfig::default(), keys, TrueClock(began)),
            key,
            hand,
            scenario,
        })
    }

    /// The true time; what queues go by.
    pub(crate) fn now(&self) -> Timestamp {
        TrueClock(self.began).now()
    }

    /// Notes that something happened.
    pub(crate) fn count(&self, what: Happening) {
        self.count_many(what, 1);
    }

    /// Notes that something happened so often.
    pub(crate) fn count_many(&self, what: Happening, times: usize) {
        lock(&self.counts).add(what, times);
    }

    /// What has happened so far.
    pub(crate) fn counts(&self) -> Counts {
        *lock(&self.counts)
    }

    /// How long the run has taken.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.0.elapsed()
    }

    /// Whether faults have stopped.
    pub(crate) fn is_quiet(&self) -> bool {
        lock(&self.phase).1 != Phase::Chaos
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.note("──", || format!("{phase:?}"));
        let mut now = lock(&self.phase);
        *now = (now.0 + 1, phase);
        self.phase_changed.notify_waiters();
    }

    /// The queues.
    pub(crate) fn channels(&self) -> [&Channel; 3] {
        [&self.inbox_queue, &self.email_queue, &self.feedback_queue]
    }

    /// Since when nothing may be mailed to somebody, if so.
    pub(crate) fn suppressed_since(&self, user: &RecipientKey) -> Option<Timestamp> {
        self.suppressions.all().get(&address_key(user)).map(|suppression| suppression.since)
    }

    /// Follows the phases from here on.
    pub(crate) fn follow(self: &Arc<Self>) -> Follower {
        Follower { seen: lock(&self.phase).0, world: self.clone() }
    }

    /// The events behind these ids, for the trace.
    pub(crate) fn name_of(&self, id: NotificationId) -> String {
        lock(&self.ledger).name(id)
    }

    /// The same for several.
    pub(crate) fn names_of(&self, ids: &[NotificationId]) -> String {
        if self.is_traced() { ids.iter().map(|id| self.name_of(*id)).collect::<Vec<_>>().join(", ") } else { String::new() }
    }

    /// Shows the stores this time in the next call.
    pub(crate) fn show(&self, time: Timestamp) {
        self.hand.set(time);
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    /// Adds a line to the trace, where there is one.
    pub(crate) fn note(&self, who: impl fmt::Display, what: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let line = format!("{:>10.3} s  {who:<18} {}", self.elapsed().as_secs_f64(), what());
            lock(trace).push(line);
        }
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.trace.as_ref().map_or_else(Vec::new, |trace| lock(trace).clone())
    }

    /// Something that must never be.
    pub(crate) fn violation(&self, promise: &'static str, what: String) {
        self.note("VIOLATION", || format!("{promise}: {what}"));
        let at = self.elapsed();
        lock(&self.ledger).violations.push(format!("{promise}: {what} (at {:.3} s)", at.as_secs_f64()));
    }

    /// Whether a message still carries this event for this user to the inbox, dead letters included: an entry that a late
    /// write brought of it may stand anywhere until then (R6).
    pub(crate) fn is_queued(&self, event: &str, user: &RecipientKey) -> bool {
        let queue = &self.inbox_queue.queue;
        names(queue.messages().iter().map(|message| message.body.as_str()), event, user)
            || names(queue.dead().iter().map(|letter| letter.body.as_str()), event, user)
    }
}

fn suppressions(scenario: &Scenario, clock: &ManualClock) -> MemorySuppressions {
    let suppressions = MemorySuppressions::new(clock.clone());
    if let Some(user) = scenario.suppressed {
        at_once(suppressions.suppress(&[(address_key(&scenario.users[user]), SuppressionCause::Complaint)]));
    }
    suppressions
}

/// Where mail to a user goes.
pub(crate) fn address(user: &RecipientKey) -> String {
    format!("{}@{}.example.com", user.user, user.tenant)
}

/// The name under which it is suppressed.
fn address_key(user: &RecipientKey) -> AddressKey {
    AddressKey::of(&address(user)).expect("a user's address is one")
}

/// Whether one of these bodies is this event for this user. Ids of events and users are plain words here.
pub(crate) fn names<'a>(mut bodies: impl Iterator<Item = &'a str>, event: &str, user: &RecipientKey) -> bool {
    let (event, tenant, user) =
        (format!("\"id\":\"{event}\""), format!("\"tenant\":\"{}\"", user.tenant), format!("\"id\":\"{}\"", user.user));
    bodies.any(|body| body.contains(&event) && body.contains(&tenant) && body.contains(&user))
}

/// The time as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TrueClock((Instant, Timestamp));

impl Clock for TrueClock {
    fn now(&self) -> Timestamp {
        let (began, at) = self.0;
        let elapsed = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(at.as_millisecond() + elapsed).expect("a moment of this century")
    }
}

/// Carries out a call of a port in memory, which answers at once.
pub(crate) fn at_once<T>(call: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(call).expect("a port in memory answers at once")
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Words for the trace.
pub(crate) fn short(user: &RecipientKey) -> String {
    if user.tenant.as_str() == "default" { user.user.to_string() } else { format!("{}@{}", user.user, user.tenant) }
}
