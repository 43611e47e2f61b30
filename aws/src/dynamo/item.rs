//! How items are named and written: keys, and attributes of the types that the domain has.
//!
//! Every attribute goes through a placeholder in an expression, since names as `position`, `ttl` and `user` are reserved words
//! ("Reserved words in DynamoDB"). Moments are nanoseconds since 1970, so that what is read back equals what was written.
//! Must not know: any call.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use recado_domain::address::AddressKey;
use recado_domain::ids::{ConnectionId, DeliveryKey, NotificationId, RecipientKey};
use recado_domain::ports::Marks;
use recado_domain::position::Position;
use recado_domain::ticket::TicketKey;

use super::{PARTITION_KEY, POSITION, SORT_KEY};

/// An item, or a part of one.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// The sort key of a user's connections.
const STATE: &str = "STATE";
/// The sort key of a user's marks.
const MARKS: &str = "MARKS";
/// Where the marks stand in the index: behind every position, so that a query that reaches an inbox's end, or begins at
/// it, brings them along.
pub(crate) const END: &str = "~";

/// What an event shows, as JSON. Only entries have it.
pub(crate) const CONTENT: &str = "n";
pub(crate) const EXPIRES_AT: &str = "expires_at";
pub(crate) const ACKED_AT: &str = "acked_at";
pub(crate) const READ_AT: &str = "read_at";
pub(crate) const ARCHIVED_AT: &str = "archived_at";
pub(crate) const READ_UP_TO: &str = "read_up_to";
pub(crate) const PENDING_FROM: &str = "pending_from";

/// The primary key of an item.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) pk: String,
    pub(crate) sk: String,
}

impl Key {
    pub(crate) fn entry(key: &DeliveryKey) -> Self {
        Self { pk: partition(&key.recipient), sk: entry_sort_key(key.notification) }
    }

    pub(crate) fn marks(recipient: &RecipientKey) -> Self {
        Self { pk: partition(recipient), sk: MARKS.to_owned() }
    }

    pub(crate) fn state(recipient: &RecipientKey) -> Self {
        Self { pk: partition(recipient), sk: STATE.to_owned() }
    }

    /// The reverse item of a connection.
    pub(crate) fn connection(id: &ConnectionId) -> Self {
        Self { pk: format!("C#{id}"), sk: "C".to_owned() }
    }

    /// A mail's claim: a partition of its own, since nobody asks for all claims of a user.
    pub(crate) fn claim(key: &DeliveryKey) -> Self {
        Self { pk: format!("M#{}#{}", key.recipient.joined(), key.notification), sk: "M".to_owned() }
    }

    /// An address to which nothing more is sent.
    pub(crate) fn suppression(address: AddressKey) -> Self {
        Self { pk: format!("S#{address}"), sk: "S".to_owned() }
    }

    /// A connection ticket.
    pub(crate) fn ticket(key: TicketKey) -> Self {
        Self { pk: format!("T#{key}"), sk: "T".to_owned() }
    }

    /// The key that an item carries.
    pub(crate) fn of(item: &Item) -> Option<Self> {
        Some(Self { pk: text(item, PARTITION_KEY)?.to_owned(), sk: text(item, SORT_KEY)?.to_owned() })
    }

    pub(crate) fn attributes(&self) -> Item {
        Item::from([(PARTITION_KEY.to_owned(), string(&self.pk)), (SORT_KEY.to_owned(), string(&self.sk))])
    }
}

/// The partition of a user. [`RecipientKey::joined`] escapes, so that no id reaches into another's.
pub(crate) fn partition(recipient: &RecipientKey) -> String {
    format!("U#{}", recipient.joined())
}

pub(crate) fn entry_sort_key(id: NotificationId) -> String {
    format!("N#{id}")
}

/// The notification an entry is of; `None` for the other items of a user.
pub(crate) fn notification_of(item: &Item) -> Option<NotificationId> {
    text(item, SORT_KEY)?.strip_prefix("N#")?.parse().ok()
}

