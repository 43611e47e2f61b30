//! A domain event as it is published: a CloudEvents 1.0 JSON document (<https://github.com/cloudevents/spec>).
//!
//! Parse, don't validate: whoever holds an [`Event`] holds one that every part of Recado accepts.

use std::collections::HashSet;
use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::ids::{NotificationId, RecipientKey, TenantId, UserId, check_text};
use crate::limits;
use crate::notification::Notification;

/// The only version of CloudEvents there is to speak.
pub const SPEC_VERSION: &str = "1.0";

/// A past-tense fact and whom it concerns, checked against every limit of [`crate::limits`].
#[derive(Debug, Clone, PartialEq)]
pub struct Event(Document);

/// The JSON of an event, field by field. [`Event::check`] makes an [`Event`] of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Event", rename = "Event")]
pub struct Document {
    /// `1.0`.
    pub specversion: String,
    /// Together with `source` the idempotency key: 1 to 256 bytes.
    #[schemars(length(min = 1, max = limits::EVENT_ID_BYTES))]
    pub id: String,
    /// Where the fact happened, a URI reference: 1 to 512 bytes.
    #[schemars(length(min = 1, max = limits::SOURCE_BYTES))]
    pub source: String,
    /// A past-tense fact, such as `publication.permission_granted`: 1 to 255 bytes.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = limits::TYPE_BYTES))]
    pub event_type: String,
    /// When it happened (RFC 3339). Without it: when Recado first stored it.
    #[serde(default, deserialize_with = "moment", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub time: Option<Timestamp>,
    /// `application/json`, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// W3C trace context: joins publish, dispatch, push and mail into one trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Whom it concerns and what they see.
    pub data: Data,
}

/// What Recado reads of an event's `data`. Unknown fields are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Data {
    /// Whose world the recipients live in; `default` where it is missing.
    #[serde(default)]
    pub tenant: TenantId,
    /// 1 to 100 people, each once.
    #[schemars(length(min = 1, max = limits::RECIPIENTS))]
    pub recipients: Vec<Recipient>,
    /// How they get it; `["inbox"]` where it is missing.
    #[serde(default = "inbox_only")]
    #[schemars(length(min = 1))]
    pub channels: Vec<Channel>,
    /// A group of notifications that users can think about as one: up to 64 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// One line: up to 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// A few lines of plain text: up to 8 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Where a click leads: a path (`/…`) or an `http(s)` URL of up to 2,048 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The business payload, passed on as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// From then on nobody needs to see it (RFC 3339).
    #[serde(default, deserialize_with = "moment", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub expires_at: Option<Timestamp>,
}

/// One person an event concerns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Recipient {
    /// As the application names its users, and as tokens say in `sub`.
    pub id: UserId,
    /// Where mail goes; needed where `channels` has `email`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// A language tag (BCP 47), such as `pt-BR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// How to address them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Recipient {
    /// Somebody of whom only the id is known.
    pub fn new(id: UserId) -> Self {
        Self { id, email: None, locale: None, name: None }
    }
}

/// The medium of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// The inbox, and the sockets that show it.
    Inbox,
    /// Mail.
    Email,
}

/// The library would quote what is no moment.
fn moment<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let moment = |text: String| text.parse().map_err(|_| D::Error::custom("is no moment of RFC 3339, such as `2026-11-24T10:00:00Z`"));
    Option::<String>::deserialize(from)?.map(moment).transpose()
}

fn inbox_only() -> Vec<Channel> {
    vec![Channel::Inbox]
}

/// One thing wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The field, as a path: `data.recipients[3].id`.
    pub field: String,
    /// What is wrong, the limit, and what to do. Never the value itself: it may be personal.
    pub problem: String,
}

/// Everything wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct InvalidEvent {
    /// At least one.
    pub violations: Vec<Violation>,
}

impl InvalidEvent {
    fn one(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { violations: vec![Violation { field: field.into(), problem: problem.into() }] }
    }
}

