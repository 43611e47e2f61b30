//! Runs the search, and says what it came to.
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use crate::action::Action;
use crate::bounds::Bounds;
use crate::promises::Promise;
use crate::protocol::Protocol;
use crate::sights::Sight;
use crate::state::State;

/// A way from the beginning to a state in which a promise is broken: states, each with the action that follows.
pub type Trace = Vec<(State, Option<Action>)>;

/// What a search came to.
#[derive(Debug)]
pub struct Found {
    /// Different states.
    pub states: usize,
    /// Steps tried.
    pub steps: usize,
    /// The longest way without repetition that the search went.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// The promises that are broken, each with a way there.
    pub broken: Vec<(Promise, Trace)>,
    /// What it came across.
    pub seen: Vec<Sight>,
}

impl Found {
    /// What a world of these bounds must have, and the search did not come across.
    pub fn unseen(&self, bounds: &Bounds) -> Vec<&'static str> {
        let wanted = Sight::ALL.into_iter().filter(|sight| sight.belongs_to(bounds));
        wanted.filter(|sight| !self.seen.contains(sight)).map(Sight::name).collect()
    }
}

/// Goes through every state, up to the first in which a promise is broken.
pub fn search_all(protocol: Protocol) -> Found {
    search_all_with(protocol, 1)
}

/// The same, on several threads.
pub fn search_all_with(protocol: Protocol, threads: usize) -> Found {
    let started = Instant::now();
    let checker = protocol.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    let checker = if protocol.bounds.dispatchers_are_alike() { checker.symmetry_fn(representative) } else { checker };
    let done = checker.spawn_dfs().join();
    found(&done, started)
}

/// Finds a shortest way to break one promise.
pub fn search_for(protocol: Protocol, promise: Promise) -> Found {
    let started = Instant::now();
    let wanted = HasDiscoveries::AnyOf(BTreeSet::from([promise.name()]));
    let done = protocol.checker().finish_when(wanted).spawn_bfs().join();
    found(&done, started)
}

fn found(done: &impl Checker<Protocol>, started: Instant) -> Found {
    let took = started.elapsed();
    let mut discoveries = done.discoveries();
    let broken = Promise::ALL.into_iter().filter_map(|promise| Some((promise, discoveries.remove(promise.name())?.into_vec()))).collect();
    let seen = Sight::ALL.into_iter().filter(|sight| discoveries.contains_key(sight.name())).collect();
    Found { states: done.unique_state_count(), steps: done.state_count(), depth: done.max_depth(), took, broken, seen }
}

/// Dispatchers and handlers that are alike stand for each other.
fn representative(state: &State) -> State {
    let mut sorted = *state;
    sorted.workers.sort_unstable();
    sorted.handlers.sort_unstable();
    sorted
}
