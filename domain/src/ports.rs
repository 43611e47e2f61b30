//! What the rooms need of the world, as narrow traits. Adapters live in `memory`, `embedded` and `aws`.
//!
//! All ports are batch-first and answer per entry: one failing entry never hides the others. An answer may be lost
//! after the write was applied, so every write may be repeated. Callers are generic; nothing is erased.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;

use crate::address::AddressKey;
use crate::connection::{CloseReason, Connection};
use crate::event::Event;
use crate::failure::Failure;
use crate::ids::{ConnectionId, DeliveryKey, NotificationId, RecipientKey};
use crate::limits;
use crate::message::Attributes;
use crate::notification::{Appended, InboxEntry, NewEntry};
use crate::position::Position;
use crate::ticket::TicketKey;

/// What one entry of a batch came to.
pub type Outcome<T> = Result<T, Failure>;

/// The present. Passed in, so that tests and simulations decide it.
pub trait Clock: Send + Sync + 'static {
    /// Now, as the stores of this deployment see it.
    fn now(&self) -> Timestamp;
}

/// Randomness. Passed in, so that tests and simulations decide it.
pub trait Entropy: Send + Sync + 'static {
    /// 64 random bits.
    fn next_u64(&self) -> u64;

    /// A number from 0 up to, not including, 1.
    fn fraction(&self) -> f64 {
        // The 53 bits of an f64's mantissa.
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Where events go: a topic that fans out to the inbox queue and, for events that ask for it, to the email queue.
pub trait EventBus: Send + Sync + 'static {
    /// Publishes; an `Ok` entry is durable (P1). Answers in the order of `events`, one each, however many.
    /// Adapters cut into batches of their own.
    fn publish(&self, events: &[Event]) -> impl Future<Output = Vec<Outcome<()>>> + Send;
}

/// Our hold on a received message; SQS's receipt handle.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AckToken(pub String);

/// A message as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// For ack, extend, release and reject.
    pub token: AckToken,
    /// The queue's own name of it. A redrive changes it: never deduplicate by it.
    pub message_id: String,
    /// What it carries, as text.
    pub body: String,
    /// What came with it.
    pub attributes: Attributes,
    /// How often it was received, this time included.
    pub receive_count: u32,
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// What it carries.
    pub body: String,
    /// What goes with it.
    pub attributes: Attributes,
    /// Hidden for so long; at most [`crate::limits::QUEUE_DELAY`].
    pub delay: Duration,
}

/// An at-least-once queue with leases and a dead-letter queue (SQS).
///
/// A message is hidden from other receivers until its visibility ends; then it is received again. After a lease
/// was lost the token is stale: `ack`, `extend`, `release` and `reject` of it answer a permanent failure and
/// change nothing.
///
/// Where a service may refuse one entry of a call for the moment, its adapter tries that entry again itself, a few times.
/// What it then answers as transient is not called again: a message that was not settled is received again.
pub trait Queue: Send + Sync + 'static {
    /// The most messages of one receive (10 on SQS).
    fn max_batch(&self) -> usize;

    /// Takes up to `max` messages that are there; waits up to `wait` for the first one.
    fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> impl Future<Output = Outcome<Vec<Received>>> + Send;

    /// Deletes messages.
    fn ack(&self, tokens: &[AckToken]) -> impl Future<Output = Vec<Outcome<()>>> + Send;

    /// Keeps messages hidden for `visibility` from now.
    fn extend(&self, tokens: &[AckToken], visibility: Duration) -> impl Future<Output = Vec<Outcome<()>>> + Send;

    /// Gives messages back, hidden for the given time.
    fn release(&self, messages: &[(AckToken, Duration)]) -> impl Future<Output = Vec<Outcome<()>>> + Send;

    /// Moves messages to the dead-letter queue, the reason in [`crate::message::ATTRIBUTE_REASON`].
    fn reject(&self, messages: &[(Received, String)]) -> impl Future<Output = Vec<Outcome<()>>> + Send;

    /// Sends messages; an `Ok` entry is durable.
    fn send(&self, messages: &[Outgoing]) -> impl Future<Output = Vec<Outcome<()>>> + Send;
}

/// A message that was given up, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Names it for redrive.
    pub id: String,
    /// What it carries.
    pub body: String,
    /// What came with it, the reason included.
    pub attributes: Attributes,
    /// When it was given up.
    pub dead_at: Timestamp,
}

