//! Finds who is connected and posts to them: frames of one connection in order, connections side by side.
//!
//! Must not know: queues, messages, how an entry came to be stored.

use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use jiff::Timestamp;
use leaky_bucket::RateLimiter;
use recado_domain::connection::{CloseReason, Connection, Phase, Protocol};
use recado_domain::failure::Failure;
use recado_domain::frame::{LiveFrame, live_frames};
use recado_domain::ids::{ConnectionId, NotificationId, RecipientKey};
use recado_domain::message::Missed;
use recado_domain::notification::InboxEntry;
use recado_domain::ports::{Connections, Inbox, Outcome, Posted, Sockets};
use recado_runtime::over;

use crate::plan::{Batch, Fate};
use crate::{Dispatcher, World};

/// Somebody who is connected, and what the batch has for them.
#[derive(Debug)]
pub(crate) struct Audience {
    /// The place in [`Batch::recipients`].
    pub(crate) recipient: usize,
    /// Places in [`Batch::entries`], ascending by position.
    pub(crate) places: Vec<usize>,
    /// The same entries, as stored.
    entries: Vec<InboxEntry>,
    /// Rendered once for all of their connections.
    frames: Vec<LiveFrame>,
    connections: Vec<Connection>,
}

impl Audience {
    /// What a connection missed that took what stands before this place.
    pub(crate) fn missed(&self, from: usize) -> Missed {
        Missed::of(self.entries[from..].iter().map(|entry| (entry.position, &entry.notification.id)))
    }
}

/// A connection that did not take everything.
#[derive(Debug)]
pub(crate) struct Unposted {
    /// The place of its audience.
    pub(crate) audience: usize,
    /// From this place in [`Audience::places`] on.
    pub(crate) from: usize,
    pub(crate) connection: Connection,
    pub(crate) failure: Failure,
}

/// How a run of frames ended on one connection.
#[derive(Debug, PartialEq)]
pub(crate) enum End {
    /// All were answered 200.
    Delivered,
    /// One was answered 410: there is nobody any more.
    Gone,
    /// One failed, and no later one was posted. The entries from this place on were not delivered.
    Failed {
        /// In the entries given.
        from: usize,
        failure: Failure,
    },
}

/// Finds the connections of everybody for whom something was stored, in one call *after* the append (R2). Entries of
/// people who cannot be looked up fail.
pub(crate) async fn lookup<W: World>(room: &Dispatcher<W>, batch: &Batch, fates: &mut [Fate]) -> Vec<Audience> {
    let mut waiting: Vec<Vec<(usize, InboxEntry)>> = vec![Vec::new(); batch.recipients.len()];
    for (place, fate) in fates.iter().enumerate() {
        if let Fate::Stored(entry) = fate {
            waiting[batch.recipient_of[place]].push((place, entry.clone()));
        }
    }
    waiting.iter_mut().for_each(|entries| entries.sort_by_key(|(_, entry)| entry.position));
    let mut people: Vec<_> = waiting.into_iter().enumerate().filter(|(_, entries)| !entries.is_empty()).collect();
    if people.is_empty() {
        return Vec::new();
    }
    let keys: Vec<RecipientKey> = people.iter().map(|(person, _)| batch.recipients[*person].clone()).collect();
    let mut found = room.world.connections().of_users(&keys).await;
    // An adapter that answers too little must not make a message done.
    found.resize_with(keys.len(), || Err(Failure::transient("the connections of this user were not answered")));
    let mut audiences = Vec::new();
    for ((recipient, entries), rows) in people.drain(..).zip(found) {
        match rows {
            Err(failure) => entries.iter().for_each(|(place, _)| fates[*place] = Fate::Failed(failure.clone())),
            Ok(rows) => audiences.extend(audience(recipient, entries, rows)),
        }
    }
    audiences
}

/// Renders what somebody is to see; nothing where nobody is there to see it.
fn audience(recipient: usize, entries: Vec<(usize, InboxEntry)>, rows: Vec<Connection>) -> Option<Audience> {
    let (places, entries): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
    // A socket that is still opening answers 410 and reads its inbox once it is live (R4).
    let connections: Vec<_> = rows.into_iter().filter(|row| row.phase == Phase::Live).collect();
    let frames = if connections.is_empty() { return None } else { live_frames(&entries) };
    Some(Audience { recipient, places, entries, frames, connections })
}

