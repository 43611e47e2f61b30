//! What suites of the whole system stand on: a deployment of Recado to run them against, and clients that speak to it
//! over real sockets.
//!
//! Must not know: what is tested.

#[cfg(feature = "aws")]
mod account;
mod client;
mod deployment;
mod device;
mod embedded;
#[cfg(feature = "aws")]
mod emulator;
mod endpoints;
mod events;
#[cfg(feature = "aws")]
mod faulty;
#[cfg(feature = "aws")]
mod guarded;
mod logged;
mod process;
#[cfg(feature = "aws")]
mod proxy;
#[cfg(feature = "aws")]
mod stack;
mod wait;

#[cfg(feature = "aws")]
pub use account::{Account, REGION, SentMail};
pub use client::{Answer, Client, Habits};
pub use deployment::{Closed, Deployment, Expected, Inside, Mail, Setup, TokenEnd};
pub use device::{Device, Kept, Presence};
pub use embedded::Embedded;
#[cfg(feature = "aws")]
pub use emulator::Emulator;
pub use endpoints::{Endpoints, Issuer};
pub use events::{event, ids, titles};
#[cfg(feature = "aws")]
pub use faulty::{Faulty, injected, local_aws, seed};
#[cfg(feature = "aws")]
pub use guarded::{Decision, Guarded, Permission};
pub use logged::Logged;
pub use process::{Ended, Folder, Recado, binary, built, command};
#[cfg(feature = "aws")]
pub use proxy::{Catch, Counts, Fault, FaultProxy, Mix, Moment, Rejection};
#[cfg(feature = "aws")]
pub use stack::{Parameters, Stack, StackPorts};
pub use wait::{DEADLINE, Tested, eventually};
