//! The topic in memory: fan-out by attribute, as the subscriptions of SNS do it.
//!
//! Must not know: who reads the queues.

use std::time::Duration;

use recado_domain::event::{Channel, Event};
use recado_domain::message::attributes_of;
use recado_domain::ports::{EventBus, Outcome, Outgoing};

use crate::{Faults, MemoryQueue};

/// Sends every event to the inbox queue, and to the email queue what asks for it.
#[derive(Debug, Clone)]
pub struct MemoryBus {
    inbox: MemoryQueue,
    email: MemoryQueue,
    faults: Faults,
}

impl MemoryBus {
    /// A topic with these two subscriptions.
    pub fn new(inbox: MemoryQueue, email: MemoryQueue) -> Self {
        Self { inbox, email, faults: Faults::new(&["publish"]) }
    }

    /// Scripts what goes wrong: `publish`.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    fn fan_out(&self, event: &Event) {
        let message = Outgoing { body: event.to_json(), attributes: attributes_of(event), delay: Duration::ZERO };
        if event.wants(Channel::Email) {
            self.email.enqueue(message.clone());
        }
        self.inbox.enqueue(message);
    }
}

impl EventBus for MemoryBus {
    async fn publish(&self, events: &[Event]) -> Vec<Outcome<()>> {
        self.faults.each("publish", events.len(), |at| {
            self.fan_out(&events[at]);
            Ok(())
        })
    }
}
