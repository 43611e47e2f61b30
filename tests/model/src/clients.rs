//! Both clients, their sockets, and `$connect` and `$disconnect`.
//!
//! Must not know: how a notification comes to be posted.

use crate::action::How;
use crate::dispatcher::Posted;
use crate::protocol::Protocol;
use crate::state::{Kind, Message, Position, SLOTS, Set, Socket, State, Sync, Worker, Write};

impl Protocol {
    /// Whose connection this is.
    pub(crate) fn kind(&self, slot: u8) -> Kind {
        self.bounds.slots[slot as usize].unwrap_or(Kind::App)
    }

    /// Whether a post to this socket would be taken.
    pub(crate) fn takes_posts(&self, s: &State, slot: u8) -> bool {
        matches!(s.sockets[slot as usize], Socket::Open | Socket::Dead)
    }

    /// The connection that a client of this kind would make next, where it has none.
    pub(crate) fn next_connection(&self, s: &State, kind: Kind) -> Option<u8> {
        let at = match kind {
            Kind::App => s.app.at,
            Kind::Listener => s.listener,
        };
        let fits = |slot: &u8| self.bounds.slots[*slot as usize] == Some(kind) && s.sockets[*slot as usize] == Socket::Unused;
        if at.is_some() { None } else { (0..SLOTS as u8).find(fits) }
    }

    pub(crate) fn connect(&self, s: &mut State, slot: u8) {
        s.sockets[slot as usize] = Socket::Asked(s.now);
        match self.kind(slot) {
            Kind::App => s.app.at = Some(slot),
            Kind::Listener => s.listener = Some(slot),
        }
        if self.bounds.quick_sockets {
            self.register(s, slot, false);
            if matches!(s.sockets[slot as usize], Socket::Registered(_)) {
                self.promise(s, slot);
            }
            s.sockets[slot as usize] = Socket::Open;
        }
    }

    /// The client goes, or its network does.
    pub(crate) fn drop_client(&self, s: &mut State, slot: u8) {
        s.budget.drops -= 1;
        s.sockets[slot as usize] = if self.bounds.quick_sockets { Socket::Closed { told: true } } else { Socket::Dead };
        self.leave(s, slot);
    }

    /// `$connect` writes the row. A `copy` of the write stays on its way: the store's client sent it twice.
    pub(crate) fn register(&self, s: &mut State, slot: u8, copy: bool) {
        let Some(since) = s.sockets[slot as usize].opening_since() else { return };
        let write = Write::Register { slot, at: self.handler_clock(s) };
        self.land(s, write);
        if copy {
            s.budget.late_writes -= 1;
            s.late = Some(write);
        }
        let promise = self.kind(slot) == Kind::Listener && self.rules.plain_is_promised_a_replay;
        s.sockets[slot as usize] = if promise { Socket::Registered(since) } else { Socket::Admitted(since) };
    }

    /// `$connect` queues a replay for a plain client.
    pub(crate) fn promise(&self, s: &mut State, slot: u8) {
        let Some(since) = s.sockets[slot as usize].opening_since() else { return };
        self.send_replay(s, slot, Set::NONE);
        s.sockets[slot as usize] = Socket::Admitted(since);
    }

    /// The client has gone, or never came in.
    pub(crate) fn leave(&self, s: &mut State, slot: u8) {
        if s.app.at == Some(slot) {
            s.app.at = None;
            (s.app.waits, s.app.synced) = (false, false);
            s.witness.row_lost = false;
        }
        if s.listener == Some(slot) {
            s.listener = None;
        }
        s.witness.owed[slot as usize] = Set::NONE;
    }

    /// `$disconnect` removes the row, whatever it holds.
    pub(crate) fn disconnect(&self, s: &mut State, slot: u8) {
        s.rows[slot as usize] = None;
        s.owners = s.owners.without(slot);
        s.sockets[slot as usize] = Socket::Closed { told: true };
    }

    /// Posts a frame with these items.
    pub(crate) fn post(&self, s: &mut State, slot: u8, items: Set, how: How) -> Posted {
        if !self.takes_posts(s, slot) {
            return Posted::Gone;
        }
        let unanswered = matches!(how, How::Unanswered(_));
        let refused = matches!(how, How::Refused(_));
        s.budget.refusals -= u8::from(refused || unanswered);
        if refused {
            return Posted::Refused;
        }
        if self.kind(slot) == Kind::Listener {
            s.witness.handed = s.witness.handed.and(items);
        }
        if s.sockets[slot as usize] == Socket::Open {
            s.witness.owed[slot as usize] = s.witness.owed[slot as usize].less(items);
            items.iter().for_each(|note| self.arrive(s, slot, note));
        }
        if unanswered { Posted::Refused } else { Posted::Delivered }
    }

    /// Notes what a connection refused that was pushed to it. What a dead socket did not take is owed to nobody, and what its
    /// client has is not owed.
    pub(crate) fn owe(&self, s: &mut State, slot: u8, note: u8) {
        let has = if self.kind(slot) == Kind::Listener { s.witness.listener } else { s.witness.app };
        if s.sockets[slot as usize] == Socket::Open && !has.has(note) {
            s.witness.owed[slot as usize] = s.witness.owed[slot as usize].with(note);
        }
    }

