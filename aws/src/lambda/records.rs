//! Reads the records of an SQS event one by one, so that one that is foreign or broken never hides the others.
//!
//! Must not know: what becomes of a message.

use std::collections::BTreeMap;

use aws_lambda_events::event::sqs::SqsMessage;
use recado_domain::message::Attributes;
use recado_domain::ports::{AckToken, Received};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// A batch, as far as it could be read.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// What is a message.
    pub(super) messages: Vec<Received>,
    /// What is not.
    pub(super) unreadable: Vec<Unreadable>,
}

/// A record that is no message of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// Its place in the event.
    pub(super) at: usize,
    /// Names it to the platform. Without one it cannot be reported.
    pub(super) message_id: Option<String>,
    /// Without anything of its contents.
    pub(super) reason: String,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "Records", borrow)]
    records: Vec<&'a RawValue>,
}

/// Reads an event. `queue` is the name of the queue that messages are given back to.
///
/// # Errors
/// When it has no records at all, with what to do.
pub(super) fn read(event: &str, queue: &str) -> Result<Records, String> {
    let Event { records } = serde_json::from_str(event).map_err(|_| {
        "the event is no SQS event, which has an array `Records`; invoke this function by an event source mapping of its queue".to_owned()
    })?;
    let mut read = Records::default();
    for (at, record) in records.into_iter().enumerate() {
        match message(record.get(), queue) {
            Ok(message) => read.messages.push(message),
            Err(reason) => read.unreadable.push(Unreadable { at, message_id: message_id(record.get()), reason }),
        }
    }
    Ok(read)
}

fn message(record: &str, queue: &str) -> Result<Received, String> {
    let record: SqsMessage =
        serde_json::from_str(record).map_err(|error| format!("a field is of the wrong kind (column {})", error.column()))?;
    if let Some(source) = record.event_source.as_deref().filter(|source| *source != "aws:sqs") {
        return Err(format!("it comes from {}, not from SQS", known(source)));
    }
    // A receipt handle of another queue can neither be given back nor rejected here.
    if let Some(other) = record.event_source_arn.as_deref().and_then(|arn| arn.rsplit(':').next()).filter(|name| *name != queue) {
        return Err(format!("it comes from the queue {other}, and this function works with {queue}"));
    }
    let present = |field: Option<String>, name: &str| field.filter(|text| !text.is_empty()).ok_or_else(|| format!("it has no `{name}`"));
    Ok(Received {
        message_id: present(record.message_id, "messageId")?,
        token: AckToken(present(record.receipt_handle, "receiptHandle")?),
        // SQS refuses an empty body, and Lambda passes every one on.
        body: present(record.body, "body")?,
        // Missing or no number: the first time, so that nothing is given up too early.
        receive_count: record.attributes.get("ApproximateReceiveCount").and_then(|count| count.parse().ok()).unwrap_or(1),
        // Binary attributes are not Recado's: no port carries them.
        attributes: record
            .message_attributes
            .into_iter()
            .filter_map(|(name, attribute)| Some((name, attribute.string_value?)))
            .collect::<BTreeMap<_, _>>() as Attributes,
    })
}

/// A source may be anything: only what looks like one is repeated.
fn known(source: &str) -> &str {
    let short = source.len() <= 64 && source.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-.".contains(&byte));
    if short { source } else { "somewhere else" }
}

