//! What a queue carries: an event, or a command the parts send each other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{Event, InvalidEvent};
use crate::ids::{ConnectionId, RecipientKey};
use crate::limits::REASON_BYTES;

/// The attribute with the event's `type`.
pub const ATTRIBUTE_TYPE: &str = "type";
/// The attribute with the event's channels, as a JSON array of text (SNS `String.Array`): the filter of the email subscription.
pub const ATTRIBUTE_CHANNELS: &str = "channels";
/// The attribute with the event's tenant.
pub const ATTRIBUTE_TENANT: &str = "tenant";
/// The attribute with how often work was sent on, so that what never succeeds ends as a dead letter.
pub const ATTRIBUTE_ATTEMPT: &str = "recado_attempt";
/// The attribute of a dead letter that says why.
pub const ATTRIBUTE_REASON: &str = "recado_reason";

/// A reason as a dead letter carries it: cut between characters where it is longer than [`REASON_BYTES`].
pub fn short_reason(mut reason: String) -> String {
    if reason.len() > REASON_BYTES {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES - '…'.len_utf8()));
        reason.push('…');
    }
    reason
}

/// The attributes of a message by name.
pub type Attributes = BTreeMap<String, String>;

/// The attributes that go with an event.
pub fn attributes_of(event: &Event) -> Attributes {
    let channels = serde_json::to_string(&event.data().channels).expect("channels are text");
    BTreeMap::from([
        (ATTRIBUTE_TYPE.to_owned(), event.document().event_type.clone()),
        (ATTRIBUTE_CHANNELS.to_owned(), channels),
        (ATTRIBUTE_TENANT.to_owned(), event.data().tenant.to_string()),
    ])
}

/// How often the work of these attributes was sent on before.
pub fn attempt_of(attributes: &Attributes) -> u32 {
    attributes.get(ATTRIBUTE_ATTEMPT).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What the inbox queue carries.
#[derive(Debug, Clone, PartialEq)]
pub enum InboxMessage {
    /// A published event.
    Event(Box<Event>),
    /// A connection waits for what is pending.
    Replay(Replay),
}

/// Bring one connection what is pending, proving it first where it is `connecting` (R4).
///
/// Whoever can publish could forge one. It does no harm: it pushes a user's own entries to that user's own
/// registered connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Whose.
    #[serde(flatten)]
    pub recipient: RecipientKey,
    /// To where.
    pub connection: ConnectionId,
    /// When the connection was registered: how long a 410 may still mean *not yet*.
    pub registered_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    recado_replay: T,
}

impl Replay {
    /// The JSON a queue carries.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&Envelope { recado_replay: self }).expect("a replay is text")
    }
}

impl InboxMessage {
    /// Reads a message.
    ///
    /// # Errors
    /// As [`Event::parse`].
    pub fn parse(json: &[u8]) -> Result<Self, InvalidEvent> {
        // A CloudEvent cannot have this extension: attribute names have no underscore (CloudEvents 1.0, naming conventions).
        if let Ok(Envelope { recado_replay }) = serde_json::from_slice(json) {
            return Ok(Self::Replay(recado_replay));
        }
        Event::parse(json).map(|event| Self::Event(Box::new(event)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{TenantId, UserId};

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let cut = short_reason("é".repeat(REASON_BYTES));
        assert!(cut.len() <= REASON_BYTES && cut.ends_with("é…"), "{cut}");
        assert_eq!(short_reason("short".to_owned()), "short");
    }

    #[test]
    fn a_replay_reads_back() {
        let replay = Replay {
            recipient: RecipientKey::new(TenantId::default(), UserId::new("alice").unwrap()),
            connection: ConnectionId::new("abc=").unwrap(),
            registered_at: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(InboxMessage::parse(replay.to_json().as_bytes()).unwrap(), InboxMessage::Replay(replay));
    }

    #[test]
    fn what_is_neither_says_what_is_missing_of_an_event() {
        assert!(InboxMessage::parse(br#"{"Type":"Notification","Message":"{}"}"#).unwrap_err().to_string().contains("specversion"));
    }

    #[test]
    fn an_attempt_that_is_no_number_is_the_first() {
        assert_eq!(attempt_of(&BTreeMap::from([(ATTRIBUTE_ATTEMPT.to_owned(), "many".to_owned())])), 0);
    }
}
