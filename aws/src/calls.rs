//! Counts the calls that clients make, by service and operation: what a delivery costs is counted, not guessed.
//!
//! Must not know: what a call is made for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;

/// How often one operation was called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Calls, as the code made them.
    pub calls: u64,
    /// Requests that left: one for each call, and one for each retry of the SDK. This is what AWS bills.
    pub attempts: u64,
}

/// Counts of `service.operation`, such as `SQS.ReceiveMessage`. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Calls(Arc<Mutex<BTreeMap<String, Count>>>);

impl Calls {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything counted so far.
    pub fn counts(&self) -> BTreeMap<String, Count> {
        self.lock().clone()
    }

    /// All requests that left so far, whatever they asked for.
    pub fn attempts(&self) -> u64 {
        self.lock().values().map(|count| count.attempts).sum()
    }

    /// Starts anew; answers what was counted.
    pub fn take(&self) -> BTreeMap<String, Count> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, config: &ConfigBag, add: impl FnOnce(&mut Count)) {
        if let Some(metadata) = config.load::<Metadata>() {
            add(self.lock().entry(format!("{}.{}", metadata.service(), metadata.name())).or_default());
        }
    }
}

#[dyn_dispatch_hint]
impl Intercept for Calls {
    fn name(&self) -> &'static str {
        "Calls"
    }

    /// Once for each call. Earlier the operation is not known yet.
    fn read_before_serialization(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.count(config, |count| count.calls += 1);
        Ok(())
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.count(config, |count| count.attempts += 1);
        Ok(())
    }
}