/// The id of a record that could not be read otherwise.
fn message_id(record: &str) -> Option<String> {
    let record: Value = serde_json::from_str(record).ok()?;
    record.get("messageId")?.as_str().filter(|id| !id.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// As Lambda sends it ("Using Lambda with Amazon SQS", example event).
    pub(crate) fn record(id: &str) -> Value {
        json!({
            "messageId": id,
            "receiptHandle": format!("handle of {id}"),
            "body": "{\"specversion\":\"1.0\"}",
            "attributes": {
                "ApproximateReceiveCount": "3", "SentTimestamp": "1545082649183",
                "SenderId": "AIDAIENQZJOLO23YVJ4VO", "ApproximateFirstReceiveTimestamp": "1545082649185"
            },
            "messageAttributes": {
                "type": {"stringValue": "publication.permission_granted", "stringListValues": [], "binaryListValues": [], "dataType": "String"},
                "raw": {"binaryValue": "AAEC", "stringListValues": [], "binaryListValues": [], "dataType": "Binary"}
            },
            "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:inbox",
            "awsRegion": "us-east-2"
        })
    }

    fn read_all(records: &[Value]) -> Records {
        read(&json!({"Records": records}).to_string(), "inbox").unwrap()
    }

    fn without(field: &str) -> Value {
        let mut record = record("m1");
        record.as_object_mut().unwrap().remove(field);
        record
    }

    fn with(field: &str, value: Value) -> Value {
        let mut record = record("m1");
        record[field] = value;
        record
    }

    #[test]
    fn a_record_becomes_a_message() {
        let records = read_all(&[record("m1")]);
        assert_eq!(
            records.messages,
            [Received {
                token: AckToken("handle of m1".to_owned()),
                message_id: "m1".to_owned(),
                body: "{\"specversion\":\"1.0\"}".to_owned(),
                attributes: Attributes::from([("type".to_owned(), "publication.permission_granted".to_owned())]),
                receive_count: 3,
            }]
        );
        assert!(records.unreadable.is_empty());
    }

    #[test]
    fn one_bad_record_of_ten_leaves_nine() {
        let mut all: Vec<_> = (0..10).map(|n| record(&format!("m{n}"))).collect();
        all[4]["attributes"] = json!({"ApproximateReceiveCount": 3});
        let records = read_all(&all);
        assert_eq!(records.messages.len(), 9);
        assert_eq!(records.unreadable[0].message_id.as_deref(), Some("m4"));
        assert_eq!(records.unreadable[0].at, 4);
    }

    #[test]
    fn what_is_missing_is_named() {
        for field in ["receiptHandle", "body"] {
            let Unreadable { message_id, reason, .. } = read_all(&[without(field)]).unreadable.remove(0);
            assert_eq!((message_id.as_deref(), reason.contains(field)), (Some("m1"), true), "{reason}");
        }
        assert_eq!(read_all(&[without("messageId")]).unreadable[0].message_id, None);
    }

    #[test]
    fn what_a_message_can_do_without_may_be_missing() {
        for field in ["attributes", "messageAttributes", "eventSource", "eventSourceARN", "md5OfBody"] {
            assert_eq!(read_all(&[without(field)]).messages.len(), 1, "{field}");
        }
        assert_eq!(read_all(&[without("attributes")]).messages[0].receive_count, 1);
        assert_eq!(read_all(&[with("attributes", json!({"ApproximateReceiveCount": "many"}))]).messages[0].receive_count, 1);
        assert!(read_all(&[with("messageAttributes", Value::Null)]).messages[0].attributes.is_empty());
    }

    #[test]
    fn a_record_of_another_service_or_queue_is_not_taken() {
        let sns = json!({"EventSource": "aws:sns", "EventVersion": "1.0", "Sns": {"MessageId": "95df01b4", "Message": "{}"}});
        let other = with("eventSourceARN", json!("arn:aws:sqs:us-east-2:123456789012:email"));
        let records = read_all(&[sns, with("eventSource", json!("aws:kinesis")), other, json!(7), Value::Null]);
        assert!(records.messages.is_empty());
        let ids: Vec<_> = records.unreadable.iter().map(|record| record.message_id.as_deref()).collect();
        assert_eq!(ids, [None, Some("m1"), Some("m1"), None, None]);
        assert!(records.unreadable[1].reason.contains("aws:kinesis"));
        assert!(records.unreadable[2].reason.contains("the queue email"));
    }

    #[test]
    fn what_is_no_event_says_what_to_do() {
        for event in ["{}", "[]", "7", "{\"Records\": 7}", "{\"Records\": null}"] {
            assert!(read(event, "inbox").unwrap_err().contains("event source mapping"), "{event}");
        }
        assert!(read_all(&[]).messages.is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_records_never_hide_a_good_one(body in ".*", source in ".*", at in 0_usize..3) {
            let mut all = vec![with("body", json!(body)), with("eventSource", json!(source))];
            all.insert(at.min(all.len()), record("good"));
            prop_assert!(read_all(&all).messages.iter().any(|message| message.message_id == "good"));
        }

        #[test]
        fn arbitrary_text_is_read_or_refused(text in ".*") {
            // Either answer is fine; what counts is that there is one.
            read(&text, "inbox").ok();
            read(&format!("{{\"Records\":[{text}]}}"), "inbox").ok();
        }
    }
}
