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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Answer, Script};
    use serde_json::{Value, json};

    fn event(id: &str) -> Event {
        let event = json!({
            "specversion": "1.0", "id": id, "source": "/s", "type": "t.done",
            "data": {"recipients": [{"id": "alice", "email": "alice@example.com"}], "channels": ["inbox", "email"], "title": "\u{FFFF}"},
        });
        Event::from_value(event).unwrap()
    }

    /// What SNS answers: these entries were taken, the last one refused with the code.
    fn answer(taken: &[&str], refused: Option<(&str, &str)>) -> Answer {
        let taken: String = taken.iter().map(|id| format!("<member><Id>{id}</Id><MessageId>m</MessageId></member>")).collect();
        let refused =
            refused.map(|(id, code)| format!("<member><Id>{id}</Id><Code>{code}</Code><SenderFault>false</SenderFault></member>"));
        let (taken, refused) = (format!("<Successful>{taken}</Successful>"), format!("<Failed>{}</Failed>", refused.unwrap_or_default()));
        Answer::Text(200, format!("<PublishBatchResponse><PublishBatchResult>{taken}{refused}</PublishBatchResult></PublishBatchResponse>"))
    }

    fn attribute(form: &Value, name: &str) -> (String, String) {
        let at = |number: usize, field: &str| {
            form[format!("PublishBatchRequestEntries.member.1.MessageAttributes.entry.{number}.{field}")]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let number = (1..=10).find(|number| at(*number, "Name") == name).expect("the attribute is sent");
        (at(number, "Value.DataType"), at(number, "Value.StringValue"))
    }

    #[tokio::test]
    async fn an_event_is_published_with_its_channels_as_an_array() {
        let script = Script::default().then("PublishBatch", |form| {
            assert_eq!(form["TopicArn"], "arn:topic");
            assert_eq!(attribute(form, "channels"), ("String.Array".to_owned(), r#"["inbox","email"]"#.to_owned()));
            assert_eq!(attribute(form, "type"), ("String".to_owned(), "t.done".to_owned()));
            assert_eq!(attribute(form, "tenant"), ("String".to_owned(), "default".to_owned()));
            let body = form["PublishBatchRequestEntries.member.1.Message"].as_str().unwrap();
            assert_eq!(Event::parse(body.as_bytes()).unwrap(), event("1"));
            assert!(!body.contains('\u{FFFF}'), "SNS takes no such character");
            answer(&["0"], None)
        });
        assert_eq!(SnsBus::new(&script.clients(), "arn:topic").publish(&[event("1")]).await, [Ok(())]);
        script.end();
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_sns_could_not_take_is_published_again_alone() {
        let script =
            Script::default().then("PublishBatch", |_| answer(&["0", "2"], Some(("1", "InternalError")))).then("PublishBatch", |form| {
                assert!(form["PublishBatchRequestEntries.member.1.Message"].as_str().unwrap().contains("\"id\":\"2\""));
                assert_eq!(form.get("PublishBatchRequestEntries.member.2.Message"), None);
                answer(&["0"], None)
            });
        let events = [event("1"), event("2"), event("3")];
        assert_eq!(SnsBus::new(&script.clients(), "arn:topic").publish(&events).await, [Ok(()), Ok(()), Ok(())]);
        script.end();
    }

    #[test]
    fn what_sns_does_not_take_names_the_limit() {
        let message = Message { body: "x".repeat(CALL_BYTES), attributes: attributes_of(&event("1")) };
        let failure = message.fits().unwrap_err();
        assert!(!failure.is_transient() && failure.reason().contains("262144"), "{failure}");
    }
}
