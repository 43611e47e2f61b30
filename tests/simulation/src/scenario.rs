//! What a seed means: who is there, what is published, and what the weather is like.
//!
//! Swarm testing (Groce and others, "Swarm testing", 2012): each seed switches faults off or to a strength of their own, so
//! that a run in which every answer is lost stands beside one in which only clocks differ. Must not know: how any of it
//! is carried out.

use std::fmt;
use std::time::Duration;

use recado_domain::ids::{RecipientKey, TenantId, UserId};
use recado_domain::limits;

use crate::chance::Dice;
use crate::world::short;

/// One run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where every decision comes from.
    pub seed: u64,
    /// How often what goes wrong.
    pub weather: Weather,
    /// How long faults go on.
    pub chaos: Duration,
    /// The people.
    pub users: Vec<RecipientKey>,
    /// Their clients.
    pub devices: Vec<DevicePlan>,
    /// What is published, in order of time.
    pub events: Vec<EventPlan>,
    /// Who stamps positions.
    pub stamps: Stamps,
    /// Entries of a page of the inbox: small ones make long queries.
    pub page: usize,
    /// The place of a user to whom no mail may be sent.
    pub suppressed: Option<usize>,
    /// Whether a platform polls and calls Lambdas, rather than processes that poll by themselves.
    pub triggered: bool,
    /// How many mails come back for good, or are complained about.
    pub feedback: f64,
    /// Email workers.
    pub workers: usize,
    /// Batches that a consumer works on at the same time.
    pub concurrency: usize,
    /// The lease of a message.
    pub visibility: Duration,
    /// How often an operator looks at the dead letters, if at all.
    pub operator: Option<Duration>,
}

/// Who decides where an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamps {
    /// The store, inside its transaction (embedded).
    Store,
    /// The caller, by its own clock and before the write arrives (DynamoDB).
    Caller,
}

/// Probabilities per call or per entry, and times.
#[derive(Debug, Clone)]
pub struct Weather {
    /// What a way of a call takes at the most, usually.
    pub usual: Duration,
    /// How often a way takes longer.
    pub slow: f64,
    /// And how long then.
    pub slowest: Duration,
    /// How often a write to an inbox is under way for longer than W: later than any overlap reaches (R6).
    pub late: f64,
    /// An entry changes nothing and may be tried again.
    pub transient: f64,
    /// An entry changes nothing, for good.
    pub permanent: f64,
    /// An entry is applied, and its answer is lost.
    pub lost: f64,
    /// The process ends at this call.
    pub dies: f64,
    /// A post is answered 429.
    pub throttled: f64,
    /// A post is answered 410 though the socket is open.
    pub gone: f64,
    /// A message that was received becomes visible again at once.
    pub lease_ends: f64,
    /// A message is delivered twice.
    pub twice: f64,
    /// A message is held back, so that others overtake it.
    pub held_back: f64,
    /// How far a clock may be off, either way.
    pub skew: Duration,
    /// A client's socket breaks, per whim.
    pub breaks: f64,
    /// `$disconnect` is never called.
    pub forgotten: f64,
    /// A socket that was accepted never opens.
    pub unopened: f64,
    /// What a socket takes to open at the most.
    pub opening: Duration,
}

impl Weather {
    /// Nothing goes wrong.
    pub fn fair() -> Self {
        Self {
            usual: Duration::from_millis(10),
            slow: 0.0,
            slowest: Duration::ZERO,
            late: 0.0,
            transient: 0.0,
            permanent: 0.0,
            lost: 0.0,
            dies: 0.0,
            throttled: 0.0,
            gone: 0.0,
            lease_ends: 0.0,
            twice: 0.0,
            held_back: 0.0,
            skew: Duration::ZERO,
            breaks: 0.0,
            forgotten: 0.0,
            unopened: 0.0,
            opening: Duration::from_millis(200),
        }
    }

    /// Whether calls only take time, and clients only come and go.
    pub(crate) fn is_fair(&self) -> bool {
        let faults = [
            self.slow,
            self.late,
            self.transient,
            self.permanent,
            self.lost,
            self.dies,
            self.throttled,
            self.gone,
            self.lease_ends,
            self.held_back,
            self.unopened,
        ];
        faults.iter().all(|probability| *probability == 0.0)
    }