impl fmt::Display for InvalidEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a valid event")?;
        for (at, Violation { field, problem }) in self.violations.iter().enumerate() {
            write!(f, "{} {field} {problem}", if at == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl Event {
    /// Reads one structured-mode CloudEvent.
    ///
    /// # Errors
    /// Names each field that is wrong and the limit it breaks.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidEvent> {
        Self::read(json).map_err(|invalid| if is_wrapped(json) { InvalidEvent::one("event", WRAPPED) } else { invalid })
    }

    fn read(json: &[u8]) -> Result<Self, InvalidEvent> {
        check_size(json.len())?;
        let mut from = serde_json::Deserializer::from_slice(json);
        let document = serde_path_to_error::deserialize(&mut from).map_err(|error| shape(&error))?;
        from.end().map_err(|_| InvalidEvent::one("event", "is followed by more text; send one JSON object"))?;
        Self::check(document)
    }

    /// Reads an event from a JSON value, as one entry of a batch.
    ///
    /// # Errors
    /// As [`Event::parse`].
    pub fn from_value(value: Value) -> Result<Self, InvalidEvent> {
        Self::check(serde_path_to_error::deserialize(value).map_err(|error| shape(&error))?)
    }

    /// Checks a document against the limits.
    ///
    /// # Errors
    /// As [`Event::parse`].
    pub fn check(document: Document) -> Result<Self, InvalidEvent> {
        let mut checks = Checks::default();
        checks.document(&document);
        if !checks.0.is_empty() {
            return Err(InvalidEvent { violations: checks.0 });
        }
        let event = Self(document);
        check_size(event.to_json().len())?;
        let item = event.notification(Timestamp::MAX).rendered_bytes();
        if item > limits::ITEM_BYTES {
            let problem = format!(
                "renders as an item of {item} bytes, the limit is {}; shorten `payload` or `body`, or send a link",
                limits::ITEM_BYTES
            );
            return Err(InvalidEvent::one("data", problem));
        }
        Ok(event)
    }

    /// The JSON a queue carries.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.0).expect("an event has string keys only")
    }

    /// The document, to read.
    pub fn document(&self) -> &Document {
        &self.0
    }

    /// The document's `data`.
    pub fn data(&self) -> &Data {
        &self.0.data
    }

    /// The idempotency key, as every part computes it.
    pub fn notification_id(&self) -> NotificationId {
        NotificationId::of(&self.0.source, &self.0.id)
    }

    /// Whether `channel` is asked for.
    pub fn wants(&self, channel: Channel) -> bool {
        self.0.data.channels.contains(&channel)
    }

    /// Whether nobody needs to see it any more.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.0.data.expires_at.is_some_and(|at| at <= now)
    }

    /// Whose inboxes it goes to.
    pub fn recipient_keys(&self) -> impl Iterator<Item = RecipientKey> + '_ {
        self.0.data.recipients.iter().map(|r| RecipientKey::new(self.0.data.tenant.clone(), r.id.clone()))
    }

    /// What each recipient sees; `now` where the event does not say when it happened.
    pub fn notification(&self, now: Timestamp) -> Notification {
        let Document { id, source, event_type, time, data, .. } = &self.0;
        Notification {
            id: self.notification_id(),
            event_id: id.clone(),
            source: source.clone(),
            event_type: event_type.clone(),
            time: time.unwrap_or(now),
            category: data.category.clone(),
            title: data.title.clone(),
            body: data.body.clone(),
            url: data.url.clone(),
            payload: data.payload.clone(),
            expires_at: data.expires_at,
            ack_soon: false,
        }
    }

    /// The same event for the recipients `keep` says yes to and for one channel: what is sent on when only they
    /// remain (R3). `None` when nobody remains.
    pub fn narrowed(&self, channel: Channel, keep: impl Fn(&UserId) -> bool) -> Option<Self> {
        let mut document = self.0.clone();
        document.data.channels = vec![channel];
        document.data.recipients.retain(|recipient| keep(&recipient.id));
        (!document.data.recipients.is_empty()).then_some(Self(document))
    }
}

/// What is wrong with an event in an envelope of SNS, whatever the event is.
const WRAPPED: &str =
    "came in an envelope of SNS; turn on raw message delivery (`RawMessageDelivery`) of this queue's subscription, publish the event again";

