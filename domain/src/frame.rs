//! What travels over a socket, as JSON text (docs/protocol.md).
//!
//! Clients' frames are hostile until parsed; servers' frames are cut so that none exceeds [`limits::FRAME_BYTES`].

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{NotificationId, check_text};
use crate::limits;
use crate::notification::{InboxEntry, Item};
use crate::position::Position;

/// A frame from a client. Unknown fields are ignored.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientFrame {
    /// Proves the socket, confirms what was shown, and asks for everything since a cursor.
    Sync(Sync),
    /// These were shown.
    Ack {
        /// Up to 1,000 ids.
        ids: Vec<NotificationId>,
    },
    /// These were read.
    Read {
        /// Up to 1,000 ids.
        ids: Vec<NotificationId>,
    },
    /// These are put away.
    Archive {
        /// Up to 1,000 ids.
        ids: Vec<NotificationId>,
    },
    /// Everything up to and with this position was read.
    ReadAll {
        /// The highest position the user could see.
        up_to: Position,
    },
}

/// The body of a `sync`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
pub struct Sync {
    /// Comes back in every frame of the answer; 1 to 128 bytes.
    pub request: String,
    /// The last answer's cursor. Without it: the newest page and what is pending.
    #[serde(default)]
    pub since: Option<String>,
    /// Up to 1,000 ids that were shown.
    #[serde(default)]
    pub ack: Vec<NotificationId>,
    /// What the client is, such as `recado-inbox/1.0`; up to 128 bytes.
    #[serde(default)]
    pub client: Option<String>,
}

/// Why a client's frame was not understood: the `error` frame that answers it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidFrame {
    /// For programs.
    pub code: ErrorCode,
    /// For people: the field and the limit, never the value.
    pub message: String,
    /// The `request` it answers, where one could be read.
    pub request: Option<String>,
}

/// The codes of `error` frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not JSON, or a field of the wrong kind.
    InvalidFrame,
    /// A `type` this server does not know.
    UnknownType,
    /// A limit was broken.
    LimitExceeded,
    /// The store did not answer: send the frame again.
    TryAgain,
    /// The connection is not known (any more): connect again.
    UnknownConnection,
}

impl ClientFrame {
    /// Reads a frame.
    ///
    /// # Errors
    /// What to answer.
    pub fn parse(text: &str) -> Result<Self, InvalidFrame> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(rename = "type")]
            kind: Option<String>,
            request: Option<String>,
        }
        let invalid = |code, message: String, request| InvalidFrame { code, message, request };
        if text.len() > limits::CLIENT_MESSAGE_BYTES {
            let message = format!("the message is {} bytes, the limit is {}", text.len(), limits::CLIENT_MESSAGE_BYTES);
            return Err(invalid(ErrorCode::LimitExceeded, message, None));
        }
        let head: Head = serde_json::from_str(text)
            .map_err(|_| invalid(ErrorCode::InvalidFrame, "a frame is a JSON object with a text `type`".to_owned(), None))?;
        let request = head.request.filter(|request| request.len() <= limits::CLIENT_TEXT_BYTES);
        match head.kind.as_deref() {
            Some("sync" | "ack" | "read" | "archive" | "read_all") => {}
            Some(_) => {
                let message = "unknown `type`; this server knows sync, ack, read, archive and read_all".to_owned();
                return Err(invalid(ErrorCode::UnknownType, message, request));
            }
            None => return Err(invalid(ErrorCode::InvalidFrame, "`type` is missing".to_owned(), request)),
        }
        let frame: Self = serde_json::from_str(text).map_err(|error| {
            let message = format!("a field is missing or of the wrong kind (column {}); see docs/protocol.md", error.column());
            invalid(ErrorCode::InvalidFrame, message, request.clone())
        })?;
        match frame.broken_limit() {
            Some(message) => Err(invalid(ErrorCode::LimitExceeded, message, request)),
            None => Ok(frame),
        }
    }

    fn broken_limit(&self) -> Option<String> {
        let ids = |field: &str, ids: &[NotificationId]| {
            (ids.len() > limits::FRAME_IDS).then(|| format!("`{field}` has {} entries, the limit is {}", ids.len(), limits::FRAME_IDS))
        };
        let text =
            |field: &str, text: &str| check_text(text, limits::CLIENT_TEXT_BYTES).err().map(|problem| format!("`{field}` {problem}"));
        match self {
            Self::Sync(sync) => text("request", &sync.request)
                .or_else(|| sync.client.as_deref().and_then(|client| text("client", client)))
                .or_else(|| ids("ack", &sync.ack)),
            Self::Ack { ids: given } | Self::Read { ids: given } | Self::Archive { ids: given } => ids("ids", given),
            Self::ReadAll { .. } => None,
        }
    }
}

