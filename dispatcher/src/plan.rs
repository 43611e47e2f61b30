//! What a batch of events comes to: recipients, and entries, each once.
//!
//! Pure. Must not know: any port.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use recado_domain::event::Event;
use recado_domain::failure::Failure;
use recado_domain::ids::{NotificationId, RecipientKey};
use recado_domain::notification::{InboxEntry, NewEntry};

/// A message that carries an event.
#[derive(Debug)]
pub(crate) struct EventMessage {
    /// Its place in the batch.
    pub(crate) at: usize,
    pub(crate) event: Box<Event>,
    /// How often it was sent on.
    pub(crate) attempt: u32,
    /// Whether the email queue must get it from here.
    pub(crate) forward: bool,
}

/// An event and the entries it asks for.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) message: EventMessage,
    /// Places in [`Batch::entries`], in the order of the event's recipients.
    pub(crate) entries: Vec<usize>,
}

/// Everything the events of a batch ask for. What two of them ask for alike stands here once.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) events: Vec<Planned>,
    pub(crate) recipients: Vec<RecipientKey>,
    pub(crate) entries: Vec<NewEntry>,
    /// For each entry the place of its recipient in `recipients`.
    pub(crate) recipient_of: Vec<usize>,
}

/// What an entry came to, so far.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fate {
    /// Durable, and to be pushed as it is stored.
    Stored(InboxEntry),
    /// Acknowledged long ago: nothing to push (R6).
    Settled,
    /// Not durable, or nobody knows who is connected.
    Failed(Failure),
}

impl Batch {
    /// Plans these events.
    pub(crate) fn of(messages: Vec<EventMessage>, now: Timestamp) -> Self {
        let mut batch = Self::default();
        let mut people: HashMap<RecipientKey, usize> = HashMap::new();
        let mut known: HashMap<(usize, NotificationId), usize> = HashMap::new();
        for message in messages {
            let notification = Arc::new(message.event.notification(now));
            let mut places = Vec::with_capacity(message.event.data().recipients.len());
            for recipient in message.event.recipient_keys() {
                let person = *people.entry(recipient).or_insert_with_key(|key| {
                    batch.recipients.push(key.clone());
                    batch.recipients.len() - 1
                });
                let place = *known.entry((person, notification.id)).or_insert_with(|| {
                    let recipient = batch.recipients[person].clone();
                    batch.entries.push(NewEntry { recipient, notification: Arc::clone(&notification) });
                    batch.recipient_of.push(person);
                    batch.entries.len() - 1
                });
                places.push(place);
            }
            batch.events.push(Planned { message, entries: places });
        }
        batch
    }
}
