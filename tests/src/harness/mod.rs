//! What suites of the whole system stand on: a deployment of Recado to run them against, and clients that speak to it
//! over real sockets.
//!
//! Must not know: what is tested.

#[cfg(feature = "aws")]
mod account;
mod client;
mod deployment;
mod embedded;
mod endpoints;
mod events;
mod process;
#[cfg(feature = "aws")]
mod stack;
mod wait;

#[cfg(feature = "aws")]
pub use account::{Account, REGION, SentMail};
pub use client::{Answer, Client};
pub use deployment::{Closed, Deployment, Expected, Inside, Mail, Setup, TokenEnd};
pub use embedded::Embedded;
pub use endpoints::{Endpoints, Issuer};
pub use events::{event, ids, titles};
pub use process::{Ended, Folder, Recado, binary, command};
#[cfg(feature = "aws")]
pub use stack::{Parameters, Stack, StackPorts};
pub use wait::{DEADLINE, Tested, eventually};
