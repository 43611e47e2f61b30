//! The ports of one process: those of `recado-memory`, reached through [`Process::call`].
//!
//! Must not know: which faults there are, what a room does with an answer.

mod bus;
mod claims;
mod connections;
mod inbox;
mod mailer;
mod queue;
mod sockets;
mod suppressions;
mod tickets;

use std::sync::Arc;

use jiff::Timestamp;

pub(crate) use bus::SimBus;
pub(crate) use claims::SimClaims;
pub(crate) use connections::SimConnections;
pub(crate) use inbox::SimInbox;
pub(crate) use mailer::SimMailer;
pub(crate) use queue::SimQueue;
pub(crate) use sockets::{SimSockets, close, items};
pub(crate) use suppressions::SimSuppressions;
pub(crate) use tickets::SimTickets;

use crate::process::Process;
use crate::scenario::Stamps;
use crate::world::World;

/// The way of one process to the stores.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) world: Arc<World>,
    pub(crate) process: Arc<Process>,
}

impl Way {
    pub(crate) fn new(world: &Arc<World>, process: &Arc<Process>) -> Self {
        Self { world: world.clone(), process: process.clone() }
    }

    /// What shows a store the time of this call, when it arrives: the caller's at this moment, or the store's own then.
    fn time(&self) -> impl FnOnce() + Send + 'static {
        let (world, sent) = (self.world.clone(), self.process.now());
        move || world.show(time_of(&world, sent))
    }
}

fn time_of(world: &World, sent: Timestamp) -> Timestamp {
    match world.scenario.stamps {
        Stamps::Caller => sent,
        Stamps::Store => world.now(),
    }
}
