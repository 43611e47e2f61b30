//! A cursor that a client sends back.

use recado_domain::position::{Cursor, Resume};

use crate::{now, user};

/// A text is a cursor only for the recipient it was given to, and only in the form it was given in.
pub fn cursor(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (alice, bob) = (user("alice"), user("bob"));
    if let Resume::From(position) = Cursor::resume(text, &alice, now()) {
        assert_eq!(Cursor::new(position).encode(&alice), text, "one position has one text");
        assert_eq!(Cursor::resume(text, &bob, now()), Resume::Gap, "a cursor of somebody else is a gap");
    }
    // No bytes are a valid cursor by luck: make one of them.
    let Some(position) = bytes.first_chunk::<16>() else { return };
    let position = recado_domain::position::Position::from_bytes(*position);
    let given = Cursor::new(position).encode(&alice);
    if let Resume::From(read) = Cursor::resume(&given, &alice, now()) {
        assert_eq!(read, position, "a cursor reads back as it was given");
    }
    assert_eq!(Cursor::resume(&given, &bob, now()), Resume::Gap, "a cursor of somebody else is a gap");
}
