//! Open sockets in memory: what was posted to each, and how it ended.
//!
//! Must not know: whose a socket is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use recado_domain::connection::CloseReason;
use recado_domain::failure::Failure;
use recado_domain::ids::ConnectionId;
use recado_domain::limits;
use recado_domain::ports::{Outcome, Posted, Sockets};

use crate::{Faults, lock};

/// [`Sockets`] in memory. A socket that was never opened answers [`Posted::Gone`], as one during `$connect` does.
#[derive(Debug, Clone)]
pub struct MemorySockets(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    faults: Faults,
    sockets: Mutex<BTreeMap<ConnectionId, Socket>>,
}

#[derive(Debug, Default)]
struct Socket {
    open: bool,
    closed: Option<CloseReason>,
    frames: Vec<String>,
    failures: VecDeque<Failure>,
}

impl Default for MemorySockets {
    fn default() -> Self {
        Self::new()
    }
}

impl MemorySockets {
    /// No socket is open.
    pub fn new() -> Self {
        Self(Arc::new(Inner { faults: Faults::new(&["post", "close"]), sockets: Mutex::default() }))
    }

    /// Scripts what goes wrong whichever socket is meant: `post`, `close`.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// A client's socket is open from now on.
    pub fn open(&self, id: &ConnectionId) {
        self.with(id, |socket| (socket.open, socket.closed) = (true, None));
    }

    /// A client went away without a word: posts answer [`Posted::Gone`].
    pub fn vanish(&self, id: &ConnectionId) {
        self.with(id, |socket| socket.open = false);
    }

    /// The next post to this socket answers `failure`. Several wait for several posts.
    pub fn fail_next(&self, id: &ConnectionId, failure: Failure) {
        self.with(id, |socket| socket.failures.push_back(failure));
    }

    /// Whether it is open.
    pub fn is_open(&self, id: &ConnectionId) -> bool {
        self.with(id, |socket| socket.open)
    }

    /// Every frame that was delivered to it, in order.
    pub fn frames(&self, id: &ConnectionId) -> Vec<String> {
        self.with(id, |socket| socket.frames.clone())
    }

    /// Why it was closed, if it was closed by us.
    pub fn closed(&self, id: &ConnectionId) -> Option<CloseReason> {
        self.with(id, |socket| socket.closed)
    }

    fn with<T>(&self, id: &ConnectionId, then: impl FnOnce(&mut Socket) -> T) -> T {
        then(lock(&self.0.sockets).entry(id.clone()).or_default())
    }
}

impl Socket {
    fn post(&mut self, frame: &str) -> Outcome<Posted> {
        if let Some(failure) = self.failures.pop_front() {
            return Err(failure);
        }
        if frame.len() > limits::FRAME_BYTES {
            return Err(Failure::permanent(format!("a frame of {} bytes is above the limit of {}", frame.len(), limits::FRAME_BYTES)));
        }
        if !self.open {
            return Ok(Posted::Gone);
        }
        self.frames.push(frame.to_owned());
        Ok(Posted::Delivered)
    }

    fn close(&mut self, reason: CloseReason) {
        if self.open {
            (self.open, self.closed) = (false, Some(reason));
        }
    }
}

impl Sockets for MemorySockets {
    async fn post(&self, id: &ConnectionId, frame: &str) -> Outcome<Posted> {
        self.0.faults.one("post", || self.with(id, |socket| socket.post(frame)))
    }

    async fn close(&self, id: &ConnectionId, reason: CloseReason) -> Outcome<()> {
        self.0.faults.one("close", || {
            self.with(id, |socket| socket.close(reason));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ConnectionId {
        ConnectionId::new("c=").unwrap()
    }

    #[tokio::test]
    async fn a_socket_is_there_from_open_to_close() {
        let sockets = MemorySockets::new();
        assert_eq!(sockets.post(&id(), "early").await, Ok(Posted::Gone));
        sockets.open(&id());
        assert_eq!(sockets.post(&id(), "hello").await, Ok(Posted::Delivered));
        sockets.close(&id(), CloseReason::Replaced).await.unwrap();
        assert_eq!(sockets.post(&id(), "late").await, Ok(Posted::Gone));
        assert_eq!(sockets.frames(&id()), ["hello"]);
        assert_eq!(sockets.closed(&id()), Some(CloseReason::Replaced));
    }

    #[tokio::test]
    async fn a_scripted_failure_meets_one_post_of_one_socket() {
        let sockets = MemorySockets::new();
        sockets.open(&id());
        sockets.fail_next(&id(), Failure::transient("429"));
        assert_eq!(sockets.post(&id(), "a").await, Err(Failure::transient("429")));
        assert_eq!(sockets.post(&id(), "a").await, Ok(Posted::Delivered));
    }

    #[tokio::test]
    async fn a_frame_above_the_limit_is_refused() {
        let sockets = MemorySockets::new();
        sockets.open(&id());
        let frame = "x".repeat(limits::FRAME_BYTES + 1);
        assert!(!sockets.post(&id(), &frame).await.unwrap_err().is_transient());
    }
}
