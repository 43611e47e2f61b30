//! What every [`EventBus`] keeps: fan-out, and an answer for each event.
#![expect(missing_docs, reason = "the names are sentences")]

use recado_domain::message::attributes_of;
use recado_domain::ports::EventBus;

use super::Backend;
use super::queue::drain;
use super::samples::{all, event};

pub async fn every_event_goes_to_the_inbox_queue<B: Backend>(backend: &B) {
    let events = [event("1", &["inbox"]), event("2", &["email"]), event("3", &["inbox", "email"])];
    all(backend.bus().publish(&events).await);
    let mut wanted: Vec<_> = events.iter().map(|event| event.to_json()).collect();
    let mut got: Vec<_> = drain(backend.inbox_queue()).await.into_iter().map(|message| message.body).collect();
    wanted.sort();
    got.sort();
    assert_eq!(got, wanted);
}

pub async fn only_events_that_ask_for_mail_go_to_the_email_queue<B: Backend>(backend: &B) {
    let events = [event("1", &["inbox"]), event("2", &["email"]), event("3", &["inbox", "email"])];
    all(backend.bus().publish(&events).await);
    let mut got: Vec<_> = drain(backend.email_queue()).await.into_iter().map(|message| message.body).collect();
    got.sort();
    let mut wanted = [events[1].to_json(), events[2].to_json()];
    wanted.sort();
    assert_eq!(got, wanted);
}

pub async fn events_beyond_one_batch_are_answered_one_by_one<B: Backend>(backend: &B) {
    let events: Vec<_> = (0..25).map(|n| event(&n.to_string(), &["inbox"])).collect();
    assert_eq!(all(backend.bus().publish(&events).await).len(), 25);
    let mut got: Vec<_> = drain(backend.inbox_queue()).await.into_iter().map(|message| message.body).collect();
    got.sort();
    got.dedup();
    assert_eq!(got.len(), 25);
}

pub async fn an_event_travels_with_its_attributes<B: Backend>(backend: &B) {
    let event = event("1", &["inbox", "email"]);
    all(backend.bus().publish(std::slice::from_ref(&event)).await);
    for queue in [backend.inbox_queue(), backend.email_queue()] {
        let received = drain(queue).await;
        assert_eq!(received.len(), 1);
        assert_eq!(received[0].attributes, attributes_of(&event));
        assert_eq!(received[0].body, event.to_json());
    }
}

pub async fn publishing_nothing_answers_nothing<B: Backend>(backend: &B) {
    assert!(backend.bus().publish(&[]).await.is_empty());
    assert!(drain(backend.inbox_queue()).await.is_empty());
}
