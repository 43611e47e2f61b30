//! An event as it arrives from a topic that anybody with the right may publish to.

use std::sync::Arc;

use recado_domain::event::Event;
use recado_domain::frame::live_frames;
use recado_domain::limits;
use recado_domain::notification::InboxEntry;
use recado_domain::position::Position;
use serde_json::Value;

use crate::now;

/// What is accepted as an event means the same after a round trip, and every notification of it fits into a frame.
pub fn event(bytes: &[u8]) {
    let Ok(event) = Event::parse(bytes) else { return };
    let again = Event::parse(event.to_json().as_bytes()).expect("an event that was accepted is accepted again");
    assert_eq!(again, event, "an event means the same after a round trip");
    assert_eq!(again.notification_id(), event.notification_id());
    let notification = event.notification(now());
    assert!(notification.rendered_bytes() <= limits::ITEM_BYTES, "an accepted event fits into a frame");
    assert!((1..=limits::RECIPIENTS).contains(&event.recipient_keys().count()));
    shown(&event);
}

/// As clients get it.
fn shown(event: &Event) {
    let entry = InboxEntry {
        notification: Arc::new(event.notification(now())),
        position: Position::floor(now()),
        acked_at: None,
        read_at: None,
        archived_at: None,
    };
    let frames = live_frames(&[entry.clone(), entry]);
    assert!(frames.iter().all(|frame| frame.json.len() <= limits::FRAME_BYTES), "a live frame is within its limit");
    for frame in frames {
        let read: Value = serde_json::from_str(&frame.json).expect("a frame is JSON");
        assert_eq!(read["items"].as_array().map(Vec::len), Some(frame.entries.len()));
    }
}
