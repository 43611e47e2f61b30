//! A dispatcher that delivers an event: append, look, post, settle.
//!
//! One function per step, in the order in which a dispatcher takes them. Must not know: how messages are received.

use crate::action::How;
use crate::protocol::Protocol;
use crate::state::{EventStep, Kind, Message, Phase, Position, Posts, Set, State, Tick, Write};
use crate::stores::Landed;

/// What a post came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posted {
    /// 200.
    Delivered,
    /// 410.
    Gone,
    /// 429, or nothing in time: it may have arrived all the same.
    Refused,
}

impl Protocol {
    /// What may come of a step of an event.
    pub(crate) fn event_ways(&self, s: &State, note: u8, step: EventStep, held: bool, ways: &mut Vec<How>) {
        match step {
            EventStep::Post(posts) => {
                ways.extend(posts.left.iter().map(How::To));
                if s.budget.refusals > 0 {
                    let open = posts.left.iter().filter(|slot| self.takes_posts(s, *slot));
                    ways.extend(open.flat_map(|slot| [How::Refused(slot), How::Unanswered(slot)]));
                }
            }
            // What is there already is not refused.
            EventStep::Write { from: Position::MIN, .. } if s.budget.rejects > 0 && s.entry(note).is_none() => {
                ways.extend([How::Well, How::Fails]);
            }
            EventStep::Look if !s.unseen_rows.is_empty() => ways.extend([How::Well, How::Stale]),
            EventStep::Delete { .. } if !held && self.events_are_unique() => ways.extend([How::Well, How::Stale]),
            _ => ways.push(How::Well),
        }
    }

    /// Takes a step; answers the next one, or none where the work is done.
    pub(crate) fn event(&self, s: &mut State, worker: u8, note: u8, held: bool, step: EventStep, how: How) -> Option<EventStep> {
        let clock = self.dispatcher_clock(s, worker);
        match step {
            EventStep::Begin => Some(self.begin_event(s, note, clock)),
            EventStep::Write { from: Position::MIN, .. } if how == How::Fails => Some(Self::bury(s, note)),
            EventStep::Write { to, from, found } => Some(self.write(s, note, to, from, found)),
            EventStep::Judge { position, stamped, found } => Some(self.judge(s, note, clock, position, stamped, found)),
            EventStep::Count { found } => {
                s.counter += 1;
                Some(found.map_or(EventStep::Look, |posts| self.after_posts(posts)))
            }
            EventStep::Look => Some(self.after_posts(self.connections(s, how == How::Stale))),
            EventStep::Post(posts) => self.post_event(s, note, clock, posts, how),
            EventStep::Settle(then) => {
                self.acknowledge(s, Set::one(note));
                Some(self.after_posts(then))
            }
            EventStep::Gone { slot, seen, asked, then } => Some(self.judge_gone(s, slot, seen, asked, clock, then)),
            EventStep::Remove { slot, seen, then } => {
                self.land(s, Write::Remove { slot, seen });
                Some(self.after_posts(then))
            }
            EventStep::SendOn(slots) => {
                slots.iter().for_each(|slot| self.send_replay(s, slot, Set::one(note)));
                Some(EventStep::Delete { then_send: Set::NONE })
            }
            EventStep::Delete { then_send } => {
                self.delete(s, worker, Message::Event(note), held, how);
                (!then_send.is_empty()).then_some(EventStep::SendOn(then_send))
            }
        }
    }

    fn begin_event(&self, s: &State, note: u8, clock: Tick) -> EventStep {
        if !self.rules.store_then_push {
            let posts = Posts { early: true, ..self.connections(s, false) };
            return self.after_posts_of(note, clock, posts);
        }
        let found = (!self.rules.append_then_look).then(|| self.connections(s, false));
        self.append(note, clock, found)
    }

    fn append(&self, note: u8, clock: Tick, found: Option<Posts>) -> EventStep {
        let taken = if self.rules.position_is_taken_anew { clock } else { self.bounds.begins };
        EventStep::Write { to: Position::stamp(taken, note), from: Position::MIN, found }
    }

    fn bury(s: &mut State, note: u8) -> EventStep {
        s.budget.rejects -= 1;
        s.dead = s.dead.with(note);
        EventStep::Delete { then_send: Set::NONE }
    }

