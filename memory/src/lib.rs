//! Every port of Recado in memory: for unit tests of the rooms and for simulation.
//!
//! All of it is deterministic: no background tasks, time only from a [`ManualClock`], chance only from a
//! [`SeededEntropy`]. Each type is a cheap handle: a clone sees the same state. Each port has [`Faults`], by which
//! a test scripts what goes wrong. Nothing is durable and nothing is collected: an entry past its retention stays.
//!
//! Must not know: any room, any IO.

mod bus;
mod claims;
mod clock;
mod connections;
mod entropy;
mod faults;
mod inbox;
mod mailer;
mod queue;
mod sockets;
mod suppressions;
mod tickets;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

pub use bus::MemoryBus;
pub use claims::MemoryClaims;
pub use clock::ManualClock;
pub use connections::MemoryConnections;
pub use entropy::SeededEntropy;
pub use faults::Faults;
pub use inbox::MemoryInbox;
pub use mailer::MemoryMailer;
pub use queue::MemoryQueue;
pub use sockets::MemorySockets;
pub use suppressions::MemorySuppressions;
pub use tickets::MemoryTickets;

/// Locks even after a test's panic elsewhere: that panic is what the test should show.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `by` after `at`; the end of time stays.
fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
