//! Every number of the design in one place, each with its source.
//!
//! Must not know: which adapter enforces a limit.

use std::time::Duration;

/// A whole event as JSON, in bytes. SNS and SQS take 256 KiB a message, attributes included
/// ("Amazon SNS endpoints and quotas", "Amazon SQS message quotas"); 2 KiB stay for the attributes.
pub const EVENT_BYTES: usize = 254 * 1024;
/// The reason of a dead letter, in bytes: it travels as an attribute, within the 2 KiB that [`EVENT_BYTES`] leaves for all of them.
pub const REASON_BYTES: usize = 1_000;
/// Entries of an SNS `PublishBatch` or an SQS batch call ("Amazon SQS message quotas").
pub const AWS_BATCH_ENTRIES: usize = 10;
/// Recipients of one event.
pub const RECIPIENTS: usize = 100;
/// A tenant or recipient id, in bytes. Two of them fit a DynamoDB key of 2,048 bytes even when every byte is escaped.
pub const ID_BYTES: usize = 128;
/// A CloudEvents `id`, in bytes.
pub const EVENT_ID_BYTES: usize = 256;
/// A CloudEvents `source`, in bytes.
pub const SOURCE_BYTES: usize = 512;
/// A CloudEvents `type`, in bytes; SNS filter values allow 256.
pub const TYPE_BYTES: usize = 255;
/// `data.category`, in bytes.
pub const CATEGORY_BYTES: usize = 64;
/// `data.title`, in bytes: what fits one line of a list, in any script.
pub const TITLE_BYTES: usize = 512;
/// `data.body`, in bytes.
pub const BODY_BYTES: usize = 8 * 1024;
/// `data.url`, in bytes: what browsers and mail clients agree on.
pub const URL_BYTES: usize = 2_048;
/// An e-mail address, in bytes (RFC 5321, 4.5.3.1.3).
pub const EMAIL_BYTES: usize = 254;
/// `data.recipients[].name`, in bytes.
pub const NAME_BYTES: usize = 256;
/// A language tag, in bytes (RFC 5646, 4.4.1).
pub const LOCALE_BYTES: usize = 35;
/// An item as rendered into a frame, in bytes.
pub const ITEM_BYTES: usize = 24 * 1024;
/// A frame from server to client, in bytes. API Gateway closes above 32 KiB a frame
/// ("Amazon API Gateway quotas", WebSocket frame size); the rest is headroom.
pub const FRAME_BYTES: usize = 30 * 1024;
/// A frame from client to server, in bytes (same quota).
pub const CLIENT_FRAME_BYTES: usize = 32 * 1024;
/// A WebSocket message in bytes ("Amazon API Gateway quotas", message payload size).
pub const CLIENT_MESSAGE_BYTES: usize = 128 * 1024;
/// Notification ids in one client frame.
pub const FRAME_IDS: usize = 1_000;
/// A client's `request` or `client` text, in bytes.
pub const CLIENT_TEXT_BYTES: usize = 128;
/// A token in a query string or header, in bytes: API Gateway allows 10,240 for all headers.
pub const TOKEN_BYTES: usize = 8 * 1024;
/// How long a connection ticket opens a socket: long enough to connect over a slow network, and over before a log is read.
pub const TICKET_LIFE: Duration = Duration::from_secs(30);
/// Connections of one user; registering one more closes the oldest.
pub const CONNECTIONS_PER_USER: usize = 20;
/// Unread is counted up to here and then shown as `99+`.
pub const UNREAD_CAP: u32 = 99;
/// Entries that a replay names as missed by its connection; above, it brings all from the lowest on. 26 KiB of ids, far
/// below what a message may have.
pub const MISSED_IDS: usize = 1000;
/// Rows a store reads in one query of an inbox, at the most.
pub const PAGE_ENTRIES: usize = 100;

/// W: the grace period of the protocol. A connection may take this long to open, an answer to arrive.
/// API Gateway lets an integration take 29 s; two of them fit.
pub const W: Duration = Duration::from_secs(60);
/// W/2: an entry whose position is older when its answer arrives is stamped again (R6).
pub const RESTAMP_AFTER: Duration = Duration::from_secs(30);
/// W/4: what two clocks may differ (R6), and how far from the future a cursor may be (P3).
pub const CLOCK_SKEW: Duration = Duration::from_secs(15);
/// An acknowledged entry older than this is neither stamped again nor pushed (R6).
pub const ACKNOWLEDGED_IS_OLD: Duration = Duration::from_secs(24 * 3600);
/// How far behind its query the cursor of a whole answer may stand (R5). By far more than anything is in flight, and by far
/// less than [`RETENTION`], after which a cursor is a gap.
pub const CURSOR_AGE: Duration = Duration::from_secs(24 * 3600);
/// How long an entry stays, unless the event says less: readers find it, and a redrive never shows it twice.
pub const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
/// The age at which a connection ends ("Amazon API Gateway quotas", connection duration for WebSocket API).
pub const CONNECTION_AGE: Duration = Duration::from_secs(2 * 3600);
/// The age at which a row of a connection is pruned: 2 h and some.
pub const CONNECTION_ROW_AGE: Duration = Duration::from_secs(130 * 60);
/// The longest delay a queue gives a new message ("Amazon SQS message quotas").
pub const QUEUE_DELAY: Duration = Duration::from_secs(15 * 60);
/// The longest visibility timeout of a message ("Amazon SQS message quotas").
pub const QUEUE_VISIBILITY: Duration = Duration::from_secs(12 * 3600);
/// The longest poll of a queue ("Amazon SQS message quotas").
pub const QUEUE_POLL: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients, templates and what is stored already rely on these: a change is a change of the protocol.
    #[test]
    fn limits_are_the_ones_that_are_documented() {
        let bytes = [
            (EVENT_BYTES, 260_096),
            (BODY_BYTES, 8_192),
            (ITEM_BYTES, 24_576),
            (FRAME_BYTES, 30_720),
            (CLIENT_FRAME_BYTES, 32_768),
            (CLIENT_MESSAGE_BYTES, 131_072),
            (TOKEN_BYTES, 8_192),
        ];
        for (limit, documented) in bytes {
            assert_eq!(limit, documented);
        }
        let hours = |hours: f64| Duration::from_secs_f64(hours * 3_600.0);
        let times = [
            (ACKNOWLEDGED_IS_OLD, hours(24.0)),
            (CURSOR_AGE, hours(24.0)),
            (RETENTION, hours(30.0 * 24.0)),
            (CONNECTION_AGE, hours(2.0)),
            (CONNECTION_ROW_AGE, hours(2.0) + Duration::from_secs(600)),
            (QUEUE_DELAY, hours(0.25)),
            (QUEUE_VISIBILITY, hours(12.0)),
        ];
        for (limit, documented) in times {
            assert_eq!(limit, documented);
        }
    }

    #[test]
    fn the_parts_of_the_grace_period_fit_into_it() {
        // "Amazon API Gateway quotas": an integration takes 29 s at the most, and two of them fit.
        assert!(W >= 2 * Duration::from_secs(29));
        assert_eq!(RESTAMP_AFTER, W / 2);
        assert_eq!(CLOCK_SKEW, W / 4);
    }
}
