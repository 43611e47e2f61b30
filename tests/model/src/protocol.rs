//! The model: which actions are possible in a state, and which state follows.
//!
//! Must not know: what is promised.

use stateright::{Model, Property};

use crate::action::{Action, How};
use crate::bounds::Bounds;
use crate::dispatcher::write_of;
use crate::promises;
use crate::rules::Rules;
use crate::sights;
use crate::state::{EventStep, Kind, Message, NOTES, Phase, ReplayStep, SLOTS, Set, Socket, State, Sync, SyncStep, Tick, Worker, Write};

/// The protocol of DESIGN within bounds, with some of its rules perhaps switched off.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    /// How large the world is.
    pub bounds: Bounds,
    /// Which rules are kept.
    pub rules: Rules,
}

impl Protocol {
    pub(crate) fn dispatcher_clock(&self, s: &State, worker: u8) -> Tick {
        let mut ahead = self.bounds.dispatcher_ahead[worker as usize];
        if !self.rules.clocks_agree && worker == 0 {
            ahead = -(self.bounds.w as i8);
        }
        s.now.saturating_add_signed(ahead)
    }

    pub(crate) fn handler_clock(&self, s: &State) -> Tick {
        s.now.saturating_add_signed(self.bounds.handler_ahead)
    }

    /// Deletes a message. A lease that has ended deletes nothing, or (SQS may do that) the message all the same.
    pub(crate) fn delete(&self, s: &mut State, worker: u8, message: Message, held: bool, how: How) {
        let pile = &mut s.queue[message.place()];
        if held {
            pile.hidden -= 1;
        } else if how == How::Stale && pile.visible > 0 {
            pile.visible -= 1;
        } else if how == How::Stale && pile.hidden > 0 {
            pile.hidden -= 1;
            Self::lose_lease(s, worker, message);
        }
        if let Message::Replay(slot) = message
            && s.queue[message.place()].total() == 0
        {
            s.missed[slot as usize] = Set::NONE;
        }
    }

    /// Whether an event never has a second message, so that a stale delete can only mean the one that was leased.
    pub(crate) fn events_are_unique(&self) -> bool {
        let budget = self.bounds.budget;
        budget.repeats == 0 && budget.redrives == 0 && self.rules.settle_then_delete
    }

    /// The other dispatcher's lease of a message that was deleted.
    fn lose_lease(s: &mut State, except: u8, message: Message) {
        for (_, worker) in (0_u8..).zip(&mut s.workers).filter(|(at, _)| *at != except) {
            match (worker, message) {
                (Worker::Event { note, held, .. }, Message::Event(of)) if *note == of => *held = false,
                (Worker::Replay { slot, held, .. }, Message::Replay(of)) if *slot == of => *held = false,
                _ => {}
            }
        }
    }

    /// What a dispatcher works on, and whether its lease is good.
    fn work_of(worker: Worker) -> Option<(Message, bool)> {
        match worker {
            Worker::Idle => None,
            Worker::Event { note, held, .. } => Some((Message::Event(note), held)),
            Worker::Replay { slot, held, .. } => Some((Message::Replay(slot), held)),
        }
    }

    /// The lease of a dispatcher ends: its message can be received again.
    fn expire(s: &mut State, worker: u8) {
        if let Some((message, true)) = Self::work_of(s.workers[worker as usize]) {
            let pile = &mut s.queue[message.place()];
            pile.hidden -= 1;
            pile.visible += 1;
        }
        if let Worker::Event { held, .. } | Worker::Replay { held, .. } = &mut s.workers[worker as usize] {
            *held = false;
        }
    }

    /// A dispatcher forgets what it was doing.
    pub(crate) fn drop_work(&self, s: &mut State, worker: u8) {
        Self::expire(s, worker);
        s.workers[worker as usize] = Worker::Idle;
    }