    fn write(&self, s: &mut State, note: u8, to: Position, from: Position, found: Option<Posts>) -> EventStep {
        let stamped = from != Position::MIN;
        let landed = self.land(s, write_of(note, to, from));
        let Landed::Stands { position: stored, inserted } = landed else { return EventStep::Begin };
        if inserted && !self.rules.unread_is_counted {
            return EventStep::Count { found };
        }
        let position = if self.rules.stored_position_counts { stored } else { to };
        EventStep::Judge { position, stamped, found }
    }

    fn judge(&self, s: &State, note: u8, clock: Tick, position: Position, stamped: bool, found: Option<Posts>) -> EventStep {
        if self.rules.old_is_left_alone && s.entry(note).is_some_and(|entry| entry.long_ago) {
            return EventStep::Delete { then_send: Set::NONE };
        }
        let late = self.is_late(position, clock);
        let judged = if stamped { self.rules.stamp_is_judged_too } else { true };
        if late && judged && self.rules.late_is_stamped_again {
            return EventStep::Write { to: Position::stamp(clock, note), from: position, found };
        }
        found.map_or(EventStep::Look, |posts| self.after_posts(posts))
    }

    /// Whether an answer that arrives now comes too late to be trusted (R6).
    pub fn is_late(&self, position: Position, now: Tick) -> bool {
        now.saturating_sub(position.at()) > self.bounds.half()
    }

    fn post_event(&self, s: &mut State, note: u8, clock: Tick, posts: Posts, how: How) -> Option<EventStep> {
        let (How::To(slot) | How::Refused(slot) | How::Unanswered(slot)) = how else { return None };
        let seen = if posts.opening.has(slot) { Phase::Connecting } else { Phase::Live };
        let then = Posts { left: posts.left.without(slot), opening: posts.opening.without(slot), ..posts };
        let plain = self.kind(slot) == Kind::Listener;
        if plain && !self.rules.plain_settles_after_the_post {
            self.acknowledge(s, Set::one(note));
        }
        s.witness.wasted_post |= seen == Phase::Connecting && !self.takes_posts(s, slot);
        Some(match self.post(s, slot, Set::one(note), how) {
            Posted::Delivered if (plain && self.rules.plain_settles_after_the_post) || !(plain || self.rules.push_settles_plain_only) => {
                EventStep::Settle(then)
            }
            Posted::Delivered => self.after_posts_of(note, clock, then),
            Posted::Refused => {
                self.owe(s, slot, note);
                self.after_posts_of(note, clock, Posts { refused: then.refused.with(slot), ..then })
            }
            Posted::Gone => EventStep::Gone { slot, seen, asked: clock, then },
        })
    }

    fn judge_gone(&self, s: &State, slot: u8, seen: Phase, asked: Tick, clock: Tick, then: Posts) -> EventStep {
        // Where the row is not connecting any more, the removal changes nothing.
        let at = s.rows[slot as usize].map_or(0, |row| row.at);
        if self.gone_is_final(seen, at, asked, clock) { EventStep::Remove { slot, seen, then } } else { self.after_posts(then) }
    }

    /// Whether a 410 proves that the socket is gone, rather than not there yet (R4).
    pub fn gone_is_final(&self, seen: Phase, at: Tick, asked: Tick, clock: Tick) -> bool {
        let moment = if self.rules.grace_ends_before_the_post { asked } else { clock };
        seen == Phase::Live || !self.rules.gone_waits_for_grace || at + self.bounds.w <= moment
    }

    fn after_posts_of(&self, note: u8, clock: Tick, posts: Posts) -> EventStep {
        if posts.left.is_empty() && posts.early {
            return self.append(note, clock, Some(Posts { early: false, ..posts }));
        }
        self.after_posts(posts)
    }

    /// Goes on posting, or settles the message (R3).
    fn after_posts(&self, posts: Posts) -> EventStep {
        let none = Set::NONE;
        match posts {
            Posts { left, .. } if !left.is_empty() => EventStep::Post(posts),
            Posts { refused, .. } if refused.is_empty() || !self.rules.refused_is_sent_on => EventStep::Delete { then_send: none },
            Posts { refused, .. } if self.rules.sent_on_then_deleted => EventStep::SendOn(refused),
            Posts { refused, .. } => EventStep::Delete { then_send: refused },
        }
    }
}

/// The write that an append or a stamp is.
pub(crate) fn write_of(note: u8, to: Position, from: Position) -> Write {
    if from == Position::MIN { Write::Insert { note, at: to } } else { Write::Stamp { note, from, to } }
}
