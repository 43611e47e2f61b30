//! A mailer that keeps what it is given.
//!
//! Must not know: how mail is built.

use std::sync::{Arc, Mutex};

use recado_domain::ports::{Mailer, Outcome, OutgoingMail};

use crate::{Faults, lock};

/// [`Mailer`] in memory.
#[derive(Debug, Clone)]
pub struct MemoryMailer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    faults: Faults,
    sent: Mutex<Vec<OutgoingMail>>,
}

impl Default for MemoryMailer {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryMailer {
    /// Nothing was sent.
    pub fn new() -> Self {
        Self(Arc::new(Inner { faults: Faults::new(&["send"]), sent: Mutex::default() }))
    }

    /// Scripts what goes wrong: `send`. A lost answer was sent.
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// What was sent, in order.
    pub fn sent(&self) -> Vec<OutgoingMail> {
        lock(&self.0.sent).clone()
    }
}

impl Mailer for MemoryMailer {
    async fn send(&self, mail: &OutgoingMail) -> Outcome<String> {
        self.0.faults.one("send", || {
            let mut sent = lock(&self.0.sent);
            sent.push(mail.clone());
            Ok(format!("memory-{}", sent.len()))
        })
    }
}
