//! What a queue carries: an event, or a command the parts send each other.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{Event, InvalidEvent};
use crate::ids::{ConnectionId, NotificationId, RecipientKey};
use crate::limits::{MISSED_IDS, REASON_BYTES};
use crate::position::Position;

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
    /// What the connection was to be pushed and did not take.
    #[serde(default, skip_serializing_if = "Missed::is_nothing")]
    pub missed: Missed,
}

/// What a live connection did not take. It is brought by name, since another device of the same user may acknowledge it
/// meanwhile: then it is pending for nobody, and yet this connection has not answered for it (R3).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// The lowest position of those, as they stood. A stamp only moves them up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Position>,
    /// Which; none where they are too many to name, which means all that stand there.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    ids: BTreeSet<NotificationId>,
}

impl Missed {
    /// These entries.
    pub fn of<'a>(entries: impl IntoIterator<Item = (Position, &'a NotificationId)>) -> Self {
        let (mut from, mut ids): (Option<Position>, BTreeSet<_>) = (None, BTreeSet::new());
        for (position, id) in entries {
            from = Some(from.map_or(position, |lowest| lowest.min(position)));
            ids.insert(*id);
        }
        Self { from, ids }.named_if_few()
    }

    /// Whether the connection took all.
    pub fn is_nothing(&self) -> bool {
        self.from.is_none()
    }

    /// Where to begin to read, if there is anything: at or below everything missed.
    pub fn from(&self) -> Option<Position> {
        self.from
    }

    /// Whether an entry that stands there may be one of them.
    pub fn has(&self, id: &NotificationId) -> bool {
        self.ids.is_empty() || self.ids.contains(id)
    }

    /// What either is about.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (Some(one), Some(two)) = (self.from, other.from) else { return if self.is_nothing() { other } else { self } };
        let named = !(self.ids.is_empty() || other.ids.is_empty());
        let ids = if named { self.ids.into_iter().chain(other.ids).collect() } else { BTreeSet::new() };
        Self { from: Some(one.min(two)), ids }.named_if_few()
    }

    fn named_if_few(self) -> Self {
        if self.ids.len() > MISSED_IDS { Self { ids: BTreeSet::new(), ..self } } else { self }
    }
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
        let full = "x".repeat(REASON_BYTES);
        assert_eq!(short_reason(full.clone()), full);
        assert_eq!(short_reason(full.clone() + "x").len(), REASON_BYTES);
    }

    #[test]
    fn an_event_travels_with_what_subscriptions_filter_by() {
        let event = Event::from_value(serde_json::json!({
            "specversion": "1.0", "id": "1", "source": "/s", "type": "t.done",
            "data": {"recipients": [{"id": "alice", "email": "alice@example.com"}], "channels": ["inbox", "email"], "tenant": "acme"}
        }));
        let expected = [("channels", r#"["inbox","email"]"#), ("tenant", "acme"), ("type", "t.done")];
        let attributes = attributes_of(&event.unwrap());
        assert_eq!(attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_attempt_is_what_the_attribute_says() {
        let attempt = |text: &str| attempt_of(&Attributes::from([(ATTRIBUTE_ATTEMPT.to_owned(), text.to_owned())]));
        assert_eq!((attempt("3"), attempt("three"), attempt_of(&Attributes::new())), (3, 0, 0));
    }

    #[test]
    fn a_replay_reads_back() {
        let replay = Replay {
            recipient: RecipientKey::new(TenantId::default(), UserId::new("alice").unwrap()),
            connection: ConnectionId::new("abc=").unwrap(),
            registered_at: Timestamp::UNIX_EPOCH,
            missed: missed(&[(7, "a"), (5, "b")]),
        };
        assert_eq!(InboxMessage::parse(replay.to_json().as_bytes()).unwrap(), InboxMessage::Replay(replay));
    }

    fn missed(entries: &[(i64, &str)]) -> Missed {
        let at = |second: i64| Position::new(Timestamp::from_second(second).unwrap(), 0);
        let named: Vec<_> = entries.iter().map(|(second, id)| (at(*second), NotificationId::of("/s", id))).collect();
        Missed::of(named.iter().map(|(position, id)| (*position, id)))
    }

    #[test]
    fn a_replay_that_names_nothing_reads_as_before() {
        let json = r#"{"recado_replay":{"tenant":"default","user":"alice","connection":"abc=","registered_at":"1970-01-01T00:00:00Z"}}"#;
        let InboxMessage::Replay(replay) = InboxMessage::parse(json.as_bytes()).unwrap() else { panic!("a replay") };
        assert!(replay.missed.is_nothing());
        assert_eq!(replay.to_json(), json);
    }

    #[test]
    fn two_that_missed_something_missed_both_from_the_lowest_on() {
        let both = missed(&[(7, "a")]).and(missed(&[(5, "b")]));
        assert_eq!(both, missed(&[(5, "b"), (7, "a")]));
        assert_eq!(both.from(), Some(Position::new(Timestamp::from_second(5).unwrap(), 0)));
        assert!(both.has(&NotificationId::of("/s", "a")) && !both.has(&NotificationId::of("/s", "c")));
        assert_eq!(Missed::default().and(both.clone()), both);
        assert_eq!(both.clone().and(Missed::default()), both);
    }

    #[test]
    fn what_is_too_much_to_name_is_all_that_stands_there() {
        let ids: Vec<String> = (0..=MISSED_IDS).map(|n| n.to_string()).collect();
        let entries: Vec<_> = ids.iter().map(|id| (9, id.as_str())).collect();
        let many = missed(&entries);
        assert!(!many.is_nothing() && many.has(&NotificationId::of("/s", "another")));
        let named = missed(&entries[..MISSED_IDS]);
        assert!(named.has(&NotificationId::of("/s", "0")) && !named.has(&NotificationId::of("/s", "another")));
        let more = many.clone().and(missed(&[(8, "b")]));
        assert_eq!(more.from(), missed(&[(8, "b")]).from());
        assert!(more.has(&NotificationId::of("/s", "another")));
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
