//! The fields of an event that end in a mail.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use mail_parser::{Message, MessageParser, MimeHeaders};
use recado_domain::event::Event;
use recado_domain::ports::{OutgoingMail, Received};
use recado_email_worker::{EmailWorker, MailConfig, MailSettings, Ports, Templates};
use recado_memory::{ManualClock, MemoryClaims, MemoryMailer, MemorySuppressions, SeededEntropy};
use recado_runtime::consumer::{Deadline, Handler};
use serde_json::{Map, Value, json};

use crate::{now, run};

/// The fields, in the order in which they are taken from the bytes.
const FIELDS: [&str; 8] = ["title", "body", "url", "category", "name", "locale", "email", "type"];
/// Between fields: no text in UTF-8 has it.
const BETWEEN: u8 = 0xFF;

/// Whatever an event says, its mail has the headers of any mail and the markup of any mail, and goes to its recipient alone.
pub fn mail(bytes: &[u8]) {
    let texts = bytes.split(|byte| *byte == BETWEEN).map(|field| str::from_utf8(field).ok());
    let fields: Map<String, Value> =
        FIELDS.iter().zip(texts).filter_map(|(field, text)| Some(((*field).to_owned(), Value::from(text?)))).collect();
    let Ok(event) = Event::from_value(document(&fields)) else { return };
    let plain = plain();
    for mail in mails(&event) {
        looks_like(&mail, &plain);
    }
}

/// An event with these fields, and with whatever it needs where one is missing.
fn document(fields: &Map<String, Value>) -> Value {
    let field = |name: &str| fields.get(name).cloned().filter(|value| *value != "");
    let email = field("email").unwrap_or_else(|| "alice@example.com".into());
    json!({
        "specversion": "1.0", "id": "1", "source": "/fuzz", "type": field("type").unwrap_or_else(|| "fuzz.started".into()),
        "data": {
            "recipients": [{"id": "alice", "email": email, "name": field("name"), "locale": field("locale")}],
            "channels": ["email"], "title": field("title"), "body": field("body"), "url": field("url"), "category": field("category"),
        }
    })
}

fn mails(event: &Event) -> Vec<OutgoingMail> {
    thread_local! {
        static TEMPLATES: LazyCell<Templates> = const { LazyCell::new(|| Templates::load(None).expect("the built-in templates render")) };
    }
    let clock = ManualClock::new(now());
    let mailer = Arc::new(MemoryMailer::new());
    let ports = Ports {
        mailer: Arc::clone(&mailer),
        claims: Arc::new(MemoryClaims::new(clock.clone())),
        suppressions: Arc::new(MemorySuppressions::new(clock.clone())),
        clock: Arc::new(clock),
        entropy: Arc::new(SeededEntropy::new(7)),
    };
    let settings =
        MailSettings { base_url: Some("https://app.example.com".to_owned()), ..MailSettings::from("Recado <recado@example.com>") };
    let config = MailConfig::new(settings).expect("settings that hold together");
    let worker = EmailWorker::new(ports, TEMPLATES.with(|templates| (**templates).clone()), config);
    let message = Received {
        token: recado_domain::ports::AckToken("1".to_owned()),
        message_id: "1".to_owned(),
        body: event.to_json(),
        attributes: Default::default(),
        receive_count: 1,
    };
    run(worker.handle(vec![message], &Deadline::never()));
    mailer.sent()
}

/// What every mail has in common.
#[derive(Clone)]
struct Looks {
    headers: Vec<String>,
    /// Whole tags, without what differs by design: where a link leads.
    tags: BTreeSet<String>,
}

/// The looks of a mail with everything in it and nothing hostile.
fn plain() -> Looks {
    thread_local! {
        static PLAIN: LazyCell<Looks> = const { LazyCell::new(|| {
            let fields = json!({"title": "Title", "body": "One\nTwo", "url": "/path", "name": "Alice"});
            let event = Event::from_value(document(fields.as_object().expect("an object"))).expect("an event");
            let mails = mails(&event);
            looks(&read(mails.first().expect("a mail").message.as_slice()))
        }) };
    }
    PLAIN.with(|plain| (**plain).clone())
}

fn read(message: &[u8]) -> Message<'_> {
    MessageParser::default().parse(message).expect("what was built is a message")
}

fn looks(message: &Message<'_>) -> Looks {
    let headers = message.headers().iter().map(|header| header.name().to_owned()).collect();
    let html = message.html_bodies().next().and_then(|part| part.text_contents()).expect("a part in HTML");
    Looks { headers, tags: tags(html).into_iter().map(without_link).collect() }
}

fn looks_like(mail: &OutgoingMail, plain: &Looks) {
    assert!(!mail.to.contains(|c: char| c.is_control() || c.is_whitespace()), "the envelope has one line");
    let message = read(&mail.message);
    let Looks { headers, tags } = looks(&message);
    assert_eq!(headers, plain.headers, "a field made or took a header");
    assert_eq!(message.parts.len(), 3, "two renderings in one alternative");
    assert!(message.parts.iter().skip(1).all(|part| part.content_type().is_some_and(|kind| kind.ctype() == "text")));
    let strange: Vec<&String> = tags.difference(&plain.tags).collect();
    assert!(strange.is_empty(), "a field made markup: {strange:?}");
    let to = message.to().and_then(|to| to.first()).and_then(|to| to.address()).expect("a recipient");
    assert_eq!(message.to().map(|to| to.clone().into_list().len()), Some(1), "one recipient");
    assert_eq!(to, mail.to, "the header names whom the envelope names");
}

/// Every piece that a browser may take for a tag.
fn tags(html: &str) -> Vec<&str> {
    html.split('<').skip(1).map(|rest| rest.split_inclusive('>').next().unwrap_or(rest)).collect()
}

/// A tag without where it leads, once that is seen to be a page of the web.
fn without_link(tag: &str) -> String {
    let Some((before, rest)) = tag.split_once("href=\"") else { return tag.to_owned() };
    let (link, after) = rest.split_once('"').expect("an attribute ends");
    assert!(link.starts_with("https:") || link.starts_with("http:"), "a link that leads to no page: {link}");
    format!("{before}href=\"\"{after}")
}
