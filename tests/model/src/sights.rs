//! What a search has to come across, or it went nowhere: a world in which nothing breaks because nothing happens proves nothing.
//!
//! Must not know: what is promised.

use stateright::Property;

use crate::bounds::{Bounds, NO_BUDGET};
use crate::protocol::Protocol;
use crate::state::{EventStep, Kind, Phase, Position, ReplayStep, SLOTS, Set, Socket, State, Worker};

/// Something that must be so in some state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Whatever may go wrong went wrong, and yet somebody has been shown everything.
    ShownAfterAllFaults,
    /// An entry is stamped again.
    StampedAgain,
    /// Both dispatchers deliver events.
    TwoDeliver,
    /// One event is delivered by both dispatchers.
    TwoDeliverTheSame,
    /// A replay meets a 410 of a socket that is still opening.
    StillOpening,
    /// A replay proved a socket, and what was pending has been handed over.
    Proved,
    /// A write landed after its sender had died.
    LandedLate,
    /// A client came back on another connection, and has been shown everything.
    CameBack,
}

impl Sight {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ShownAfterAllFaults,
        Self::StampedAgain,
        Self::TwoDeliver,
        Self::TwoDeliverTheSame,
        Self::StillOpening,
        Self::Proved,
        Self::LandedLate,
        Self::CameBack,
    ];

    /// What it says.
    pub fn name(self) -> &'static str {
        match self {
            Self::ShownAfterAllFaults => "seen: everything that may go wrong did, and somebody has been shown everything",
            Self::StampedAgain => "seen: an entry is stamped again",
            Self::TwoDeliver => "seen: two dispatchers deliver at the same time",
            Self::TwoDeliverTheSame => "seen: two dispatchers deliver one event",
            Self::StillOpening => "seen: a replay meets a 410 of a socket that is still opening",
            Self::Proved => "seen: a socket is proved by a replay, and everything is handed over",
            Self::LandedLate => "seen: a write lands after its sender has died",
            Self::CameBack => "seen: a client came back and has been shown everything",
        }
    }

    /// Whether a world of these bounds must have it.
    pub fn belongs_to(self, bounds: &Bounds) -> bool {
        let budget = bounds.budget;
        let twice = budget.expiries > 0 || budget.repeats > 0;
        let has = |kind| bounds.slots.contains(&Some(kind));
        match self {
            Self::ShownAfterAllFaults => true,
            Self::StampedAgain => bounds.ends > bounds.begins + bounds.half(),
            Self::TwoDeliver => bounds.workers == 2 && (bounds.notes > 1 || twice),
            Self::TwoDeliverTheSame => bounds.workers == 2 && twice,
            Self::StillOpening => has(Kind::Listener) && !bounds.quick_sockets,
            Self::Proved => has(Kind::Listener),
            Self::LandedLate => budget.late_writes > 0,
            Self::CameBack => comes_back(bounds).is_some() && budget.drops + budget.kills + budget.weeks > 0,
        }
    }

    fn is_seen(self, m: &Protocol, s: &State) -> bool {
        let shown = s.witness.app.and(s.witness.listener);
        match self {
            Self::ShownAfterAllFaults => s.budget == NO_BUDGET && s.late.is_none() && s.is_quiet() && all(m).less(shown).is_empty(),
            Self::StampedAgain => s.workers.iter().any(stamps),
            Self::TwoDeliver => s.workers.iter().all(|worker| matches!(worker, Worker::Event { .. })),
            Self::TwoDeliverTheSame => {
                matches!(s.workers, [Worker::Event { note: one, .. }, Worker::Event { note: two, .. }] if one == two)
            }
            Self::StillOpening => s.workers.iter().any(|worker| meets_an_opening_socket(s, worker)),
            Self::Proved => all(m).less(s.witness.listener).is_empty() && listener_is_live(m, s),
            Self::LandedLate => s.budget.late_writes < m.bounds.budget.late_writes && s.late.is_none(),
            Self::CameBack => comes_back(&m.bounds).is_some_and(|slot| has_come_back(m, s, slot)),
        }
    }
}

/// Every notification of this world.
fn all(m: &Protocol) -> Set {
    (0..m.bounds.notes).fold(Set::NONE, Set::with)
}

fn stamps(worker: &Worker) -> bool {
    matches!(worker, Worker::Event { step: EventStep::Write { from, .. }, .. } if *from != Position::MIN)
}

fn meets_an_opening_socket(s: &State, worker: &Worker) -> bool {
    let Worker::Replay { slot, step: ReplayStep::Gone { seen: Phase::Connecting, .. }, .. } = worker else { return false };
    s.sockets[*slot as usize].opening_since().is_some()
}

fn listener_is_live(m: &Protocol, s: &State) -> bool {
    let live = |slot: u8| s.rows[slot as usize].is_some_and(|row| row.phase == Phase::Live);
    (0..SLOTS as u8).any(|slot| m.kind(slot) == Kind::Listener && live(slot))
}

/// The connection on which a client of this world would be back.
fn comes_back(bounds: &Bounds) -> Option<u8> {
    let earlier = |slot: usize| bounds.slots[..slot].contains(&bounds.slots[slot]);
    (0..SLOTS).find(|slot| bounds.slots[*slot].is_some() && earlier(*slot)).map(|slot| slot as u8)
}

fn has_come_back(m: &Protocol, s: &State, slot: u8) -> bool {
    let shown = if m.kind(slot) == Kind::Listener { s.witness.listener } else { s.witness.app };
    s.sockets[slot as usize] == Socket::Open && all(m).less(shown).is_empty()
}

/// A property for each sight: the search wants a function without surroundings.
macro_rules! property {
    ($($sight:ident),+) => {
        vec![$(Property::<Protocol>::sometimes(Sight::$sight.name(), |m, s| Sight::$sight.is_seen(m, s)),)+]
    };
}

pub(crate) fn properties() -> Vec<Property<Protocol>> {
    property![ShownAfterAllFaults, StampedAgain, TwoDeliver, TwoDeliverTheSame, StillOpening, Proved, LandedLate, CameBack]
}