/// Whether this is how SNS delivers without raw message delivery ("Amazon SNS raw message delivery").
fn is_wrapped(json: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Envelope {
        #[serde(rename = "Type")]
        kind: String,
        #[serde(rename = "TopicArn")]
        _topic: String,
        #[serde(rename = "Message")]
        _message: IgnoredAny,
    }
    serde_json::from_slice::<Envelope>(json).is_ok_and(|envelope| envelope.kind == "Notification")
}

fn check_size(bytes: usize) -> Result<(), InvalidEvent> {
    if bytes <= limits::EVENT_BYTES {
        return Ok(());
    }
    let problem = format!("is {bytes} bytes, the limit is {}; shorten `data.payload`", limits::EVENT_BYTES);
    Err(InvalidEvent::one("event", problem))
}

/// The fields of an event that an error may name. What stands in `payload`, or under any other name, is the publisher's own, its
/// names included: they may be personal.
const FIELDS: [&str; 20] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "datacontenttype",
    "traceparent",
    "data",
    "tenant",
    "recipients",
    "channels",
    "category",
    "title",
    "body",
    "url",
    "payload",
    "expires_at",
    "email",
    "locale",
    "name",
];

/// Where an error is, as far as Recado knows the names on the way.
fn place(path: &Path) -> String {
    let mut field = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => field.push_str(&format!("[{index}]")),
            Segment::Map { key } if FIELDS.contains(&key.as_str()) => {
                let dot = if field.is_empty() { "" } else { "." };
                field.push_str(&format!("{dot}{key}"));
            }
            Segment::Map { .. } | Segment::Enum { .. } | Segment::Unknown => break,
        }
        if field == "data.payload" {
            break;
        }
    }
    if field.is_empty() { "event".to_owned() } else { field }
}

/// What serde says, without the value it saw.
fn shape(error: &serde_path_to_error::Error<serde_json::Error>) -> InvalidEvent {
    let field = place(error.path());
    let inner = error.inner();
    let problem = if inner.is_syntax() || inner.is_eof() {
        format!("is not JSON (line {}, column {})", inner.line(), inner.column())
    } else {
        withhold_values(&inner.to_string())
    };
    InvalidEvent::one(field, problem)
}

/// serde quotes what it found (``invalid type: string "…", expected …``, ``unknown variant `…`, expected …``): keep the kinds, drop the
/// content, which may hold quotes of its own.
fn withhold_values(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let tells_what_it_found = message.starts_with("invalid ") || message.starts_with("unknown variant ");
    // Anything else is our own, or names a field of ours.
    if !tells_what_it_found {
        return message.to_owned();
    }
    let (found, expected) = message.rfind(", expected ").map_or((message, ""), |at| message.split_at(at));
    let kind = found.find(['"', '`']).map_or(found, |quote| &found[..quote]);
    format!("{}{expected}", kind.trim_end())
}

/// Collects violations, so that a producer sees all of them at once.
#[derive(Default)]
struct Checks(Vec<Violation>);

