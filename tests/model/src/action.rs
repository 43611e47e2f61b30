//! What can happen next: every step of every actor, and every fault.
//!
//! Must not know: what comes of it.

use crate::state::Message;

/// How a step of a dispatcher or handler ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// As it should.
    Well,
    /// It posts to this connection; the socket decides whether 200 or 410.
    To(u8),
    /// Its post to this connection answers 429, or nothing in time.
    Refused(u8),
    /// Its post to this connection arrives, and the answer does not.
    Unanswered(u8),
    /// Its read misses the newest writes; its delete, of a lease that has ended, deletes all the same.
    Stale,
    /// The store refuses for good (an append), or breaks off (a query).
    Fails,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Time passes.
    Tick,
    /// A week passes.
    Week,
    /// An event is published, and accepted.
    Publish(u8),
    /// The answer was lost: it is published again.
    PublishAgain(u8),
    /// An operator sends a dead letter back.
    Redrive(u8),
    /// A client asks for a connection.
    Connect(u8),
    /// `$connect` writes the row.
    Register {
        /// Which.
        slot: u8,
        /// Whether the write is sent twice, and the other one is still on its way.
        copy: bool,
    },
    /// `$connect` queues a replay.
    Promise(u8),
    /// The socket opens.
    Open(u8),
    /// `$connect` dies, or the client goes: the socket never opens.
    Refuse(u8),
    /// The client goes, or its network does; the gateway does not know yet.
    Drop(u8),
    /// The gateway finds out.
    Notice(u8),
    /// `$disconnect` runs.
    Disconnect(u8),
    /// The row of a live connection is lost.
    LoseRow(u8),
    /// The app sends `sync`; `at_will` where nothing asks for it.
    Sync {
        /// Whether it is counted.
        at_will: bool,
    },
    /// The app sends `ack`.
    Acknowledge,
    /// The app acknowledges what the inbox does not hold.
    WildAck(u8),
    /// The user reads all.
    ReadAll,
    /// A dispatcher receives a message.
    Receive {
        /// Who.
        worker: u8,
        /// What.
        message: Message,
    },
    /// A dispatcher takes its next step.
    Work {
        /// Who.
        worker: u8,
        /// How that ends.
        how: How,
    },
    /// A dispatcher dies, or loses an answer and gives up.
    Crash {
        /// Who.
        worker: u8,
        /// Whether the write it was about to make is on its way.
        late: bool,
    },
    /// A lease ends while its holder works.
    Expire(u8),
    /// A handler takes its next step.
    Handle {
        /// Which.
        handler: u8,
        /// How that ends.
        how: How,
    },
    /// A handler dies.
    CrashHandler {
        /// Which.
        handler: u8,
        /// Whether the write it was about to make is on its way.
        late: bool,
    },
    /// A late write lands.
    Land,
    /// Every process is killed.
    Kill,
}
