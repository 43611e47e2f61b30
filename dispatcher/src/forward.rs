//! Sends events to the email queue that the email subscription cannot have seen: their body asks for e-mail, their
//! attributes do not say so (docs/events.md: a filter policy drops what does not match silently).
//!
//! Before anything else is done for them: an event that cannot be forwarded is given back, or rejected, with nothing
//! stored, so that the second try repeats nothing.

use std::time::Duration;

use recado_domain::event::Channel;
use recado_domain::failure::Failure;
use recado_domain::message::attributes_of;
use recado_domain::ports::{Outgoing, Queue, Received};
use recado_runtime::consumer::Disposition;

use crate::plan::EventMessage;
use crate::{Dispatcher, World};

/// Forwards what must be; answers the events that go on to the inbox. The others get their answer here.
pub(crate) async fn forward<W: World>(
    room: &Dispatcher<W>,
    messages: &[Received],
    events: Vec<EventMessage>,
    answers: &mut [Option<Disposition>],
) -> Vec<EventMessage> {
    let due: Vec<&EventMessage> = events.iter().filter(|message| message.forward).collect();
    if !due.is_empty() {
        let outgoing: Vec<Outgoing> = due.iter().map(|message| as_published(message, &messages[message.at])).collect();
        let mut sent = room.world.email_queue().send(&outgoing).await;
        // An adapter that answers too little must not make a message done that nobody forwarded.
        sent.resize_with(due.len(), || Err(Failure::transient("the email queue did not answer for this event")));
        for (message, outcome) in due.iter().zip(sent) {
            let label = if outcome.is_ok() { "forwarded" } else { "failed" };
            metrics::counter!("recado_forwarded_total", "outcome" => label).increment(1);
            answers[message.at] = outcome.err().map(Disposition::from);
        }
    }
    events.into_iter().filter(|message| answers[message.at].is_none() && goes_on(message, answers)).collect()
}

/// Whether there is inbox work; an event for e-mail alone is done.
fn goes_on(message: &EventMessage, answers: &mut [Option<Disposition>]) -> bool {
    let inbox = message.event.wants(Channel::Inbox);
    if !inbox {
        answers[message.at] = Some(Disposition::Done);
    }
    inbox
}

/// The body as it came, with the attributes it should have had.
fn as_published(message: &EventMessage, received: &Received) -> Outgoing {
    tracing::info!(notification = %message.event.notification_id(), "event asks for e-mail but its attributes do not; forwarded");
    Outgoing { body: received.body.clone(), attributes: attributes_of(&message.event), delay: Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Builder, Fixture, published, received};
    use recado_domain::event::Event;
    use recado_domain::ports::{AckToken, Outcome};
    use recado_runtime::consumer::{Deadline, Handler};
    use serde_json::json;

    fn both(id: &str) -> Event {
        Builder::new(id).to(&["alice"]).set("channels", json!(["inbox", "email"])).event()
    }

    #[tokio::test]
    async fn an_event_whose_attributes_name_email_is_not_forwarded() {
        let f = Fixture::new();
        assert_eq!(f.deliver(&[both("1")]).await, [Disposition::Done]);
        assert_eq!(f.email.depth(), 0);
    }

    #[tokio::test]
    async fn an_event_without_attributes_is_forwarded_as_it_came_with_attributes() {
        let f = Fixture::new();
        let event = both("1");
        let body = format!(" {}", event.to_json());
        assert_eq!(f.handle(vec![received(body.clone())]).await, [Disposition::Done]);
        assert_eq!(f.email.messages(), [Outgoing { body, attributes: attributes_of(&event), delay: Duration::ZERO }]);
        assert!(f.entry("alice", &event).is_some());
    }

    #[tokio::test]
    async fn an_event_for_email_alone_is_done_and_not_stored() {
        let f = Fixture::new();
        let event = Builder::new("1").to(&["alice"]).set("channels", json!(["email"])).event();
        let answers = f.handle(vec![published(&event), received(event.to_json())]).await;
        assert_eq!(answers, [Disposition::Done, Disposition::Done]);
        assert_eq!(f.email.depth(), 1);
        assert_eq!(f.entry("alice", &event), None);
        assert_eq!(f.inbox.faults().calls("append"), 0);
    }

    #[tokio::test]
    async fn an_event_that_cannot_be_forwarded_is_given_back_with_nothing_stored() {
        let f = Fixture::new();
        let event = both("1");
        f.email.faults().fail_next("send", Failure::transient("busy"));
        let answers = f.handle(vec![received(event.to_json())]).await;
        assert_eq!(answers, [Disposition::Retry { after: None, reason: "busy".to_owned() }]);
        assert_eq!(f.entry("alice", &event), None);
    }

    /// A queue that takes messages and says nothing of them.
    struct Mute;

    impl Queue for Mute {
        fn max_batch(&self) -> usize {
            10
        }
        async fn receive(&self, _: usize, _: Duration, _: Duration) -> Outcome<Vec<Received>> {
            Ok(Vec::new())
        }
        async fn ack(&self, _: &[AckToken]) -> Vec<Outcome<()>> {
            Vec::new()
        }
        async fn extend(&self, _: &[AckToken], _: Duration) -> Vec<Outcome<()>> {
            Vec::new()
        }
        async fn release(&self, _: &[(AckToken, Duration)]) -> Vec<Outcome<()>> {
            Vec::new()
        }
        async fn reject(&self, _: &[(Received, String)]) -> Vec<Outcome<()>> {
            Vec::new()
        }
        async fn send(&self, _: &[Outgoing]) -> Vec<Outcome<()>> {
            Vec::new()
        }
    }

    #[tokio::test]
    async fn an_event_whose_forwarding_nobody_confirmed_is_given_back_with_nothing_stored() {
        let f = Fixture::new();
        let ports = crate::Ports {
            inbox_queue: f.queue.clone(),
            email_queue: Mute,
            inbox: f.inbox.clone(),
            connections: f.connections.clone(),
            sockets: f.sockets.clone(),
            clock: f.clock.clone(),
            entropy: recado_memory::SeededEntropy::new(7),
        };
        let event = both("1");
        let answers =
            Dispatcher::new(ports, crate::DispatcherConfig::default()).handle(vec![received(event.to_json())], &Deadline::never()).await;
        assert!(matches!(answers[..], [Disposition::Retry { .. }]), "{answers:?}");
        assert_eq!(f.entry("alice", &event), None);
    }

    #[tokio::test]
    async fn what_was_narrowed_to_the_inbox_is_never_forwarded_again() {
        let f = Fixture::new();
        let event = Builder::new("1").to(&["alice", "bob"]).set("channels", json!(["inbox", "email"])).event();
        f.inbox.faults().fail_entries("append", &[1], Failure::transient("busy"));
        assert_eq!(f.deliver(&[event]).await, [Disposition::Done]);
        let rest = f.queue.messages().remove(0);
        assert_eq!(f.handle(vec![received(rest.body)]).await, [Disposition::Done]);
        assert_eq!(f.email.depth(), 0);
    }
}
