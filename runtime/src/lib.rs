//! What each long-running process of Recado needs: the consumer loop with its leases and drain, backoff, token
//! verification, telemetry, the system's clock.
//!
//! Knows tokio. Must not know: any store, any AWS SDK, any room.

pub mod announce;
pub mod auth;
pub mod backoff;
pub mod consumer;
pub mod over;
pub mod settings;
#[cfg(feature = "status")]
pub mod status;
pub mod system;
pub mod telemetry;