/// A frame from the server.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame<'a> {
    /// Live (without `request` and `more`), or a part of the answer to a `sync`.
    Notifications(Notifications<'a>),
    /// Another device read these.
    Read {
        /// By id.
        ids: &'a [NotificationId],
        /// And everything up to and with this position.
        #[serde(skip_serializing_if = "Option::is_none")]
        up_to: Option<Position>,
    },
    /// Another device put these away.
    Archive {
        /// By id.
        ids: &'a [NotificationId],
    },
    /// How many are unread.
    Unread {
        /// Counted up to 99.
        count: u32,
        /// Whether there are more: show `99+`.
        capped: bool,
    },
    /// The server ends this connection soon.
    Goaway {
        /// Connect again after so long.
        reconnect_after_ms: u64,
    },
    /// A frame was not understood or not carried out.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: &'a str,
        /// The `request` it answers.
        #[serde(skip_serializing_if = "Option::is_none")]
        request: Option<&'a str>,
    },
}

/// The body of a `notifications` frame.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Notifications<'a> {
    /// The `sync` it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<&'a str>,
    /// Ascending by position.
    pub items: Vec<Item<'a>>,
    /// Whether another frame of this answer follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more: Option<bool>,
    /// On the last frame of an answer: where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// On the last frame of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// Whether an answer leaves a gap (P3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is missing since the cursor.
    Complete,
    /// The cursor cannot be resumed from: load the inbox anew.
    Gap,
}

impl ServerFrame<'_> {
    /// The text to post.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a frame has string keys only")
    }
}

/// What surrounds the items of a `notifications` frame: `request`, `more`, `cursor`, `verdict` and names.
const ENVELOPE_BYTES: usize = 512;

/// Cuts entries into runs whose items fit one frame each, in order. Never returns an empty run.
pub fn cut_into_frames(entries: &[InboxEntry]) -> Vec<&[InboxEntry]> {
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, ENVELOPE_BYTES);
    for (at, entry) in entries.iter().enumerate() {
        let item = serde_json::to_vec(&Item::of(entry)).map_or(limits::ITEM_BYTES, |json| json.len()) + 1;
        if at > start && bytes + item > limits::FRAME_BYTES {
            runs.push(&entries[start..at]);
            (start, bytes) = (at, ENVELOPE_BYTES);
        }
        bytes += item;
    }
    if start < entries.len() {
        runs.push(&entries[start..]);
    }
    runs
}

/// A live frame, ready to post, and which of the entries it was made of ride in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveFrame {
    /// Their places among the entries given.
    pub entries: Range<usize>,
    /// As [`live_frame`] renders them.
    pub json: String,
}

