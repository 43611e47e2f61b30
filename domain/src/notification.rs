//! What one recipient sees, and what is remembered of it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{DeliveryKey, NotificationId, RecipientKey};
use crate::limits;
use crate::position::Position;

/// The content of an event as its recipients see it: the same for all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// Names it; see [`NotificationId::of`].
    pub id: NotificationId,
    /// The event's own `id`.
    pub event_id: String,
    /// The event's `source`.
    pub source: String,
    /// The event's `type`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// When the fact happened.
    pub time: Timestamp,
    /// See [`crate::event::Data::category`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// One line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Where a click leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The business payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// Hidden from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Whether something waits for the acknowledgement, so that clients send it within 2 s.
    #[serde(default)]
    pub ack_soon: bool,
}

impl Notification {
    /// The size of its item with every state set, in bytes: at most [`limits::ITEM_BYTES`].
    pub fn rendered_bytes(&self) -> usize {
        let entry = InboxEntry {
            notification: Arc::new(self.clone()),
            position: Position::MIN,
            acked_at: None,
            read_at: Some(Timestamp::MAX),
            archived_at: Some(Timestamp::MAX),
        };
        serde_json::to_vec(&Item::of(&entry)).map_or(usize::MAX, |json| json.len())
    }

    /// When a store may forget it: never before [`limits::RETENTION`] has passed, so that a late redrive shows nothing twice.
    pub fn collect_at(&self, appended: Timestamp) -> Timestamp {
        let retained = appended.checked_add(limits::RETENTION).unwrap_or(Timestamp::MAX);
        self.expires_at.map_or(retained, |at| at.max(retained))
    }
}

/// A notification in somebody's inbox.
#[derive(Debug, Clone, PartialEq)]
pub struct InboxEntry {
    /// What they see.
    pub notification: Arc<Notification>,
    /// Where it stands.
    pub position: Position,
    /// When a client, or for a plain client a post, confirmed it (R7).
    pub acked_at: Option<Timestamp>,
    /// When it was read, by id or by `read_all`.
    pub read_at: Option<Timestamp>,
    /// When it was put away.
    pub archived_at: Option<Timestamp>,
}

/// What a dispatcher asks an inbox to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEntry {
    /// Whose inbox.
    pub recipient: RecipientKey,
    /// What they see.
    pub notification: Arc<Notification>,
}

impl NewEntry {
    /// The idempotency key of the append.
    pub fn key(&self) -> DeliveryKey {
        DeliveryKey { recipient: self.recipient.clone(), notification: self.notification.id }
    }
}

/// What an inbox holds after an append: the entry just made, or the one that was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The position as *stored*, which is what may be pushed (R6).
    pub position: Position,
    /// Whether this call made it.
    pub inserted: bool,
    /// As stored.
    pub acked_at: Option<Timestamp>,
    /// As stored, `read_all` included.
    pub read_at: Option<Timestamp>,
    /// As stored.
    pub archived_at: Option<Timestamp>,
}

/// What is to happen with an append's answer that arrived at some moment (R6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Push it.
    Fresh,
    /// Stamp it again first: a client's overlap may have passed the stored position.
    Late,
    /// Acknowledged more than a day ago: neither stamped nor pushed.
    Settled,
}

impl Appended {
    /// Judges the answer at the moment it arrived.
    pub fn freshness(&self, now: Timestamp) -> Freshness {
        let since = |at: Timestamp| Duration::try_from(now.duration_since(at)).unwrap_or(Duration::ZERO);
        if self.acked_at.is_some_and(|at| since(at) > limits::ACKNOWLEDGED_IS_OLD) {
            Freshness::Settled
        } else if self.position.age(now) > limits::RESTAMP_AFTER {
            Freshness::Late
        } else {
            Freshness::Fresh
        }
    }
}

/// An entry as a client gets it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Item<'a> {
    /// The notification id: deduplicate by it.
    pub id: NotificationId,
    /// The event's own `id`.
    pub event_id: &'a str,
    /// The event's `source`.
    pub source: &'a str,
    /// The event's `type`.
    #[serde(rename = "type")]
    pub event_type: &'a str,
    /// When the fact happened (RFC 3339).
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// Order by it.
    pub position: Position,
    /// As published.
    pub category: Option<&'a str>,
    /// As published.
    pub title: Option<&'a str>,
    /// As published: plain text.
    pub body: Option<&'a str>,
    /// As published: a path or an `http(s)` URL.
    pub url: Option<&'a str>,
    /// As published.
    pub payload: Option<&'a Value>,
    /// When it was read (RFC 3339).
    #[schemars(with = "Option<String>")]
    pub read_at: Option<Timestamp>,
    /// When it was put away (RFC 3339).
    #[schemars(with = "Option<String>")]
    pub archived_at: Option<Timestamp>,
    /// Acknowledge within 2 s where true, with the next `sync` otherwise.
    pub ack_soon: bool,
}

