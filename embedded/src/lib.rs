//! Every port of Recado on SQLite and an in-process WebSocket server.
//!
//! One folder holds everything; one writer thread commits what arrives together ([`store`]). What a port answered
//! `Ok` is on disk, so that neither `kill -9` nor a power cut takes it back.
//!
//! Knows SQLite, SMTP and sockets. Must not know: any room, any AWS SDK.

mod bus;
mod claims;
mod connections;
mod database;
mod dead_letters;
mod failure;
mod health;
mod inbox;
pub mod mailbox;
mod queue;
mod readers;
pub mod smtp;
pub mod sockets;
pub mod store;
mod suppressions;
#[cfg(test)]
mod tests;
mod tickets;
mod wal;
mod writer;

pub use bus::StoredBus;
pub use claims::StoredClaims;
pub use connections::StoredConnections;
pub use dead_letters::StoredDeadLetters;
pub use inbox::StoredInbox;
pub use mailbox::Mailbox;
pub use queue::{QueueName, StoredQueue};
pub use smtp::Smtp;
pub use store::{OpenError, Store};
pub use suppressions::StoredSuppressions;
pub use tickets::StoredTickets;
