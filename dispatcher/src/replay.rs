//! Brings one connection what is pending, and what it missed: proves it first where it is `connecting`, reads, posts (R3,
//! R4, R7).
//!
//! Must not know: events.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use recado_domain::connection::{Connection, Phase};
use recado_domain::failure::Failure;
use recado_domain::frame::{ServerFrame, live_frames};
use recado_domain::ids::{ConnectionId, NotificationId, RecipientKey};
use recado_domain::limits;
use recado_domain::message::{Missed, Replay};
use recado_domain::notification::InboxEntry;
use recado_domain::ports::{Connections, Inbox, Outcome, Posted};
use recado_domain::position::Position;
use recado_runtime::consumer::Disposition;

use crate::push::{End, evict, post, post_frames, remove_gone};
use crate::settle::{gave_up, replay_after, send, unless_lost};
use crate::sort::ReplayMessage;
use crate::{Dispatcher, World};

/// What a replay came to.
#[derive(Debug)]
enum Replayed {
    /// Everything pending was handed over, and everything missed.
    Complete,
    /// There is nobody to hand it to (any more).
    Nobody,
    /// The socket may still be opening.
    Opening,
}

/// Replays of one connection: a batch may carry several, and one answers them all.
#[derive(Debug)]
struct Asked {
    replay: Replay,
    /// The lowest: the youngest of them still has all its tries.
    attempt: u32,
    messages: Vec<usize>,
}

/// Carries out the replays of a batch; answers each message by its place.
pub(crate) async fn replay_all<W: World>(room: &Dispatcher<W>, messages: Vec<ReplayMessage>) -> Vec<(usize, Disposition)> {
    let replays: Vec<_> = by_connection(messages).into_iter().map(|asked| replay(room, asked)).collect();
    let answers: Vec<_> = stream::iter(replays).buffer_unordered(room.config.concurrency.get()).collect().await;
    answers.into_iter().flatten().collect()
}

fn by_connection(messages: Vec<ReplayMessage>) -> Vec<Asked> {
    let mut asked: Vec<Asked> = Vec::with_capacity(messages.len());
    let mut known: HashMap<(RecipientKey, ConnectionId), usize> = HashMap::new();
    for ReplayMessage { at, replay, attempt } in messages {
        let place = *known.entry((replay.recipient.clone(), replay.connection.clone())).or_insert(asked.len());
        match asked.get_mut(place) {
            Some(same) => {
                same.attempt = same.attempt.min(attempt);
                same.replay.missed = std::mem::take(&mut same.replay.missed).and(replay.missed);
                same.messages.push(at);
            }
            None => asked.push(Asked { replay, attempt, messages: vec![at] }),
        }
    }
    asked
}

async fn replay<W: World>(room: &Dispatcher<W>, asked: Asked) -> Vec<(usize, Disposition)> {
    let Asked { replay, attempt, messages } = asked;
    let outcome = carry_out(room, &replay).await;
    let label = match &outcome {
        Ok(Replayed::Complete) => "complete",
        Ok(Replayed::Nobody) => "nobody",
        Ok(Replayed::Opening) => "opening",
        Err(failure) if failure.is_transient() => "transient",
        Err(_) => "permanent",
    };
    metrics::counter!("recado_replays_total", "outcome" => label).increment(1);
    let answer = match outcome {
        Ok(Replayed::Complete | Replayed::Nobody) => Disposition::Done,
        Ok(Replayed::Opening) => wait_for_opening(room, &replay, attempt).await,
        Err(failure) => try_again(room, &replay, attempt, failure).await,
    };
    messages.into_iter().map(|at| (at, answer.clone())).collect()
}

/// The grace period ends this, so it costs no attempt.
async fn wait_for_opening<W: World>(room: &Dispatcher<W>, replay: &Replay, attempt: u32) -> Disposition {
    let mut outgoing = replay_after(room, replay, attempt, None);
    outgoing.delay = room.config.opening_wait.min(limits::W);
    unless_lost(Disposition::Done, vec![0], &send(room, &[outgoing]).await)
}