/// Posts to everybody; answers the connections for which work remains.
pub(crate) async fn push<W: World>(room: &Dispatcher<W>, batch: &Batch, audiences: &[Audience]) -> Vec<Unposted> {
    let mut pushes = Vec::new();
    for (at, audience) in audiences.iter().enumerate() {
        let recipient = &batch.recipients[audience.recipient];
        pushes.extend(audience.connections.iter().map(|connection| push_to(room, recipient, at, audience, connection)));
    }
    stream::iter(pushes).buffer_unordered(room.config.concurrency.get()).filter_map(std::future::ready).collect().await
}

async fn push_to<W: World>(
    room: &Dispatcher<W>,
    recipient: &RecipientKey,
    at: usize,
    audience: &Audience,
    connection: &Connection,
) -> Option<Unposted> {
    if connection.has_expired(room.now()) {
        evict(room, recipient, connection).await;
        return None;
    }
    let Audience { entries, frames, .. } = audience;
    match post_frames(room, recipient, connection, entries, frames).await {
        End::Failed { from, failure } => Some(Unposted { audience: at, from, connection: connection.clone(), failure }),
        End::Delivered => {
            record_latency(entries, room.now());
            None
        }
        End::Gone => None,
    }
}

/// From the moment the fact happened, as its event says, to the answer of the post.
fn record_latency(entries: &[InboxEntry], now: Timestamp) {
    let histogram = metrics::histogram!("recado_delivery_seconds");
    for entry in entries {
        let age = Duration::try_from(now.duration_since(entry.notification.time)).unwrap_or(Duration::ZERO);
        histogram.record(age.as_secs_f64());
    }
}

/// Posts frames of `entries` in order, up to the first that fails. For a plain client a 200 settles its entries (R7);
/// a 410 that proves the socket gone removes the row, if unchanged (R4).
pub(crate) async fn post_frames<W: World>(
    room: &Dispatcher<W>,
    recipient: &RecipientKey,
    connection: &Connection,
    entries: &[InboxEntry],
    frames: &[LiveFrame],
) -> End {
    let (mut delivered, mut end) = (0, End::Delivered);
    for frame in frames {
        let asked = room.now();
        match post(room, &connection.id, &frame.json).await {
            Ok(Posted::Delivered) => delivered = frame.entries.end,
            Ok(Posted::Gone) => {
                remove_gone(room, recipient, connection, asked).await;
                end = End::Gone;
                break;
            }
            Err(failure) => {
                end = End::Failed { from: frame.entries.start, failure };
                break;
            }
        }
    }
    metrics::counter!("recado_items_pushed_total").increment(delivered as u64);
    if connection.protocol == Protocol::Plain {
        acknowledge(room, recipient, &entries[..delivered]).await;
    }
    end
}

/// Posts one frame, in its turn and within its time.
pub(crate) async fn post<W: World>(room: &Dispatcher<W>, id: &ConnectionId, frame: &str) -> Outcome<Posted> {
    if let Some(bucket) = &room.posts {
        bucket.acquire_one().await;
    }
    let answer = tokio::time::timeout(room.config.post_timeout, room.world.sockets().post(id, frame)).await;
    if let Ok(answer) = &answer {
        room.crowded.note(id, answer, room.now());
    }
    let (answer, outcome) = match answer {
        Ok(Ok(Posted::Delivered)) => (Ok(Posted::Delivered), "delivered"),
        Ok(Ok(Posted::Gone)) => (Ok(Posted::Gone), "gone"),
        Ok(Err(failure)) => {
            let kind = if failure.is_transient() { "transient" } else { "permanent" };
            (Err(failure), kind)
        }
        Err(_) => (Err(Failure::transient("the post took too long")), "timeout"),
    };
    metrics::counter!("recado_posts_total", "outcome" => outcome).increment(1);
    answer
}

/// Ends the right to be pushed to with the token it came from.
pub(crate) async fn evict<W: World>(room: &Dispatcher<W>, recipient: &RecipientKey, connection: &Connection) {
    if let Err(failure) = room.world.sockets().close(&connection.id, CloseReason::TokenExpired).await {
        // The row stays, so that the next push tries again; the socket gets nothing meanwhile.
        tracing::warn!(connection = %connection.id, user = %recipient.user, reason = failure.reason(), "socket of an ended token not closed");
        return;
    }
    over::remove(room.world.connections(), recipient, connection, "token_expired").await;
}

