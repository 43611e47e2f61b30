//! The handler of a `sync`: acknowledge, become live, read, answer.
//!
//! Must not know: what made the client send it.

use crate::action::How;
use crate::dispatcher::Posted;
use crate::protocol::Protocol;
use crate::state::{Answer, Phase, Position, Query, Set, State, Sync, SyncStep, Write};

impl Protocol {
    /// What may come of a step of a handler.
    pub(crate) fn handler_ways(&self, s: &State, sync: Sync, ways: &mut Vec<How>) {
        ways.push(How::Well);
        match sync.step {
            SyncStep::Post(_) if s.budget.refusals > 0 && self.takes_posts(s, sync.slot) => {
                ways.extend([How::Refused(sync.slot), How::Unanswered(sync.slot)]);
            }
            SyncStep::Begin | SyncStep::Read(_) | SyncStep::Pending(_) if !s.unseen_notes.is_empty() => ways.push(How::Stale),
            _ => {}
        }
    }

    /// What a handler does first.
    pub(crate) fn first_of_sync(&self, acks: Set) -> SyncStep {
        if acks.is_empty() && self.rules.cursor_settles_nothing { self.after_acknowledging() } else { SyncStep::Acknowledge }
    }

    fn after_acknowledging(&self) -> SyncStep {
        if self.rules.live_then_read { SyncStep::MarkLive { early: None } } else { SyncStep::Begin }
    }

    /// Takes a step; answers the next one, or none where the handler ends.
    pub(crate) fn sync(&self, s: &mut State, sync: Sync, how: How) -> Option<SyncStep> {
        let stale = how == How::Stale;
        match sync.step {
            SyncStep::Acknowledge => {
                self.acknowledge(s, sync.acks.and(self.passed_over(s, sync.since)));
                Some(self.after_acknowledging())
            }
            SyncStep::MarkLive { early } => {
                self.land(s, self.sync_marks(sync.slot));
                s.witness.row_lost &= s.app.at != Some(sync.slot);
                Some(early.map_or(SyncStep::Begin, SyncStep::Post))
            }
            SyncStep::Begin => Some(self.begin_answer(s, sync.since, stale)),
            SyncStep::Read(answer) => Some(self.read_page(s, answer, stale)),
            SyncStep::Pending(answer) => {
                let pending = Self::pending(s, stale);
                let query = Query { lowest: s.lowest(pending), ..answer.query };
                Some(self.after_reading(Answer { items: answer.items.and(pending), query, ..answer }))
            }
            SyncStep::Post(answer) => self.post_frame(s, sync, answer, how),
            SyncStep::Advance { from, to } => {
                self.land(s, Write::Advance { from, to });
                None
            }
        }
    }

    /// The write by which a `sync` marks a row.
    pub(crate) fn sync_marks(&self, slot: u8) -> Write {
        Write::Live { slot, create: self.rules.sync_writes_a_lost_row }
    }

    /// Without R7: what a cursor settles.
    fn passed_over(&self, s: &State, since: Option<Position>) -> Set {
        match since {
            Some(since) if !self.rules.cursor_settles_nothing => s.select(|entry| entry.position <= since),
            _ => Set::NONE,
        }
    }

    fn begin_answer(&self, s: &State, since: Option<Position>, stale: bool) -> SyncStep {
        let began = self.handler_clock(s);
        match since {
            Some(since) => {
                let after = if self.rules.resume_overlaps { since.back(self.bounds.w) } else { since };
                self.read_page(s, Answer { began, after, ..Answer::default() }, stale)
            }
            None => {
                let items = Self::since(s, Position::MIN, stale);
                let query = Query { from: s.pending_from, began, lowest: None };
                SyncStep::Pending(Answer { began, items, highest: s.highest(items), query, ..Answer::default() })
            }
        }
    }

    fn read_page(&self, s: &State, answer: Answer, stale: bool) -> SyncStep {
        let found = Self::since(s, answer.after, stale);
        let page = if self.bounds.small_pages { s.first(found).map_or(Set::NONE, Set::one) } else { found };
        let highest = answer.highest.max(s.highest(page));
        let read = Answer { items: answer.items.and(page), highest, after: highest.unwrap_or(answer.after), ..answer };
        if self.bounds.small_pages && !page.is_empty() { SyncStep::Read(read) } else { self.after_reading(read) }
    }

    fn after_reading(&self, answer: Answer) -> SyncStep {
        // What only paging needs is forgotten, so that states that differ in nothing else are one.
        let answer = Answer { after: Position::MIN, ..answer };
        if self.rules.live_then_read { SyncStep::Post(answer) } else { SyncStep::MarkLive { early: Some(answer) } }
    }

    /// Posts a frame with items that others follow, or the last one with what is left and the cursor.
    fn post_frame(&self, s: &mut State, sync: Sync, answer: Answer, how: How) -> Option<SyncStep> {
        let first = s.first(answer.items).filter(|note| self.bounds.small_frames && !answer.items.without(*note).is_empty());
        let items = first.map_or(answer.items, Set::one);
        let rest = Answer { items: answer.items.less(items), ..answer };
        match (self.post(s, sync.slot, items, how), first) {
            (Posted::Delivered, Some(_)) => Some(SyncStep::Post(rest)),
            (Posted::Delivered, None) => {
                self.arrive_last(s, sync, answer);
                self.after_answer(sync, answer)
            }
            // The client has its answer, and the handler does not know.
            (Posted::Refused, None) if matches!(how, How::Unanswered(_)) => {
                self.arrive_last(s, sync, answer);
                None
            }
            (Posted::Refused, Some(_)) if !self.rules.failed_post_ends_the_answer => Some(SyncStep::Post(rest)),
            // The client waits for the rest, and asks again.
            (Posted::Refused, _) => None,
            (Posted::Gone, _) => {
                self.land(s, Write::Remove { slot: sync.slot, seen: Phase::Live });
                None
            }
        }
    }

    /// The client gets the last frame, and with it its cursor.
    fn arrive_last(&self, s: &mut State, sync: Sync, answer: Answer) {
        if s.app.at == Some(sync.slot) && s.sockets[sync.slot as usize] == crate::state::Socket::Open {
            let cursor = self.cursor(s, sync.since, answer);
            s.witness.cursor_back |= sync.since.is_some_and(|since| cursor < since);
            s.app.cursor = Some(cursor);
            (s.app.waits, s.app.synced) = (false, true);
        }
    }

    /// Moves `pending_from` where all that is pending was read.
    fn after_answer(&self, sync: Sync, answer: Answer) -> Option<SyncStep> {
        let to = if sync.since.is_none() { self.pending_after(answer.query) } else { None };
        to.map(|to| SyncStep::Advance { from: answer.query.from, to })
    }

    /// How far the client may move its cursor (R5).
    fn cursor(&self, s: &State, since: Option<Position>, answer: Answer) -> Position {
        let moment = if self.rules.cursor_stops_at_the_beginning { answer.began } else { self.handler_clock(s) };
        let moment = Position::floor(moment);
        let highest = answer.highest.map(|highest| if self.rules.cursor_stops_at_the_highest { highest.min(moment) } else { moment });
        let reached = highest.unwrap_or(since.unwrap_or(moment));
        since.filter(|_| self.rules.cursor_never_goes_back).map_or(reached, |since| reached.max(since))
    }
}
