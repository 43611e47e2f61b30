//! How many bytes one client may send for one message.
//!
//! What reads frames tells of messages alone: fragments that never end a message, of no bytes each, would be read for ever and cost nobody a
//! turn ([`super::rate`]). So bytes are counted where they come in. Must not know: what they say.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use recado_domain::limits;

/// A message at its limit; the whole frame that takes one above it, which is told as such; the heads of all frames, and what was read
/// of the next message.
const BYTES: i64 = (limits::CLIENT_MESSAGE_BYTES + limits::CLIENT_FRAME_BYTES + 16 * 1024) as i64;
/// While HTTP is spoken: that has limits of its own.
const ANY: i64 = i64::MAX;

/// The bytes that are left to a connection until its next message.
#[derive(Debug, Clone)]
pub(super) struct Meter(Arc<AtomicI64>);

impl Meter {
    /// Lets everything through until the first [`Meter::begin`].
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(ANY)))
    }

    /// A message begins.
    pub(super) fn begin(&self) {
        self.0.store(BYTES, Ordering::Release);
    }

    /// Counts what was read.
    pub(super) fn read(&self, bytes: usize) -> io::Result<()> {
        let bytes = i64::try_from(bytes).unwrap_or(ANY);
        let left = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| (left != ANY).then(|| left.saturating_sub(bytes)));
        if left.is_ok_and(|before| before < bytes) { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) }
    }

    /// Whether more was sent than a message may have.
    pub(super) fn is_exceeded(&self) -> bool {
        self.0.load(Ordering::Acquire) < 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_a_message_begins_everything_passes() {
        let meter = Meter::new();
        assert!((0..10).all(|_| meter.read(usize::MAX).is_ok()) && !meter.is_exceeded());
    }

    #[test]
    fn each_message_has_its_bytes_and_one_more_is_too_many() {
        let meter = Meter::new();
        for _ in 0..3 {
            meter.begin();
            assert!(meter.read(BYTES as usize - 1).is_ok() && meter.read(1).is_ok() && meter.read(0).is_ok());
            assert!(!meter.is_exceeded());
        }
        assert!(meter.read(1).is_err() && meter.is_exceeded());
        assert!(meter.read(0).is_err(), "and so it stays");
        meter.begin();
        assert!(meter.read(1).is_ok() && !meter.is_exceeded());
    }
}