    fn drawn(dice: &Dice) -> Self {
        let some = |most: f64| if dice.chance(0.45) { 0.0 } else { dice.scale(0.002, most) };
        let milliseconds = |of: &[u64]| Duration::from_millis(*dice.pick(of));
        Self {
            usual: milliseconds(&[2, 10, 50, 400]),
            slow: some(0.25),
            // Up to what no call of a healthy system takes: R6 has to hold whatever the answer takes.
            slowest: milliseconds(&[1_000, 12_000, 28_000, 45_000, 90_000]),
            late: 0.0,
            transient: some(0.3),
            permanent: some(0.03),
            lost: some(0.3),
            dies: some(0.05),
            throttled: some(0.4),
            gone: some(0.2),
            lease_ends: some(0.3),
            twice: some(0.3),
            held_back: some(0.3),
            // Two clocks may differ by W/4: 15 s.
            skew: milliseconds(&[0, 2_000, 2_000, 2_000, 7_000]),
            breaks: some(0.5),
            forgotten: some(0.9),
            unopened: some(0.3),
            opening: milliseconds(&[50, 500, 5_000, 28_000]),
        }
    }
}

/// What a client is.
#[derive(Debug, Clone)]
pub struct DevicePlan {
    /// The place of its user.
    pub user: usize,
    /// Whether it declares the protocol.
    pub protocol: bool,
    /// How often it sends `sync`; at most 9 minutes.
    pub sync_every: Duration,
    /// How often it gets an idea: reads, goes offline, sends nonsense.
    pub whim_every: Duration,
    /// How many of these ideas are to mark everything as read.
    pub reads_all: f64,
    /// How long its tokens live.
    pub token: Duration,
    /// When it connects for the first time.
    pub starts: Duration,
}

/// What is published.
#[derive(Debug, Clone)]
pub struct EventPlan {
    /// When.
    pub at: Duration,
    /// The places of those it concerns, of one tenant.
    pub to: Vec<usize>,
    /// Whether it asks for the inbox.
    pub inbox: bool,
    /// Whether it asks for mail.
    pub email: bool,
    /// The bytes of its body.
    pub body: usize,
    /// How long after its publication it expires, if ever.
    pub expires: Option<Duration>,
    /// How it is published.
    pub how: How,
}

