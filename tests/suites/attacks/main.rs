//! What somebody tries who should not be in: a table of attacks for each way in, against a real `recado up`. Each is refused as
//! documented, the server goes on serving, and nothing secret of it is in what the server logs, counts or answers.
//!
//! Attacks that need time or chance to be passed in are tried beside the code: `runtime/src/auth/tests.rs`, `ws-handlers/src/tests.rs`.

mod frames;
mod inboxes;
mod mail;
mod pages;
mod publishing;
mod raw;
mod signers;
mod tickets;
mod tokens;
mod victim;
