//! Recado as a whole, wherever it runs: what a suite may do with one, and what it has to expect otherwise of which.
//!
//! Must not know: any adapter.

use std::future::Future;
use std::ops::Deref;
use std::time::Duration;

use recado_domain::connection::CloseReason;
use recado_domain::ports::{DeadLetters, EventBus, Inbox, Queue};

use super::{Ended, Endpoints, Tested};

/// One deployment that nobody else uses, at work. Reached through its [`Endpoints`]; nothing of it is left when it is dropped.
pub trait Deployment: Sized + Deref<Target = Endpoints> {
    /// What differs from one deployment to the other, and nothing else.
    const EXPECTED: Expected;

    /// Its ports, before anything of it runs.
    type Inside: Inside;

    /// An empty one that runs.
    fn up() -> impl Future<Output = anyhow::Result<Self>> {
        Self::up_with(Setup::default())
    }

    /// An empty one that runs with these settings.
    fn up_with(setup: Setup) -> impl Future<Output = anyhow::Result<Self>>;

    /// One that runs after something happened inside.
    fn up_after(happened: impl AsyncFnOnce(&Self::Inside) -> Tested) -> impl Future<Output = anyhow::Result<Self>>;

    /// Runs a `recado` command of its operator, to its end.
    fn run(&self, args: &[&str]) -> impl Future<Output = anyhow::Result<Ended>>;

    /// Waits until nobody is connected to the gateway. A post that it takes for a client that has just left reaches nobody, and
    /// settles an entry of a plain client all the same (R7).
    fn alone(&self) -> impl Future<Output = Tested>;

    /// Waits until so many mails left it.
    fn mails(&self, count: usize) -> impl Future<Output = anyhow::Result<Vec<Mail>>>;
}

/// Settings of a deployment that a test cares for.
#[derive(Debug, Clone)]
pub struct Setup {
    /// How long a token is taken after its end.
    pub token_leeway: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self { token_leeway: Duration::from_secs(30) }
    }
}

/// The ports of a deployment at rest, for a test that needs something to have happened before.
pub trait Inside {
    /// Publishes into its queues.
    fn bus(&self) -> impl EventBus;

    /// Where every event goes.
    fn inbox_queue(&self) -> impl Queue;

    /// What was given up of it.
    fn dead_letters(&self) -> impl DeadLetters;

    /// The inboxes.
    fn inbox(&self) -> impl Inbox;

    /// Hands in a text where events are published, as whoever may publish there could, without Recado's producer.
    fn hand_in(&self, text: &str) -> impl Future<Output = Tested>;
}

/// A mail that left.
#[derive(Debug, Clone)]
pub struct Mail {
    /// To whom.
    pub to: String,
    /// About what.
    pub subject: String,
    /// Its part for people with a mail program.
    pub html: String,
}

/// What a client sees of a deployment, where deployments differ.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// The status of an upgrade that is refused because its token does not hold.
    pub unauthorized: u16,
    /// What a close of Recado carries.
    pub closed: Closed,
    /// What ends a socket whose token has ended.
    pub token_end: TokenEnd,
    /// Whether a message above the limit ends its socket; otherwise it is answered with an `error` frame.
    pub oversized_closes: bool,
}

/// What a close of Recado carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The reason's own code and text.
    WithItsReason,
    /// This code, and no text, whatever the reason.
    With(u16),
}

impl Closed {
    /// What a client sees when it is closed for a reason.
    pub fn of(self, reason: CloseReason) -> (u16, String) {
        match self {
            Self::WithItsReason => (reason.code(), reason.text().to_owned()),
            Self::With(code) => (code, String::new()),
        }
    }
}

/// What ends a socket whose token has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenEnd {
    /// The server itself, at that moment.
    Server,
    /// Whoever is the next to post to it, or to read from it: sockets are held by somebody who knows no tokens.
    NextUse,
}