/// What a live frame begins and ends with.
const LIVE_FRAME: (&str, &str) = (r#"{"type":"notifications","items":["#, "]}");

/// Live frames of these entries, in order, none above [`limits::FRAME_BYTES`]. Renders each item once: what
/// [`cut_into_frames`] and [`live_frame`] do together, for the path on which every push goes.
pub fn live_frames(entries: &[InboxEntry]) -> Vec<LiveFrame> {
    let (head, tail) = LIVE_FRAME;
    let mut frames: Vec<LiveFrame> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let item = serde_json::to_string(&Item::of(entry)).expect("an item has string keys only");
        match frames.last_mut().filter(|frame| frame.json.len() + 1 + item.len() + tail.len() <= limits::FRAME_BYTES) {
            Some(frame) => {
                frame.json.push(',');
                frame.json.push_str(&item);
                frame.entries.end = at + 1;
            }
            None => frames.push(LiveFrame { entries: at..at + 1, json: format!("{head}{item}") }),
        }
    }
    for frame in &mut frames {
        frame.json.push_str(tail);
    }
    frames
}

/// A live frame of these entries. It carries no cursor (R5).
pub fn live_frame(entries: &[InboxEntry]) -> String {
    let items = entries.iter().map(Item::of).collect();
    ServerFrame::Notifications(Notifications { items, ..Notifications::default() }).to_json()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::Notification;
    use jiff::Timestamp;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn entry(n: u32, body: usize) -> InboxEntry {
        let notification = Notification {
            id: NotificationId::of("/t", &n.to_string()),
            event_id: n.to_string(),
            source: "/t".to_owned(),
            event_type: "t".to_owned(),
            time: Timestamp::UNIX_EPOCH,
            category: None,
            title: None,
            body: Some("é".repeat(body / 2)),
            url: None,
            payload: None,
            expires_at: None,
            ack_soon: false,
        };
        InboxEntry { notification: Arc::new(notification), position: Position::MIN, acked_at: None, read_at: None, archived_at: None }
    }

    #[test]
    fn a_sync_reads_with_unknown_fields() {
        let frame = ClientFrame::parse(r#"{"type":"sync","request":"1","since":"x","future":true}"#).unwrap();
        assert_eq!(frame, ClientFrame::Sync(Sync { request: "1".into(), since: Some("x".into()), ..Sync::default() }));
    }

    #[test]
    fn an_unknown_type_is_answered_with_its_request() {
        let error = ClientFrame::parse(r#"{"type":"dance","request":"7"}"#).unwrap_err();
        assert_eq!((error.code, error.request.as_deref()), (ErrorCode::UnknownType, Some("7")));
    }

    #[test]
    fn an_empty_request_breaks_a_limit() {
        let error = ClientFrame::parse(r#"{"type":"sync","request":""}"#).unwrap_err();
        assert_eq!(error.code, ErrorCode::LimitExceeded);
        assert!(error.message.contains("`request`"));
    }

    #[test]
    fn a_thousand_ids_are_a_frame_and_one_more_is_not() {
        let frame = |count: u32| {
            let ids: Vec<_> = (0..count).map(|n| NotificationId::of("/t", &n.to_string())).collect();
            serde_json::json!({"type": "ack", "ids": ids}).to_string()
        };
        assert!(ClientFrame::parse(&frame(1_000)).is_ok());
        assert_eq!(ClientFrame::parse(&frame(1_001)).unwrap_err().code, ErrorCode::LimitExceeded);
    }

    #[test]
    fn a_message_of_128_kib_is_read_and_one_byte_more_is_not() {
        let padded = |bytes: usize| {
            let sync = r#"{"type":"sync","request":"1"}"#.to_owned();
            let spaces = bytes - sync.len();
            sync + &" ".repeat(spaces)
        };
        assert!(ClientFrame::parse(&padded(limits::CLIENT_MESSAGE_BYTES)).is_ok());
        let error = ClientFrame::parse(&padded(limits::CLIENT_MESSAGE_BYTES + 1)).unwrap_err();
        assert_eq!(error.message, "the message is 131073 bytes, the limit is 131072");
    }

    #[test]
    fn a_request_as_long_as_its_limit_comes_back_with_an_error_and_a_longer_one_does_not() {
        let dance = |bytes: usize| ClientFrame::parse(&serde_json::json!({"type": "dance", "request": "r".repeat(bytes)}).to_string());
        assert_eq!(dance(limits::CLIENT_TEXT_BYTES).unwrap_err().request, Some("r".repeat(limits::CLIENT_TEXT_BYTES)));
        assert_eq!(dance(limits::CLIENT_TEXT_BYTES + 1).unwrap_err().request, None);
    }

    /// Bytes of the item that [`entry`] gives, for a body of two bytes and more.
    fn item_bytes(body: usize) -> usize {
        serde_json::to_string(&Item::of(&entry(1, body))).unwrap().len()
    }

    /// Two entries whose items have so many bytes together.
    fn two_of(bytes: usize) -> [InboxEntry; 2] {
        let fixed = item_bytes(0);
        let (first, odd) = (8_000, bytes % 2);
        // A body of `é` has an even number of bytes; the id of the event makes up for it.
        let second = entry(if odd == 0 { 2 } else { 20 }, bytes - 2 * fixed - first - odd);
        [entry(1, first), second]
    }

    #[test]
    fn a_live_frame_is_filled_to_its_last_byte() {
        let (head, tail) = LIVE_FRAME;
        let room = limits::FRAME_BYTES - head.len() - tail.len() - ",".len();
        let full = live_frames(&two_of(room));
        assert_eq!(full.iter().map(|frame| frame.json.len()).collect::<Vec<_>>(), [limits::FRAME_BYTES]);
        assert_eq!(live_frames(&two_of(room + 1)).len(), 2);
    }

    #[test]
    fn a_run_is_filled_to_its_last_byte() {
        let room = limits::FRAME_BYTES - ENVELOPE_BYTES - ",,".len();
        assert_eq!(cut_into_frames(&two_of(room)).len(), 1);
        assert_eq!(cut_into_frames(&two_of(room + 1)).len(), 2);
        assert!(cut_into_frames(&[]).is_empty());
        let alone = [entry(1, limits::FRAME_BYTES), entry(2, 10)];
        assert_eq!(cut_into_frames(&alone).iter().map(|run| run.len()).collect::<Vec<_>>(), [1, 1], "a run is never empty");
    }

    #[test]
    fn a_live_frame_has_neither_more_nor_cursor() {
        let json: serde_json::Value = serde_json::from_str(&live_frame(&[entry(1, 10)])).unwrap();
        assert_eq!(json["type"], "notifications");
        assert_eq!(json["items"][0]["event_id"], "1");
        assert!(json.get("more").is_none() && json.get("cursor").is_none());
    }

    proptest! {
        #[test]
        fn no_frame_exceeds_its_limit_and_no_entry_is_left_out(sizes in proptest::collection::vec(0_usize..23_000, 0..40)) {
            let entries: Vec<_> = sizes.iter().zip(0..).map(|(size, n)| entry(n, *size)).collect();
            let runs = cut_into_frames(&entries);
            for run in &runs {
                prop_assert!(!run.is_empty());
                prop_assert!(live_frame(run).len() <= limits::FRAME_BYTES);
            }
            prop_assert_eq!(runs.concat().len(), entries.len());
        }

        #[test]
        fn live_frames_are_what_rendering_each_run_gives(sizes in proptest::collection::vec(0_usize..23_000, 0..40)) {
            let entries: Vec<_> = sizes.iter().zip(0..).map(|(size, n)| entry(n, *size)).collect();
            let mut next = 0;
            for frame in live_frames(&entries) {
                prop_assert_eq!(frame.entries.start, next);
                prop_assert!(frame.json.len() <= limits::FRAME_BYTES);
                prop_assert_eq!(&frame.json, &live_frame(&entries[frame.entries.clone()]));
                next = frame.entries.end;
            }
            prop_assert_eq!(next, entries.len());
        }

        #[test]
        fn arbitrary_text_is_answered_without_a_panic(text in ".*") {
            prop_assert!(ClientFrame::parse(&text).is_err());
        }
    }
}
