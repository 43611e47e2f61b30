//! A handler for tests, which does what the body of a message says. Must not know: who calls it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use recado_domain::ports::Received;

use super::{Deadline, Disposition, Handler};

/// Answers by what a message says, and counts what it was handed.
#[derive(Default)]
pub(super) struct ByBody {
    pub(super) batches: AtomicUsize,
    pub(super) handled: AtomicUsize,
}

impl Handler for ByBody {
    async fn handle(&self, batch: Vec<Received>, _: &Deadline) -> Vec<Disposition> {
        self.batches.fetch_add(1, Ordering::SeqCst);
        self.handled.fetch_add(batch.len(), Ordering::SeqCst);
        let mut answers = Vec::new();
        for message in &batch {
            answers.push(match message.body.as_str() {
                "retry" => Disposition::Retry { after: None, reason: "not now".to_owned() },
                "reject" => Disposition::Reject { reason: "never".to_owned() },
                "panic" => panic!("as told"),
                "slow" => {
                    tokio::time::sleep(Duration::from_secs(100)).await;
                    Disposition::Done
                }
                _ => Disposition::Done,
            });
        }
        answers
    }
}