impl Checks {
    fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Violation { field: field.into(), problem: problem.into() });
    }

    fn text(&mut self, field: impl Into<String>, text: &str, limit: usize) {
        if let Err(problem) = check_text(text, limit) {
            self.add(field, problem.to_string());
        }
    }

    fn optional(&mut self, field: impl Into<String>, text: Option<&str>, limit: usize) {
        if let Some(text) = text {
            self.text(field, text, limit);
        }
    }

    fn document(&mut self, document: &Document) {
        if document.specversion != SPEC_VERSION {
            self.add("specversion", format!("is not `{SPEC_VERSION}`, the only version Recado speaks"));
        }
        self.text("id", &document.id, limits::EVENT_ID_BYTES);
        self.text("source", &document.source, limits::SOURCE_BYTES);
        self.text("type", &document.event_type, limits::TYPE_BYTES);
        if document.datacontenttype.as_deref().is_some_and(|given| !is_json(given)) {
            self.add("datacontenttype", "is not `application/json`; Recado reads JSON data only");
        }
        // W3C Trace Context, 3.2.2: 55 characters of version 00.
        self.optional("traceparent", document.traceparent.as_deref(), 128);
        self.data(&document.data);
    }

    fn data(&mut self, data: &Data) {
        self.recipients(data);
        if data.channels.is_empty() {
            self.add("data.channels", "is empty; name `inbox`, `email` or both, or leave it out for `inbox`");
        }
        self.optional("data.category", data.category.as_deref(), limits::CATEGORY_BYTES);
        self.optional("data.title", data.title.as_deref(), limits::TITLE_BYTES);
        if let Some(bytes) = data.body.as_ref().map(String::len).filter(|bytes| *bytes > limits::BODY_BYTES) {
            self.add("data.body", format!("is {bytes} bytes, the limit is {}; shorten it", limits::BODY_BYTES));
        }
        if let Some(problem) = data.url.as_deref().and_then(url_problem) {
            self.add("data.url", problem);
        }
    }

    fn recipients(&mut self, data: &Data) {
        let count = data.recipients.len();
        if count == 0 {
            self.add("data.recipients", format!("is empty; name 1 to {} recipients", limits::RECIPIENTS));
        }
        if count > limits::RECIPIENTS {
            let problem = format!("has {count} entries, the limit is {}; publish several events", limits::RECIPIENTS);
            return self.add("data.recipients", problem);
        }
        let mut seen = HashSet::new();
        for (at, recipient) in data.recipients.iter().enumerate() {
            let field = |name: &str| format!("data.recipients[{at}].{name}");
            if !seen.insert(&recipient.id) {
                self.add(field("id"), "stands there twice; name each recipient once");
            }
            self.optional(field("name"), recipient.name.as_deref(), limits::NAME_BYTES);
            if let Some(locale) = &recipient.locale
                && !is_language_tag(locale)
            {
                self.add(field("locale"), "is no language tag (BCP 47), such as `pt-BR`");
            }
            match &recipient.email {
                Some(email) if !is_address(email) => {
                    self.add(field("email"), format!("is no e-mail address of up to {} bytes", limits::EMAIL_BYTES));
                }
                None if data.channels.contains(&Channel::Email) => {
                    self.add(field("email"), "is missing, and `data.channels` asks for `email`");
                }
                _ => {}
            }
        }
    }
}

fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

fn is_address(text: &str) -> bool {
    // RFC 5321, 4.1.2: nobody should have a mailbox that needs quotes. What they may hold, spaces and angle brackets, readers of a
    // header that do not look for the quotes take for the end of the address.
    text.len() <= limits::EMAIL_BYTES && !text.contains(|c: char| c.is_control() || c == '"') && {
        let options = email_address::Options::default().without_display_text().without_domain_literal();
        email_address::EmailAddress::parse_with_options(text, options).is_ok()
    }
}

