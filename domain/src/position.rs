//! Where an entry stands in an inbox, and where a client stopped.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};
use ulid::Ulid;

use crate::ids::RecipientKey;
use crate::limits;

/// An entry's place: a ULID taken at the moment of append, so positions order as moments do (R6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(Ulid);

impl Position {
    /// Before every entry.
    pub const MIN: Self = Self(Ulid::nil());

    /// A position at `at`, with 80 random bits. Only the milliseconds of `at` count.
    pub fn new(at: Timestamp, random: u128) -> Self {
        Self(Ulid::from_parts(millis(at), random))
    }

    /// The lowest position of a moment: everything at or after `at` is at or above it.
    pub fn floor(at: Timestamp) -> Self {
        Self::new(at, 0)
    }

    /// The moment, to the millisecond.
    pub fn at(self) -> Timestamp {
        let millis = i64::try_from(self.0.timestamp_ms()).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
    }

    /// The next higher position; the highest stays.
    pub fn next(self) -> Self {
        Self(Ulid(self.0.0.saturating_add(1)))
    }

    /// The lowest position `by` earlier than this one's moment.
    pub fn back(self, by: Duration) -> Self {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        Self(Ulid::from_parts(self.0.timestamp_ms().saturating_sub(by), 0))
    }

    /// How long before `now` this was taken; zero when it lies ahead.
    pub fn age(self, now: Timestamp) -> Duration {
        Duration::try_from(now.duration_since(self.at())).unwrap_or(Duration::ZERO)
    }

    /// For a store: big-endian, so that bytes order as positions do.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    /// From a store.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Ulid::from_bytes(bytes))
    }
}

fn millis(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Why a text is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no position; it has 26 characters of Crockford base32, as an item's `position`")]
pub struct InvalidPosition;

impl std::str::FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        // 26 characters hold 130 bits. The library drops the upper two, and reads the highest text there is as a low position.
        if text.bytes().next().is_none_or(|first| first > b'7') {
            return Err(InvalidPosition);
        }
        Ulid::from_string(text).map(Self).map_err(|_| InvalidPosition)
    }
}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <Cow<'_, str>>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Position {
    fn schema_name() -> Cow<'static, str> {
        "Position".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$" })
    }
}

/// Where a client stopped reading: a position, bound to the recipient it was given to (P3, R5).
///
/// It is no secret and no capability: the inbox is chosen by the verified token alone. The binding only tells
/// a cursor of somebody else, or a damaged one, from an own one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(Position);

/// What a cursor says of the answer it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Everything after this position can be given.
    From(Position),
    /// Older than retention, foreign, damaged, or from the future: there may be a gap.
    Gap,
}

impl Cursor {
    /// A cursor at `position`.
    pub fn new(position: Position) -> Self {
        Self(position)
    }

    /// The opaque text for `recipient`.
    pub fn encode(self, recipient: &RecipientKey) -> String {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.0.to_bytes());
        bytes[16..].copy_from_slice(&binding(self.0, recipient));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Judges a text that `recipient` gave at `now`.
    pub fn resume(text: &str, recipient: &RecipientKey, now: Timestamp) -> Resume {
        let Some(position) = decode(text, recipient) else { return Resume::Gap };
        let ahead = Duration::try_from(position.at().duration_since(now)).unwrap_or(Duration::ZERO);
        if ahead > limits::CLOCK_SKEW || position.age(now) > limits::RETENTION {
            return Resume::Gap;
        }
        Resume::From(position)
    }
}

fn decode(text: &str, recipient: &RecipientKey) -> Option<Position> {
    let bytes: [u8; 24] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    let (position, bound) = bytes.split_at(16);
    let position = Position::from_bytes(position.try_into().ok()?);
    (bound == binding(position, recipient)).then_some(position)
}

fn binding(position: Position, recipient: &RecipientKey) -> [u8; 8] {
    let digest = Sha256::new().chain_update(position.to_bytes()).chain_update(recipient.joined()).finalize();
    let mut bound = [0; 8];
    bound.copy_from_slice(&digest[..8]);
    bound
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{TenantId, UserId};
    use proptest::prelude::*;

    fn alice() -> RecipientKey {
        RecipientKey::new(TenantId::default(), UserId::new("alice").unwrap())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn positions_order_as_moments_do() {
        assert!(Position::new(at(1), u128::MAX) < Position::new(at(2), 0));
        assert_eq!(Position::new(at(100), 7).back(Duration::from_secs(60)), Position::floor(at(40)));
        assert_eq!(Position::new(at(100), 7).age(at(130)), Duration::from_secs(30));
    }

    #[test]
    fn a_position_says_its_moment_and_the_next_one_is_just_above() {
        let position = Position::new(at(1_000_000), 7);
        assert_eq!((position.at(), Position::MIN.at()), (at(1_000_000), Timestamp::UNIX_EPOCH));
        assert_eq!(position.next(), Position::new(at(1_000_000), 8));
        assert_eq!(Position(Ulid(u128::MAX)).next(), Position(Ulid(u128::MAX)));
        assert_eq!(position.age(at(1)), Duration::ZERO, "it lies ahead");
        assert_eq!(position.to_string().parse(), Ok(position));
        assert_eq!(Position::from_bytes(position.to_bytes()), position);
    }

    #[test]
    fn a_position_is_described_by_its_alphabet() {
        let schema = schemars::schema_for!(Position);
        assert_eq!(schema.get("title"), Some(&serde_json::json!("Position")));
        assert_eq!(schema.get("pattern"), Some(&serde_json::json!("^[0-7][0-9A-HJKMNP-TV-Z]{25}$")));
    }

    #[test]
    fn a_text_above_the_highest_position_is_none() {
        assert_eq!("7ZZZZZZZZZZZZZZZZZZZZZZZZZ".parse(), Ok(Position(Ulid(u128::MAX))));
        for text in ["8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "80000000000000000000000000", "ZZZZZZZZZZZZZZZZZZZZZZZZZZ", "", "7"] {
            assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text}");
        }
    }

    #[test]
    fn a_cursor_reads_back_for_its_own_recipient_only() {
        let now = at(1_000_000);
        let position = Position::new(now, 42);
        let text = Cursor::new(position).encode(&alice());
        assert_eq!(Cursor::resume(&text, &alice(), now), Resume::From(position));
        let bob = RecipientKey::new(TenantId::default(), UserId::new("bob").unwrap());
        assert_eq!(Cursor::resume(&text, &bob, now), Resume::Gap);
    }

    #[test]
    fn a_cursor_older_than_retention_or_from_the_future_is_a_gap() {
        let taken = at(10_000_000);
        let text = Cursor::new(Position::floor(taken)).encode(&alice());
        let late = taken + limits::RETENTION;
        assert_eq!(Cursor::resume(&text, &alice(), late), Resume::From(Position::floor(taken)));
        assert_eq!(Cursor::resume(&text, &alice(), late + Duration::from_millis(1)), Resume::Gap);
        let early = taken - limits::CLOCK_SKEW;
        assert_eq!(Cursor::resume(&text, &alice(), early), Resume::From(Position::floor(taken)));
        assert_eq!(Cursor::resume(&text, &alice(), early - Duration::from_secs(1)), Resume::Gap);
    }

    proptest! {
        #[test]
        fn any_text_as_a_cursor_is_judged_without_a_panic(text in ".*") {
            prop_assert_eq!(Cursor::resume(&text, &alice(), at(1_000_000)), Resume::Gap);
        }
    }
}