    /// A client gets an item.
    fn arrive(&self, s: &mut State, slot: u8, note: u8) {
        if self.kind(slot) == Kind::Listener {
            s.witness.listener = s.witness.listener.with(note);
            return;
        }
        let position = s.entry(note).map(|entry| entry.position);
        if self.bounds.budget.read_alls > 0 {
            s.app.top = s.app.top.max(position.unwrap_or_default());
        }
        if !self.rules.push_moves_no_cursor {
            s.app.cursor = s.app.cursor.max(position);
        }
        if s.app.known.has(note) && self.rules.client_remembers {
            return;
        }
        if s.witness.app.has(note) {
            s.witness.twice = s.witness.twice.with(note);
        }
        s.witness.app = s.witness.app.with(note);
        s.app.known = s.app.known.with(note);
    }

    /// What the app showed and the inbox does not know of.
    pub(crate) fn unconfirmed(s: &State) -> Set {
        Set(s.app.known.0 & s.select(|entry| !entry.acked).0)
    }

    /// The connection on which the app can speak.
    pub(crate) fn speaks_on(&self, s: &State) -> Option<u8> {
        s.app.at.filter(|slot| s.sockets[*slot as usize] == Socket::Open)
    }

    /// Whether the app sends `sync` now, and whether that is at will.
    pub(crate) fn may_sync(&self, s: &State) -> Option<bool> {
        let slot = self.speaks_on(s)?;
        s.handlers[..self.bounds.handlers as usize].iter().position(Option::is_none)?;
        let answered = s.handlers.iter().flatten().all(|sync| sync.slot != slot);
        let due = if s.app.waits { answered } else { !s.app.synced };
        let at_will = s.budget.syncs > 0 && (self.rules.sync_is_repeated || !s.app.synced);
        if due { Some(false) } else { at_will.then_some(true) }
    }

    pub(crate) fn send_sync(&self, s: &mut State, at_will: bool) {
        let (Some(slot), Some(free)) = (s.app.at, s.handlers.iter().position(Option::is_none)) else { return };
        s.budget.syncs -= u8::from(at_will);
        if !s.owners.has(slot) {
            // Nobody knows whose this socket is: it is closed, and the client connects again.
            s.sockets[slot as usize] = Socket::Closed { told: false };
            return self.leave(s, slot);
        }
        let acks = Self::unconfirmed(s);
        s.handlers[free] = Some(Sync { slot, since: s.app.cursor, acks, step: self.first_of_sync(acks) });
        s.app.waits = true;
    }

    /// Every process is killed. What is stored stays.
    pub(crate) fn kill(&self, s: &mut State) {
        for worker in 0..self.bounds.workers {
            self.drop_work(s, worker);
        }
        s.handlers = Default::default();
        for slot in 0..SLOTS as u8 {
            if s.sockets[slot as usize] != Socket::Unused {
                s.sockets[slot as usize] = Socket::Closed { told: true };
                self.leave(s, slot);
            }
        }
    }

    /// A week passes over a quiet world in which everything shown was confirmed: connections end, rows are pruned, and
    /// clients forget.
    pub(crate) fn week(&self, s: &mut State) {
        s.now += self.bounds.w + 1;
        for entry in s.inbox.iter_mut().flatten() {
            entry.long_ago = entry.acked;
        }
        for slot in 0..SLOTS as u8 {
            if s.sockets[slot as usize] != Socket::Unused {
                self.disconnect(s, slot);
                self.leave(s, slot);
            }
        }
        // Without a cursor the next answer may bring anything again.
        let brought = s.select(|entry| s.app.cursor.is_none_or(|cursor| entry.position > cursor.back(self.bounds.w)));
        let kept = if self.rules.client_remembers_the_overlap { brought } else { Set::NONE };
        s.app.known = Set(s.app.known.0 & kept.0);
    }

    /// Whether a week may pass.
    pub(crate) fn may_rest(&self, s: &State) -> bool {
        s.workers.iter().all(|worker| *worker == Worker::Idle)
            && s.handlers.iter().all(Option::is_none)
            && s.sockets.iter().all(|socket| socket.opening_since().is_none())
            && s.late.is_none()
            && Self::unconfirmed(s).is_empty()
    }

    /// Sends a replay command for a connection, that names what it missed.
    pub(crate) fn send_replay(&self, s: &mut State, slot: u8, missed: Set) {
        s.queue[Message::Replay(slot).place()].visible += 1;
        if self.rules.replay_brings_the_missed {
            s.missed[slot as usize] = s.missed[slot as usize].and(missed);
        }
    }

    /// The highest position that the app showed.
    pub(crate) fn may_read_all(&self, s: &State) -> Option<Position> {
        self.speaks_on(s).map(|_| s.app.top).filter(|top| *top > Position::MIN)
    }
}
