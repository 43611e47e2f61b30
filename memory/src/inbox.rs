//! People's inboxes in memory.
//!
//! Must not know: who asks, who is connected.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use recado_domain::failure::Failure;
use recado_domain::ids::{DeliveryKey, NotificationId, RecipientKey};
use recado_domain::limits;
use recado_domain::notification::{Appended, InboxEntry, NewEntry};
use recado_domain::ports::{Clock, Entropy, Inbox, Marks, Outcome, Page, PageFilter, ReadAll, Unread};
use recado_domain::position::Position;

use crate::{Faults, ManualClock, SeededEntropy, lock};

/// [`Inbox`] in memory. Positions are taken inside the append and strictly ascend within an inbox, even where the
/// clock stands or goes back; or, [stamped by its callers](Self::stamped_by_callers), are what the clock shows.
#[derive(Debug, Clone)]
pub struct MemoryInbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: ManualClock,
    entropy: SeededEntropy,
    faults: Faults,
    ascending: bool,
    users: Mutex<BTreeMap<RecipientKey, User>>,
}

/// One user's inbox. `order` names each entry by its position.
#[derive(Debug, Default)]
struct User {
    entries: BTreeMap<NotificationId, InboxEntry>,
    order: BTreeMap<Position, NotificationId>,
    marks: Marks,
    last: Option<Position>,
}

/// A position of a call's moment, and whether it has to stand above all others.
#[derive(Clone, Copy)]
struct Asked {
    position: Position,
    ascending: bool,
}

/// The state an update by id sets.
#[derive(Clone, Copy)]
enum Mark {
    Acked,
    Read,
    Archived,
}

impl User {
    /// Where an entry is put that asks for `asked`: above every earlier one where positions ascend (R6).
    fn take_position(&mut self, asked: Asked) -> Position {
        let mut position =
            if asked.ascending { self.last.map_or(asked.position, |last| asked.position.max(last.next())) } else { asked.position };
        while self.order.contains_key(&position) {
            position = position.next();
        }
        self.last = self.last.max(Some(position));
        position
    }

    fn append(&mut self, new: &NewEntry, asked: Asked) -> Appended {
        if let Some(stored) = self.entries.get(&new.notification.id) {
            return self.answer(stored, false);
        }
        let position = self.take_position(asked);
        let notification = Arc::clone(&new.notification);
        let entry = InboxEntry { notification, position, acked_at: None, read_at: None, archived_at: None };
        let answer = self.answer(&entry, true);
        self.order.insert(position, new.notification.id);
        self.entries.insert(new.notification.id, entry);
        answer
    }

    fn restamp(&mut self, id: NotificationId, old: Position, asked: Asked) -> Outcome<Appended> {
        let missing = || Failure::permanent("there is no such entry to stamp again");
        let mut stored = self.entries.get(&id).cloned().ok_or_else(missing)?;
        if stored.position == old {
            stored.read_at = self.read_at(&stored);
            stored.position = self.take_position(asked);
            self.order.remove(&old);
            self.order.insert(stored.position, id);
            self.entries.insert(id, stored.clone());
        }
        Ok(self.answer(&stored, false))
    }

    fn answer(&self, stored: &InboxEntry, inserted: bool) -> Appended {
        let InboxEntry { position, acked_at, archived_at, .. } = *stored;
        Appended { position, inserted, acked_at, read_at: self.read_at(stored), archived_at }
    }

    /// When it was read, by id or by the mark; of the mark only its own moment is known.
    fn read_at(&self, stored: &InboxEntry) -> Option<Timestamp> {
        let by_mark = self.marks.read_up_to.filter(|mark| stored.position <= *mark);
        stored.read_at.or(by_mark.map(Position::at))
    }