    fn receive(&self, s: &mut State, worker: u8, message: Message) {
        let settles = match message {
            Message::Event(_) => self.rules.settle_then_delete,
            Message::Replay(_) => self.rules.replay_settles_too,
        };
        let pile = &mut s.queue[message.place()];
        pile.visible -= 1;
        pile.hidden += u8::from(settles);
        s.workers[worker as usize] = match message {
            Message::Event(note) => Worker::Event { note, held: settles, step: EventStep::Begin },
            Message::Replay(slot) => Worker::Replay { slot, held: settles, step: ReplayStep::Begin },
        };
    }

    fn work(&self, s: &mut State, worker: u8, how: How) {
        s.workers[worker as usize] = match s.workers[worker as usize] {
            Worker::Idle => Worker::Idle,
            Worker::Event { note, held, step } => {
                let next = self.event(s, worker, note, held, step, how);
                // What follows a delete has no lease.
                let held = held && !matches!(step, EventStep::Delete { .. });
                next.map_or(Worker::Idle, |step| Worker::Event { note, held, step })
            }
            Worker::Replay { slot, held, step } => {
                let next = self.replay(s, worker, slot, held, step, how);
                next.map_or(Worker::Idle, |step| Worker::Replay { slot, held, step })
            }
        };
    }

    fn handle(&self, s: &mut State, handler: u8, how: How) {
        let Some(sync) = s.handlers[handler as usize] else { return };
        s.handlers[handler as usize] = self.sync(s, sync, how).map(|step| Sync { step, ..sync });
    }

    /// The write that the next step of a dispatcher is.
    fn write_of_worker(&self, worker: Worker) -> Option<Write> {
        match worker {
            Worker::Event { note, step: EventStep::Write { to, from, .. }, .. } => Some(write_of(note, to, from)),
            Worker::Event { step: EventStep::Remove { slot, seen, .. }, .. } => Some(Write::Remove { slot, seen }),
            Worker::Replay { slot, step: ReplayStep::MarkLive { .. }, .. } => Some(self.replay_marks(slot)),
            Worker::Replay { slot, step: ReplayStep::Remove { seen }, .. } => Some(Write::Remove { slot, seen }),
            Worker::Replay { step: ReplayStep::Advance { from, to, .. }, .. } => Some(Write::Advance { from, to }),
            _ => None,
        }
    }

    fn write_of_handler(&self, sync: Sync) -> Option<Write> {
        match sync.step {
            SyncStep::MarkLive { .. } => Some(self.sync_marks(sync.slot)),
            SyncStep::Advance { from, to } => Some(Write::Advance { from, to }),
            _ => None,
        }
    }

    fn leave_late(s: &mut State, write: Option<Write>, late: bool) {
        s.budget.crashes -= 1;
        if late {
            s.budget.late_writes -= 1;
            s.late = write;
        }
    }

    fn may_be_late(s: &State) -> bool {
        s.budget.late_writes > 0 && s.late.is_none()
    }

    fn may_tick(&self, s: &State) -> bool {
        // An integration answers within 29 s, which is below W/2, or the socket never opens.
        let opens_late = |socket: &Socket| socket.opening_since().is_some_and(|since| since + self.bounds.half() <= s.now);
        s.now < self.bounds.ends && !s.sockets.iter().any(opens_late)
    }

    fn time_and_publishers(&self, s: &State, actions: &mut Vec<Action>) {
        if self.may_tick(s) {
            actions.push(Action::Tick);
        }
        if s.budget.weeks > 0 && self.may_rest(s) {
            actions.push(Action::Week);
        }
        let published = s.published.iter().count() as u8;
        if published < self.bounds.notes {
            actions.push(Action::Publish(published));
        }
        if s.budget.repeats > 0 {
            actions.extend(s.published.iter().map(Action::PublishAgain));
        }
        if s.budget.redrives > 0 {
            actions.extend(s.dead.iter().map(Action::Redrive));
        }
        if s.budget.kills > 0 {
            actions.push(Action::Kill);
        }
        if s.late.is_some() {
            actions.push(Action::Land);
        }
    }

