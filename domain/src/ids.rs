//! Identifiers as types: what was checked once is not checked again.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use crate::limits;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Nothing there.
    #[error("is empty; give 1 to {limit} bytes")]
    Empty {
        /// The most bytes.
        limit: usize,
    },
    /// Too long.
    #[error("is {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// The most bytes.
        limit: usize,
    },
    /// A control character, which no key, log or header can carry.
    #[error("has a control character at byte {at}; remove it")]
    Control {
        /// Where, in bytes.
        at: usize,
    },
    /// Not in the alphabet of a notification id.
    #[error("is no notification id; it has 26 characters of lower-case Crockford base32")]
    NotANotification,
}

/// Checks a text for length and control characters.
pub(crate) fn check_text(text: &str, limit: usize) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty { limit });
    }
    if text.len() > limit {
        return Err(InvalidId::TooLong { bytes: text.len(), limit });
    }
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(InvalidId::Control { at }),
        None => Ok(()),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $limit:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(#[schemars(length(min = 1, max = $limit))] String);

        impl $name {
            /// Checks length and characters.
            ///
            /// # Errors
            /// Says which limit the text breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
                let text = text.into();
                check_text(&text, $limit)?;
                Ok(Self(text))
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(from)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// Whose world a recipient lives in. Users of one tenant never see another's.
    TenantId,
    limits::ID_BYTES
);
text_id!(
    /// A recipient, as the application names its users.
    UserId,
    limits::ID_BYTES
);
text_id!(
    /// One open socket, as the gateway names it.
    ConnectionId,
    limits::ID_BYTES
);

impl Default for TenantId {
    /// The tenant of events and tokens that name none.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// Whose inbox: the first two parts of every delivery's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecipientKey {
    /// The tenant.
    pub tenant: TenantId,
    /// The user within it.
    pub user: UserId,
}

impl RecipientKey {
    /// Puts the two together.
    pub fn new(tenant: TenantId, user: UserId) -> Self {
        Self { tenant, user }
    }

    /// One text that no other pair of ids can produce: `#` and `%` are escaped before `#` joins them.
    pub fn joined(&self) -> String {
        format!("{}#{}", escape(self.tenant.as_str()), escape(self.user.as_str()))
    }
}

/// Escapes what joins a key, so that no id can reach into another's partition.
fn escape(id: &str) -> Cow<'_, str> {
    if id.contains(['#', '%']) { Cow::Owned(id.replace('%', "%25").replace('#', "%23")) } else { Cow::Borrowed(id) }
}

/// Names a notification: the first 128 bits of SHA-256 over `source`, a zero byte and `id`, in lower-case
/// Crockford base32. The same from whichever part computes it, and safe in a URL.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NotificationId([u8; 16]);

impl NotificationId {
    /// The id of the event that `source` and `id` name (CloudEvents 1.0 makes the pair unique).
    pub fn of(source: &str, id: &str) -> Self {
        let digest = Sha256::new().chain_update(source).chain_update([0]).chain_update(id).finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(bytes)
    }

    /// The 128 bits, for a store.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// From the 128 bits of a store.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for NotificationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ulid::Ulid::from_bytes(self.0).to_string().to_ascii_lowercase())
    }
}

impl fmt::Debug for NotificationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NotificationId({self})")
    }
}

impl std::str::FromStr for NotificationId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // 26 characters hold 130 bits, of which the library drops the upper two: each id would have four names.
        if text.len() != 26 || !text.starts_with(|first| ('0'..='7').contains(&first)) || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(InvalidId::NotANotification);
        }
        let parsed = ulid::Ulid::from_string(text).map_err(|_| InvalidId::NotANotification)?;
        Ok(Self(parsed.to_bytes()))
    }
}

impl Serialize for NotificationId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NotificationId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <Cow<'_, str>>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for NotificationId {
    fn schema_name() -> Cow<'static, str> {
        "NotificationId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9a-hjkmnp-tv-z]{26}$" })
    }
}

/// The idempotency key of what one recipient gets of one event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeliveryKey {
    /// Whose.
    pub recipient: RecipientKey,
    /// Of what.
    pub notification: NotificationId,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tenant: &str, user: &str) -> RecipientKey {
        RecipientKey::new(TenantId::new(tenant).unwrap(), UserId::new(user).unwrap())
    }

    #[test]
    fn ids_have_1_to_128_bytes_without_control_characters() {
        assert!(UserId::new("a".repeat(128)).is_ok());
        assert_eq!(UserId::new("a".repeat(129)), Err(InvalidId::TooLong { bytes: 129, limit: 128 }));
        assert_eq!(UserId::new(""), Err(InvalidId::Empty { limit: 128 }));
        assert_eq!(UserId::new("a\nb"), Err(InvalidId::Control { at: 1 }));
    }

    #[test]
    fn no_id_reaches_into_another_recipients_key() {
        assert_ne!(key("a#b", "c").joined(), key("a", "b#c").joined());
        assert_ne!(key("a%23b", "c").joined(), key("a#b", "c").joined());
    }

    #[test]
    fn a_notification_id_is_the_same_everywhere_and_reads_back() {
        let id = NotificationId::of("/publications", "01JD");
        assert_eq!(id.to_string().len(), 26);
        assert_eq!(id.to_string().parse::<NotificationId>(), Ok(id));
        assert_ne!(id, NotificationId::of("/publication", "s01JD"));
        // Pinned: a change of this value would show every stored notification a second time.
        assert_eq!(id.to_string(), "00pn568fyznyxf8h5ta5dc69m8");
    }

    #[test]
    fn a_store_keeps_the_128_bits_of_an_id() {
        let id = NotificationId::of("/publications", "01JD");
        assert_eq!(NotificationId::from_bytes(id.to_bytes()), id);
        assert_ne!(id.to_bytes(), NotificationId::of("/publications", "01JE").to_bytes());
        assert_eq!(format!("{id:?}"), "NotificationId(00pn568fyznyxf8h5ta5dc69m8)");
    }

    #[test]
    fn a_notification_id_is_described_by_its_alphabet() {
        let schema = schemars::schema_for!(NotificationId);
        assert_eq!(schema.get("title"), Some(&serde_json::json!("NotificationId")));
        assert_eq!(schema.get("pattern"), Some(&serde_json::json!("^[0-9a-hjkmnp-tv-z]{26}$")));
    }

    #[test]
    fn a_notification_has_one_name() {
        let id = NotificationId::of("/publications", "01JD").to_string();
        for first in ["8", "g", "r", "o", "é"] {
            assert_eq!(format!("{first}{}", &id[first.len()..]).parse::<NotificationId>(), Err(InvalidId::NotANotification), "{first}");
        }
    }

    #[test]
    fn upper_case_is_no_second_name_of_a_notification() {
        let id = NotificationId::of("a", "b").to_string().to_ascii_uppercase();
        assert_eq!(id.parse::<NotificationId>(), Err(InvalidId::NotANotification));
    }
}
