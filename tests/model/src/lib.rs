//! The delivery protocol as a model, small enough to try everything it can do.
#![expect(missing_docs, reason = "wip")]
pub mod action;
pub mod bounds;
mod clients;
mod dispatcher;
mod handler;
pub mod promises;
pub mod protocol;
mod replay;
pub mod rules;
pub mod search;
pub mod state;
mod stores;