    /// What can be seen at `now`, ascending.
    fn visible(&self, now: Timestamp) -> impl DoubleEndedIterator<Item = InboxEntry> + '_ {
        let seen = |stored: &InboxEntry| InboxEntry { read_at: self.read_at(stored), ..stored.clone() };
        let entries = self.order.values().filter_map(|id| self.entries.get(id)).map(seen);
        entries.filter(move |entry| entry.notification.expires_at.is_none_or(|at| at > now))
    }

    fn mark(&mut self, id: NotificationId, mark: Mark, now: Timestamp) -> bool {
        let by_mark = self.marks.read_up_to;
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        let state = match mark {
            Mark::Acked => &mut entry.acked_at,
            Mark::Read if by_mark.is_some_and(|up_to| entry.position <= up_to) => return false,
            Mark::Read => &mut entry.read_at,
            Mark::Archived => &mut entry.archived_at,
        };
        let changed = state.is_none();
        state.get_or_insert(now);
        changed
    }

    fn read_all(&mut self, up_to: Position, now: Timestamp) -> ReadAll {
        let limit = up_to.min(Position::floor(now).back(limits::W));
        let recent = self.visible(now).filter(|entry| entry.position > limit && entry.position <= up_to);
        let ids: Vec<_> = recent.filter(|entry| entry.read_at.is_none()).map(|entry| entry.notification.id).collect();
        for id in &ids {
            self.mark(*id, Mark::Read, now);
        }
        self.marks.read_up_to = self.marks.read_up_to.max(Some(limit));
        ReadAll { ids, up_to: self.marks.read_up_to }
    }

    fn advance_pending(&mut self, from: Option<Position>, to: Position) -> bool {
        let raises = self.marks.pending_from == from && Some(to) > from;
        if raises {
            self.marks.pending_from = Some(to);
        }
        raises
    }
}

/// Cuts a query at `limit`.
fn cut(entries: impl Iterator<Item = InboxEntry>, marks: Marks, limit: usize) -> Page {
    let mut entries = entries.peekable();
    let taken: Vec<_> = entries.by_ref().take(limit.clamp(1, limits::PAGE_ENTRIES)).collect();
    let more = entries.peek().is_some();
    let next = taken.last().filter(|_| more).map(|entry| entry.position);
    Page { entries: taken, more, next, marks }
}

fn shows(filter: PageFilter, entry: &InboxEntry) -> bool {
    match filter {
        PageFilter::Inbox => entry.archived_at.is_none(),
        PageFilter::Unread => entry.archived_at.is_none() && entry.read_at.is_none(),
        PageFilter::Archived => entry.archived_at.is_some(),
    }
}

impl MemoryInbox {
    /// Empty inboxes.
    pub fn new(clock: ManualClock, entropy: SeededEntropy) -> Self {
        Self::with(clock, entropy, true)
    }

    /// Empty inboxes of a store that takes positions as its callers stamp them, each by its own clock and before its write
    /// arrives, as DynamoDB does: an entry may land below one that was read already.
    pub fn stamped_by_callers(clock: ManualClock, entropy: SeededEntropy) -> Self {
        Self::with(clock, entropy, false)
    }

    fn with(clock: ManualClock, entropy: SeededEntropy, ascending: bool) -> Self {
        let operations = [
            "append",
            "restamp",
            "since",
            "pending",
            "page",
            "marks",
            "advance_pending",
            "acknowledge",
            "mark_read",
            "archive",
            "read_all",
            "unread",
        ];
        Self(Arc::new(Inner { clock, entropy, faults: Faults::new(&operations), ascending, users: Mutex::default() }))
    }

    /// Scripts what goes wrong, by the names of the port's methods.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// What is stored under a key, expired or not.
    pub fn entry(&self, key: &DeliveryKey) -> Option<InboxEntry> {
        self.entries(&key.recipient).into_iter().find(|entry| entry.notification.id == key.notification)
    }

    /// All that is stored for somebody, expired or not, ascending by position.
    pub fn entries(&self, recipient: &RecipientKey) -> Vec<InboxEntry> {
        self.of(recipient, |user, _| user.visible(Timestamp::MIN).collect())
    }

    fn of<T>(&self, recipient: &RecipientKey, then: impl FnOnce(&mut User, Timestamp) -> T) -> T {
        let now = self.0.clock.now();
        then(lock(&self.0.users).entry(recipient.clone()).or_default(), now)
    }

    fn asked(&self, now: Timestamp) -> Asked {
        let random = u128::from(self.0.entropy.next_u64()) << 64 | u128::from(self.0.entropy.next_u64());
        Asked { position: Position::new(now, random), ascending: self.0.ascending }
    }

    fn update(&self, recipient: &RecipientKey, ids: &[NotificationId], mark: Mark) -> Vec<NotificationId> {
        self.of(recipient, |user, now| ids.iter().copied().filter(|id| user.mark(*id, mark, now)).collect())
    }
}

impl Inbox for MemoryInbox {
    async fn append(&self, entries: &[NewEntry]) -> Vec<Outcome<Appended>> {
        self.0.faults.each("append", entries.len(), |at| {
            let new = &entries[at];
            Ok(self.of(&new.recipient, |user, now| user.append(new, self.asked(now))))
        })
    }

    async fn restamp(&self, key: &DeliveryKey, old: Position) -> Outcome<Appended> {
        self.0.faults.one("restamp", || self.of(&key.recipient, |user, now| user.restamp(key.notification, old, self.asked(now))))
    }

