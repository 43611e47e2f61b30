//! Builds events, one word after the other. All checks are the domain's; must not know: how events travel.

use std::time::Duration;

use jiff::Timestamp;
use recado_domain::event::{Channel, Data, Document, Event, InvalidEvent, Recipient, SPEC_VERSION, Violation};
use recado_domain::ids::{InvalidId, TenantId, UserId};
use serde::Serialize;
use ulid::Ulid;

/// One person an event concerns.
#[derive(Debug, Clone)]
pub struct To {
    id: String,
    email: Option<String>,
    locale: Option<String>,
    name: Option<String>,
}

impl To {
    /// A user, as the application names them and as tokens say in `sub`: 1 to 128 bytes.
    pub fn user(id: impl Into<String>) -> Self {
        Self { id: id.into(), email: None, locale: None, name: None }
    }

    /// Where mail goes. Needed when the event asks for mail ([`Notify::with_email`]).
    #[must_use]
    pub fn email(self, address: impl Into<String>) -> Self {
        Self { email: Some(address.into()), ..self }
    }

    /// The language of their mail: a language tag (BCP 47), such as `pt-BR`.
    #[must_use]
    pub fn locale(self, tag: impl Into<String>) -> Self {
        Self { locale: Some(tag.into()), ..self }
    }

    /// How to address them: up to 256 bytes.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }
}

impl From<&str> for To {
    fn from(id: &str) -> Self {
        Self::user(id)
    }
}

impl From<String> for To {
    fn from(id: String) -> Self {
        Self::user(id)
    }
}

impl From<Recipient> for To {
    fn from(Recipient { id, email, locale, name }: Recipient) -> Self {
        Self { id: id.as_str().to_owned(), email, locale, name }
    }
}

/// When nobody needs to see an event any more.
#[derive(Debug, Clone, Copy)]
enum Expiry {
    In(Duration),
    At(Timestamp),
}

/// An event in the making. [`Notify::build`] checks all of it.
#[derive(Debug, Clone)]
#[must_use = "nothing is published: build an event and give it to a producer"]
pub struct Notify {
    source: String,
    event_type: String,
    id: Option<String>,
    time: Option<Timestamp>,
    traceparent: Option<String>,
    tenant: Option<String>,
    recipients: Vec<To>,
    channels: Vec<Channel>,
    category: Option<String>,
    title: Option<String>,
    body: Option<String>,
    url: Option<String>,
    payload: Option<Result<serde_json::Value, ()>>,
    expiry: Option<Expiry>,
}

impl Notify {
    /// A fact: where it happened (a URI reference, such as `/publications`, up to 512 bytes), and what happened, in the
    /// past tense (such as `publication.permission_granted`, up to 255 bytes).
    pub fn new(source: impl Into<String>, event_type: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            event_type: event_type.into(),
            id: None,
            time: None,
            traceparent: None,
            tenant: None,
            recipients: Vec::new(),
            channels: vec![Channel::Inbox],
            category: None,
            title: None,
            body: None,
            url: None,
            payload: None,
            expiry: None,
        }
    }

    /// The fact's own id, up to 256 bytes. With the source it is the idempotency key: publishing the same pair again
    /// changes nothing. Without it, a fresh ULID.
    pub fn id(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// When it happened. Without it: when it is built.
    pub fn time(self, at: Timestamp) -> Self {
        Self { time: Some(at), ..self }
    }

    /// The W3C trace context that publish, dispatch, push and mail are to join.
    pub fn traceparent(self, traceparent: impl Into<String>) -> Self {
        Self { traceparent: Some(traceparent.into()), ..self }
    }

    /// Whose world the recipients live in, up to 128 bytes. Without it: `default`.
    pub fn tenant(self, tenant: impl Into<String>) -> Self {
        Self { tenant: Some(tenant.into()), ..self }
    }

    /// One more person it concerns: 1 to 100 of them, each once.
    pub fn recipient(mut self, to: impl Into<To>) -> Self {
        self.recipients.push(to.into());
        self
    }

    /// More people it concerns.
    pub fn recipients<T: Into<To>>(mut self, to: impl IntoIterator<Item = T>) -> Self {
        self.recipients.extend(to.into_iter().map(Into::into));
        self
    }

    /// Mail it too. Each recipient then needs an address.
    pub fn with_email(mut self) -> Self {
        self.channels.push(Channel::Email);
        self
    }

    /// Which media, instead of the inbox alone.
    pub fn channels(self, channels: impl IntoIterator<Item = Channel>) -> Self {
        Self { channels: channels.into_iter().collect(), ..self }
    }

    /// A group that users can think about as one, up to 64 bytes.
    pub fn category(self, category: impl Into<String>) -> Self {
        Self { category: Some(category.into()), ..self }
    }

    /// One line, up to 512 bytes.
    pub fn title(self, title: impl Into<String>) -> Self {
        Self { title: Some(title.into()), ..self }
    }

    /// A few lines of plain text, up to 8 KiB.
    pub fn body(self, body: impl Into<String>) -> Self {
        Self { body: Some(body.into()), ..self }
    }

    /// Where a click leads: a path (`/…`) or an `http(s)` URL of up to 2,048 bytes.
    pub fn url(self, url: impl Into<String>) -> Self {
        Self { url: Some(url.into()), ..self }
    }

    /// The business payload, passed on as it is. With everything else up to 24 KiB.
    pub fn payload(self, payload: &impl Serialize) -> Self {
        Self { payload: Some(serde_json::to_value(payload).map_err(|_| ())), ..self }
    }

    /// Nobody needs to see it so long after it was built.
    pub fn expires_in(self, time: Duration) -> Self {
        Self { expiry: Some(Expiry::In(time)), ..self }
    }

    /// Nobody needs to see it from then on.
    pub fn expires_at(self, at: Timestamp) -> Self {
        Self { expiry: Some(Expiry::At(at)), ..self }
    }

    /// The event, checked against every limit.
    ///
    /// # Errors
    /// Names each field that is wrong and the limit it breaks.
    pub fn build(self) -> Result<Event, InvalidEvent> {
        let now = now();
        let mut violations = Vec::new();
        let tenant = keep(self.tenant.map_or(Ok(TenantId::default()), TenantId::new), || "data.tenant".to_owned(), &mut violations);
        let recipients = recipients(self.recipients, &mut violations);
        let payload = self.payload.transpose().unwrap_or_else(|()| {
            violations.push(Violation { field: "data.payload".to_owned(), problem: "cannot be written as JSON".to_owned() });
            None
        });
        let (Some(tenant), true) = (tenant, violations.is_empty()) else { return Err(InvalidEvent { violations }) };
        Event::check(Document {
            specversion: SPEC_VERSION.to_owned(),
            id: self.id.unwrap_or_else(|| Ulid::generate().to_string()),
            source: self.source,
            event_type: self.event_type,
            time: Some(self.time.unwrap_or(now)),
            datacontenttype: Some("application/json".to_owned()),
            traceparent: self.traceparent,
            data: Data {
                tenant,
                recipients,
                channels: self.channels,
                category: self.category,
                title: self.title,
                body: self.body,
                url: self.url,
                payload,
                expires_at: self.expiry.map(|expiry| expiry.resolve(now)),
            },
        })
    }
}