/// Removes the row of a socket that answered 410 to a post begun at `asked`, where that proves that it is gone.
pub(crate) async fn remove_gone<W: World>(room: &Dispatcher<W>, recipient: &RecipientKey, connection: &Connection, asked: Timestamp) {
    over::gone(room.world.connections(), asked, recipient, connection).await;
}

/// Settles what a plain client was handed (R7).
async fn acknowledge<W: World>(room: &Dispatcher<W>, recipient: &RecipientKey, entries: &[InboxEntry]) {
    let ids: Vec<NotificationId> = entries.iter().filter(|entry| entry.acked_at.is_none()).map(|entry| entry.notification.id).collect();
    if ids.is_empty() {
        return;
    }
    if let Err(failure) = room.world.inbox().acknowledge(recipient, &ids).await {
        // They stay pending: a plain client may see an entry twice (P2), and loses none.
        tracing::warn!(user = %recipient.user, entries = ids.len(), reason = failure.reason(), "delivered entries not acknowledged; they are shown again");
    }
}

/// A bucket that gives `rate` turns a second, at most a tenth of a second's worth at once.
pub(crate) fn bucket(rate: NonZeroU32) -> RateLimiter {
    let rate = rate.get();
    let refill = (rate / 100).max(1);
    let burst = (rate / 10).max(1) as usize;
    let interval = Duration::from_secs(1) * refill / rate;
    RateLimiter::builder().max(burst).initial(burst).refill(refill as usize).interval(interval).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Builder, Fixture, connection, event, person, seconds};
    use recado_domain::limits;
    use recado_runtime::consumer::Disposition;
    use serde_json::json;
    use std::time::Instant;

    #[tokio::test]
    async fn every_live_device_of_every_recipient_gets_the_notification() {
        let f = Fixture::new();
        for (user, id) in [("alice", "a1"), ("alice", "a2"), ("bob", "b")] {
            f.live(user, id).await;
        }
        assert_eq!(f.deliver(&[event("1", &["alice", "bob", "nobody"])]).await, [Disposition::Done]);
        for id in ["a1", "a2", "b"] {
            assert_eq!(f.shown(id), ["1"]);
        }
    }

    #[tokio::test]
    async fn a_connecting_socket_is_skipped() {
        let f = Fixture::new();
        f.connect("alice", "a", Phase::Connecting, Protocol::Recado).await;
        assert_eq!(f.deliver(&[event("1", &["alice"])]).await, [Disposition::Done]);
        assert_eq!(f.sockets.faults().calls("post"), 0);
    }

    #[tokio::test]
    async fn several_notifications_for_one_connection_ride_in_one_frame_in_order() {
        let f = Fixture::new();
        f.live("alice", "a").await;
        let events: Vec<_> = (0..9).map(|n| event(&n.to_string(), &["alice"])).collect();
        f.deliver(&events).await;
        assert_eq!(f.frames("a").len(), 1);
        assert_eq!(f.shown("a").concat(), "012345678");
    }

    #[tokio::test]
    async fn frames_are_cut_at_30_kib_and_posted_in_order() {
        let f = Fixture::new();
        f.live("alice", "a").await;
        let large = |n: u32| Builder::new(&n.to_string()).to(&["alice"]).set("payload", json!("x".repeat(9_000))).event();
        let events: Vec<_> = (0..9).map(large).collect();
        f.deliver(&events).await;
        let frames = f.sockets.frames(&connection("a"));
        assert_eq!(frames.len(), 3);
        assert!(frames.iter().all(|frame| frame.len() <= limits::FRAME_BYTES));
        assert_eq!(f.shown("a").concat(), "012345678");
    }

    #[tokio::test]
    async fn after_a_frame_failed_no_later_one_is_posted() {
        let f = Fixture::new();
        let row = f.live("alice", "a").await;
        f.sockets.fail_next(&row.id, Failure::transient("429"));
        let large = |n: u32| Builder::new(&n.to_string()).to(&["alice"]).set("payload", json!("x".repeat(20_000))).event();
        assert_eq!(f.deliver(&[large(1), large(2)]).await, [Disposition::Done, Disposition::Done]);
        assert_eq!(f.sockets.faults().calls("post"), 1);
        assert_eq!(f.replays_sent().len(), 1);
    }

    #[tokio::test]
    async fn a_410_removes_a_live_connection() {
        let f = Fixture::new();
        let row = f.live("alice", "a").await;
        f.sockets.vanish(&row.id);
        assert_eq!(f.deliver(&[event("1", &["alice"])]).await, [Disposition::Done]);
        assert!(f.connections.rows(&person("alice")).is_empty());
        assert!(f.replays_sent().is_empty());
    }

    #[tokio::test]
    async fn a_410_leaves_a_row_that_changed_since_it_was_read() {
        let f = Fixture::new();
        let row = f.live("alice", "a").await;
        f.sockets.vanish(&row.id);
        let (connections, changed) = (f.connections.clone(), Connection { device: Some("phone".to_owned()), ..row });
        let expected = changed.clone();
        f.sockets.faults().after_next("post", move || {
            let changing = async { connections.mark_live(&person("alice"), &changed, true).await };
            assert_eq!(futures_util::FutureExt::now_or_never(changing), Some(Ok(true)));
        });
        assert_eq!(f.deliver(&[event("1", &["alice"])]).await, [Disposition::Done]);
        assert_eq!(f.connections.rows(&person("alice")), [expected]);
    }

    #[tokio::test]
    async fn a_plain_client_is_acknowledged_by_200_and_another_is_not() {
        let f = Fixture::new();
        f.connect("plain", "p", Phase::Live, Protocol::Plain).await;
        f.live("alice", "a").await;
        let event = event("1", &["plain", "alice"]);
        f.deliver(std::slice::from_ref(&event)).await;
        assert!(f.entry("plain", &event).unwrap().acked_at.is_some());
        assert!(f.entry("alice", &event).unwrap().acked_at.is_none());
    }

    #[tokio::test]
    async fn a_plain_client_whose_post_failed_is_not_acknowledged() {
        let f = Fixture::new();
        let row = f.connect("plain", "p", Phase::Live, Protocol::Plain).await;
        f.sockets.fail_next(&row.id, Failure::transient("timeout"));
        let event = event("1", &["plain"]);
        f.deliver(std::slice::from_ref(&event)).await;
        assert!(f.entry("plain", &event).unwrap().acked_at.is_none());
    }

    #[tokio::test]
    async fn an_ended_token_closes_the_socket_instead_of_a_push() {
        let f = Fixture::new();
        let row = f.live("alice", "a").await;
        f.clock.set(row.token_expires_at);
        assert_eq!(f.deliver(&[event("1", &["alice"])]).await, [Disposition::Done]);
        assert_eq!(f.sockets.closed(&row.id), Some(CloseReason::TokenExpired));
        assert!(f.shown("a").is_empty());
        assert!(f.connections.rows(&person("alice")).is_empty());
    }

    #[tokio::test]
    async fn posts_keep_to_their_rate_over_all_batches() {
        let f = Fixture::with(|config| config.posts_per_second = NonZeroU32::new(50));
        f.live("alice", "a").await;
        let began = Instant::now();
        for n in 0..10 {
            f.deliver(&[event(&n.to_string(), &["alice"])]).await;
        }
        // Five at once, the other five 20 ms apart; only too fast is wrong.
        assert!(began.elapsed() >= Duration::from_millis(80), "{:?}", began.elapsed());
        assert_eq!(f.shown("a").len(), 10);
    }

    #[test]
    fn a_rate_is_kept_exactly() {
        for rate in [1, 7, 99, 150, 10_000] {
            let bucket = bucket(NonZeroU32::new(rate).unwrap());
            let per_second = bucket.refill() as f64 / bucket.interval().as_secs_f64();
            assert!((per_second - f64::from(rate)).abs() < 0.01, "{rate}: {per_second}");
        }
    }

    #[tokio::test]
    async fn an_entry_that_was_read_meanwhile_says_so() {
        let f = Fixture::new();
        let event = event("1", &["alice"]);
        f.deliver(std::slice::from_ref(&event)).await;
        f.inbox.mark_read(&person("alice"), &[event.notification_id()]).await.unwrap();
        f.clock.advance(seconds(1));
        f.live("alice", "a").await;
        f.deliver(&[event]).await;
        assert!(f.frames("a")[0]["items"][0]["read_at"].is_string());
    }
}
