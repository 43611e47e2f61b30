//! What each message of a batch came to (R3): done only when all of it is durable and every live connection answered,
//! or when what remains was sent on, durably, as something smaller.
//!
//! Must not know: inboxes, sockets.

use std::collections::HashSet;
use std::time::Duration;

use recado_domain::event::Channel;
use recado_domain::failure::Failure;
use recado_domain::ids::UserId;
use recado_domain::limits;
use recado_domain::message::{ATTRIBUTE_ATTEMPT, Attributes, Replay, attributes_of};
use recado_domain::ports::{Outcome, Outgoing, Queue};
use recado_runtime::consumer::Disposition;

use crate::plan::{Batch, Fate, Planned};
use crate::push::{Audience, Unposted};
use crate::{Dispatcher, World};

/// Sends on what remains, in one call, and answers each event message by its place in the batch.
pub(crate) async fn settle<W: World>(
    room: &Dispatcher<W>,
    batch: &Batch,
    fates: &[Fate],
    audiences: &[Audience],
    unposted: &[Unposted],
) -> Vec<(usize, Disposition)> {
    let mut remains = Remains::of(fates);
    for left in unposted {
        remains.add(room, batch, &audiences[left.audience], left);
    }
    let judged: Vec<(Disposition, Vec<usize>)> = batch.events.iter().map(|event| judge(room, batch, event, &mut remains)).collect();
    let sent = send(room, &remains.outgoing).await;
    let answers = batch.events.iter().zip(judged);
    answers.map(|(event, (answer, needs))| (event.message.at, unless_lost(answer, needs, &sent))).collect()
}

/// What is left of a batch, per entry, and the messages that carry it on.
struct Remains {
    failures: Vec<Option<Failure>>,
    /// For each entry the places in `outgoing` of the replays that bring it.
    replays: Vec<Vec<usize>>,
    outgoing: Vec<Outgoing>,
}

impl Remains {
    fn of(fates: &[Fate]) -> Self {
        let failure = |fate: &Fate| if let Fate::Failed(failure) = fate { Some(failure.clone()) } else { None };
        Self { failures: fates.iter().map(failure).collect(), replays: vec![Vec::new(); fates.len()], outgoing: Vec::new() }
    }

    /// A connection that may take the rest later gets one replay for all of it. Where no later try can help, the entries
    /// failed for their recipient.
    fn add<W: World>(&mut self, room: &Dispatcher<W>, batch: &Batch, audience: &Audience, left: &Unposted) {
        let Unposted { from, connection, failure, .. } = left;
        let recipient = &batch.recipients[audience.recipient];
        let places = &audience.places[*from..];
        let (connection_id, reason) = (&connection.id, failure.reason());
        match failure {
            Failure::Permanent { .. } => {
                tracing::warn!(connection = %connection_id, user = %recipient.user, entries = places.len(), reason, "post refused for good");
                places.iter().for_each(|place| self.failures[*place] = Some(failure.clone()));
            }
            Failure::Transient { retry_after, .. } => {
                let replay = Replay {
                    recipient: recipient.clone(),
                    connection: connection_id.clone(),
                    registered_at: connection.registered_at,
                    missed: audience.missed(*from),
                };
                let outgoing = replay_after(room, &replay, 1, *retry_after);
                tracing::info!(connection = %connection_id, user = %recipient.user, entries = places.len(), delay = ?outgoing.delay, reason, "post failed; replay sent");
                places.iter().for_each(|place| self.replays[*place].push(self.outgoing.len()));
                self.outgoing.push(outgoing);
            }
        }
    }
}

/// A replay for the `attempt`-th time, after its backoff.
pub(crate) fn replay_after<W: World>(room: &Dispatcher<W>, replay: &Replay, attempt: u32, retry_after: Option<Duration>) -> Outgoing {
    metrics::counter!("recado_sent_on_total", "what" => "replay").increment(1);
    let delay = delay(room, attempt, retry_after);
    Outgoing { body: replay.to_json(), attributes: with_attempt(Attributes::new(), attempt), delay }
}

fn delay<W: World>(room: &Dispatcher<W>, attempt: u32, retry_after: Option<Duration>) -> Duration {
    room.config.retry.delay(attempt, retry_after, room.world.entropy()).min(limits::QUEUE_DELAY)
}

fn with_attempt(mut attributes: Attributes, attempt: u32) -> Attributes {
    attributes.insert(ATTRIBUTE_ATTEMPT.to_owned(), attempt.to_string());
    attributes
}

