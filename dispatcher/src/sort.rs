//! The first phase: what each message of a batch asks for.
//!
//! Pure. Must not know: any port.

use jiff::Timestamp;
use recado_domain::event::{Channel, Event};
use recado_domain::message::{ATTRIBUTE_CHANNELS, Attributes, InboxMessage, Replay, attempt_of, short_reason};
use recado_domain::ports::Received;
use recado_runtime::consumer::Disposition;

use crate::plan::EventMessage;

/// A message that asks for a replay.
#[derive(Debug)]
pub(crate) struct ReplayMessage {
    /// Its place in the batch.
    pub(crate) at: usize,
    /// What it asks for.
    pub(crate) replay: Replay,
    /// How often it was sent on.
    pub(crate) attempt: u32,
}

/// A batch, sorted.
#[derive(Debug)]
pub(crate) struct Sorted {
    pub(crate) events: Vec<EventMessage>,
    pub(crate) replays: Vec<ReplayMessage>,
    /// One for each message: what needs no work is answered already.
    pub(crate) answers: Vec<Option<Disposition>>,
}

/// Sorts a batch. What is no message of ours is rejected with the reason, and what has expired is done.
pub(crate) fn sort(messages: &[Received], now: Timestamp) -> Sorted {
    let mut sorted = Sorted { events: Vec::new(), replays: Vec::new(), answers: vec![None; messages.len()] };
    for (at, message) in messages.iter().enumerate() {
        let attempt = attempt_of(&message.attributes);
        match InboxMessage::parse(message.body.as_bytes()) {
            Err(invalid) => {
                count("invalid");
                sorted.answers[at] = Some(Disposition::Reject { reason: short_reason(invalid.to_string()) });
            }
            Ok(InboxMessage::Replay(replay)) => sorted.replays.push(ReplayMessage { at, replay, attempt }),
            Ok(InboxMessage::Event(event)) if event.has_expired(now) => {
                count("expired");
                tracing::debug!(notification = %event.notification_id(), "event has expired; nothing is stored");
                sorted.answers[at] = Some(Disposition::Done);
            }
            Ok(InboxMessage::Event(event)) => {
                count("event");
                let forward = needs_forwarding(&event, &message.attributes);
                sorted.events.push(EventMessage { at, event, attempt, forward });
            }
        }
    }
    sorted
}

fn count(kind: &'static str) {
    metrics::counter!("recado_dispatched_total", "kind" => kind).increment(1);
}

/// Whether the email subscription's filter, which reads attributes only, must have dropped it. What was narrowed
/// to the inbox asks for no e-mail, so it is never forwarded again.
fn needs_forwarding(event: &Event, attributes: &Attributes) -> bool {
    event.wants(Channel::Email) && !names_email(attributes)
}

fn names_email(attributes: &Attributes) -> bool {
    let channels = attributes.get(ATTRIBUTE_CHANNELS).and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
    channels.is_some_and(|channels| channels.iter().any(|channel| channel == "email"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Builder, Fixture, before, event, published, received};
    use proptest::prelude::*;

    #[test]
    fn an_attribute_that_is_no_list_names_no_email() {
        for (text, named) in [("[\"inbox\",\"email\"]", true), ("[\"inbox\"]", false), ("email", false), ("{\"email\":1}", false)] {
            assert_eq!(names_email(&Attributes::from([(ATTRIBUTE_CHANNELS.to_owned(), text.to_owned())])), named, "{text}");
        }
    }

    #[tokio::test]
    async fn a_poison_message_is_rejected_with_its_reason_and_the_others_are_delivered() {
        let f = Fixture::new();
        let good = event("1", &["alice"]);
        let answers = f.handle(vec![received("{\"specversion\":\"1.0\"}".to_owned()), published(&good)]).await;
        assert!(matches!(&answers[0], Disposition::Reject { reason } if reason.starts_with("not a valid event: ")), "{answers:?}");
        assert_eq!(answers[1], Disposition::Done);
        assert!(f.entry("alice", &good).is_some());
    }

    #[tokio::test]
    async fn an_event_in_an_envelope_of_sns_is_rejected_with_what_to_turn_on() {
        let f = Fixture::new();
        let wrapped = serde_json::json!({"Type": "Notification", "TopicArn": "arn:t", "Message": event("1", &["alice"]).to_json()});
        let answers = f.handle(vec![received(wrapped.to_string())]).await;
        assert!(matches!(&answers[0], Disposition::Reject { reason } if reason.contains("raw message delivery")), "{answers:?}");
    }

    #[tokio::test]
    async fn an_event_that_has_expired_is_done_and_not_stored() {
        let f = Fixture::new();
        let expires_at = before(&f.clock).to_string();
        let expired = Builder::new("1").to(&["alice"]).set("expires_at", expires_at.into()).event();
        assert_eq!(f.deliver(std::slice::from_ref(&expired)).await, [Disposition::Done]);
        assert_eq!(f.entry("alice", &expired), None);
    }

    proptest! {
        #[test]
        fn every_body_is_sorted_somewhere(bodies in proptest::collection::vec(".*", 0..8), whole in any::<bool>()) {
            let mut messages: Vec<_> = bodies.into_iter().map(received).collect();
            if whole {
                messages.push(received(Builder::new("1").to(&["alice"]).event().to_json()));
            }
            let sorted = sort(&messages, Timestamp::UNIX_EPOCH);
            let answered = sorted.answers.iter().flatten().count();
            prop_assert_eq!(answered + sorted.events.len() + sorted.replays.len(), messages.len());
        }

        #[test]
        fn every_body_gets_an_answer(bodies in proptest::collection::vec(".*|\\{\"recado_replay\":.*\\}", 0..8)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let count = bodies.len();
            let answers = runtime.block_on(Fixture::new().handle(bodies.into_iter().map(received).collect()));
            prop_assert_eq!(answers.len(), count);
            let rejected = |answer: &Disposition| matches!(answer, Disposition::Reject { .. });
            prop_assert!(answers.iter().all(rejected));
        }
    }
}