/// A replay is one piece of work: it goes on as a new message, so that its attempts count posts, not receives.
async fn try_again<W: World>(room: &Dispatcher<W>, replay: &Replay, attempt: u32, failure: Failure) -> Disposition {
    let Failure::Transient { retry_after, reason } = failure else { return failure.into() };
    if attempt >= room.config.retry.max_attempts {
        return Disposition::Reject { reason: gave_up(attempt, &reason) };
    }
    let outgoing = replay_after(room, replay, attempt + 1, retry_after);
    tracing::info!(
        connection = %replay.connection,
        user = %replay.recipient.user,
        attempt = attempt + 1,
        delay = ?outgoing.delay,
        reason,
        "replay broke off; sent again"
    );
    unless_lost(Disposition::Done, vec![0], &send(room, &[outgoing]).await)
}

async fn carry_out<W: World>(room: &Dispatcher<W>, replay: &Replay) -> Outcome<Replayed> {
    let Replay { recipient, connection: id, missed, .. } = replay;
    let rows = room.world.connections().of_users(std::slice::from_ref(recipient)).await.pop();
    let rows = rows.unwrap_or_else(|| Err(Failure::transient("the connections of this user were not answered")))?;
    let Some(row) = rows.into_iter().find(|row| row.id == *id) else { return Ok(Replayed::Nobody) };
    if row.has_expired(room.now()) {
        evict(room, recipient, &row).await;
        return Ok(Replayed::Nobody);
    }
    match row.phase {
        Phase::Live => {
            room.crowded.check(id, room.now())?;
            hand_over(room, recipient, &row, missed).await
        }
        Phase::Connecting => prove(room, recipient, row, missed).await,
    }
}

/// A post that answers 200 proves the socket; then it is live, and only then the inbox is read (R2, R4).
async fn prove<W: World>(room: &Dispatcher<W>, recipient: &RecipientKey, row: Connection, missed: &Missed) -> Outcome<Replayed> {
    let unread = room.world.inbox().unread(recipient).await?;
    let frame = ServerFrame::Unread { count: unread.count, capped: unread.capped }.to_json();
    let asked = room.now();
    match post(room, &row.id, &frame).await? {
        Posted::Gone if !row.gone_is_final(asked) => Ok(Replayed::Opening),
        Posted::Gone => {
            remove_gone(room, recipient, &row, asked).await;
            Ok(Replayed::Nobody)
        }
        Posted::Delivered => {
            if !room.world.connections().mark_live(recipient, &row, false).await? {
                return Ok(Replayed::Nobody);
            }
            hand_over(room, recipient, &row.live(), missed).await
        }
    }
}

/// Brings what is pending, and then what the connection missed and the pending query did not find any more.
async fn hand_over<W: World>(
    room: &Dispatcher<W>,
    recipient: &RecipientKey,
    connection: &Connection,
    missed: &Missed,
) -> Outcome<Replayed> {
    let mut brought = HashSet::new();
    match hand_over_pending(room, recipient, connection, &mut brought).await? {
        Replayed::Complete => hand_over_missed(room, recipient, connection, missed, &brought).await,
        ended => Ok(ended),
    }
}