/// Decides an event's message, and which of the messages to send it depends on.
fn judge<W: World>(room: &Dispatcher<W>, batch: &Batch, event: &Planned, remains: &mut Remains) -> (Disposition, Vec<usize>) {
    let mut needs: Vec<usize> = event.entries.iter().flat_map(|place| remains.replays[*place].iter().copied()).collect();
    let failed: Vec<(&UserId, &Failure)> = event
        .entries
        .iter()
        .filter_map(|place| remains.failures[*place].as_ref().map(|failure| (&batch.entries[*place].recipient.user, failure)))
        .collect();
    let (may_pass, will_not): (Vec<_>, Vec<_>) = failed.into_iter().partition(|(_, failure)| failure.is_transient());
    if may_pass.len() == event.entries.len() || will_not.len() == event.entries.len() || may_pass.len() + will_not.len() == 0 {
        return (alike(&may_pass, &will_not), needs);
    }
    let attempts = event.message.attempt;
    if attempts >= room.config.retry.max_attempts {
        let reason = will_not.iter().chain(&may_pass).next().map_or("", |(_, failure)| failure.reason());
        return (Disposition::Reject { reason: gave_up(attempts, reason) }, needs);
    }
    let parts = parts(room, event, &may_pass, &will_not);
    needs.extend(remains.outgoing.len()..remains.outgoing.len() + parts.len());
    remains.outgoing.extend(parts);
    (Disposition::Done, needs)
}

/// The reason of work that was sent on too often.
pub(crate) fn gave_up(attempts: u32, reason: &str) -> String {
    format!("gave up after {attempts} attempts: {reason}")
}

type Failed<'a> = (&'a UserId, &'a Failure);

/// The smaller events that carry on what failed. What cannot succeed goes alone: received again it fails alike, and
/// ends as a dead letter that names only those whom it concerns.
fn parts<W: World>(room: &Dispatcher<W>, event: &Planned, may_pass: &[Failed<'_>], will_not: &[Failed<'_>]) -> Vec<Outgoing> {
    let attempt = event.message.attempt.saturating_add(1);
    let wait = delay(room, attempt, longest_wait(may_pass));
    let parts = [(may_pass, wait), (will_not, Duration::ZERO)];
    parts.into_iter().filter_map(|(failed, delay)| narrowed(event, failed, attempt, delay)).collect()
}

