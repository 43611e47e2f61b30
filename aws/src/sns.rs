//! Events into an SNS topic. Must not know: who subscribed.

use aws_sdk_sns::operation::publish_batch::PublishBatchOutput;
use aws_sdk_sns::types::{MessageAttributeValue, PublishBatchRequestEntry};
use recado_domain::event::Event;
use recado_domain::failure::Failure;
use recado_domain::message::{ATTRIBUTE_CHANNELS, Attributes, attributes_of};
use recado_domain::ports::{EventBus, Outcome};

use crate::batch::{Answers, CALL_BYTES, escaped, id_of, in_batches, refused, taken};
use crate::clients::Clients;
use crate::failure::failure_of;

const CALL: &str = "SNS PublishBatch";

/// Publishes to a topic whose subscriptions deliver raw, the e-mail one by a filter on the attribute `channels`.
#[derive(Debug, Clone)]
pub struct SnsBus {
    sns: aws_sdk_sns::Client,
    topic_arn: String,
}

/// An event as SNS takes it.
struct Message {
    body: String,
    attributes: Attributes,
}

impl Message {
    fn of(event: &Event) -> Self {
        Self { body: escaped(event.to_json()), attributes: attributes_of(event) }
    }

    /// Its bytes as SNS counts them: names, types and values of attributes belong to the message ("Amazon SNS message
    /// attributes").
    fn fits(&self) -> Outcome<usize> {
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + data_type(name).len() + value.len());
        let bytes = self.body.len() + attributes.sum::<usize>();
        if bytes <= CALL_BYTES {
            return Ok(bytes);
        }
        Err(Failure::permanent(format!(
            "the event is {bytes} bytes with its attributes; SNS takes {CALL_BYTES} (256 KiB): publish less data, or a link to it"
        )))
    }
}

impl SnsBus {
    /// The topic of this ARN.
    pub fn new(clients: &Clients, topic_arn: impl Into<String>) -> Self {
        Self { sns: clients.sns.clone(), topic_arn: topic_arn.into() }
    }

    async fn call(&self, messages: Vec<&Message>) -> Outcome<Answers> {
        let entries = messages.into_iter().enumerate().map(|(number, message)| entry(number, message)).collect();
        let call = self.sns.publish_batch().topic_arn(&self.topic_arn).set_publish_batch_request_entries(Some(entries));
        call.send().await.map(|output| answers(&output)).map_err(|error| failure_of(&error))
    }
}

impl EventBus for SnsBus {
    async fn publish(&self, events: &[Event]) -> Vec<Outcome<()>> {
        let messages: Vec<Message> = events.iter().map(Message::of).collect();
        let messages: Vec<&Message> = messages.iter().collect();
        in_batches(CALL, &messages, |message| message.fits(), |group| self.call(group)).await
    }
}

fn entry(number: usize, message: &Message) -> PublishBatchRequestEntry {
    let builder = PublishBatchRequestEntry::builder().id(id_of(number)).message(&message.body);
    let attributes = message.attributes.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| {
        let value = MessageAttributeValue::builder().data_type(data_type(name)).string_value(value).build();
        (name.clone(), value.expect("an attribute with its type is complete"))
    });
    builder.set_message_attributes(Some(attributes.collect())).build().expect("an entry with id and message is complete")
}

/// A filter policy looks into an array ("Amazon SNS subscription filter policies", String.Array).
fn data_type(name: &str) -> &'static str {
    if name == ATTRIBUTE_CHANNELS { "String.Array" } else { "String" }
}

fn answers(output: &PublishBatchOutput) -> Answers {
    let taken = output.successful().iter().filter_map(|entry| taken(entry.id()?));
    taken.chain(output.failed().iter().filter_map(|entry| refused(CALL, entry.id(), entry.code(), entry.message()))).collect()
}
