//! P1 to P3, and what R8 and tidiness ask for, as questions to a single state.
//!
//! What is promised "in the end" is asked of every state in which nothing is in motion. Must not know: how a state came
//! about.

use stateright::Property;

use crate::protocol::Protocol;
use crate::state::{NOTES, Set, Socket, State, Worker};

/// What must be so in every state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// P1: what was accepted is in a queue, in the inbox, or a dead letter.
    Kept,
    /// P1: what stands in the inbox has its content.
    Whole,
    /// P1: what was shown is in the inbox.
    ShownIsStored,
    /// P1: what nobody acknowledged is found by the next pending query.
    Pending,
    /// P1: what is acknowledged was shown by the app, or handed to an open socket of a plain client.
    Settled,
    /// P2: the app shows nothing twice.
    Once,
    /// P3: what the app did not show is found by its next resume.
    Resumable,
    /// P3: once nothing is in motion, a connected client has shown all that is in the inbox.
    NoQuietGap,
    /// R8: what `read_all` marked stays read, and nothing else is.
    ReadIsRead,
    /// R8: the count is the number of unread entries.
    Counted,
    /// No message is hidden without somebody who holds it.
    Held,
    /// Tidiness: a cursor never goes back.
    CursorAdvances,
    /// Tidiness: `pending_from` never goes back.
    MarkAdvances,
    /// Tidiness: the row of a plain client does not come back after its `$disconnect`.
    RowStaysAway,
    /// Thrift: a dispatcher posts to no socket that is still opening.
    NoWastedPost,
}

impl Promise {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Kept,
        Self::Whole,
        Self::ShownIsStored,
        Self::Pending,
        Self::Settled,
        Self::Once,
        Self::Resumable,
        Self::NoQuietGap,
        Self::ReadIsRead,
        Self::Counted,
        Self::Held,
        Self::CursorAdvances,
        Self::MarkAdvances,
        Self::RowStaysAway,
        Self::NoWastedPost,
    ];

    /// What it says.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "P1: what was accepted is in a queue, in the inbox, or a dead letter",
            Self::Whole => "P1: an entry has its content",
            Self::ShownIsStored => "P1: what was shown is in the inbox",
            Self::Pending => "P1: what nobody acknowledged is found by the next pending query",
            Self::Settled => "P1: what is acknowledged was shown, or handed to an open socket",
            Self::Once => "P2: a client that keeps state shows nothing twice",
            Self::Resumable => "P3: what a client did not show is found by its next resume",
            Self::NoQuietGap => "P3: once nothing is in motion, a connected client has shown all of the inbox",
            Self::ReadIsRead => "R8: what was marked read stays read, and nothing else is read",
            Self::Counted => "R8: the count is the number of unread entries",
            Self::Held => "no message is hidden without somebody who holds it",
            Self::CursorAdvances => "tidiness: a cursor never goes back",
            Self::MarkAdvances => "tidiness: `pending_from` never goes back",
            Self::RowStaysAway => "tidiness: a row does not come back after its $disconnect",
            Self::NoWastedPost => "thrift: no dispatcher posts to a socket that is still opening",
        }
    }

    /// Whether it is so.
    pub fn holds(self, m: &Protocol, s: &State) -> bool {
        match self {
            Self::Kept => s.published.iter().all(|note| s.carried(note) || s.dead.has(note) || s.entry(note).is_some()),
            Self::Whole => s.inbox.iter().flatten().all(|entry| entry.whole),
            Self::ShownIsStored => s.witness.app.and(s.witness.listener).less(s.stored()).is_empty(),
            Self::Pending => settled(s).less(Protocol::pending(s, false)).less(s.select(|entry| entry.acked)).is_empty(),
            Self::Settled => s.select(|entry| entry.acked).less(s.witness.app).less(s.witness.handed).is_empty(),
            Self::Once => s.witness.twice.is_empty(),
            Self::Resumable => resumable(m, s),
            Self::NoQuietGap => !s.is_quiet() || (app_is_up_to_date(m, s) && listener_is_up_to_date(s)),
            Self::ReadIsRead => read_is_read(s),
            Self::Counted => m.rules.unread_is_counted || !s.is_quiet() || s.counter as usize == unread(s),
            Self::Held => held(s),
            Self::CursorAdvances => !s.witness.cursor_back,
            Self::MarkAdvances => !s.witness.mark_back,
            Self::RowStaysAway => !s.witness.row_back,
            Self::NoWastedPost => !s.witness.wasted_post,
        }
    }
}

/// What is stored and in no message any more.
fn settled(s: &State) -> Set {
    s.stored().iter().filter(|note| !s.carried(*note)).fold(Set::NONE, Set::with)
}

fn resumable(m: &Protocol, s: &State) -> bool {
    let Some(cursor) = s.app.cursor else { return true };
    let after = if m.rules.resume_overlaps { cursor.back(m.bounds.w) } else { cursor };
    settled(s).less(s.witness.app).less(Protocol::since(s, after, false)).is_empty()
}

fn app_is_up_to_date(m: &Protocol, s: &State) -> bool {
    let Some(slot) = m.speaks_on(s).filter(|_| s.app.synced) else { return true };
    // A lost row is repaired by the next `sync`: at most nine minutes.
    let repaired_soon = s.witness.row_lost && m.rules.sync_is_repeated;
    repaired_soon || (s.stored().less(s.witness.app).is_empty() && s.witness.owed[slot as usize].is_empty())
}

fn listener_is_up_to_date(s: &State) -> bool {
    let Some(slot) = s.listener.filter(|slot| s.sockets[*slot as usize] == Socket::Open) else { return true };
    // What a client acknowledged before is pending for nobody, and a plain client has no way to ask for it.
    let settled = s.select(|entry| entry.acked);
    s.stored().less(s.witness.listener).less(settled).is_empty() && s.witness.owed[slot as usize].is_empty()
}

fn read_is_read(s: &State) -> bool {
    (0..NOTES as u8).all(|note| {
        let (read, meant) = (s.is_read(note), s.witness.read.has(note));
        (read || !meant) && (!read || meant || s.witness.too_late.has(note))
    })
}

fn unread(s: &State) -> usize {
    s.stored().iter().filter(|note| !s.is_read(*note)).count()
}

fn held(s: &State) -> bool {
    let holds = |worker: &Worker| matches!(worker, Worker::Event { held: true, .. } | Worker::Replay { held: true, .. });
    let hidden: u8 = s.queue.iter().map(|pile| pile.hidden).sum();
    hidden as usize == s.workers.iter().filter(|worker| holds(worker)).count()
}

/// A property for each promise: the search wants a function without surroundings.
macro_rules! property {
    ($($promise:ident),+) => {
        vec![$(Property::<Protocol>::always(Promise::$promise.name(), |m, s| Promise::$promise.holds(m, s)),)+]
    };
}

pub(crate) fn properties() -> Vec<Property<Protocol>> {
    property![
        Kept,
        Whole,
        ShownIsStored,
        Pending,
        Settled,
        Once,
        Resumable,
        NoQuietGap,
        ReadIsRead,
        Counted,
        Held,
        CursorAdvances,
        MarkAdvances,
        RowStaysAway,
        NoWastedPost
    ]
}
