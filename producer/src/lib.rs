//! Publish domain events from application code. Must not know: which bus there is, what becomes of an event.
//!
#![doc = include_str!("../README.md")]

mod buffered;
#[cfg(feature = "http")]
mod http;
mod notify;
mod producer;

pub use buffered::{Buffer, BufferedPublisher, Pending, Shutdown, Unaccepted};
#[cfg(feature = "http")]
pub use http::{HttpBus, InvalidEndpoint};
pub use notify::{Notify, To};
pub use producer::{Producer, PublishError, Receipt, Retry};
pub use recado_domain::event::{Channel, Event, InvalidEvent, Violation};
pub use recado_domain::failure::Failure;
pub use recado_domain::ids::NotificationId;
pub use recado_domain::ports::{EventBus, Outcome};