/// How an event is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By a producer, tried again until it is accepted.
    Producer,
    /// The same, and all of it once more some time later.
    Twice,
    /// By hand, without the attributes that e-mail's subscription looks at.
    Bare,
    /// No event at all.
    Poison,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Scenario {
    /// What this seed means.
    pub fn of(seed: u64) -> Self {
        let mut scenario = Self::without_a_crowd(seed);
        let dice = Dice::new(seed, &[1]);
        if dice.chance(0.12) {
            scenario.crowd(&dice);
        }
        scenario
    }

    /// A run of late writes beside readers in a hurry, where [`Scenario::of`] makes an eighth of its runs one.
    pub fn crowded(seed: u64) -> Self {
        let mut scenario = Self::without_a_crowd(seed);
        scenario.crowd(&Dice::new(seed, &[1]));
        scenario
    }

    fn without_a_crowd(seed: u64) -> Self {
        let dice = Dice::new(seed, &[0]);
        let drawn = Weather::drawn(&dice);
        // A seventh of the runs see no fault, so that slowness itself can be judged.
        let weather = if dice.chance(0.15) {
            Weather {
                twice: drawn.twice,
                skew: drawn.skew,
                breaks: drawn.breaks,
                forgotten: drawn.forgotten,
                opening: drawn.opening,
                ..Weather::fair()
            }
        } else {
            drawn
        };
        // A few runs outlive connections (2 h).
        let long = dice.chance(0.03);
        let chaos = if long { MINUTE * 150 } else { dice.between(MINUTE, MINUTE * 12) };
        let users = some_users(&dice);
        let devices = (0..users.len()).flat_map(|user| devices_of(user, &dice)).collect();
        let count = 1 + dice.below(*dice.pick(&[3, 8, 20]));
        Self {
            seed,
            weather,
            chaos,
            events: (0..count).map(|_| some_event(&dice, &users, chaos)).collect(),
            users,
            devices,
            stamps: if dice.chance(0.75) { Stamps::Caller } else { Stamps::Store },
            page: *dice.pick(&[1, 2, 3, limits::PAGE_ENTRIES, limits::PAGE_ENTRIES]),
            suppressed: dice.chance(0.15).then_some(0),
            feedback: *dice.pick(&[0.0, 0.0, 0.1, 0.5]),
            triggered: dice.chance(0.25),
            workers: 1 + dice.below(2),
            concurrency: 1 + dice.below(4),
            visibility: *dice.pick(&[Duration::from_secs(30), MINUTE, MINUTE]),
            operator: dice.chance(0.4).then(|| dice.between(MINUTE / 2, MINUTE * 4)),
        }
    }

    /// Writes that are late beside readers in a hurry: much for one user, who asks and leaves all the time.
    fn crowd(&mut self, dice: &Dice) {
        self.chaos = dice.between(MINUTE * 3, MINUTE * 6);
        self.stamps = Stamps::Caller;
        let late = if dice.chance(0.5) { dice.scale(0.05, 0.5) } else { 0.0 };
        let (slow, slowest) = (dice.scale(0.01, 0.3), Duration::from_secs(45));
        self.weather = Weather { slow, slowest, late, breaks: dice.scale(0.05, 0.6), ..self.weather.clone() };
        self.devices.retain(|device| device.user != 0);
        // Beside a protocol client nothing waits for a plain one for long, and the other way round: one kind in a run.
        let protocol = dice.chance(0.6);
        self.devices.extend((0..1 + dice.below(2)).map(|_| DevicePlan {
            user: 0,
            protocol,
            sync_every: dice.between(Duration::from_secs(5), Duration::from_secs(40)),
            whim_every: dice.between(Duration::from_secs(3), Duration::from_secs(15)),
            reads_all: *dice.pick(&[0.1, 0.8]),
            token: MINUTE * 60 * 24,
            starts: Duration::ZERO,
        }));
        let plain = |_| EventPlan {
            at: dice.up_to(self.chaos),
            to: vec![0],
            inbox: true,
            email: false,
            body: 0,
            expires: None,
            how: How::Producer,
        };
        self.events.extend((0..15 + dice.below(20)).map(plain));
    }
}

/// One to three users, some with a namesake in another tenant.
fn some_users(dice: &Dice) -> Vec<RecipientKey> {
    let of = |tenant: &str, user: &str| {
        let (tenant, user) = (TenantId::new(tenant), UserId::new(user));
        RecipientKey::new(tenant.expect("a tenant"), user.expect("a user"))
    };
    let mut users: Vec<_> = ["alice", "bob", "carol"][..1 + dice.below(3)].iter().map(|user| of("default", user)).collect();
    if dice.chance(0.3) {
        users.push(of("acme", "alice"));
    }
    users
}

fn devices_of(user: usize, dice: &Dice) -> Vec<DevicePlan> {
    let count = *dice.pick(&[0, 1, 1, 1, 2, 2, 3]);
    let device = |_| DevicePlan {
        user,
        protocol: dice.chance(0.65),
        sync_every: dice.between(MINUTE / 2, MINUTE * 9),
        whim_every: dice.between(Duration::from_secs(5), MINUTE * 4),
        reads_all: 0.15,
        token: *dice.pick(&[MINUTE * 3, MINUTE * 60, MINUTE * 60 * 24, MINUTE * 60 * 24]),
        starts: if dice.chance(0.5) { Duration::ZERO } else { dice.up_to(MINUTE * 6) },
    };
    (0..count).map(device).collect()
}

