//! The inbox and the connections: what a write does when it lands, and what a read finds.
//!
//! Must not know: who writes or reads, and why.

use crate::protocol::Protocol;
use crate::state::{Entry, Kind, Phase, Position, Posts, Query, Row, Set, Socket, State, Tick, Write};

/// What a write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Landed {
    /// An entry stands there now; `inserted` where this write made it.
    Stands { position: Position, inserted: bool },
    /// Whether the row is there, or the condition held.
    Done(bool),
}

impl Protocol {
    /// Carries out a write.
    pub(crate) fn land(&self, s: &mut State, write: Write) -> Landed {
        match write {
            Write::Insert { note, at } => self.insert(s, note, at),
            Write::Stamp { note, from, to } => self.stamp(s, note, from, to),
            Write::Register { slot, at } => self.write_row(s, slot, at),
            Write::Live { slot, create } => self.mark_live(s, slot, create),
            Write::Remove { slot, seen } => self.remove_row(s, slot, seen),
            Write::Advance { from, to } => self.advance(s, from, to),
        }
    }

    fn insert(&self, s: &mut State, note: u8, at: Position) -> Landed {
        if let Some(entry) = s.entry(note) {
            return Landed::Stands { position: entry.position, inserted: false };
        }
        s.inbox[note as usize] = Some(Entry { position: at, acked: false, long_ago: false, read: false, whole: true });
        if s.now.saturating_sub(at.at()) + self.bounds.spread() > self.bounds.w {
            s.witness.too_late = s.witness.too_late.with(note);
        }
        if !self.rules.reads_are_consistent {
            s.unseen_notes = s.unseen_notes.with(note);
        }
        Landed::Stands { position: at, inserted: true }
    }

    fn stamp(&self, s: &mut State, note: u8, from: Position, to: Position) -> Landed {
        let read_up_to = s.read_up_to;
        let Some(entry) = &mut s.inbox[note as usize] else { return Landed::Done(false) };
        if entry.position == from || !self.rules.stamp_is_conditional {
            entry.read |= self.rules.stamp_keeps_read && entry.position <= read_up_to;
            entry.position = to;
        }
        Landed::Stands { position: entry.position, inserted: false }
    }

    fn write_row(&self, s: &mut State, slot: u8, at: Tick) -> Landed {
        let live = s.rows[slot as usize].is_some_and(|row| row.phase == Phase::Live);
        if !(live && self.rules.live_stays_live) {
            let phase = if self.rules.connecting_first { Phase::Connecting } else { Phase::Live };
            s.rows[slot as usize] = Some(Row { phase, at });
        }
        s.owners = s.owners.with(slot);
        self.row_changed(s, slot);
        Landed::Done(true)
    }

    fn mark_live(&self, s: &mut State, slot: u8, create: bool) -> Landed {
        let there = s.rows[slot as usize].is_some();
        if there || create {
            s.rows[slot as usize] = Some(Row { phase: Phase::Live, at: 0 });
            s.owners = s.owners.with(slot);
            self.row_changed(s, slot);
        }
        if !there && create && self.kind(slot) == Kind::Listener && s.sockets[slot as usize] == (Socket::Closed { told: true }) {
            s.witness.row_back = true;
        }
        Landed::Done(there || create)
    }

    fn row_changed(&self, s: &mut State, slot: u8) {
        if !self.rules.reads_are_consistent {
            s.unseen_rows = s.unseen_rows.with(slot);
        }
    }

    fn remove_row(&self, s: &mut State, slot: u8, seen: Phase) -> Landed {
        let row = s.rows[slot as usize];
        let fits = row.is_some_and(|row| row.phase == seen || !self.rules.unchanged_is_removed);
        if fits {
            s.rows[slot as usize] = None;
            s.owners = s.owners.without(slot);
        }
        Landed::Done(fits)
    }

    fn advance(&self, s: &mut State, from: Position, to: Position) -> Landed {
        let fits = s.pending_from == from || !self.rules.mark_is_conditional;
        if fits {
            s.witness.mark_back |= to < s.pending_from;
            s.pending_from = to;
        }
        Landed::Done(fits)
    }

    /// Confirms entries by id.
    pub(crate) fn acknowledge(&self, s: &mut State, notes: Set) {
        for note in notes.iter() {
            match &mut s.inbox[note as usize] {
                Some(entry) => entry.acked = true,
                None if self.rules.updates_create_nothing => {}
                // A half entry, that stands in the way of the whole one.
                None => {
                    let position = Position::stamp(self.handler_clock(s), note);
                    s.inbox[note as usize] = Some(Entry { position, acked: true, long_ago: false, read: false, whole: false });
                }
            }
        }
    }

    /// Marks as read what is at or below `up_to` (R8).
    pub(crate) fn read_all(&self, s: &mut State, up_to: Position) {
        let behind = Position::floor(self.handler_clock(s).saturating_sub(self.bounds.w));
        let limit = if self.rules.read_mark_stays_behind { up_to.min(behind) } else { up_to };
        s.witness.read = s.witness.read.and(s.select(|entry| entry.position <= up_to));
        if self.rules.recent_are_marked_by_id {
            for entry in s.inbox.iter_mut().flatten().filter(|entry| entry.position > limit && entry.position <= up_to) {
                entry.read = true;
            }
        }
        s.read_up_to = s.read_up_to.max(limit);
        s.counter = 0;
    }

    /// What an inconsistent read may miss, where `stale`.
    fn missed_by(s: &State, stale: bool) -> Set {
        if stale { s.unseen_notes } else { Set::NONE }
    }

    /// What is not acknowledged, at or above `pending_from`.
    pub(crate) fn pending(s: &State, stale: bool) -> Set {
        s.select(|entry| !entry.acked && entry.position >= s.pending_from).less(Self::missed_by(s, stale))
    }

    /// What stands above `after`.
    pub(crate) fn since(s: &State, after: Position, stale: bool) -> Set {
        s.select(|entry| entry.position > after).less(Self::missed_by(s, stale))
    }

    /// The connections to post to.
    pub(crate) fn connections(&self, s: &State, stale: bool) -> Posts {
        let mut posts = Posts::default();
        let unseen = if stale { s.unseen_rows } else { Set::NONE };
        for (slot, row) in (0..).zip(s.rows).filter(|(slot, _)| !unseen.has(*slot)) {
            match row.map(|row| row.phase) {
                Some(Phase::Live) => posts.left = posts.left.with(slot),
                Some(Phase::Connecting) if !self.rules.connecting_is_skipped => {
                    posts.left = posts.left.with(slot);
                    posts.opening = posts.opening.with(slot);
                }
                Some(Phase::Connecting) | None => {}
            }
        }
        posts
    }

    /// Where `pending_from` may rise to after a query that ran to its end (R7).
    pub fn pending_after(&self, query: Query) -> Option<Position> {
        let behind = if self.rules.mark_stays_behind_the_query { self.bounds.w } else { 0 };
        let start = Position::floor(query.began.saturating_sub(behind));
        let lowest = query.lowest.filter(|_| self.rules.mark_stops_at_the_lowest);
        let to = lowest.map_or(start, |lowest| lowest.min(start));
        (to > query.from).then_some(to)
    }
}
