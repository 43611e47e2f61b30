//! What somebody tries who should not be in: a table of attacks for each way in, against a real `recado up`, and against a deployed stack
//! (`aws::`) where its functions do the work. Each is refused as documented, everybody else is served as before, and nothing secret of it is
//! in what the processes log at `trace`, count or answer. docs/guarantees.md lists attack by attack what happens.
//!
//! Attacks that need time or chance to be passed in are tried beside the code: `runtime/src/auth/tests.rs`, `ws-handlers/src/tests.rs`.

#[cfg(feature = "aws")]
mod aws;
mod frames;
mod inboxes;
mod mail;
mod pages;
mod problems;
mod publishing;
mod raw;
mod secrets;
mod signers;
mod tickets;
mod tokens;
mod victim;