fn narrowed(event: &Planned, failed: &[Failed<'_>], attempt: u32, delay: Duration) -> Option<Outgoing> {
    let (_, first) = failed.first()?;
    let users: HashSet<&UserId> = failed.iter().map(|(user, _)| *user).collect();
    let rest = event.message.event.narrowed(Channel::Inbox, |user| users.contains(user))?;
    metrics::counter!("recado_sent_on_total", "what" => "event").increment(1);
    tracing::info!(
        notification = %rest.notification_id(),
        recipients = users.len(),
        attempt,
        ?delay,
        reason = first.reason(),
        "event sent on for those it failed for"
    );
    Some(Outgoing { body: rest.to_json(), attributes: with_attempt(attributes_of(&rest), attempt), delay })
}

fn longest_wait(failed: &[Failed<'_>]) -> Option<Duration> {
    let asked = |(_, failure): &Failed<'_>| match failure {
        Failure::Transient { retry_after, .. } => *retry_after,
        Failure::Permanent { .. } => None,
    };
    failed.iter().filter_map(asked).max()
}

/// The answer for a message that failed in one way, or not at all.
fn alike(may_pass: &[Failed<'_>], will_not: &[Failed<'_>]) -> Disposition {
    if let Some((_, failure)) = will_not.first() {
        return Disposition::Reject { reason: failure.reason().to_owned() };
    }
    match may_pass.first() {
        Some((_, failure)) => Disposition::Retry { after: longest_wait(may_pass), reason: failure.reason().to_owned() },
        None => Disposition::Done,
    }
}

pub(crate) async fn send<W: World>(room: &Dispatcher<W>, outgoing: &[Outgoing]) -> Vec<Outcome<()>> {
    if outgoing.is_empty() {
        return Vec::new();
    }
    let sent = room.world.inbox_queue().send(outgoing).await;
    let failed = sent.iter().filter(|outcome| outcome.is_err()).count();
    if failed > 0 {
        metrics::counter!("recado_sends_failed_total").increment(failed as u64);
    }
    sent
}

/// The answer, unless a message that carries the rest was not sent: then everything is done again.
pub(crate) fn unless_lost(answer: Disposition, needs: Vec<usize>, sent: &[Outcome<()>]) -> Disposition {
    for need in needs {
        match sent.get(need) {
            Some(Ok(())) => {}
            Some(Err(failure)) => return given_back(failure),
            None => return given_back(&Failure::transient("the queue did not answer for what was sent on")),
        }
    }
    answer
}

/// Given back even where sending can never succeed: its attempts end, and then it is a dead letter with the reason.
fn given_back(failure: &Failure) -> Disposition {
    let after = if let Failure::Transient { retry_after, .. } = failure { *retry_after } else { None };
    Disposition::Retry { after, reason: format!("what remains could not be sent on: {}", failure.reason()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Builder, Fixture, MAX_ATTEMPTS, event, published, seconds};
    use recado_domain::event::Event;
    use recado_domain::ports::Received;
    use serde_json::json;

    fn sent_on(event: &Event, attempt: u32) -> Received {
        Received { attributes: with_attempt(attributes_of(event), attempt), ..published(event) }
    }

    #[tokio::test]
    async fn one_failing_append_of_a_hundred_does_not_push_the_other_ninety_nine_again() {
        let f = Fixture::new();
        let users: Vec<String> = (0..100).map(|n| format!("u{n}")).collect();
        for user in &users {
            f.live(user, &format!("c-{user}")).await;
        }
        let people: Vec<&str> = users.iter().map(String::as_str).collect();
        f.inbox.faults().fail_entries("append", &[42], Failure::transient("throttled"));
        assert_eq!(f.deliver(&[event("1", &people)]).await, [Disposition::Done]);
        let sent = f.events_sent_on();
        assert_eq!((sent[0].0, &sent[0].2), (1, &vec!["u42".to_owned()]));

        let rest = f.queue.messages().remove(0);
        let again = Received { attributes: rest.attributes, ..crate::fixture::received(rest.body) };
        assert_eq!(f.handle(vec![again]).await, [Disposition::Done]);
        for user in &users {
            assert_eq!(f.shown(&format!("c-{user}")), ["1"], "{user}");
        }
    }

    #[tokio::test]
    async fn a_failing_lookup_sends_the_event_on_for_that_recipient() {
        let f = Fixture::new();
        f.live("alice", "a").await;
        f.live("bob", "b").await;
        let failure = Failure::Transient { retry_after: Some(seconds(7)), reason: "throttled".to_owned() };
        f.connections.faults().fail_entries("of_users", &[1], failure);
        assert_eq!(f.deliver(&[event("1", &["alice", "bob"])]).await, [Disposition::Done]);
        assert_eq!(f.shown("a"), ["1"]);
        assert_eq!(f.events_sent_on(), [(1, seconds(7), vec!["bob".to_owned()])]);
    }

    #[tokio::test]
    async fn a_message_of_which_nothing_succeeded_is_given_back() {
        let f = Fixture::new();
        let failure = Failure::Transient { retry_after: Some(seconds(3)), reason: "throttled".to_owned() };
        f.inbox.faults().fail_next("append", failure);
        let answers = f.deliver(&[event("1", &["alice", "bob"])]).await;
        assert_eq!(answers, [Disposition::Retry { after: Some(seconds(3)), reason: "throttled".to_owned() }]);
        assert_eq!(f.queue.depth(), 0);
    }

    #[tokio::test]
    async fn a_429_becomes_one_replay_for_the_connection_and_the_messages_are_done() {
        let f = Fixture::new();
        f.live("alice", "a1").await;
        let slow = f.live("alice", "a2").await;
        let failure = Failure::Transient { retry_after: Some(seconds(9)), reason: "429".to_owned() };
        f.sockets.fail_next(&slow.id, failure);
        assert_eq!(f.deliver(&[event("1", &["alice"]), event("2", &["alice"])]).await, [Disposition::Done, Disposition::Done]);
        assert_eq!(f.shown("a1"), ["1", "2"]);
        assert_eq!(f.replays_sent(), [(1, seconds(9), "a2".to_owned())]);
        assert!(f.events_sent_on().is_empty());
    }

    #[tokio::test]
    async fn when_sending_on_fails_the_message_is_given_back() {
        let f = Fixture::new();
        let slow = f.live("alice", "a").await;
        f.sockets.fail_next(&slow.id, Failure::transient("429"));
        f.queue.faults().fail_next("send", Failure::transient("queue busy"));
        let answers = f.deliver(&[event("1", &["alice"]), event("2", &["bob"])]).await;
        assert!(matches!(&answers[0], Disposition::Retry { reason, .. } if reason.contains("queue busy")), "{answers:?}");
        assert_eq!(answers[1], Disposition::Done, "nothing of this one had to be sent on");
    }

    #[tokio::test]
    async fn a_message_whose_rest_could_not_be_sent_on_is_given_back() {
        let f = Fixture::new();
        f.inbox.faults().fail_entries("append", &[1], Failure::transient("throttled"));
        f.queue.faults().fail_next("send", Failure::transient("queue busy"));
        let answers = f.deliver(&[event("1", &["alice", "bob"]), event("2", &["carol"])]).await;
        assert!(matches!(&answers[0], Disposition::Retry { reason, .. } if reason.contains("queue busy")), "{answers:?}");
        assert_eq!(answers[1], Disposition::Done);
    }

    #[tokio::test]
    async fn only_messages_in_unposted_frames_depend_on_the_replay() {
        let f = Fixture::new();
        let row = f.live("alice", "a").await;
        let large = |n: u32| Builder::new(&n.to_string()).to(&["alice"]).set("payload", json!("x".repeat(20_000))).event();
        // The first frame is delivered; the second post fails, and so does sending the replay.
        let (sockets, id) = (f.sockets.clone(), row.id.clone());
        f.sockets.faults().after_next("post", move || sockets.fail_next(&id, Failure::transient("429")));
        f.queue.faults().fail_next("send", Failure::transient("queue busy"));
        let answers = f.deliver(&[large(1), large(2)]).await;
        assert_eq!(answers[0], Disposition::Done);
        assert!(matches!(answers[1], Disposition::Retry { .. }), "{answers:?}");
    }

    #[tokio::test]
    async fn a_permanent_failure_of_one_recipient_ends_as_a_dead_letter_that_names_only_them() {
        let f = Fixture::new();
        f.live("alice", "a").await;
        let full = Failure::permanent("item collection too large");
        f.inbox.faults().fail_entries("append", &[1], full.clone());
        assert_eq!(f.deliver(&[event("1", &["alice", "hoarder"])]).await, [Disposition::Done]);
        assert_eq!(f.shown("a"), ["1"]);
        assert_eq!(f.events_sent_on(), [(1, Duration::ZERO, vec!["hoarder".to_owned()])]);

        f.inbox.faults().fail_next("append", full);
        let rest = f.queue.messages().remove(0);
        let answers = f.handle(vec![crate::fixture::received(rest.body)]).await;
        assert_eq!(answers, [Disposition::Reject { reason: "item collection too large".to_owned() }]);
    }

    #[tokio::test]
    async fn a_post_that_can_never_succeed_ends_as_a_dead_letter() {
        let f = Fixture::new();
        let row = f.live("alice", "a").await;
        f.sockets.fail_next(&row.id, Failure::permanent("forbidden"));
        let answers = f.deliver(&[event("1", &["alice"])]).await;
        assert_eq!(answers, [Disposition::Reject { reason: "forbidden".to_owned() }]);
        assert!(f.replays_sent().is_empty());
    }

    #[tokio::test]
    async fn an_event_that_was_sent_on_too_often_ends_as_a_dead_letter() {
        let f = Fixture::new();
        let event = event("1", &["alice", "bob"]);
        f.inbox.faults().fail_entries("append", &[1], Failure::transient("throttled"));
        let answers = f.handle(vec![sent_on(&event, MAX_ATTEMPTS)]).await;
        assert_eq!(answers, [Disposition::Reject { reason: "gave up after 10 attempts: throttled".to_owned() }]);
        assert!(f.events_sent_on().is_empty());
    }

    #[tokio::test]
    async fn each_attempt_waits_longer_within_the_cap() {
        let f = Fixture::new();
        let event = event("1", &["alice", "bob"]);
        f.inbox.faults().fail_entries("append", &[1], Failure::transient("throttled"));
        assert_eq!(f.handle(vec![sent_on(&event, 3)]).await, [Disposition::Done]);
        let (attempt, delay, _) = f.events_sent_on().remove(0);
        assert_eq!(attempt, 4);
        assert!(delay <= seconds(8), "{delay:?}");
    }
}
