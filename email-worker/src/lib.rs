//! Email queue to a sent mail: claims, templates, MIME, one answer a message.
//!
//! Must not know: which mailer hands over, where claims are kept, any other room.
#![doc = ""]
#![doc = include_str!("../README.md")]

mod config;
mod mime;
mod template;
mod worker;

pub use config::{InvalidMailConfig, MailConfig, MailSettings};
pub use template::{BrokenTemplate, Templates};
pub use worker::{EmailWorker, Ports};