/// Reads what is pending to its end, posting page by page, and says what it `brought`.
async fn hand_over_pending<W: World>(
    room: &Dispatcher<W>,
    recipient: &RecipientKey,
    connection: &Connection,
    brought: &mut HashSet<NotificationId>,
) -> Outcome<Replayed> {
    let inbox = room.world.inbox();
    let started = room.now();
    let marks = inbox.marks(recipient).await?;
    let (mut after, mut lowest) = (Position::MIN, None);
    loop {
        let page = inbox.pending(recipient, marks, after, limits::PAGE_ENTRIES).await?;
        lowest = lowest.or_else(|| page.entries.first().map(|entry| entry.position));
        match post_frames(room, recipient, connection, &page.entries, &live_frames(&page.entries)).await {
            End::Delivered => brought.extend(page.entries.iter().map(|entry| entry.notification.id)),
            End::Gone => return Ok(Replayed::Nobody),
            End::Failed { failure, .. } => return Err(failure),
        }
        match page.next.filter(|_| page.more) {
            Some(next) => after = next,
            None => break,
        }
    }
    if let Some(to) = marks.pending_after(lowest, started) {
        advance(room, recipient, marks.pending_from, to).await;
    }
    Ok(Replayed::Complete)
}

/// Reads from the lowest entry missed to the end, whoever acknowledged what, and posts what the connection missed of it.
async fn hand_over_missed<W: World>(
    room: &Dispatcher<W>,
    recipient: &RecipientKey,
    connection: &Connection,
    missed: &Missed,
    brought: &HashSet<NotificationId>,
) -> Outcome<Replayed> {
    let mut next = missed.from().map(|from| from.back(Duration::ZERO));
    while let Some(after) = next {
        let page = room.world.inbox().since(recipient, after, limits::PAGE_ENTRIES).await?;
        next = page.next.filter(|_| page.more);
        let wanted = |entry: &InboxEntry| missed.has(&entry.notification.id) && !brought.contains(&entry.notification.id);
        let entries: Vec<InboxEntry> = page.entries.into_iter().filter(wanted).collect();
        match post_frames(room, recipient, connection, &entries, &live_frames(&entries)).await {
            End::Delivered => {}
            End::Gone => return Ok(Replayed::Nobody),
            End::Failed { failure, .. } => return Err(failure),
        }
    }
    Ok(Replayed::Complete)
}

