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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new(format!("{n}=")).unwrap()
    }

    fn asked_to_wait(seconds: u64) -> Outcome<Posted> {
        Err(Failure::Transient { retry_after: Some(Duration::from_secs(seconds)), reason: "429".to_owned() })
    }

    #[test]
    fn a_connection_is_left_alone_for_as_long_as_it_asked_and_no_longer_than_the_grace_period() {
        let (crowded, now) = (Crowded::default(), Timestamp::UNIX_EPOCH);
        crowded.note(&id(1), &asked_to_wait(10), now);
        crowded.note(&id(2), &asked_to_wait(3_600), now);
        let left = |n, seconds| crowded.check(&id(n), now + Duration::from_secs(seconds));
        assert!(matches!(left(1, 4), Err(Failure::Transient { retry_after: Some(left), .. }) if left == Duration::from_secs(6)));
        assert_eq!((left(1, 10), left(2, 60)), (Ok(()), Ok(())));
        assert!(left(2, 59).is_err());
        crowded.note(&id(1), &Ok(Posted::Delivered), now);
        assert_eq!(left(1, 0), Ok(()), "it took something since");
    }

    #[test]
    fn what_is_over_is_forgotten_once_there_is_much_to_remember() {
        let (crowded, now) = (Crowded::default(), Timestamp::UNIX_EPOCH);
        let remembered = || crowded.until.lock().unwrap().len();
        crowded.note(&id(0), &asked_to_wait(30), now);
        (1..REMEMBERED).for_each(|n| crowded.note(&id(n), &asked_to_wait(10), now));
        assert_eq!(remembered(), REMEMBERED);
        crowded.note(&id(REMEMBERED), &asked_to_wait(10), now + Duration::from_secs(10));
        assert_eq!(remembered(), 2, "the one that still waits, and the new one");
    }
}
