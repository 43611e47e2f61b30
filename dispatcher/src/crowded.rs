//! Which connections said a moment ago that they take nothing for now, and how long to wait: so that a replay does not
//! read an inbox for a client that cannot be handed any of it yet.
//!
//! Known to this process alone, and only a saving: whoever is not in here is tried. Must not know: what is posted.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use recado_domain::failure::Failure;
use recado_domain::ids::ConnectionId;
use recado_domain::limits;
use recado_domain::ports::{Outcome, Posted};

/// Connections that are remembered; beyond, those whose time is over are forgotten.
const REMEMBERED: usize = 1_024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Crowded {
    until: Mutex<HashMap<ConnectionId, Timestamp>>,
}

impl Crowded {
    /// Remembers what a post to this connection was answered.
    pub(crate) fn note(&self, id: &ConnectionId, answer: &Outcome<Posted>, now: Timestamp) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Err(Failure::Transient { retry_after: Some(wait), .. }) => {
                if until.len() >= REMEMBERED {
                    until.retain(|_, until| *until > now);
                }
                until.insert(id.clone(), now + (*wait).min(limits::W));
            }
            _ => {
                until.remove(id);
            }
        }
    }

    /// Fails while a connection still asked to be left alone.
    pub(crate) fn check(&self, id: &ConnectionId, now: Timestamp) -> Outcome<()> {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied();
        let left = until.and_then(|until| std::time::Duration::try_from(until.duration_since(now)).ok()).filter(|left| !left.is_zero());
        match left {
            Some(left) => Err(Failure::Transient { retry_after: Some(left), reason: "the connection asked to wait".to_owned() }),
            None => Ok(()),
        }
    }
}
