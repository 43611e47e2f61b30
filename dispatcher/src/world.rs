//! The ports of the dispatcher as one argument, so that its functions name one type instead of seven.
//!
//! Must not know: which adapters they are.

use recado_domain::ports::{Clock, Connections, Entropy, Inbox, Queue, Sockets};

/// Everything the dispatcher needs of the world; made by a composition root.
#[derive(Debug, Clone)]
pub struct Ports<Q, M, I, C, S, K, E> {
    /// The queue it drains: takes replays, and what remains of an event.
    pub inbox_queue: Q,
    /// Takes events that ask for e-mail and did not come by it.
    pub email_queue: M,
    /// Where entries are stored.
    pub inbox: I,
    /// Who is connected.
    pub connections: C,
    /// Where frames go.
    pub sockets: S,
    /// The present.
    pub clock: K,
    /// Jitter.
    pub entropy: E,
}

/// [`Ports`], with their types as associated types. Nothing else implements it.
pub trait World: Send + Sync + 'static {
    /// See [`Ports::inbox_queue`].
    type InboxQueue: Queue;
    /// See [`Ports::email_queue`].
    type EmailQueue: Queue;
    /// See [`Ports::inbox`].
    type Inbox: Inbox;
    /// See [`Ports::connections`].
    type Connections: Connections;
    /// See [`Ports::sockets`].
    type Sockets: Sockets;
    /// See [`Ports::clock`].
    type Clock: Clock;
    /// See [`Ports::entropy`].
    type Entropy: Entropy;

    /// See [`Ports::inbox_queue`].
    fn inbox_queue(&self) -> &Self::InboxQueue;
    /// See [`Ports::email_queue`].
    fn email_queue(&self) -> &Self::EmailQueue;
    /// See [`Ports::inbox`].
    fn inbox(&self) -> &Self::Inbox;
    /// See [`Ports::connections`].
    fn connections(&self) -> &Self::Connections;
    /// See [`Ports::sockets`].
    fn sockets(&self) -> &Self::Sockets;
    /// See [`Ports::clock`].
    fn clock(&self) -> &Self::Clock;
    /// See [`Ports::entropy`].
    fn entropy(&self) -> &Self::Entropy;
}

impl<Q: Queue, M: Queue, I: Inbox, C: Connections, S: Sockets, K: Clock, E: Entropy> World for Ports<Q, M, I, C, S, K, E> {
    type InboxQueue = Q;
    type EmailQueue = M;
    type Inbox = I;
    type Connections = C;
    type Sockets = S;
    type Clock = K;
    type Entropy = E;

    fn inbox_queue(&self) -> &Q {
        &self.inbox_queue
    }

    fn email_queue(&self) -> &M {
        &self.email_queue
    }

    fn inbox(&self) -> &I {
        &self.inbox
    }

    fn connections(&self) -> &C {
        &self.connections
    }

    fn sockets(&self) -> &S {
        &self.sockets
    }

    fn clock(&self) -> &K {
        &self.clock
    }

    fn entropy(&self) -> &E {
        &self.entropy
    }
}
