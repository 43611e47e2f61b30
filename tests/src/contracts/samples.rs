//! What the contracts put into the ports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use recado_domain::event::Event;
use recado_domain::failure::Failure;
use recado_domain::ids::{RecipientKey, TenantId, UserId};
use recado_domain::message::Attributes;
use recado_domain::notification::NewEntry;
use recado_domain::ports::{Outcome, Outgoing};
use serde_json::json;

pub(crate) fn recipient(tenant: &str, user: &str) -> RecipientKey {
    RecipientKey::new(TenantId::new(tenant).expect("a tenant id"), UserId::new(user).expect("a user id"))
}

pub(crate) fn alice() -> RecipientKey {
    recipient("default", "alice")
}

/// Ids that would meet if keys were joined carelessly.
pub(crate) fn confusable_recipients() -> Vec<RecipientKey> {
    let pairs = [
        ("a#b", "c"),
        ("a", "b#c"),
        ("a%23b", "c"),
        ("a%2523b", "c"),
        ("a", "b%23c"),
        ("a", "b%c"),
        ("a", "b_c"),
        ("a", "B#C"),
        ("a", "b"),
        ("ab", "c"),
        ("a", "bc"),
        ("b", "a"),
        ("a", "日本語😀"),
        ("a", "é"),
        ("a", "e\u{301}"),
        ("a", "' OR 1=1 --"),
        ("a", " b"),
    ];
    pairs.iter().map(|(tenant, user)| recipient(tenant, user)).collect()
}

pub(crate) fn event(id: &str, channels: &[&str]) -> Event {
    Event::from_value(json!({
        "specversion": "1.0", "id": id, "source": "/contracts", "type": "contract.kept", "time": "2026-01-01T00:00:00Z",
        "data": {
            "tenant": "acme", "channels": channels, "title": format!("title of {id}"),
            "recipients": [{"id": "alice", "email": "alice@example.com"}],
            "payload": {"of": id, "text": "Grüße 😀"},
        },
    }))
    .expect("an event")
}

pub(crate) fn entry(of: &RecipientKey, id: &str) -> NewEntry {
    let notification = event(id, &["inbox"]).notification(Timestamp::UNIX_EPOCH);
    NewEntry { recipient: of.clone(), notification: Arc::new(notification) }
}

pub(crate) fn message(body: &str) -> Outgoing {
    delayed(body, Duration::ZERO)
}

pub(crate) fn delayed(body: &str, delay: Duration) -> Outgoing {
    Outgoing { body: body.to_owned(), attributes: attributes(&[("type", "contract.kept")]), delay }
}

pub(crate) fn attributes(pairs: &[(&str, &str)]) -> Attributes {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
}

/// That every entry succeeded.
pub(crate) fn all<T: std::fmt::Debug>(answers: Vec<Outcome<T>>) -> Vec<T> {
    answers.into_iter().map(|answer| answer.expect("an entry that succeeds")).collect()
}

pub(crate) fn is_permanent<T>(answer: &Outcome<T>) -> bool {
    matches!(answer, Err(Failure::Permanent { .. }))
}
