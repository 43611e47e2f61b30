//! A dispatcher that replays: prove, mark live, read what is pending, hand it over, advance.
//!
//! Must not know: events.

use crate::action::How;
use crate::dispatcher::Posted;
use crate::protocol::Protocol;
use crate::state::{Handed, Kind, Message, Phase, Query, ReplayStep, Row, Set, State, Tick, Write};
use crate::stores::Landed;

impl Protocol {
    /// What may come of a step of a replay.
    pub(crate) fn replay_ways(&self, s: &State, slot: u8, step: ReplayStep, ways: &mut Vec<How>) {
        ways.push(How::Well);
        let may_refuse = s.budget.refusals > 0 && self.takes_posts(s, slot);
        match step {
            ReplayStep::Prove { .. } if may_refuse => ways.push(How::Refused(slot)),
            ReplayStep::Post(handed) if may_refuse && !handed.left.is_empty() => ways.extend([How::Refused(slot), How::Unanswered(slot)]),
            ReplayStep::Begin if s.unseen_rows.has(slot) => ways.push(How::Stale),
            ReplayStep::Pending { .. } if !s.unseen_notes.is_empty() => ways.push(How::Stale),
            ReplayStep::Pending { .. } if s.budget.crashes > 0 => ways.push(How::Fails),
            _ => {}
        }
    }

    /// Takes a step; answers the next one, or none where the work is done.
    pub(crate) fn replay(&self, s: &mut State, worker: u8, slot: u8, held: bool, step: ReplayStep, how: How) -> Option<ReplayStep> {
        let clock = self.dispatcher_clock(s, worker);
        Some(match step {
            ReplayStep::Begin => self.begin_replay(s, slot, how),
            ReplayStep::Prove { at } => self.prove(s, slot, at, clock, how),
            ReplayStep::Gone { seen, at, asked } => self.judge_replay(s, slot, seen, at, asked, clock),
            ReplayStep::Remove { seen } => {
                self.land(s, Write::Remove { slot, seen });
                ReplayStep::Delete
            }
            ReplayStep::MarkLive { early } => match (self.land(s, self.replay_marks(slot)), early) {
                (Landed::Done(true), None) => ReplayStep::Marks { early: false },
                (Landed::Done(true), Some(handed)) => self.after_handing(handed),
                _ => ReplayStep::Delete,
            },
            ReplayStep::Marks { early } => ReplayStep::Pending { query: Query { from: s.pending_from, began: clock, lowest: None }, early },
            ReplayStep::Pending { query, .. } if how == How::Fails => self.break_off(s, slot, query),
            ReplayStep::Pending { query, early } => self.read_pending(s, slot, query, early, how),
            ReplayStep::Post(handed) => self.hand_over(s, slot, clock, handed, how),
            ReplayStep::Settle { note, then } => {
                self.acknowledge(s, Set::one(note));
                self.after_handing(then)
            }
            ReplayStep::Advance { from, to, again } => {
                self.land(s, Write::Advance { from, to });
                if again { Self::again(s, slot) } else { ReplayStep::Delete }
            }
            ReplayStep::Again(missed) => {
                self.send_replay(s, slot, missed);
                ReplayStep::Delete
            }
            ReplayStep::Delete => {
                self.delete(s, worker, Message::Replay(slot), held, how);
                return None;
            }
        })
    }

    /// The write by which a replay marks a row.
    pub(crate) fn replay_marks(&self, slot: u8) -> Write {
        Write::Live { slot, create: !self.rules.replay_only_updates }
    }

    fn begin_replay(&self, s: &State, slot: u8, how: How) -> ReplayStep {
        match s.rows[slot as usize].filter(|_| how != How::Stale) {
            None => ReplayStep::Delete,
            Some(Row { phase: Phase::Live, .. }) => ReplayStep::Marks { early: false },
            Some(Row { at, .. }) if self.rules.proof_before_live => ReplayStep::Prove { at },
            Some(_) => self.proved(),
        }
    }

    fn proved(&self) -> ReplayStep {
        if self.rules.live_then_read { ReplayStep::MarkLive { early: None } } else { ReplayStep::Marks { early: true } }
    }

    /// Sends itself again, naming what it named.
    fn again(s: &State, slot: u8) -> ReplayStep {
        ReplayStep::Again(s.missed[slot as usize])
    }

    fn prove(&self, s: &mut State, slot: u8, at: Tick, clock: Tick, how: How) -> ReplayStep {
        match self.post(s, slot, Set::NONE, how) {
            Posted::Delivered => self.proved(),
            Posted::Refused => Self::again(s, slot),
            Posted::Gone => ReplayStep::Gone { seen: Phase::Connecting, at, asked: clock },
        }
    }

    fn judge_replay(&self, s: &State, slot: u8, seen: Phase, at: Tick, asked: Tick, clock: Tick) -> ReplayStep {
        if self.gone_is_final(seen, at, asked, clock) {
            ReplayStep::Remove { seen }
        } else if self.rules.replay_waits_for_opening {
            Self::again(s, slot)
        } else {
            ReplayStep::Delete
        }
    }

    fn break_off(&self, s: &mut State, slot: u8, query: Query) -> ReplayStep {
        s.budget.crashes -= 1;
        match self.pending_after(query).filter(|_| !self.rules.unfinished_advances_nothing) {
            Some(to) => ReplayStep::Advance { from: query.from, to, again: true },
            None => Self::again(s, slot),
        }
    }

    fn read_pending(&self, s: &State, slot: u8, query: Query, early: bool, how: How) -> ReplayStep {
        let pending = Self::pending(s, how == How::Stale);
        let missed = s.missed[slot as usize];
        let handed = Handed { left: pending.and(missed), query: Query { lowest: s.lowest(pending), ..query } };
        if early { ReplayStep::MarkLive { early: Some(handed) } } else { self.after_handing(handed) }
    }

    fn hand_over(&self, s: &mut State, slot: u8, clock: Tick, handed: Handed, how: How) -> ReplayStep {
        let Some(note) = s.first(handed.left) else { return self.after_handing(handed) };
        let then = Handed { left: handed.left.without(note), ..handed };
        let plain = self.kind(slot) == Kind::Listener;
        if plain && !self.rules.plain_settles_after_the_post {
            self.acknowledge(s, Set::one(note));
        }
        match self.post(s, slot, Set::one(note), how) {
            Posted::Delivered if (plain && self.rules.plain_settles_after_the_post) || !(plain || self.rules.push_settles_plain_only) => {
                ReplayStep::Settle { note, then }
            }
            Posted::Delivered => self.after_handing(then),
            Posted::Refused => Self::again(s, slot),
            Posted::Gone => ReplayStep::Gone { seen: Phase::Live, at: 0, asked: clock },
        }
    }

    fn after_handing(&self, handed: Handed) -> ReplayStep {
        if !handed.left.is_empty() {
            return ReplayStep::Post(handed);
        }
        match self.pending_after(handed.query) {
            Some(to) => ReplayStep::Advance { from: handed.query.from, to, again: false },
            None => ReplayStep::Delete,
        }
    }
}