impl Expiry {
    fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::In(time) => now.checked_add(time).unwrap_or(Timestamp::MAX),
        }
    }
}

fn recipients(given: Vec<To>, violations: &mut Vec<Violation>) -> Vec<Recipient> {
    let checked = given.into_iter().enumerate().filter_map(|(at, To { id, email, locale, name })| {
        let id = keep(UserId::new(id), || format!("data.recipients[{at}].id"), violations)?;
        Some(Recipient { id, email, locale, name })
    });
    checked.collect()
}

fn keep<T>(checked: Result<T, InvalidId>, field: impl FnOnce() -> String, violations: &mut Vec<Violation>) -> Option<T> {
    checked.map_err(|problem| violations.push(Violation { field: field(), problem: problem.to_string() })).ok()
}

#[expect(
    clippy::disallowed_methods,
    reason = "applications link this crate without `recado-runtime` and its `SystemClock`; `time` sets another"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn fields(refused: InvalidEvent) -> Vec<String> {
        refused.violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn an_event_says_what_was_said() {
        let at: Timestamp = "2026-11-24T10:00:00Z".parse().expect("a time");
        let event = Notify::new("/publications", "publication.permission_granted")
            .id("42")
            .time(at)
            .tenant("acme")
            .recipient(To::user("alice").email("alice@example.com").locale("pt-BR").name("Alice"))
            .recipients(["bia", "carl"].map(|id| To::user(id).email(format!("{id}@example.com"))))
            .with_email()
            .category("permissions")
            .title("You can now view Q3 plan")
            .body("Bia gave you access")
            .url("/publications/42")
            .payload(&HashMap::from([("publication", 42)]))
            .expires_at(at + Duration::from_secs(60))
            .build()
            .expect("a valid event");
        let expected = serde_json::json!({
            "specversion": "1.0", "id": "42", "source": "/publications", "type": "publication.permission_granted",
            "time": "2026-11-24T10:00:00Z", "datacontenttype": "application/json",
            "data": {
                "tenant": "acme",
                "recipients": [
                    { "id": "alice", "email": "alice@example.com", "locale": "pt-BR", "name": "Alice" },
                    { "id": "bia", "email": "bia@example.com" },
                    { "id": "carl", "email": "carl@example.com" },
                ],
                "channels": ["inbox", "email"], "category": "permissions", "title": "You can now view Q3 plan",
                "body": "Bia gave you access", "url": "/publications/42", "payload": { "publication": 42 },
                "expires_at": "2026-11-24T10:01:00Z",
            },
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&event.to_json()).expect("JSON"), expected);
    }

    #[test]
    fn every_event_without_an_id_is_another_and_the_same_id_is_the_same() {
        let notify = Notify::new("/a", "b.happened").recipient("alice");
        let id = |notify: &Notify| notify.clone().build().expect("valid").notification_id();
        assert_ne!(id(&notify), id(&notify));
        let named = notify.id("one");
        assert_eq!(id(&named), id(&named));
    }

    #[test]
    fn an_expiry_counts_from_the_time_of_building() {
        let event = Notify::new("/a", "b.happened").recipient("alice").expires_in(Duration::from_secs(5)).build().expect("valid");
        let (time, expires) = (event.document().time.expect("set"), event.data().expires_at.expect("set"));
        assert_eq!(expires.duration_since(time).as_secs(), 5);
        let forever = Notify::new("/a", "b.happened").recipient("alice").expires_in(Duration::MAX).build().expect("valid");
        assert_eq!(forever.data().expires_at, Some(Timestamp::MAX));
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let refused =
            Notify::new("/a", "b.happened").tenant("").recipient("alice").recipient("x\n").payload(&HashMap::from([([1, 2], 3)])).build();
        assert_eq!(fields(refused.unwrap_err()), ["data.tenant", "data.recipients[1].id", "data.payload"]);
        let refused = Notify::new("", "").id("").with_email().recipient("alice").url("javascript:alert(1)").build();
        assert_eq!(fields(refused.unwrap_err()), ["id", "source", "type", "data.recipients[0].email", "data.url"]);
    }
}