    fn sockets(&self, s: &State, actions: &mut Vec<Action>) {
        actions.extend([Kind::App, Kind::Listener].into_iter().filter_map(|kind| self.next_connection(s, kind)).map(Action::Connect));
        for slot in 0..SLOTS as u8 {
            let socket = s.sockets[slot as usize];
            match socket {
                Socket::Asked(_) => {
                    actions.push(Action::Register { slot, copy: false });
                    if Self::may_be_late(s) {
                        actions.push(Action::Register { slot, copy: true });
                    }
                }
                Socket::Registered(_) => actions.push(Action::Promise(slot)),
                Socket::Admitted(_) => actions.push(Action::Open(slot)),
                Socket::Dead => actions.push(Action::Notice(slot)),
                Socket::Closed { told: false } => actions.push(Action::Disconnect(slot)),
                Socket::Open | Socket::Unused | Socket::Closed { told: true } => {}
            }
            if socket.opening_since().is_some() && s.budget.drops > 0 {
                actions.push(Action::Refuse(slot));
            }
            if socket == Socket::Open && s.budget.drops > 0 {
                actions.push(Action::Drop(slot));
            }
            let live = s.rows[slot as usize].is_some_and(|row| row.phase == Phase::Live);
            if socket == Socket::Open && live && s.budget.lost_rows > 0 && self.kind(slot) == Kind::App {
                actions.push(Action::LoseRow(slot));
            }
        }
    }

    fn app(&self, s: &State, actions: &mut Vec<Action>) {
        if let Some(at_will) = self.may_sync(s) {
            actions.push(Action::Sync { at_will });
        }
        let speaks = self.speaks_on(s).is_some();
        if s.budget.acks > 0 && speaks && !Self::unconfirmed(s).is_empty() {
            actions.push(Action::Acknowledge);
        }
        if s.budget.wild_acks > 0 && speaks {
            actions.extend((0..self.bounds.notes).filter(|note| s.entry(*note).is_none()).map(Action::WildAck));
        }
        if s.budget.read_alls > 0 && self.may_read_all(s).is_some() {
            actions.push(Action::ReadAll);
        }
    }

    fn dispatchers(&self, s: &State, actions: &mut Vec<Action>) {
        let mut ways = Vec::with_capacity(8);
        let mut idle_before = false;
        for worker in 0..self.bounds.workers {
            let at = s.workers[worker as usize];
            ways.clear();
            match at {
                Worker::Idle => {
                    // One of two that are alike stands for both.
                    if !(idle_before && self.bounds.dispatchers_are_alike()) {
                        self.receivable(s, worker, actions);
                    }
                    idle_before = true;
                    continue;
                }
                Worker::Event { note, step, held } => self.event_ways(s, note, step, held, &mut ways),
                Worker::Replay { slot, step, .. } => self.replay_ways(s, slot, step, &mut ways),
            }
            actions.extend(ways.iter().map(|how| Action::Work { worker, how: *how }));
            if s.budget.crashes > 0 {
                actions.push(Action::Crash { worker, late: false });
                if Self::may_be_late(s) && self.write_of_worker(at).is_some() {
                    actions.push(Action::Crash { worker, late: true });
                }
            }
            if s.budget.expiries > 0 && Self::work_of(at).is_some_and(|(_, held)| held) {
                actions.push(Action::Expire(worker));
            }
        }
    }

    fn receivable(&self, s: &State, worker: u8, actions: &mut Vec<Action>) {
        let events = (0..NOTES as u8).map(Message::Event);
        let replays = (0..SLOTS as u8).map(Message::Replay);
        let visible = events.chain(replays).filter(|message| s.queue[message.place()].visible > 0);
        actions.extend(visible.map(|message| Action::Receive { worker, message }));
    }

    fn handlers(&self, s: &State, actions: &mut Vec<Action>) {
        let mut ways = Vec::with_capacity(4);
        for (handler, sync) in (0..).zip(s.handlers) {
            let Some(sync) = sync else { continue };
            ways.clear();
            self.handler_ways(s, sync, &mut ways);
            actions.extend(ways.iter().map(|how| Action::Handle { handler, how: *how }));
            if s.budget.crashes > 0 {
                actions.push(Action::CrashHandler { handler, late: false });
                if Self::may_be_late(s) && self.write_of_handler(sync).is_some() {
                    actions.push(Action::CrashHandler { handler, late: true });
                }
            }
        }
    }

