//! The event with which a function is invoked for a batch of its queue.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use recado_aws::lambda::answer_batch;
use recado_dispatcher::{Dispatcher, DispatcherConfig, Ports};
use recado_domain::event::{Channel, Event};
use recado_domain::ids::DeliveryKey;
use recado_domain::message::InboxMessage;
use recado_memory::{ManualClock, MemoryConnections, MemoryInbox, MemoryQueue, MemorySockets, SeededEntropy};
use recado_runtime::backoff::RetrySchedule;
use recado_runtime::consumer::trigger::Trigger;
use serde_json::Value;

use crate::{now, run};

/// Of a record that is not reported as failed the platform deletes the message: then everything in it was stored (P1).
pub fn record(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (clock, entropy) = (ManualClock::new(now()), SeededEntropy::new(7));
    let queue = || MemoryQueue::new(clock.clone(), entropy.clone());
    let (inbox_queue, inbox) = (queue(), MemoryInbox::new(clock.clone(), entropy.clone()));
    let ports = Ports {
        inbox_queue: inbox_queue.clone(),
        email_queue: queue(),
        inbox: inbox.clone(),
        connections: MemoryConnections::new(clock.clone()),
        sockets: MemorySockets::new(),
        clock: clock.clone(),
        entropy: entropy.clone(),
    };
    let trigger = Trigger {
        name: "fuzz",
        queue: inbox_queue,
        handler: Arc::new(Dispatcher::new(ports, DispatcherConfig::default())),
        entropy,
        retry: RetrySchedule::default(),
        margin: Duration::from_secs(2),
    };
    // An error fails the whole batch, of which the platform then deletes nothing.
    let Ok(answer) = run(answer_batch(&trigger, "inbox", text, Duration::from_secs(30))) else { return };
    let failed: BTreeSet<String> = answer.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect();
    let event: Value = serde_json::from_str(text).expect("what was answered is JSON");
    let records = event["Records"].as_array().expect("what was answered has records");
    for record in records {
        let id = record["messageId"].as_str().expect("a record without an id fails the batch");
        if !failed.contains(id) {
            was_stored(record, &inbox);
        }
    }
}

fn was_stored(record: &Value, inbox: &MemoryInbox) {
    let body = record["body"].as_str().expect("a record that is done has a body");
    match InboxMessage::parse(body.as_bytes()).expect("what is done was a message") {
        InboxMessage::Replay(_) => {}
        InboxMessage::Event(event) if event.has_expired(now()) || !event.wants(Channel::Inbox) => {}
        InboxMessage::Event(event) => every_recipient_has(&event, inbox),
    }
}

fn every_recipient_has(event: &Event, inbox: &MemoryInbox) {
    for recipient in event.recipient_keys() {
        let key = DeliveryKey { recipient, notification: event.notification_id() };
        assert!(inbox.entry(&key).is_some(), "a message that the platform deletes is in the inbox of everybody it is for");
    }
}
