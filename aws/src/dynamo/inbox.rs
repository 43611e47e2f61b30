//! People's inboxes in the table.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use recado_domain::ids::{DeliveryKey, NotificationId, RecipientKey};
use recado_domain::limits;
use recado_domain::notification::{Appended, NewEntry};
use recado_domain::ports::{Clock, Entropy, Inbox, Marks, Outcome, Page, PageFilter, ReadAll, Unread};
use recado_domain::position::Position;

use super::item::{ACKED_AT, ARCHIVED_AT, READ_AT};
use super::query::Part;
use super::table::Table;
use super::{append, marks, query, restamp, update};
use crate::clients::Clients;

/// [`Inbox`] on DynamoDB.
pub struct DynamoInbox<K, E>(Arc<Inner<K, E>>);

impl<K, E> Clone for DynamoInbox<K, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, E> fmt::Debug for DynamoInbox<K, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DynamoInbox").field(&self.0.table).finish()
    }
}

/// What every call of an inbox needs.
pub(super) struct Inner<K, E> {
    pub(super) table: Table,
    pub(super) clock: K,
    pub(super) entropy: E,
    /// The last position this process took.
    last: Mutex<Position>,
}

impl<K: Clock, E: Entropy> Inner<K, E> {
    /// A position of this moment, above every earlier one of this process (R6).
    pub(super) fn take_position(&self) -> Position {
        let now = self.clock.now();
        let random = u128::from(self.entropy.next_u64()) << 64 | u128::from(self.entropy.next_u64());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = following(*last, now, random);
        *last
    }
}

/// The position after `last`, of this moment.
fn following(last: Position, now: Timestamp, random: u128) -> Position {
    let fresh = Position::new(now, random);
    // A clock that was set back by more than clocks may differ was wrong before; to follow it would keep the mistake.
    let was_wrong = last.at() > now + limits::CLOCK_SKEW;
    if was_wrong { fresh } else { fresh.max(last.next()) }
}

impl<K: Clock, E: Entropy> DynamoInbox<K, E> {
    /// The inboxes in the table of this name.
    pub fn new(clients: &Clients, table: &str, clock: K, entropy: E) -> Self {
        Self(Arc::new(Inner { table: Table::new(clients, table), clock, entropy, last: Mutex::new(Position::MIN) }))
    }
}

impl<K: Clock, E: Entropy> Inbox for DynamoInbox<K, E> {
    async fn append(&self, entries: &[NewEntry]) -> Vec<Outcome<Appended>> {
        append::append(&self.0, entries).await
    }

    async fn restamp(&self, key: &DeliveryKey, old: Position) -> Outcome<Appended> {
        restamp::restamp(&self.0, key, old).await
    }

    async fn since(&self, recipient: &RecipientKey, after: Position, limit: usize) -> Outcome<Page> {
        query::read(&self.0, recipient, Part::Since(after), limit).await
    }

    async fn pending(&self, recipient: &RecipientKey, marks: Marks, after: Position, limit: usize) -> Outcome<Page> {
        query::read(&self.0, recipient, Part::Pending(marks, after), limit).await
    }

    async fn page(&self, recipient: &RecipientKey, before: Option<Position>, filter: PageFilter, limit: usize) -> Outcome<Page> {
        query::read(&self.0, recipient, Part::Page(before, filter), limit).await
    }

    async fn marks(&self, recipient: &RecipientKey) -> Outcome<Marks> {
        marks::read(&self.0, recipient).await
    }

    async fn advance_pending(&self, recipient: &RecipientKey, from: Option<Position>, to: Position) -> Outcome<bool> {
        marks::advance_pending(&self.0, recipient, from, to).await
    }

    async fn acknowledge(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
        update::set(&self.0, recipient, ids, ACKED_AT, None).await
    }

    async fn mark_read(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let marks = marks::read(&self.0, recipient).await?;
        update::set(&self.0, recipient, ids, READ_AT, marks.read_up_to).await
    }

    async fn archive(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> Outcome<Vec<NotificationId>> {
        update::set(&self.0, recipient, ids, ARCHIVED_AT, None).await
    }

    async fn read_all(&self, recipient: &RecipientKey, up_to: Position) -> Outcome<ReadAll> {
        let settled = Position::floor(self.0.clock.now()).back(limits::W);
        let mark = marks::raise_read(&self.0, recipient, up_to.min(settled)).await?;
        // What the mark reaches is read by it, what lies within the last W is marked by id (R8).
        let ids = query::unread_ids(&self.0, recipient, settled, up_to).await?;
        Ok(ReadAll { ids: update::set(&self.0, recipient, &ids, READ_AT, mark).await?, up_to: mark })
    }

    async fn unread(&self, recipient: &RecipientKey) -> Outcome<Unread> {
        query::unread(&self.0, recipient).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn positions_ascend_even_where_the_clock_stands_or_goes_back_a_little() {
        let first = following(Position::MIN, at(1_000), u128::MAX);
        assert_eq!(first.at(), at(1_000));
        let second = following(first, at(1_000), 0);
        let third = following(second, at(1_001) - limits::CLOCK_SKEW, 0);
        assert!(first < second && second < third);
    }

    #[test]
    fn a_clock_that_was_far_ahead_is_not_followed() {
        let wrong = following(Position::MIN, at(100_000), 7);
        let now = at(1_000);
        assert_eq!(following(wrong, now, 7), Position::new(now, 7));
        assert!(following(wrong, now, 7).age(now) < Duration::from_secs(1));
    }
}