/// The dead-letter queue of one [`Queue`], for operators.
pub trait DeadLetters: Send + Sync + 'static {
    /// Up to `max` of them, oldest first.
    fn list(&self, max: usize) -> impl Future<Output = Outcome<Vec<DeadLetter>>> + Send;

    /// Sends these back to the queue they came from, without the reason and the attempts. Unknown ids answer a permanent failure.
    fn redrive(&self, ids: &[String]) -> impl Future<Output = Vec<Outcome<()>>> + Send;
}

/// One page of an inbox.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// In the order of the query.
    pub entries: Vec<InboxEntry>,
    /// Whether the query goes on after the last entry. A page may be empty and go on.
    pub more: bool,
    /// Where the query goes on: what to pass next. Set when `more` is.
    pub next: Option<Position>,
    /// The user's marks as this page was read with them, so that nobody has to ask for them again.
    pub marks: Marks,
}

/// What a page of [`Inbox::page`] holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PageFilter {
    /// All that is not archived.
    #[default]
    Inbox,
    /// Unread and not archived.
    Unread,
    /// Archived.
    Archived,
}

/// A user's marks. They only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// Entries at or below were read by `read_all` (R8).
    pub read_up_to: Option<Position>,
    /// Entries below are not pending (R7).
    pub pending_from: Option<Position>,
}

impl Marks {
    /// Where `pending_from` may rise to after a pending query that began at `began`, at these marks, and ran to its end
    /// with `lowest` as the lowest position it returned: an entry whose append began before the query may still arrive
    /// up to W below its start (R7). `None` where it would not rise.
    pub fn pending_after(self, lowest: Option<Position>, began: Timestamp) -> Option<Position> {
        let start = Position::floor(began).back(limits::W);
        let to = lowest.map_or(start, |lowest| lowest.min(start));
        (Some(to) > self.pending_from).then_some(to)
    }
}

/// A count that stops counting at [`crate::limits::UNREAD_CAP`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread {
    /// Up to the cap.
    pub count: u32,
    /// Whether there are more.
    pub capped: bool,
}

/// What `read_all` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadAll {
    /// The entries of the last W that were marked one by one.
    pub ids: Vec<NotificationId>,
    /// Where `read_up_to` stands now.
    pub up_to: Option<Position>,
}

/// People's inboxes. All reads are strongly consistent and hide expired entries.
///
/// Updates by id never create an entry, and answer the ids they found and changed; ids that are absent, or
/// were in that state already, are left out.
pub trait Inbox: Send + Sync + 'static {
    /// Inserts what is absent, at a position taken at this moment; answers what is stored, one each in order (R6).
    /// A repeated key changes nothing. Entries may repeat a key within the call.
    fn append(&self, entries: &[NewEntry]) -> impl Future<Output = Vec<Outcome<Appended>>> + Send;

    /// Moves an entry from `old` to a position of this moment, if it still stands there, and answers what is stored.
    /// Where `old` was at or below `read_up_to`, the entry stays read (R6). A missing entry is a permanent failure.
    fn restamp(&self, key: &DeliveryKey, old: Position) -> impl Future<Output = Outcome<Appended>> + Send;

    /// Entries above `after`, ascending; at most [`crate::limits::PAGE_ENTRIES`].
    fn since(&self, recipient: &RecipientKey, after: Position, limit: usize) -> impl Future<Output = Outcome<Page>> + Send;

    /// Pending entries (not acknowledged) above `after`, and not below `pending_from` of `marks`, ascending; at most
    /// [`crate::limits::PAGE_ENTRIES`] (R7). `marks` are this user's, read before: older ones only make it read more.
    fn pending(&self, recipient: &RecipientKey, marks: Marks, after: Position, limit: usize) -> impl Future<Output = Outcome<Page>> + Send;

    /// Entries below `before` (or the newest), descending; at most [`crate::limits::PAGE_ENTRIES`].
    fn page(
        &self,
        recipient: &RecipientKey,
        before: Option<Position>,
        filter: PageFilter,
        limit: usize,
    ) -> impl Future<Output = Outcome<Page>> + Send;

    /// The user's marks.
    fn marks(&self, recipient: &RecipientKey) -> impl Future<Output = Outcome<Marks>> + Send;

    /// Raises `pending_from` to `to` if it still is `from`; says whether it did (R7).
    fn advance_pending(&self, recipient: &RecipientKey, from: Option<Position>, to: Position)
    -> impl Future<Output = Outcome<bool>> + Send;

    /// Marks as acknowledged.
    fn acknowledge(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> impl Future<Output = Outcome<Vec<NotificationId>>> + Send;

    /// Marks as read.
    fn mark_read(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> impl Future<Output = Outcome<Vec<NotificationId>>> + Send;

    /// Marks as archived.
    fn archive(&self, recipient: &RecipientKey, ids: &[NotificationId]) -> impl Future<Output = Outcome<Vec<NotificationId>>> + Send;

    /// Marks the stored entries of the last W at or below `up_to` by id, and raises `read_up_to` to min(`up_to`, now − W),
    /// so that an entry in flight is never born read (R8).
    fn read_all(&self, recipient: &RecipientKey, up_to: Position) -> impl Future<Output = Outcome<ReadAll>> + Send;

    /// Counts what is neither read nor archived.
    fn unread(&self, recipient: &RecipientKey) -> impl Future<Output = Outcome<Unread>> + Send;
}

/// What registering a connection came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registered {
    /// Rows above the cap, removed: close their sockets.
    pub replaced: Vec<Connection>,
}