fn some_event(dice: &Dice, users: &[RecipientKey], chaos: Duration) -> EventPlan {
    let first = dice.below(users.len());
    let to = (0..users.len()).filter(|user| *user == first || (users[*user].tenant == users[first].tenant && dice.chance(0.5)));
    let (inbox, email) = *dice.pick(&[(true, false), (true, false), (true, true), (false, true)]);
    // Now and then several at once, so that they ride in one batch.
    let at = if dice.chance(0.3) { chaos / 3 } else { dice.up_to(chaos * 9 / 10) };
    EventPlan {
        at,
        to: to.collect(),
        inbox,
        email,
        body: *dice.pick(&[0, 20, 20, 7_000]),
        expires: dice.chance(0.08).then(|| dice.between(Duration::from_secs(1), MINUTE * 10)),
        how: *dice.pick(&[How::Producer, How::Producer, How::Producer, How::Producer, How::Twice, How::Bare, How::Poison]),
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = |user: &usize| self.users.get(*user).map_or_else(|| "?".to_owned(), short);
        writeln!(f, "seed {}: {:.0?} of faults, positions stamped by the {:?}", self.seed, self.chaos, self.stamps)?;
        writeln!(f, "  {}", self.weather)?;
        let kind = if self.triggered { "functions called by a platform" } else { "processes that poll" };
        writeln!(
            f,
            "  workers are {kind}; leases of {:?}, {} batches at a time, {} mail workers",
            self.visibility, self.concurrency, self.workers
        )?;
        writeln!(
            f,
            "  pages of {} entries; an operator looks {:?}; suppressed: {:?}",
            self.page,
            self.operator,
            self.suppressed.as_ref().map(who)
        )?;
        writeln!(f, "  {:.0} % of the mails are reported on", self.feedback * 100.0)?;
        for (at, device) in self.devices.iter().enumerate() {
            let kind = if device.protocol { "protocol" } else { "plain" };
            let DevicePlan { user, sync_every, whim_every, reads_all, token, starts, .. } = device;
            writeln!(
                f,
                "  {}/{at}: {kind} client from {starts:.0?} on, syncs every {sync_every:.0?}, has an idea every {whim_every:.0?} \
                 (to mark everything as read: {reads_all:.2}), tokens of {token:.0?}",
                who(user)
            )?;
        }
        for (nth, event) in self.events.iter().enumerate() {
            let EventPlan { at, to, inbox, email, body, expires, how } = event;
            let people: Vec<String> = to.iter().map(who).collect();
            let channels = [("inbox", inbox), ("email", email)].into_iter().filter(|(_, wanted)| **wanted).map(|(channel, _)| channel);
            let channels: Vec<&str> = channels.collect();
            let expires = expires.map_or_else(String::new, |after| format!(", expires after {after:.0?}"));
            writeln!(f, "  e{nth} at {at:.1?} for {} by {}: {body} bytes, {how:?}{expires}", people.join("+"), channels.join("+"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = [
            (self.slow, "slow"),
            (self.late, "late"),
            (self.transient, "transient"),
            (self.permanent, "permanent"),
            (self.lost, "answer lost"),
            (self.dies, "dies"),
            (self.throttled, "429"),
            (self.gone, "410"),
            (self.lease_ends, "lease ends"),
            (self.twice, "twice"),
            (self.held_back, "held back"),
            (self.breaks, "breaks"),
            (self.forgotten, "$disconnect forgotten"),
            (self.unopened, "never opens"),
        ];
        write!(
            f,
            "a way takes {:?}, slow ones {:?}; clocks ±{:?}; sockets open in {:?}",
            self.usual, self.slowest, self.skew, self.opening
        )?;
        let mut some = faults.into_iter().filter(|(probability, _)| *probability > 0.0);
        some.try_for_each(|(probability, fault)| write!(f, "; {fault} {:.1} %", probability * 100.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_means_the_same() {
        assert_eq!(format!("{:?}", Scenario::of(5)), format!("{:?}", Scenario::of(5)));
        assert_ne!(format!("{:?}", Scenario::of(5)), format!("{:?}", Scenario::of(6)));
    }

    #[test]
    fn no_event_crosses_tenants() {
        for seed in 0..200 {
            let scenario = Scenario::of(seed);
            for event in &scenario.events {
                let tenants = event.to.iter().map(|user| &scenario.users[*user].tenant);
                assert_eq!(tenants.collect::<std::collections::BTreeSet<_>>().len(), 1);
            }
        }
    }
}