fn is_language_tag(text: &str) -> bool {
    let mut parts = text.split('-');
    let language = parts.next().unwrap_or_default();
    text.len() <= limits::LOCALE_BYTES
        && (2..=8).contains(&language.len())
        && language.bytes().all(|b| b.is_ascii_alphabetic())
        && parts.all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Why a click on `url` could surprise: a scheme that runs code, or a path that leaves the site.
fn url_problem(url: &str) -> Option<String> {
    if let Err(problem) = check_text(url, limits::URL_BYTES) {
        return Some(problem.to_string());
    }
    // Browsers read `//host`, `/\host` and tabs in between as another site's address.
    let path = url.starts_with('/') && !url.starts_with("//") && !url.contains('\\');
    let absolute = || url::Url::parse(url).is_ok_and(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
    (!path && !absolute()).then(|| "is neither a path (`/…`) nor an `http(s)` URL".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn sample() -> Value {
        json!({
            "specversion": "1.0", "id": "01JD", "source": "/publications", "type": "publication.permission_granted",
            "time": "2026-11-24T10:00:00Z", "datacontenttype": "application/json",
            "data": {
                "recipients": [{"id": "alice", "email": "alice@example.com", "locale": "pt-BR", "name": "Alice"}],
                "channels": ["inbox", "email"], "category": "permissions", "title": "You can now view Q3 plan",
                "body": "Bia gave you access", "url": "/publications/42", "payload": {"publication": 42}
            }
        })
    }

    fn with(pointer: &str, value: Value) -> Result<Event, InvalidEvent> {
        let mut event = sample();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match event.pointer_mut(parent).unwrap() {
            Value::Array(entries) => entries[key.parse::<usize>().unwrap()] = value,
            fields => fields[key] = value,
        }
        Event::parse(event.to_string().as_bytes())
    }

    fn fields(result: Result<Event, InvalidEvent>) -> Vec<String> {
        result.expect_err("invalid").violations.into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn an_event_that_sns_wrapped_says_what_to_turn_on() {
        for message in [sample().to_string(), "x".repeat(limits::EVENT_BYTES)] {
            let wrapped = json!({
                "Type": "Notification", "MessageId": "22b80b92", "TopicArn": "arn:aws:sns:eu-west-1:123456789012:events",
                "Message": message, "Timestamp": "2026-11-24T10:00:00.000Z", "SignatureVersion": "1", "Signature": "x",
                "MessageAttributes": {"type": {"Type": "String", "Value": "t.done"}},
            });
            let reason = Event::parse(wrapped.to_string().as_bytes()).unwrap_err().to_string();
            assert!(reason.starts_with("not a valid event: event came in an envelope of SNS; turn on raw message delivery"), "{reason}");
        }
        for other in [json!({"Type": "Notification"}), json!({"Type": "SubscriptionConfirmation", "TopicArn": "a", "Message": "b"})] {
            let reason = Event::parse(other.to_string().as_bytes()).unwrap_err().to_string();
            assert!(reason.contains("specversion"), "{reason}");
        }
    }

    #[test]
    fn the_example_of_the_design_is_valid_and_survives_the_queue() {
        let event = Event::parse(sample().to_string().as_bytes()).unwrap();
        assert!(event.wants(Channel::Email));
        assert_eq!(Event::parse(event.to_json().as_bytes()).unwrap(), event);
    }

    #[test]
    fn an_event_says_whom_it_is_for_by_which_channel_and_until_when() {
        let ends: Timestamp = "2026-11-25T10:00:00Z".parse().unwrap();
        let data = json!({"recipients": [{"id": "alice"}, {"id": "bob"}], "tenant": "acme", "expires_at": ends.to_string()});
        let event = with("/data", data).unwrap();
        assert!(event.wants(Channel::Inbox) && !event.wants(Channel::Email));
        let key = |user| RecipientKey::new(TenantId::new("acme").unwrap(), UserId::new(user).unwrap());
        assert_eq!(event.recipient_keys().collect::<Vec<_>>(), [key("alice"), key("bob")]);
        assert!(!event.has_expired(ends - Duration::from_millis(1)));
        assert!(event.has_expired(ends));
        assert!(!with("/data/expires_at", Value::Null).unwrap().has_expired(Timestamp::MAX));
    }

    #[test]
    fn a_number_of_a_payload_arrives_as_it_was_published() {
        let payload = json!({"small": -1.05e-300, "large": 1.797_693_134_862_315_7e308, "whole": u64::MAX});
        let event = with("/data/payload", payload.clone()).unwrap();
        assert_eq!(event.data().payload, Some(payload));
        assert_eq!(Event::parse(event.to_json().as_bytes()).unwrap(), event);
    }

    #[test]
    fn only_recipients_are_needed_in_data() {
        let event = with("/data", json!({"recipients": [{"id": "alice"}]})).unwrap();
        assert_eq!(event.data().channels, [Channel::Inbox]);
        assert_eq!(event.data().tenant, TenantId::default());
    }

    #[test]
    fn each_violation_names_its_field() {
        assert_eq!(fields(with("/specversion", json!("2.0"))), ["specversion"]);
        assert_eq!(fields(with("/id", json!(""))), ["id"]);
        assert_eq!(fields(with("/source", json!("x".repeat(513)))), ["source"]);
        assert_eq!(fields(with("/type", json!("a\u{0}"))), ["type"]);
        assert_eq!(fields(with("/time", json!("yesterday"))), ["time"]);
        assert_eq!(fields(with("/datacontenttype", json!("text/xml"))), ["datacontenttype"]);
        assert_eq!(fields(with("/data/recipients", json!([]))), ["data.recipients"]);
        assert_eq!(fields(with("/data/recipients", json!([{"id": "a"}, {"id": "a"}]))).first().unwrap(), "data.recipients[0].email");
        assert_eq!(fields(with("/data/channels", json!(["pigeon"]))), ["data.channels[0]"]);
        assert_eq!(fields(with("/data/title", json!("a\r\nBcc: b"))), ["data.title"]);
        assert_eq!(fields(with("/data/expires_at", json!(7))), ["data.expires_at"]);
        assert_eq!(fields(with("/data/tenant", json!("a".repeat(129)))), ["data.tenant"]);
    }

    #[test]
    fn an_event_has_at_most_100_recipients_and_says_what_to_do() {
        let people: Vec<Value> = (0..10_000).map(|n| json!({"id": format!("u{n}")})).collect();
        let error = with("/data/recipients", json!(people)).unwrap_err();
        assert_eq!(error.to_string(), "not a valid event: data.recipients has 10000 entries, the limit is 100; publish several events");
    }

    #[test]
    fn a_url_neither_runs_code_nor_leaves_the_site_in_disguise() {
        for bad in [
            "javascript:alert(1)",
            "//evil.example",
            "/\\evil.example",
            "data:text/html,x",
            "publications/42",
            "http://",
            "ftp://a.example/x",
            "javascript://a.example/%0aalert(1)",
        ] {
            assert_eq!(fields(with("/data/url", json!(bad))), ["data.url"], "{bad}");
        }
        for good in ["/publications/42?a=b#c", "https://example.com/x"] {
            assert!(with("/data/url", json!(good)).is_ok(), "{good}");
        }
    }

    #[test]
    fn an_address_cannot_carry_a_header() {
        for bad in ["alice", "a@b\r\nBcc: c@d", "Alice <a@example.com>", "a@[127.0.0.1]", r#""x>, <b"@example.com"#, r#""a b"@example.com"#]
        {
            let people = json!([{"id": "alice", "email": bad}]);
            assert_eq!(fields(with("/data/recipients", people)), ["data.recipients[0].email"], "{bad}");
        }
    }

    #[test]
    fn an_item_above_24_kib_is_refused_before_it_leaves() {
        let payload = |bytes: usize| with("/data/payload", json!("x".repeat(bytes)));
        let fixed = payload(0).unwrap().notification(Timestamp::MAX).rendered_bytes();
        let item = payload(limits::ITEM_BYTES - fixed).unwrap().notification(Timestamp::MAX).rendered_bytes();
        assert_eq!(item, limits::ITEM_BYTES);
        assert_eq!(fields(payload(limits::ITEM_BYTES - fixed + 1)), ["data"]);
    }

    #[test]
    fn an_event_above_254_kib_is_refused_unread() {
        let sample = sample().to_string();
        let padded = |bytes: usize| sample.clone() + &" ".repeat(bytes - sample.len());
        assert!(Event::parse(padded(limits::EVENT_BYTES).as_bytes()).is_ok());
        let error = Event::parse(padded(limits::EVENT_BYTES + 1).as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "not a valid event: event is 260097 bytes, the limit is 260096; shorten `data.payload`");
    }

    #[test]
    fn each_text_may_be_as_long_as_its_limit_and_no_longer() {
        let texts = [
            ("/id", "id", limits::EVENT_ID_BYTES),
            ("/source", "source", limits::SOURCE_BYTES),
            ("/type", "type", limits::TYPE_BYTES),
            ("/traceparent", "traceparent", 128),
            ("/data/category", "data.category", limits::CATEGORY_BYTES),
            ("/data/title", "data.title", limits::TITLE_BYTES),
            ("/data/body", "data.body", limits::BODY_BYTES),
            ("/data/tenant", "data.tenant", limits::ID_BYTES),
            ("/data/recipients/0/id", "data.recipients[0].id", limits::ID_BYTES),
            ("/data/recipients/0/name", "data.recipients[0].name", limits::NAME_BYTES),
        ];
        for (pointer, field, limit) in texts {
            assert!(with(pointer, json!("x".repeat(limit))).is_ok(), "{field}");
            assert_eq!(fields(with(pointer, json!("x".repeat(limit + 1)))), [field]);
        }
        let url = |bytes: usize| with("/data/url", json!(format!("/{}", "x".repeat(bytes - 1))));
        assert!(url(limits::URL_BYTES).is_ok());
        assert_eq!(fields(url(limits::URL_BYTES + 1)), ["data.url"]);
        // A local part of 64 bytes at most (RFC 5321, 4.5.3.1.1), labels of 63.
        let host = format!("{0}.{0}.{1}", "h".repeat(63), "h".repeat(61));
        let address = |local: usize| with("/data/recipients/0/email", json!(format!("{}@{host}", "a".repeat(local))));
        assert!(address(limits::EMAIL_BYTES - host.len() - 1).is_ok());
        assert_eq!(fields(address(limits::EMAIL_BYTES - host.len())), ["data.recipients[0].email"]);
    }

    #[test]
    fn a_hundred_recipients_are_as_many_as_an_event_may_have() {
        let people = |count: usize| json!((0..count).map(|n| json!({"id": format!("u{n}")})).collect::<Vec<_>>());
        let inbox = |count| with("/data", json!({"recipients": people(count)}));
        assert_eq!(inbox(limits::RECIPIENTS).unwrap().data().recipients.len(), limits::RECIPIENTS);
        assert_eq!(fields(inbox(limits::RECIPIENTS + 1)), ["data.recipients"]);
    }

    #[test]
    fn a_recipient_stands_there_once_and_has_an_address_where_mail_is_asked_for() {
        let twice = json!({"recipients": [{"id": "alice"}, {"id": "bob"}, {"id": "alice"}]});
        assert_eq!(fields(with("/data", twice)), ["data.recipients[2].id"]);
        let without = json!({"recipients": [{"id": "alice", "email": "alice@example.com"}, {"id": "bob"}], "channels": ["email"]});
        assert_eq!(fields(with("/data", without)), ["data.recipients[1].email"]);
        assert_eq!(fields(with("/data/channels", json!([]))), ["data.channels"]);
    }

    #[test]
    fn a_language_is_a_tag_of_bcp_47() {
        let longest = format!("sl-{}", ["abcdefgh"; 4].join("-")).split_at(limits::LOCALE_BYTES).0.to_owned();
        for good in ["en", "pt-BR", "zh-Hans-CN", "de-1996", "abcdefgh", "sl-a", longest.as_str()] {
            assert!(with("/data/recipients/0/locale", json!(good)).is_ok(), "{good}");
        }
        let longer = format!("{longest}x");
        for bad in ["", "e", "abcdefghi", "e1", "en_US", "en-", "en-abcdefghi", "en-U S", longer.as_str()] {
            assert_eq!(fields(with("/data/recipients/0/locale", json!(bad))), ["data.recipients[0].locale"], "{bad}");
        }
    }

    #[test]
    fn data_is_json_by_any_of_its_names() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/cloudevents+json"] {
            assert!(with("/datacontenttype", json!(good)).is_ok(), "{good}");
        }
        for bad in ["text/plain", "application/json+xml", "json", ""] {
            assert_eq!(fields(with("/datacontenttype", json!(bad))), ["datacontenttype"], "{bad}");
        }
    }

    #[test]
    fn what_is_no_json_is_told_by_its_place() {
        for (text, place) in [("{\"id\": ]}", "(line 1, column 8)"), ("{\n\"id\": ", "(line 2, column 6)")] {
            let problem = Event::parse(text.as_bytes()).unwrap_err().violations.remove(0).problem;
            assert_eq!(problem, format!("is not JSON {place}"));
        }
        let twice = format!("{} {{}}", sample());
        let problem = Event::parse(twice.as_bytes()).unwrap_err().violations.remove(0).problem;
        assert_eq!(problem, "is followed by more text; send one JSON object");
    }

    #[test]
    fn an_error_never_repeats_the_value() {
        let error = with("/data/recipients", json!([{"id": "alice", "email": {"secret": "x"}}])).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        for pointer in ["/time", "/data/expires_at", "/data/channels/0", "/data/recipients/0", "/data/tenant", "/data", "/id"] {
            for value in [
                json!("s3cret`, expected \"s3cret"),
                json!({ "s3cret": "s3cret" }),
                json!(["s3cret"]),
                json!(4711),
                json!(47.11),
                json!(true),
            ] {
                let Err(error) = with(pointer, value) else { continue };
                let told = ["s3cret", "4711", "47.11", "true"].into_iter().find(|value| error.to_string().contains(value));
                assert_eq!(told, None, "{pointer}: {error}");
            }
        }
    }

    #[test]
    fn an_error_never_repeats_a_name_that_is_not_recados() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for (text, place) in [
            (r#"{"data":{"payload":{"s3cret":NaN}}}"#.to_owned(), "data.payload is not JSON"),
            (format!(r#"{{"data":{{"payload":{{"s3cret":{{"id":{deep}}}}}}}}}"#), "data.payload "),
            (r#"{"data":{"payload":{"s3cret":{"title":"#.to_owned(), "data.payload is not JSON"),
            (r#"{"data":{"s3cret":{"title":NaN}}}"#.to_owned(), "data is not JSON"),
            (r#"{"s3cret":NaN}"#.to_owned(), "event is not JSON"),
            (r#"{"s3cret":{"s3cret":"#.to_owned(), "event is not JSON"),
            (r#"{"data":{"recipients":[{"id":"alice"},{"s3cret":NaN}]}}"#.to_owned(), "data.recipients[1] is not JSON"),
            (r#"{"data":{"recipients":[{"id":"alice"},{"email":7}]}}"#.to_owned(), "data.recipients[1].email invalid type"),
        ] {
            let error = Event::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(&format!(": {place}")) && !error.contains("s3cret"), "{text}: {error}");
        }
    }

    #[test]
    fn each_field_of_an_event_has_a_name_that_errors_may_say() {
        fn names(of: &Value, found: &mut HashSet<String>) {
            let fields = of["properties"].as_object();
            found.extend(fields.into_iter().flatten().map(|(name, _)| name.clone()));
            of.as_object().into_iter().flatten().for_each(|(_, inner)| names(inner, found));
        }
        let mut found = HashSet::new();
        names(&schemars::schema_for!(Document).to_value(), &mut found);
        assert_eq!(found, FIELDS.into_iter().map(ToOwned::to_owned).collect());
    }

    #[test]
    fn an_error_says_what_was_expected() {
        let problem = |pointer, value| with(pointer, value).unwrap_err().violations.remove(0).problem;
        assert_eq!(problem("/data/channels/0", json!("sms")), "unknown variant, expected `inbox` or `email`");
        assert_eq!(problem("/data/title", json!(7)), "invalid type: integer, expected a string");
        assert_eq!(problem("/data/recipients", json!("alice")), "invalid type: string, expected a sequence");
        assert_eq!(problem("/time", json!("yesterday")), "is no moment of RFC 3339, such as `2026-11-24T10:00:00Z`");
        assert_eq!(problem("/data/recipients/0/id", json!("")), "is empty; give 1 to 128 bytes");
        assert_eq!(problem("/data", json!({})), "missing field `recipients`");
    }

    #[test]
    fn a_narrowed_event_keeps_its_identity() {
        let people = json!([{"id": "a", "email": "a@example.com"}, {"id": "b", "email": "b@example.com"}]);
        let event = with("/data/recipients", people).unwrap();
        let rest = event.narrowed(Channel::Inbox, |user| user.as_str() == "b").unwrap();
        assert_eq!(rest.notification_id(), event.notification_id());
        assert_eq!(rest.data().channels, [Channel::Inbox]);
        assert_eq!(rest.data().recipients.len(), 1);
        assert_eq!(event.narrowed(Channel::Inbox, |_| false), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(Event::parse(&bytes).is_err());
        }

        #[test]
        fn arbitrary_text_in_any_field_is_judged_without_a_panic(text in ".*", pointer in prop::sample::select(vec![
            "/id", "/source", "/type", "/time", "/datacontenttype", "/data/title", "/data/body", "/data/url", "/data/category", "/data/expires_at",
        ])) {
            if let Ok(event) = with(pointer, json!(text)) {
                prop_assert_eq!(Event::parse(event.to_json().as_bytes()).unwrap(), event);
            }
        }
    }
}