/// Who is connected. Reads are strongly consistent.
pub trait Connections: Send + Sync + 'static {
    /// Writes the reverse item, then the row, unless that is live already: a write that was sent twice may arrive after its
    /// socket was proved. Prunes rows that are stale or above the cap, oldest first, never the new one (R4).
    fn register(&self, recipient: &RecipientKey, connection: &Connection) -> impl Future<Output = Outcome<Registered>> + Send;

    /// The rows of these users, one answer each in order; keys may repeat.
    fn of_users(&self, recipients: &[RecipientKey]) -> impl Future<Output = Vec<Outcome<Vec<Connection>>>> + Send;

    /// Whose connection this is, with the row as it was registered (the reverse item). That never changes, so an adapter may
    /// remember it, and then not see that another process has removed it.
    fn owner(&self, id: &ConnectionId) -> impl Future<Output = Outcome<Option<(RecipientKey, Connection)>>> + Send;

    /// Makes the row `live`. A missing row is written anew where `create` (a `sync` does, a replay does not).
    /// Says whether the row is there now.
    fn mark_live(&self, recipient: &RecipientKey, connection: &Connection, create: bool) -> impl Future<Output = Outcome<bool>> + Send;

    /// Removes the row, then the reverse item, whatever they hold.
    fn remove(&self, recipient: &RecipientKey, id: &ConnectionId) -> impl Future<Output = Outcome<()>> + Send;

    /// Removes both only if the row still equals `seen`; says whether it did.
    fn remove_unchanged(&self, recipient: &RecipientKey, seen: &Connection) -> impl Future<Output = Outcome<bool>> + Send;
}

/// What a post came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// Answered 200: handed to an open socket.
    Delivered,
    /// Answered 410: no such socket, not yet or no longer.
    Gone,
}

/// The open sockets (API Gateway `@connections`).
pub trait Sockets: Send + Sync + 'static {
    /// Posts one frame of at most [`crate::limits::FRAME_BYTES`]. 429, time-outs and a full buffer are transient.
    fn post(&self, id: &ConnectionId, frame: &str) -> impl Future<Output = Outcome<Posted>> + Send;

    /// Closes a socket; one that is gone is closed.
    fn close(&self, id: &ConnectionId, reason: CloseReason) -> impl Future<Output = Outcome<()>> + Send;
}

/// A mail ready to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingMail {
    /// What it delivers.
    pub delivery: DeliveryKey,
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipient.
    pub to: String,
    /// The whole message (RFC 5322), as built.
    pub message: Vec<u8>,
}

/// Hands mail over (SES, SMTP, or the local mailbox).
pub trait Mailer: Send + Sync + 'static {
    /// Hands over one mail; answers the other side's id of it. Not idempotent: claim before.
    fn send(&self, mail: &OutgoingMail) -> impl Future<Output = Outcome<String>> + Send;
}

/// What claiming a mail came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Ours, until the lease ends: send it.
    Taken,
    /// Sent before: nothing to do.
    Sent,
    /// Somebody else's, until then.
    HeldUntil(Timestamp),
}

/// Who sends which mail: a mailer has no idempotency of its own.
pub trait MailClaims: Send + Sync + 'static {
    /// Claims a delivery for `holder` for `lease`; claiming again as the same holder renews it.
    fn claim(&self, key: &DeliveryKey, holder: &str, lease: Duration) -> impl Future<Output = Outcome<Claim>> + Send;

    /// Records that it was sent, whoever holds it now: it was.
    fn confirm(&self, key: &DeliveryKey) -> impl Future<Output = Outcome<()>> + Send;

    /// Gives it up, if `holder` still holds it: the next claim takes it at once.
    fn abandon(&self, key: &DeliveryKey, holder: &str) -> impl Future<Output = Outcome<()>> + Send;
}