/// Spares the next replay what this one found settled. Only a saving: when it fails the next one reads more.
async fn advance<W: World>(room: &Dispatcher<W>, recipient: &RecipientKey, old: Option<Position>, to: Position) {
    if let Err(failure) = room.world.inbox().advance_pending(recipient, old, to).await {
        tracing::debug!(user = %recipient.user, reason = failure.reason(), "pending mark not advanced");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, MAX_ATTEMPTS, acknowledge, event, id_of, person, received, seconds};
    use recado_domain::connection::{CloseReason, Protocol};
    use recado_domain::event::Event;
    use recado_domain::ports::{Clock, Marks, Received};

    async fn waiting(f: &Fixture, users: &[&str]) -> Vec<Event> {
        let events: Vec<_> = (1..=3).map(|n| event(&n.to_string(), users)).collect();
        f.deliver(&events).await;
        events
    }

    async fn marks(f: &Fixture, user: &str) -> Marks {
        f.inbox.marks(&person(user)).await.unwrap()
    }

    #[tokio::test]
    async fn a_connecting_socket_is_proved_made_live_and_then_shown_what_is_pending() {
        let f = Fixture::new();
        waiting(&f, &["alice"]).await;
        let row = f.connect("alice", "a", Phase::Connecting, Protocol::Plain).await;
        let inbox = f.inbox.clone();
        f.connections.faults().after_next("mark_live", move || assert_eq!(inbox.faults().calls("pending"), 0));
        assert_eq!(f.replay("alice", &row, 0).await, Disposition::Done);
        assert_eq!(f.frames("a")[0], serde_json::json!({"type": "unread", "count": 3, "capped": false}));
        assert_eq!(f.shown("a"), ["1", "2", "3"]);
        assert_eq!(f.connections.rows(&person("alice")), [row.live()]);
    }

    #[tokio::test]
    async fn a_live_socket_needs_no_proof() {
        let f = Fixture::new();
        waiting(&f, &["alice"]).await;
        let row = f.live("alice", "a").await;
        assert_eq!(f.replay("alice", &row, 3).await, Disposition::Done);
        assert_eq!((f.frames("a").len(), f.shown("a").len()), (1, 3));
        assert_eq!(f.connections.faults().calls("mark_live"), 0);
    }

    #[tokio::test]
    async fn a_410_within_the_grace_period_queues_the_replay_again_at_no_attempt() {
        let f = Fixture::new();
        let row = f.connect("alice", "a", Phase::Connecting, Protocol::Plain).await;
        f.sockets.vanish(&row.id);
        assert_eq!(f.replay("alice", &row, MAX_ATTEMPTS).await, Disposition::Done);
        assert_eq!(f.replays_sent(), [(MAX_ATTEMPTS, seconds(2), "a".to_owned())]);
        assert_eq!(f.connections.rows(&person("alice")), [row]);
    }

    #[tokio::test]
    async fn a_410_after_the_grace_period_removes_the_row() {
        let f = Fixture::new();
        let row = f.connect("alice", "a", Phase::Connecting, Protocol::Plain).await;
        f.sockets.vanish(&row.id);
        f.clock.advance(limits::W);
        assert_eq!(f.replay("alice", &row, 0).await, Disposition::Done);
        assert_eq!(f.queue.depth(), 0);
        assert!(f.connections.rows(&person("alice")).is_empty());
    }

    #[tokio::test]
    async fn a_410_to_a_post_begun_within_the_grace_period_removes_nothing_however_late_its_answer_is() {
        let f = Fixture::new();
        let row = f.connect("alice", "a", Phase::Connecting, Protocol::Plain).await;
        f.sockets.vanish(&row.id);
        let clock = f.clock.clone();
        f.sockets.faults().after_next("post", move || clock.advance(limits::W));
        assert_eq!(f.replay("alice", &row, 0).await, Disposition::Done);
        assert_eq!(f.replays_sent(), [(0, seconds(2), "a".to_owned())]);
        assert_eq!(f.connections.rows(&person("alice")), [row]);
    }

    /// The only message of the queue, as it is received.
    fn received_from_queue(f: &Fixture) -> Received {
        let sent = f.queue.messages().pop().unwrap();
        Received { attributes: sent.attributes, ..received(sent.body) }
    }

    #[tokio::test]
    async fn what_a_connection_missed_is_brought_though_another_device_acknowledged_it() {
        let f = Fixture::new();
        let listening = f.connect("alice", "p", Phase::Live, Protocol::Plain).await;
        f.sockets.fail_next(&listening.id, Failure::transient("429"));
        let missed = event("1", &["alice"]);
        f.deliver(std::slice::from_ref(&missed)).await;
        acknowledge(&f.inbox, "alice", &missed).await;
        // What it took since is not brought a second time.
        let replay = received_from_queue(&f);
        f.clock.advance(seconds(1));
        f.deliver(&[event("2", &["alice"])]).await;
        assert_eq!(f.handle(vec![replay]).await, [Disposition::Done]);
        assert_eq!(f.shown("p"), ["2", "1"]);
    }

    #[tokio::test]
    async fn what_a_connection_missed_and_is_still_pending_is_brought_once() {
        let f = Fixture::new();
        let row = f.live("alice", "a").await;
        f.sockets.fail_next(&row.id, Failure::transient("429"));
        waiting(&f, &["alice"]).await;
        assert_eq!(f.handle(vec![received_from_queue(&f)]).await, [Disposition::Done]);
        assert_eq!(f.shown("a"), ["1", "2", "3"]);
    }

    #[tokio::test]
    async fn a_replay_that_breaks_off_again_still_names_what_was_missed() {
        let f = Fixture::new();
        let row = f.live("alice", "a").await;
        f.sockets.fail_next(&row.id, Failure::transient("429"));
        let missed = waiting(&f, &["alice"]).await;
        let first = received_from_queue(&f);
        f.sockets.fail_next(&row.id, Failure::transient("429"));
        assert_eq!(f.handle(vec![first]).await, [Disposition::Done]);
        for event in &missed {
            acknowledge(&f.inbox, "alice", event).await;
        }
        assert_eq!(f.handle(vec![received_from_queue(&f)]).await, [Disposition::Done]);
        assert_eq!(f.shown("a"), ["1", "2", "3"]);
    }

    #[tokio::test]
    async fn a_replay_does_not_bring_a_removed_row_back() {
        let f = Fixture::new();
        waiting(&f, &["alice"]).await;
        let row = f.connect("alice", "a", Phase::Connecting, Protocol::Plain).await;
        let (connections, id) = (f.connections.clone(), row.id.clone());
        f.sockets.faults().after_next("post", move || {
            let removing = async { connections.remove(&person("alice"), &id).await };
            futures_util::FutureExt::now_or_never(removing).expect("a memory port never waits").unwrap();
        });
        assert_eq!(f.replay("alice", &row, 0).await, Disposition::Done);
        assert!(f.connections.rows(&person("alice")).is_empty());
        assert!(f.shown("a").is_empty());
    }

    #[tokio::test]
    async fn an_absent_connection_is_done() {
        let f = Fixture::new();
        let row = f.live("alice", "a").await;
        f.connections.remove(&person("alice"), &row.id).await.unwrap();
        assert_eq!(f.replay("alice", &row, 0).await, Disposition::Done);
        assert_eq!(f.inbox.faults().calls("pending"), 0);
    }

    #[tokio::test]
    async fn an_ended_token_closes_the_socket() {
        let f = Fixture::new();
        waiting(&f, &["alice"]).await;
        let row = f.live("alice", "a").await;
        f.clock.set(row.token_expires_at);
        assert_eq!(f.replay("alice", &row, 0).await, Disposition::Done);
        assert_eq!(f.sockets.closed(&row.id), Some(CloseReason::TokenExpired));
        assert!(f.shown("a").is_empty());
    }

    #[tokio::test]
    async fn a_plain_client_is_acknowledged_frame_by_frame_and_another_is_not() {
        let f = Fixture::new();
        let events = waiting(&f, &["plain", "alice"]).await;
        let plain = f.connect("plain", "p", Phase::Live, Protocol::Plain).await;
        let alice = f.live("alice", "a").await;
        f.replay("plain", &plain, 0).await;
        f.replay("alice", &alice, 0).await;
        for event in &events {
            assert!(f.entry("plain", event).unwrap().acked_at.is_some());
            assert!(f.entry("alice", event).unwrap().acked_at.is_none());
        }
    }

    #[tokio::test]
    async fn a_failing_post_sends_the_replay_again_and_moves_no_mark() {
        let f = Fixture::new();
        waiting(&f, &["alice"]).await;
        f.clock.advance(seconds(3600));
        let row = f.live("alice", "a").await;
        let failure = Failure::Transient { retry_after: Some(seconds(30)), reason: "429".to_owned() };
        f.sockets.fail_next(&row.id, failure);
        assert_eq!(f.replay("alice", &row, 4).await, Disposition::Done);
        assert_eq!(f.replays_sent(), [(5, seconds(30), "a".to_owned())]);
        assert_eq!(marks(&f, "alice").await.pending_from, None);
    }

    #[tokio::test]
    async fn while_a_connection_asks_to_wait_its_replays_do_not_read_the_inbox() {
        let f = Fixture::new();
        let row = f.live("alice", "a").await;
        f.sockets.fail_next(&row.id, Failure::Transient { retry_after: Some(seconds(30)), reason: "429".to_owned() });
        f.deliver(&[event("1", &["alice"])]).await;
        f.clock.advance(seconds(20));
        assert_eq!(f.replay("alice", &row, 1).await, Disposition::Done);
        assert_eq!((f.inbox.faults().calls("pending"), f.sockets.faults().calls("post")), (0, 1));
        assert_eq!(f.replays_sent().last(), Some(&(2, seconds(10), "a".to_owned())));
        f.clock.advance(seconds(10));
        assert_eq!(f.replay("alice", &row, 2).await, Disposition::Done);
        assert_eq!(f.shown("a"), ["1"]);
    }

    #[tokio::test]
    async fn after_its_attempts_a_replay_ends_as_a_dead_letter() {
        let f = Fixture::new();
        waiting(&f, &["alice"]).await;
        let row = f.live("alice", "a").await;
        f.sockets.fail_next(&row.id, Failure::transient("429"));
        let answer = f.replay("alice", &row, MAX_ATTEMPTS).await;
        assert_eq!(answer, Disposition::Reject { reason: "gave up after 10 attempts: 429".to_owned() });
        assert_eq!(f.queue.depth(), 0);
    }

    #[tokio::test]
    async fn a_replay_that_cannot_be_sent_again_is_given_back() {
        let f = Fixture::new();
        waiting(&f, &["alice"]).await;
        let row = f.live("alice", "a").await;
        f.sockets.fail_next(&row.id, Failure::transient("429"));
        f.queue.faults().fail_next("send", Failure::transient("queue busy"));
        assert!(matches!(f.replay("alice", &row, 0).await, Disposition::Retry { .. }));
    }

    #[tokio::test]
    async fn after_a_query_that_ran_to_its_end_the_mark_stands_below_what_is_pending() {
        let f = Fixture::new();
        let events = waiting(&f, &["alice"]).await;
        acknowledge(&f.inbox, "alice", &events[0]).await;
        f.clock.advance(seconds(3600));
        let row = f.live("alice", "a").await;
        f.replay("alice", &row, 0).await;
        let second = f.entry("alice", &events[1]).unwrap().position;
        assert_eq!(marks(&f, "alice").await.pending_from, Some(second));
    }

    #[tokio::test]
    async fn the_mark_stays_a_grace_period_below_the_start_of_the_query() {
        let f = Fixture::new();
        let row = f.live("alice", "a").await;
        f.replay("alice", &row, 0).await;
        let start = Position::floor(f.clock.now() - limits::W);
        assert_eq!(marks(&f, "alice").await.pending_from, Some(start));
    }

    #[tokio::test]
    async fn everything_pending_is_read_page_by_page_in_order() {
        let f = Fixture::new();
        let events: Vec<_> = (0..250).map(|n| event(&format!("{n:03}"), &["alice"])).collect();
        f.deliver(&events).await;
        let row = f.live("alice", "a").await;
        assert_eq!(f.replay("alice", &row, 0).await, Disposition::Done);
        assert_eq!(f.inbox.faults().calls("pending"), 3);
        let shown = f.shown("a");
        assert!(shown.is_sorted());
        assert_eq!(shown.len(), 250);
    }

    #[tokio::test]
    async fn several_replays_of_one_connection_are_carried_out_once() {
        let f = Fixture::new();
        waiting(&f, &["alice"]).await;
        let row = f.live("alice", "a").await;
        let (recipient, registered_at) = (person("alice"), row.registered_at);
        let replay = Replay { recipient, connection: row.id.clone(), registered_at, missed: Missed::default() };
        let message = || received(replay.to_json());
        assert_eq!(f.handle(vec![message(), message(), message()]).await, vec![Disposition::Done; 3]);
        assert_eq!(f.shown("a"), ["1", "2", "3"]);
    }

    #[tokio::test]
    async fn a_forged_replay_for_another_users_connection_reaches_nobody() {
        let f = Fixture::new();
        waiting(&f, &["alice"]).await;
        let row = f.live("mallory", "m").await;
        assert_eq!(f.replay("alice", &row, 0).await, Disposition::Done);
        assert!(f.frames("m").is_empty());
        assert!(f.inbox.entry(&recado_domain::ids::DeliveryKey { recipient: person("alice"), notification: id_of("1") }).is_some());
    }
}
