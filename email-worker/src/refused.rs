//! Remembers which mails were refused for good while others of the same event have to wait, so that nobody is asked for them again
//! with every try of the message: a mailbox that does not exist, asked two dozen times, costs a sender its name.
//!
//! In the process alone: one that starts anew asks once more. Must not know: why a mail was refused.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use recado_domain::ids::DeliveryKey;

/// How many are remembered, the last ones: about 300 bytes each.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).expect("it is not zero");

/// The mails that were refused last, with the reason.
pub(crate) struct Refused(Mutex<LruCache<DeliveryKey, String>>);

impl Refused {
    pub(crate) fn new() -> Self {
        // Grows with what is remembered.
        let mut refused = LruCache::unbounded();
        refused.resize(REMEMBERED);
        Self(Mutex::new(refused))
    }

    pub(crate) fn remember(&self, delivery: &DeliveryKey, reason: &str) {
        self.lock().put(delivery.clone(), reason.to_owned());
    }

    pub(crate) fn reason(&self, delivery: &DeliveryKey) -> Option<String> {
        self.lock().get(delivery).cloned()
    }

    pub(crate) fn forget(&self, delivery: &DeliveryKey) {
        self.lock().pop(delivery);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<DeliveryKey, String>> {
        // No panic leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
