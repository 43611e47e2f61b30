//! Who is connected, in memory.
//!
//! Must not know: the sockets themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use recado_domain::connection::{Connection, Phase};
use recado_domain::ids::{ConnectionId, RecipientKey};
use recado_domain::limits;
use recado_domain::ports::{Clock, Connections, Outcome, Registered};

use crate::{Faults, ManualClock, lock};

/// [`Connections`] in memory. The reverse item of a replaced row stays until its `$disconnect`: its socket is
/// still there and somebody must say whose it is. That of a stale row goes with it.
#[derive(Debug, Clone)]
pub struct MemoryConnections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: ManualClock,
    faults: Faults,
    state: Mutex<State>,
}

type Rows = BTreeMap<ConnectionId, Connection>;

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<RecipientKey, Rows>,
    owners: BTreeMap<ConnectionId, (RecipientKey, Connection)>,
}

impl State {
    fn write(&mut self, recipient: &RecipientKey, connection: &Connection) {
        self.owners.insert(connection.id.clone(), (recipient.clone(), connection.clone()));
        self.rows.entry(recipient.clone()).or_default().insert(connection.id.clone(), connection.clone());
    }

    fn remove(&mut self, recipient: &RecipientKey, id: &ConnectionId) {
        if let Some(rows) = self.rows.get_mut(recipient) {
            rows.remove(id);
        }
        if self.owners.get(id).is_some_and(|(owner, _)| owner == recipient) {
            self.owners.remove(id);
        }
    }

    fn row(&self, recipient: &RecipientKey, id: &ConnectionId) -> Option<&Connection> {
        self.rows.get(recipient)?.get(id)
    }

    fn register(&mut self, recipient: &RecipientKey, connection: &Connection, now: Timestamp) -> Registered {
        if self.row(recipient, &connection.id).is_none_or(|row| row.phase != Phase::Live) {
            self.write(recipient, connection);
        }
        let others = self.rows.get(recipient).into_iter().flat_map(BTreeMap::values).filter(|row| row.id != connection.id);
        let (stale, mut others): (Vec<_>, Vec<_>) = others.cloned().partition(|row| row.is_stale(now));
        for row in stale {
            self.remove(recipient, &row.id);
        }
        others.sort_by_key(|row| row.registered_at);
        // The new one counts too.
        others.truncate((others.len() + 1).saturating_sub(limits::CONNECTIONS_PER_USER));
        if let Some(rows) = self.rows.get_mut(recipient) {
            rows.retain(|id, _| others.iter().all(|replaced| replaced.id != *id));
        }
        Registered { replaced: others }
    }

    fn mark_live(&mut self, recipient: &RecipientKey, connection: &Connection, create: bool) -> bool {
        let row = self.rows.get_mut(recipient).and_then(|rows| rows.get_mut(&connection.id));
        match row {
            Some(row) => *row = connection.live(),
            None if create => self.write(recipient, &connection.live()),
            None => return false,
        }
        true
    }
}

impl MemoryConnections {
    /// Nobody is connected.
    pub fn new(clock: ManualClock) -> Self {
        let operations = ["register", "of_users", "owner", "mark_live", "remove", "remove_unchanged"];
        Self(Arc::new(Inner { clock, faults: Faults::new(&operations), state: Mutex::default() }))
    }

    /// Scripts what goes wrong, by the names of the port's methods.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// Removes a row and leaves its reverse item: what a `remove` leaves that ends in between.
    pub fn remove_halfway(&self, recipient: &RecipientKey, id: &ConnectionId) {
        if let Some(rows) = lock(&self.0.state).rows.get_mut(recipient) {
            rows.remove(id);
        }
    }

    /// The rows of one user, by id.
    pub fn rows(&self, recipient: &RecipientKey) -> Vec<Connection> {
        lock(&self.0.state).rows.get(recipient).map_or_else(Vec::new, |rows| rows.values().cloned().collect())
    }
}

impl Connections for MemoryConnections {
    async fn register(&self, recipient: &RecipientKey, connection: &Connection) -> Outcome<Registered> {
        let now = self.0.clock.now();
        self.0.faults.one("register", || Ok(lock(&self.0.state).register(recipient, connection, now)))
    }

    async fn of_users(&self, recipients: &[RecipientKey]) -> Vec<Outcome<Vec<Connection>>> {
        self.0.faults.each("of_users", recipients.len(), |at| Ok(self.rows(&recipients[at])))
    }

    async fn owner(&self, id: &ConnectionId) -> Outcome<Option<(RecipientKey, Connection)>> {
        self.0.faults.one("owner", || Ok(lock(&self.0.state).owners.get(id).cloned()))
    }

    async fn mark_live(&self, recipient: &RecipientKey, connection: &Connection, create: bool) -> Outcome<bool> {
        self.0.faults.one("mark_live", || Ok(lock(&self.0.state).mark_live(recipient, connection, create)))
    }

    async fn remove(&self, recipient: &RecipientKey, id: &ConnectionId) -> Outcome<()> {
        self.0.faults.one("remove", || {
            lock(&self.0.state).remove(recipient, id);
            Ok(())
        })
    }

    async fn remove_unchanged(&self, recipient: &RecipientKey, seen: &Connection) -> Outcome<bool> {
        self.0.faults.one("remove_unchanged", || {
            let mut state = lock(&self.0.state);
            let unchanged = state.row(recipient, &seen.id) == Some(seen);
            if unchanged {
                state.remove(recipient, &seen.id);
            }
            Ok(unchanged)
        })
    }
}
