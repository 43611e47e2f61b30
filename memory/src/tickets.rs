//! Connection tickets, in memory.
//!
//! Must not know: what a ticket opens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use recado_domain::ports::{Clock, Outcome, TicketHolder, Tickets};
use recado_domain::ticket::TicketKey;

use crate::{Faults, ManualClock, lock};

/// [`Tickets`] in memory.
#[derive(Debug, Clone)]
pub struct MemoryTickets(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: ManualClock,
    faults: Faults,
    kept: Mutex<BTreeMap<TicketKey, (TicketHolder, Timestamp)>>,
}

impl MemoryTickets {
    /// None yet.
    pub fn new(clock: ManualClock) -> Self {
        Self(Arc::new(Inner { clock, faults: Faults::new(&["issue", "redeem"]), kept: Mutex::default() }))
    }

    /// Scripts what goes wrong, by the names of the port's methods.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }
}

impl Tickets for MemoryTickets {
    async fn issue(&self, key: &TicketKey, holder: &TicketHolder, until: Timestamp) -> Outcome<()> {
        self.0.faults.one("issue", || {
            lock(&self.0.kept).insert(*key, (holder.clone(), until));
            Ok(())
        })
    }

    async fn redeem(&self, key: &TicketKey) -> Outcome<Option<TicketHolder>> {
        self.0.faults.one("redeem", || {
            let taken = lock(&self.0.kept).remove(key);
            Ok(taken.filter(|(_, until)| *until > self.0.clock.now()).map(|(holder, _)| holder))
        })
    }
}
