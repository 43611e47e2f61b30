//! No work while the clock is off (R6), in a function as in a container: nobody looks at a worker's readiness before it polls.
//!
//! Must not know: how far a clock may be off, what a message means.

use std::sync::Arc;

use recado_domain::ports::Received;
use recado_runtime::consumer::{Deadline, Disposition, Handler};

use crate::skew::Skew;

/// A handler that handles nothing while the clock is off.
pub(crate) struct WithAClock<H> {
    handler: Arc<H>,
    skew: Skew,
}

impl<H> WithAClock<H> {
    pub(crate) fn new(handler: Arc<H>, skew: Skew) -> Self {
        Self { handler, skew }
    }
}

impl<H: Handler> Handler for WithAClock<H> {
    /// Nothing is asked to find out: the answers to what was asked anyway said it, at the latest those to giving the
    /// batch before this one back, which also say when the clock holds again.
    async fn handle(&self, batch: Vec<Received>, deadline: &Deadline) -> Vec<Disposition> {
        let Err(off) = self.skew.check() else { return self.handler.handle(batch, deadline).await };
        tracing::error!(reason = %off, messages = batch.len(), "nothing is handled; the messages are given back");
        batch.iter().map(|_| Disposition::Retry { after: None, reason: off.to_string() }).collect()
    }
}
