//! What can go wrong, as the one decision that matters: try again, or give up and say why.

use std::fmt;
use std::time::Duration;

/// The failure of one entry of a port's call.
///
/// Adapters classify what their SDK or driver says in one place each; the rooms only decide by this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// May succeed later: the work is redelivered with backoff.
    Transient {
        /// What the other side asked us to wait, when it said so.
        retry_after: Option<Duration>,
        /// For the operator: lower-case, no payload, no address, no token.
        reason: String,
    },
    /// Will never succeed: the work goes to the dead-letter queue with this reason.
    Permanent {
        /// For the operator: lower-case, no payload, no address, no token.
        reason: String,
    },
}

impl Failure {
    /// A failure that may pass, with no hint how soon.
    pub fn transient(reason: impl Into<String>) -> Self {
        Self::Transient { retry_after: None, reason: reason.into() }
    }

    /// A failure that will not pass.
    pub fn permanent(reason: impl Into<String>) -> Self {
        Self::Permanent { reason: reason.into() }
    }

    /// What went wrong, for a log line or a dead letter.
    pub fn reason(&self) -> &str {
        match self {
            Self::Transient { reason, .. } | Self::Permanent { reason } => reason,
        }
    }

    /// Whether trying again can help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transient { retry_after: Some(wait), reason } => write!(f, "{reason} (retry after {wait:?})"),
            Self::Transient { retry_after: None, reason } => write!(f, "{reason} (may pass)"),
            Self::Permanent { reason } => write!(f, "{reason} (permanent)"),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_why_and_whether_to_try_again() {
        let wait = Some(Duration::from_secs(3));
        for (failure, transient, text) in [
            (Failure::transient("the queue is busy"), true, "the queue is busy (may pass)"),
            (Failure::Transient { retry_after: wait, reason: "the queue is busy".into() }, true, "the queue is busy (retry after 3s)"),
            (Failure::permanent("the queue is busy"), false, "the queue is busy (permanent)"),
        ] {
            assert_eq!(failure.reason(), "the queue is busy");
            assert_eq!(failure.is_transient(), transient);
            assert_eq!(failure.to_string(), text);
        }
    }
}