/// Why nothing more is sent to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuppressionCause {
    /// Mail to it came back for good.
    Bounce,
    /// Who reads it called a mail unwanted.
    Complaint,
    /// An operator said so.
    Operator,
}

impl SuppressionCause {
    /// As stores, metrics and people name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bounce => "bounce",
            Self::Complaint => "complaint",
            Self::Operator => "operator",
        }
    }

    /// The cause of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Bounce, Self::Complaint, Self::Operator].into_iter().find(|cause| cause.as_str() == name)
    }
}

/// Nothing is sent to an address, until it is lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suppression {
    /// Why.
    pub cause: SuppressionCause,
    /// Since when.
    pub since: Timestamp,
}

/// The addresses to which nothing more is sent, for the whole deployment: a mailbox belongs to no tenant, what comes back names
/// none, and one sender's reputation is at stake. Keyed by hash: no address reaches a store. Reads are strongly consistent. Kept until lifted.
pub trait Suppressions: Send + Sync + 'static {
    /// Whether each is suppressed, one answer each in order; keys may repeat.
    fn suppressed(&self, addresses: &[AddressKey]) -> impl Future<Output = Vec<Outcome<Option<Suppression>>>> + Send;

    /// Suppresses each. One that is suppressed already stays as it was; keys may repeat, and then the first one counts.
    fn suppress(&self, addresses: &[(AddressKey, SuppressionCause)]) -> impl Future<Output = Vec<Outcome<()>>> + Send;

    /// Allows mail again; says whether each was suppressed.
    fn lift(&self, addresses: &[AddressKey]) -> impl Future<Output = Vec<Outcome<bool>>> + Send;
}

/// Whom a connection ticket speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TicketHolder {
    /// Whose socket it opens.
    pub recipient: RecipientKey,
    /// When the token ends that it was got with: the socket ends then too.
    pub token_expires_at: Timestamp,
}

/// Connection tickets that were given out. A store knows a ticket by its hash alone.
pub trait Tickets: Send + Sync + 'static {
    /// Keeps a ticket until `until`.
    fn issue(&self, key: &TicketKey, holder: &TicketHolder, until: Timestamp) -> impl Future<Output = Outcome<()>> + Send;

    /// Takes a ticket: of all who ask, at the same time or later, one alone gets its holder. `None` where it is unknown, was
    /// taken, or has ended. If the answer is lost the ticket may be too.
    fn redeem(&self, key: &TicketKey) -> impl Future<Output = Outcome<Option<TicketHolder>>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Position {
        Position::floor(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn what_is_pending_begins_at_the_lowest_found_or_a_grace_period_before_the_query() {
        let began = Timestamp::from_second(1_000).unwrap();
        let unmarked = Marks::default();
        assert_eq!(unmarked.pending_after(None, began), Some(at(940)));
        assert_eq!(unmarked.pending_after(Some(at(500)), began), Some(at(500)));
        assert_eq!(unmarked.pending_after(Some(at(999)), began), Some(at(940)));
    }

    #[test]
    fn the_pending_mark_never_goes_back() {
        let began = Timestamp::from_second(1_000).unwrap();
        let marked = |second| Marks { pending_from: Some(at(second)), ..Marks::default() };
        assert_eq!(marked(900).pending_after(None, began), Some(at(940)));
        assert_eq!(marked(940).pending_after(None, began), None);
        assert_eq!(marked(700).pending_after(Some(at(600)), began), None);
    }

    struct Always(u64);

    impl Entropy for Always {
        fn next_u64(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn a_fraction_is_from_0_up_to_1_and_never_1() {
        assert_eq!(Always(0).fraction(), 0.0);
        assert_eq!(Always(1 << 63).fraction(), 0.5);
        assert_eq!(Always(u64::MAX).fraction(), 1.0_f64.next_down());
    }

    #[test]
    fn a_cause_is_known_by_its_name() {
        for cause in [SuppressionCause::Bounce, SuppressionCause::Complaint, SuppressionCause::Operator] {
            assert_eq!(SuppressionCause::named(cause.as_str()), Some(cause));
        }
        assert_eq!(SuppressionCause::named("boredom"), None);
    }
}
