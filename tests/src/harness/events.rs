//! What tests publish, and what they compare of the items that come back.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

static EVENTS: AtomicU64 = AtomicU64::new(0);

/// An event with an id of its own for these users.
pub fn event(users: &[&str], title: &str) -> Value {
    let id = EVENTS.fetch_add(1, Ordering::Relaxed);
    let recipient = |user: &&str| match user.bytes().all(|b| b.is_ascii_alphanumeric()) {
        true => json!({ "id": user, "email": format!("{user}@example.com") }),
        false => json!({ "id": user }),
    };
    let recipients: Vec<Value> = users.iter().map(recipient).collect();
    json!({
        "specversion": "1.0", "id": format!("e{id}"), "source": "/tests", "type": "publication.permission_granted",
        "data": { "recipients": recipients, "title": title, "url": "/publications/42" }
    })
}

/// The titles of items, in order.
pub fn titles(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(|item| item["title"].as_str()).collect()
}

/// The ids of items, in order.
pub fn ids(items: &[Value]) -> Vec<String> {
    items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)).collect()
}
