//! The topic: it fans an event out to the queues in one transaction. Must not know: what becomes of it there.

use std::time::Duration;

use recado_domain::event::{Channel, Event};
use recado_domain::message::attributes_of;
use recado_domain::ports::{EventBus, Outcome};

use crate::failure::spread;
use crate::queue::{QueueName, attributes_json, insert};
use crate::store::Shared;
use crate::writer::Durability;

/// Publishes into the queues of a store.
#[derive(Clone)]
pub struct StoredBus {
    pub(crate) shared: Shared,
}

struct Message {
    body: String,
    attributes: String,
    mail: bool,
}

impl EventBus for StoredBus {
    async fn publish(&self, events: &[Event]) -> Vec<Outcome<()>> {
        if events.is_empty() {
            return Vec::new();
        }
        let messages: Vec<_> = events
            .iter()
            .map(|event| Message {
                body: event.to_json(),
                attributes: attributes_json(&attributes_of(event)),
                mail: event.wants(Channel::Email),
            })
            .collect();
        let batch = self.shared.writer.write(Durability::PowerCut, move |change| {
            for Message { body, attributes, mail } in &messages {
                // The inbox queue has no filter: its reader judges what is no valid event.
                insert(change, QueueName::Inbox, body, attributes, Duration::ZERO)?;
                if *mail {
                    insert(change, QueueName::Email, body, attributes, Duration::ZERO)?;
                }
            }
            Ok(messages.iter().map(|_| Ok(())).collect())
        });
        spread(batch.await, events.len())
    }
}