pub(crate) fn is_marks(item: &Item) -> bool {
    text(item, SORT_KEY) == Some(MARKS)
}

pub(crate) fn string(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(crate) fn moment(at: Timestamp) -> AttributeValue {
    AttributeValue::N(at.as_nanosecond().to_string())
}

/// For the time to live: seconds since 1970, the only unit that DynamoDB takes for it.
pub(crate) fn seconds(at: Timestamp) -> AttributeValue {
    AttributeValue::N(at.as_second().to_string())
}

pub(crate) fn position(at: Position) -> AttributeValue {
    string(at.to_string())
}

pub(crate) fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

pub(crate) fn moment_of(item: &Item, name: &str) -> Option<Timestamp> {
    Timestamp::from_nanosecond(item.get(name)?.as_n().ok()?.parse().ok()?).ok()
}

pub(crate) fn position_of(item: &Item, name: &str) -> Option<Position> {
    text(item, name)?.parse().ok()
}

/// The marks of an item of marks; none of a missing one.
pub(crate) fn marks_of(item: Option<&Item>) -> Marks {
    item.map_or(Marks::default(), |item| Marks { read_up_to: position_of(item, READ_UP_TO), pending_from: position_of(item, PENDING_FROM) })
}

/// When an entry was read: by id, or by `read_all`, whose moment is that of its mark.
pub(crate) fn effective_read_at(item: &Item, at: Position, marks: Marks) -> Option<Timestamp> {
    moment_of(item, READ_AT).or_else(|| marks.read_up_to.filter(|mark| at <= *mark).map(Position::at))
}

/// Where an entry stands.
pub(crate) fn stands_at(item: &Item) -> Option<Position> {
    position_of(item, POSITION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use recado_domain::ids::{TenantId, UserId};

    fn recipient(tenant: &str, user: &str) -> RecipientKey {
        RecipientKey::new(TenantId::new(tenant).unwrap(), UserId::new(user).unwrap())
    }

    #[test]
    fn no_id_reaches_into_another_partition() {
        let of = |tenant, user| Key::marks(&recipient(tenant, user));
        assert_ne!(of("a#b", "c"), of("a", "b#c"));
        assert_ne!(of("a%23b", "c"), of("a#b", "c"));
        let claim = |tenant, user, id| Key::claim(&DeliveryKey { recipient: recipient(tenant, user), notification: id });
        let (one, other) = (NotificationId::of("/s", "1"), NotificationId::of("/s", "2"));
        assert_ne!(claim("a", &format!("b#{one}"), other), claim("a", "b", one));
    }

    #[test]
    fn the_longest_key_fits_into_dynamodb() {
        // 2,048 bytes for a partition key, 1,024 for a sort key ("Quotas in Amazon DynamoDB").
        let longest = "#".repeat(128);
        let key = Key::claim(&DeliveryKey { recipient: recipient(&longest, &longest), notification: NotificationId::of("/s", "1") });
        assert!(key.pk.len() < 1_024, "{} bytes", key.pk.len());
    }

    #[test]
    fn the_marks_stand_behind_every_position() {
        assert!(Position::from_bytes([0xff; 16]).to_string().as_str() < END);
    }

    proptest! {
        #[test]
        fn positions_order_as_their_text_does(one in any::<[u8; 16]>(), other in any::<[u8; 16]>()) {
            let (one, other) = (Position::from_bytes(one), Position::from_bytes(other));
            prop_assert_eq!(one.cmp(&other), one.to_string().as_bytes().cmp(other.to_string().as_bytes()));
        }

        #[test]
        fn a_moment_reads_back_to_the_nanosecond(at in -62_135_596_800_000_000_000_i128..253_402_200_000_000_000_000) {
            let at = Timestamp::from_nanosecond(at).unwrap();
            let item = Item::from([("at".to_owned(), moment(at))]);
            prop_assert_eq!(moment_of(&item, "at"), Some(at));
        }
    }
}