    async fn since(&self, recipient: &RecipientKey, after: Position, limit: usize) -> Outcome<Page> {
        let query = |user: &mut User, now| cut(user.visible(now).filter(|entry| entry.position > after), user.marks, limit);
        self.0.faults.one("since", || Ok(self.of(recipient, query)))
    }

    async fn pending(&self, recipient: &RecipientKey, marks: Marks, after: Position, limit: usize) -> Outcome<Page> {
        let query = |user: &mut User, now| {
            let from = marks.pending_from.unwrap_or(Position::MIN);
            let above = user.visible(now).filter(|entry| entry.position > after && entry.position >= from);
            cut(above.filter(|entry| entry.acked_at.is_none()), marks, limit)
        };
        self.0.faults.one("pending", || Ok(self.of(recipient, query)))
    }

    async fn page(&self, recipient: &RecipientKey, before: Option<Position>, filter: PageFilter, limit: usize) -> Outcome<Page> {
        let query = |user: &mut User, now| {
            let below = user.visible(now).rev().filter(|entry| before.is_none_or(|before| entry.position < before));
            cut(below.filter(|entry| shows(filter, entry)), user.marks, limit)
        };
        self.0.faults.one("page", || Ok(self.of(recipient, query)))
    }

    async fn marks(&self, recipient: &RecipientKey) -> Outcome<Marks> {
        self.0.faults.one("marks", || Ok(self.of(recipient, |user, _| user.marks)))
    }

    async fn advance_pending(&self, recipient: &RecipientKey, from: Option<Position>, to: Position) -> Outcome<bool> {
        self.0.faults.one("advance_pending", || Ok(self.of(recipient, |user, _| user.advance_pending(from, to))))
    }

    async fn acknowledge(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
        self.0.faults.one("acknowledge", || Ok(self.update(recipient, ids, Mark::Acked)))
    }

    async fn mark_read(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
        self.0.faults.one("mark_read", || Ok(self.update(recipient, ids, Mark::Read)))
    }

    async fn archive(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
        self.0.faults.one("archive", || Ok(self.update(recipient, ids, Mark::Archived)))
    }

    async fn read_all(&self, recipient: &RecipientKey, up_to: Position) -> Outcome<ReadAll> {
        self.0.faults.one("read_all", || Ok(self.of(recipient, |user, now| user.read_all(up_to, now))))
    }

    async fn unread(&self, recipient: &RecipientKey) -> Outcome<Unread> {
        let count = |user: &mut User, now| {
            let cap = limits::UNREAD_CAP;
            let unread = user.visible(now).filter(|entry| shows(PageFilter::Unread, entry));
            let counted = unread.take(cap as usize + 1).fold(0, |count, _| count + 1);
            Unread { count: cap.min(counted), capped: counted > cap }
        };
        self.0.faults.one("unread", || Ok(self.of(recipient, count)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use recado_domain::ids::{TenantId, UserId};
    use recado_domain::notification::Notification;

    use super::*;

    fn new_entry(id: &str) -> NewEntry {
        let recipient = RecipientKey::new(TenantId::default(), UserId::new("alice").unwrap());
        let notification = Notification {
            id: NotificationId::of("/t", id),
            event_id: id.to_owned(),
            source: "/t".to_owned(),
            event_type: "t".to_owned(),
            time: Timestamp::UNIX_EPOCH,
            category: None,
            title: None,
            body: None,
            url: None,
            payload: None,
            expires_at: None,
            ack_soon: false,
        };
        NewEntry { recipient, notification: Arc::new(notification) }
    }

    async fn appended_by_a_clock_that_goes_back(inbox: MemoryInbox, clock: &ManualClock) -> [Position; 2] {
        let first = inbox.append(&[new_entry("1")]).await.remove(0).unwrap();
        clock.set(clock.now() - Duration::from_secs(2));
        let second = inbox.append(&[new_entry("2")]).await.remove(0).unwrap();
        [first.position, second.position]
    }

    #[tokio::test]
    async fn positions_ascend_unless_callers_stamp_them() {
        let (clock, entropy) = (ManualClock::default(), SeededEntropy::new(1));
        let [first, second] = appended_by_a_clock_that_goes_back(MemoryInbox::new(clock.clone(), entropy.clone()), &clock).await;
        assert!(first < second);
        let inbox = MemoryInbox::stamped_by_callers(clock.clone(), entropy);
        let [first, second] = appended_by_a_clock_that_goes_back(inbox, &clock).await;
        assert!(second < first);
    }
}
