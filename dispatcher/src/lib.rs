//! Inbox queue to inbox entry and push.
