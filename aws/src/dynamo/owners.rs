//! Remembers whose a connection is, so that a process that answers its frames asks the table once.
//!
//! What it remembers does not change: who a connection is was settled at connect, and API Gateway gives no id twice, which
//! a push relies on as well. Only that the connection has been forgotten meanwhile, by another process, is not seen here.
//! Then a frame of a socket that is open all the same is carried out for who opened it, and its `sync` brings the row back
//! (R4); for one that has gone the answer meets a 410. Must not know: the table.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use recado_domain::connection::Connection;
use recado_domain::ids::{ConnectionId, RecipientKey};

/// How many connections are remembered, those that spoke last: about 300 bytes each.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).expect("it is not zero");

/// Whose a connection is, with the row as it was registered.
type Owner = (RecipientKey, Connection);

/// The connections that spoke last.
pub(super) struct Owners(Mutex<LruCache<ConnectionId, Owner>>);

impl Owners {
    pub(super) fn new() -> Self {
        Self::of(REMEMBERED)
    }

    fn of(remembered: NonZeroUsize) -> Self {
        // Grows with what is remembered: a function that starts for one frame reserves nothing.
        let mut owners = LruCache::unbounded();
        owners.resize(remembered);
        Self(Mutex::new(owners))
    }

    pub(super) fn get(&self, id: &ConnectionId) -> Option<Owner> {
        self.lock().get(id).cloned()
    }

    pub(super) fn remember(&self, owner: &Owner) {
        self.lock().put(owner.1.id.clone(), owner.clone());
    }

    pub(super) fn forget(&self, id: &ConnectionId) {
        self.lock().pop(id);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<ConnectionId, Owner>> {
        // No panic leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use recado_domain::connection::{Phase, Protocol};
    use recado_domain::ids::{TenantId, UserId};

    use super::*;

    fn owner(user: &str) -> Owner {
        let id = ConnectionId::new(format!("{user}=")).unwrap();
        let (registered_at, token_expires_at) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let row = Connection { id, phase: Phase::Connecting, registered_at, token_expires_at, protocol: Protocol::Recado, device: None };
        (RecipientKey::new(TenantId::default(), UserId::new(user).unwrap()), row)
    }

    #[test]
    fn who_spoke_last_is_remembered_until_forgotten() {
        let owners = Owners::of(NonZeroUsize::new(2).unwrap());
        let (alice, bob, carol) = (owner("alice"), owner("bob"), owner("carol"));
        owners.remember(&alice);
        owners.remember(&bob);
        assert_eq!(owners.get(&alice.1.id), Some(alice.clone()));
        owners.remember(&carol);
        assert_eq!(owners.get(&bob.1.id), None, "the one that was silent longest");
        assert_eq!(owners.get(&alice.1.id), Some(alice.clone()));
        owners.forget(&alice.1.id);
        assert_eq!(owners.get(&alice.1.id), None);
        assert_eq!(owners.get(&carol.1.id), Some(carol));
    }
}
