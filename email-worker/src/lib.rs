#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! Must not know: which mailer hands over, where claims are kept, any other room.

mod config;
mod feedback;
mod mime;
mod notice;
mod operator;
mod refused;
mod template;
mod worker;

pub use config::{InvalidMailConfig, MailConfig, MailSettings};
pub use feedback::Feedback;
pub use operator::{RETRY, prepare};
pub use template::{BrokenTemplate, Templates};
pub use worker::{EmailWorker, Ports};