    fn carry_out(&self, s: &mut State, action: Action) {
        match action {
            Action::Tick => {
                s.now += 1;
                (s.unseen_notes, s.unseen_rows) = (Set::NONE, Set::NONE);
            }
            Action::Week => {
                s.budget.weeks -= 1;
                self.week(s);
            }
            Action::Publish(note) => {
                s.published = s.published.with(note);
                s.queue[Message::Event(note).place()].visible += 1;
            }
            Action::PublishAgain(note) => {
                s.budget.repeats -= 1;
                s.queue[Message::Event(note).place()].visible += 1;
            }
            Action::Redrive(note) => {
                s.budget.redrives -= 1;
                s.dead = s.dead.without(note);
                s.queue[Message::Event(note).place()].visible += 1;
            }
            Action::Connect(slot) => self.connect(s, slot),
            Action::Register { slot, copy } => self.register(s, slot, copy),
            Action::Promise(slot) => self.promise(s, slot),
            Action::Open(slot) => s.sockets[slot as usize] = Socket::Open,
            Action::Refuse(slot) => {
                s.budget.drops -= 1;
                s.sockets[slot as usize] = Socket::Closed { told: true };
                self.leave(s, slot);
            }
            Action::Drop(slot) => self.drop_client(s, slot),
            Action::Notice(slot) => s.sockets[slot as usize] = Socket::Closed { told: false },
            Action::Disconnect(slot) => self.disconnect(s, slot),
            Action::LoseRow(slot) => {
                s.budget.lost_rows -= 1;
                s.rows[slot as usize] = None;
                s.witness.row_lost = true;
            }
            Action::Sync { at_will } => self.send_sync(s, at_will),
            Action::Acknowledge => {
                s.budget.acks -= 1;
                self.acknowledge(s, Self::unconfirmed(s));
            }
            Action::WildAck(note) => {
                s.budget.wild_acks -= 1;
                self.acknowledge(s, Set::one(note));
            }
            Action::ReadAll => {
                s.budget.read_alls -= 1;
                self.read_all(s, s.app.top);
            }
            Action::Receive { worker, message } => self.receive(s, worker, message),
            Action::Work { worker, how } => self.work(s, worker, how),
            Action::Crash { worker, late } => {
                Self::leave_late(s, self.write_of_worker(s.workers[worker as usize]), late);
                self.drop_work(s, worker);
            }
            Action::Expire(worker) => {
                s.budget.expiries -= 1;
                Self::expire(s, worker);
            }
            Action::Handle { handler, how } => self.handle(s, handler, how),
            Action::CrashHandler { handler, late } => {
                let write = s.handlers[handler as usize].and_then(|sync| self.write_of_handler(sync));
                Self::leave_late(s, write, late);
                s.handlers[handler as usize] = None;
            }
            Action::Land => {
                if let Some(write) = s.late.take() {
                    self.land(s, write);
                }
            }
            Action::Kill => {
                s.budget.kills -= 1;
                self.kill(s);
            }
        }
    }
}

impl Protocol {
    /// What happened before the search begins, step by step, and where that led.
    ///
    /// # Panics
    /// When one of these steps is not possible.
    pub fn beginning(&self) -> (Vec<(State, Action)>, State) {
        let mut s = State::new(self.bounds.begins, self.bounds.budget);
        let mut steps = Vec::new();
        for action in self.bounds.before {
            let mut possible = Vec::new();
            self.actions(&s, &mut possible);
            assert!(possible.contains(action), "{action:?} is not possible after {} steps; possible are {possible:?}", steps.len());
            steps.push((s, *action));
            self.carry_out(&mut s, *action);
        }
        (steps, s)
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.beginning().1]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        self.time_and_publishers(s, actions);
        self.sockets(s, actions);
        self.app(s, actions);
        self.dispatchers(s, actions);
        self.handlers(s, actions);
    }

    fn next_state(&self, s: &State, action: Action) -> Option<State> {
        let mut next = *s;
        self.carry_out(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = promises::properties();
        properties.extend(sights::properties());
        properties
    }
}
