//! To whom nothing more is sent, in memory.
//!
//! Must not know: why; a cause is a word here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use recado_domain::address::AddressKey;
use recado_domain::ports::{Clock, Outcome, Suppression, SuppressionCause, Suppressions};

use crate::{Faults, ManualClock, lock};

/// [`Suppressions`] in memory.
#[derive(Debug, Clone)]
pub struct MemorySuppressions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: ManualClock,
    faults: Faults,
    kept: Mutex<BTreeMap<AddressKey, Suppression>>,
}

impl MemorySuppressions {
    /// Nobody is suppressed.
    pub fn new(clock: ManualClock) -> Self {
        Self(Arc::new(Inner { clock, faults: Faults::new(&["suppressed", "suppress", "lift"]), kept: Mutex::default() }))
    }

    /// Scripts what goes wrong, by the names of the port's methods.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// Who is suppressed, and why.
    pub fn all(&self) -> BTreeMap<AddressKey, Suppression> {
        lock(&self.0.kept).clone()
    }
}

impl Suppressions for MemorySuppressions {
    async fn suppressed(&self, addresses: &[AddressKey]) -> Vec<Outcome<Option<Suppression>>> {
        self.0.faults.each("suppressed", addresses.len(), |at| Ok(lock(&self.0.kept).get(&addresses[at]).copied()))
    }

    async fn suppress(&self, addresses: &[(AddressKey, SuppressionCause)]) -> Vec<Outcome<()>> {
        self.0.faults.each("suppress", addresses.len(), |at| {
            let (address, cause) = addresses[at];
            lock(&self.0.kept).entry(address).or_insert_with(|| Suppression { cause, since: self.0.clock.now() });
            Ok(())
        })
    }

    async fn lift(&self, addresses: &[AddressKey]) -> Vec<Outcome<bool>> {
        self.0.faults.each("lift", addresses.len(), |at| Ok(lock(&self.0.kept).remove(&addresses[at]).is_some()))
    }
}
