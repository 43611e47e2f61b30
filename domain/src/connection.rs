//! A socket as the rooms know it: a row beside its user's other ones (R4).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::ConnectionId;
use crate::limits;

/// The name a client declares, as WebSocket subprotocol or `?protocol=`, to say that it sends `sync`.
pub const SUBPROTOCOL: &str = "recado.v1";

/// One row. Equality means *unchanged since it was read*: conditional removals compare all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// As the gateway names the socket.
    pub id: ConnectionId,
    /// How much is known of the socket.
    pub phase: Phase,
    /// When `$connect` ran.
    pub registered_at: Timestamp,
    /// When its token ends, and with it the right to be pushed to.
    pub token_expires_at: Timestamp,
    /// What its client can do.
    pub protocol: Protocol,
    /// What the client says it is, for the user's list of devices; up to [`limits::CLIENT_TEXT_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// How much is known of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// `$connect` ran; until the socket opens a post answers 410. Dispatchers skip it.
    Connecting,
    /// Proved open, by its first `sync` or by a post that answered 200.
    Live,
}

/// What a client can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// It only listens: a post that answered 200 settles an entry (R7).
    Plain,
    /// It declared [`SUBPROTOCOL`]: it sends `sync` and acknowledges by id.
    Recado,
}

impl Connection {
    /// Whether its token has ended.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.token_expires_at <= now
    }

    /// Whether the socket may still be opening.
    pub fn in_grace(&self, now: Timestamp) -> bool {
        self.registered_at + limits::W > now
    }

    /// Whether a 410 to a post that was begun at `asked` proves that the socket is gone, rather than not there yet (R4).
    pub fn gone_is_final(&self, asked: Timestamp) -> bool {
        self.phase == Phase::Live || !self.in_grace(asked)
    }

    /// Whether the gateway must have ended it long ago.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        self.registered_at + limits::CONNECTION_ROW_AGE <= now
    }

    /// The same connection, proved.
    pub fn live(&self) -> Self {
        Self { phase: Phase::Live, ..self.clone() }
    }
}

/// Why Recado closes a socket. Codes from 4000 on are the application's (RFC 6455, 7.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The server stops, or the connection reached its age: connect again.
    GoingAway,
    /// A frame or message above the limit: a client that sends it again is closed again.
    TooLarge,
    /// The client does not read fast enough: connect again and resume.
    SlowConsumer,
    /// Frames come faster than the limit: connect again, more slowly.
    RateLimited,
    /// The token ended: connect again with a new one.
    TokenExpired,
    /// The user opened more connections than the cap: this was the oldest.
    Replaced,
}

impl CloseReason {
    /// The close code.
    pub fn code(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::TooLarge => 1009,
            Self::SlowConsumer => 4008,
            Self::RateLimited => 4029,
            Self::TokenExpired => 4401,
            Self::Replaced => 4409,
        }
    }

    /// The reason text, as in `docs/protocol.md`.
    pub fn text(self) -> &'static str {
        match self {
            Self::GoingAway => "going away",
            Self::TooLarge => "too large",
            Self::SlowConsumer => "slow consumer",
            Self::RateLimited => "rate limited",
            Self::TokenExpired => "token expired",
            Self::Replaced => "replaced",
        }
    }

    /// Whether the client should connect again by itself.
    pub fn reconnect(self) -> bool {
        match self {
            Self::GoingAway | Self::SlowConsumer | Self::RateLimited => true,
            Self::TooLarge | Self::TokenExpired | Self::Replaced => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn connection(phase: Phase) -> (Connection, Timestamp) {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let id = ConnectionId::new("c=").unwrap();
        let token_expires_at = now + Duration::from_secs(3600);
        (Connection { id, phase, registered_at: now, token_expires_at, protocol: Protocol::Plain, device: None }, now)
    }

    #[test]
    fn a_410_within_the_grace_period_does_not_remove_what_is_still_opening() {
        let (opening, now) = connection(Phase::Connecting);
        assert!(!opening.gone_is_final(now + limits::W - Duration::from_secs(1)));
        assert!(opening.gone_is_final(now + limits::W));
        assert!(opening.live().gone_is_final(now));
    }

    #[test]
    fn a_token_ends_at_its_second() {
        let (connection, now) = connection(Phase::Live);
        assert!(!connection.has_expired(now + Duration::from_secs(3599)));
        assert!(connection.has_expired(now + Duration::from_secs(3600)));
    }

    #[test]
    fn a_row_is_stale_from_the_age_on_at_which_the_gateway_must_have_ended_its_socket() {
        let (connection, now) = connection(Phase::Live);
        assert!(!connection.is_stale(now + limits::CONNECTION_ROW_AGE - Duration::from_secs(1)));
        assert!(connection.is_stale(now + limits::CONNECTION_ROW_AGE));
    }

    #[test]
    fn each_reason_to_close_says_what_the_protocol_says_of_it() {
        let protocol = include_str!("../../docs/protocol.md");
        for (reason, code, reconnect) in [
            (CloseReason::GoingAway, 1001, true),
            (CloseReason::TooLarge, 1009, false),
            (CloseReason::SlowConsumer, 4008, true),
            (CloseReason::RateLimited, 4029, true),
            (CloseReason::TokenExpired, 4401, false),
            (CloseReason::Replaced, 4409, false),
        ] {
            assert_eq!((reason.code(), reason.reconnect()), (code, reconnect), "{reason:?}");
            let row = protocol.lines().find(|line| line.contains(&code.to_string())).unwrap_or_else(|| panic!("{code} is not documented"));
            assert!(!reason.text().is_empty() && row.contains(reason.text()), "{reason:?}: {row}");
        }
    }
}