impl<'a> Item<'a> {
    /// Renders an entry.
    pub fn of(entry: &'a InboxEntry) -> Self {
        let Notification { id, event_id, source, event_type, time, category, title, body, url, payload, ack_soon, .. } =
            &*entry.notification;
        Self {
            id: *id,
            event_id,
            source,
            event_type,
            time: *time,
            position: entry.position,
            category: category.as_deref(),
            title: title.as_deref(),
            body: body.as_deref(),
            url: url.as_deref(),
            payload: payload.as_ref(),
            read_at: entry.read_at,
            archived_at: entry.archived_at,
            ack_soon: *ack_soon,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appended(position_age: u64, acked_age: Option<u64>) -> (Appended, Timestamp) {
        let now = Timestamp::from_second(10_000_000).unwrap();
        let position = Position::new(now - Duration::from_secs(position_age), 1);
        let acked_at = acked_age.map(|age| now - Duration::from_secs(age));
        (Appended { position, inserted: false, acked_at, read_at: None, archived_at: None }, now)
    }

    #[test]
    fn an_answer_within_half_the_grace_period_is_fresh() {
        let (answer, now) = appended(30, None);
        assert_eq!(answer.freshness(now), Freshness::Fresh);
    }

    #[test]
    fn a_later_answer_is_stamped_again_even_when_acknowledged() {
        let (answer, now) = appended(31, Some(10));
        assert_eq!(answer.freshness(now), Freshness::Late);
    }

    #[test]
    fn what_was_acknowledged_within_a_day_is_stamped_again() {
        let (answer, now) = appended(90_000, Some(86_400));
        assert_eq!(answer.freshness(now), Freshness::Late);
    }

    #[test]
    fn what_was_acknowledged_a_day_ago_stays_where_it_is() {
        let (answer, now) = appended(90_000, Some(86_401));
        assert_eq!(answer.freshness(now), Freshness::Settled);
    }

    fn notification(expires_at: Option<Timestamp>) -> Notification {
        let data = serde_json::json!({"recipients": [{"id": "alice"}], "title": "You can now view Q3 plan", "expires_at": expires_at});
        let event = serde_json::json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": data});
        crate::event::Event::from_value(event).unwrap().notification(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn nothing_is_collected_within_its_retention() {
        let appended = Timestamp::from_second(10_000_000).unwrap();
        let retained = appended + limits::RETENTION;
        assert_eq!(notification(None).collect_at(appended), retained);
        assert_eq!(notification(Some(appended + Duration::from_secs(1))).collect_at(appended), retained);
        assert_eq!(notification(Some(retained + Duration::from_secs(1))).collect_at(appended), retained + Duration::from_secs(1));
    }

    #[test]
    fn an_item_is_judged_as_large_as_it_gets() {
        let notification = Arc::new(notification(None));
        let as_new = InboxEntry { notification, position: Position::MIN, acked_at: None, read_at: None, archived_at: None };
        let as_read = InboxEntry { read_at: Some(Timestamp::MAX), archived_at: Some(Timestamp::MAX), ..as_new.clone() };
        let bytes = |entry: &InboxEntry| serde_json::to_vec(&Item::of(entry)).unwrap().len();
        assert!(bytes(&as_new) < bytes(&as_read));
        assert_eq!(as_new.notification.rendered_bytes(), bytes(&as_read));
    }

    #[test]
    fn a_delivery_is_named_by_recipient_and_notification() {
        let user = |id: &str| crate::ids::RecipientKey::new(crate::ids::TenantId::default(), crate::ids::UserId::new(id).unwrap());
        let of = |id: &str| NewEntry { recipient: user(id), notification: Arc::new(notification(None)) };
        assert_eq!(of("alice").key(), DeliveryKey { recipient: user("alice"), notification: NotificationId::of("/s", "1") });
        assert_ne!(of("alice").key(), of("bob").key());
    }
}
