//! What must hold of any bytes that reach Recado from outside: one property a target, each a function of bytes.
//!
//! A property panics where it does not hold. libFuzzer searches for such bytes (`cargo xtask fuzz`), and a test runs
//! every property over the corpus that the search has left, so that what was found once stays found. Must not know: who
//! makes up the bytes.

mod cursor;
mod event;
mod frame;
mod mail;
#[cfg(feature = "aws")]
mod record;
mod token;

use std::cell::LazyCell;
use std::future::Future;

use jiff::Timestamp;
use recado_domain::ids::{RecipientKey, TenantId, UserId};
use tokio::runtime::{Builder, Runtime};

pub use self::cursor::cursor;
pub use self::event::event;
pub use self::frame::frame;
pub use self::mail::mail;
#[cfg(feature = "aws")]
pub use self::record::record;
pub use self::token::token;

/// A property of any bytes.
pub type Property = fn(&[u8]);

/// The properties by name: the name of a target of `cargo xtask fuzz`, and of its folder in corpus/.
pub const PROPERTIES: &[(&str, Property)] = &[
    ("cursor", cursor),
    ("event", event),
    ("frame", frame),
    ("mail", mail),
    #[cfg(feature = "aws")]
    ("record", record),
    ("token", token),
];

/// The present of every property: chance has no part in them.
fn now() -> Timestamp {
    "2026-11-24T10:00:00Z".parse().expect("a moment")
}

fn user(name: &str) -> RecipientKey {
    RecipientKey::new(TenantId::default(), UserId::new(name).expect("an id"))
}

/// Runs a future to its end. Time is paused: what waits does not.
fn run<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: LazyCell<Runtime> =
            const { LazyCell::new(|| Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")) };
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}
