//! Who sends which mail, in memory.
//!
//! Must not know: what the mail says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use recado_domain::ids::DeliveryKey;
use recado_domain::ports::{Claim, Clock, MailClaims, Outcome};

use crate::{Faults, ManualClock, later, lock};

/// [`MailClaims`] in memory.
#[derive(Debug, Clone)]
pub struct MemoryClaims(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: ManualClock,
    faults: Faults,
    held: Mutex<BTreeMap<DeliveryKey, Held>>,
}

#[derive(Debug)]
enum Held {
    Sent,
    By { holder: String, until: Timestamp },
}

impl MemoryClaims {
    /// Nothing is claimed.
    pub fn new(clock: ManualClock) -> Self {
        Self(Arc::new(Inner { clock, faults: Faults::new(&["claim", "confirm", "abandon"]), held: Mutex::default() }))
    }

    /// Scripts what goes wrong, by the names of the port's methods.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// Whether it is recorded as sent.
    pub fn is_sent(&self, key: &DeliveryKey) -> bool {
        matches!(lock(&self.0.held).get(key), Some(Held::Sent))
    }

    fn take(&self, key: &DeliveryKey, holder: &str, lease: Duration) -> Claim {
        let now = self.0.clock.now();
        let mut held = lock(&self.0.held);
        match held.get(key) {
            Some(Held::Sent) => Claim::Sent,
            Some(Held::By { holder: other, until }) if other != holder && *until > now => Claim::HeldUntil(*until),
            _ => {
                held.insert(key.clone(), Held::By { holder: holder.to_owned(), until: later(now, lease) });
                Claim::Taken
            }
        }
    }
}

impl MailClaims for MemoryClaims {
    async fn claim(&self, key: &DeliveryKey, holder: &str, lease: Duration) -> Outcome<Claim> {
        self.0.faults.one("claim", || Ok(self.take(key, holder, lease)))
    }

    async fn confirm(&self, key: &DeliveryKey) -> Outcome<()> {
        self.0.faults.one("confirm", || {
            lock(&self.0.held).insert(key.clone(), Held::Sent);
            Ok(())
        })
    }

    async fn abandon(&self, key: &DeliveryKey, holder: &str) -> Outcome<()> {
        self.0.faults.one("abandon", || {
            let mut held = lock(&self.0.held);
            if matches!(held.get(key), Some(Held::By { holder: by, .. }) if by == holder) {
                held.remove(key);
            }
            Ok(())
        })
    }
}
