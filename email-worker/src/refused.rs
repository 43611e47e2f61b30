//! Remembers which mails of a message were refused for good while others of it have to wait, so that nobody is asked for them again
//! with every try: a mailbox that does not exist, asked two dozen times, costs a sender its name.
//!
//! Of a message, not of an event: whoever sends a dead letter back, which is another message then, has seen to what was wrong. In the
//! process alone: one that starts anew asks once more. Must not know: why a mail was refused.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use recado_domain::ids::DeliveryKey;

/// How many are remembered, the last ones: about 300 bytes each.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(10_000).expect("it is not zero");

/// A message's id, and what of it was refused.
type Key = (String, DeliveryKey);

/// The mails that were refused last, with the reason.
pub(crate) struct Refused(Mutex<LruCache<Key, String>>);

impl Refused {
    pub(crate) fn new() -> Self {
        // Grows with what is remembered.
        let mut refused = LruCache::unbounded();
        refused.resize(REMEMBERED);
        Self(Mutex::new(refused))
    }

    pub(crate) fn remember(&self, message: &str, delivery: &DeliveryKey, reason: &str) {
        self.lock().put((message.to_owned(), delivery.clone()), reason.to_owned());
    }

    pub(crate) fn reason(&self, message: &str, delivery: &DeliveryKey) -> Option<String> {
        self.lock().get(&(message.to_owned(), delivery.clone())).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Key, String>> {
        // No panic leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
