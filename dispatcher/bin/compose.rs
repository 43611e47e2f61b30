//! The dispatcher on AWS: what both of its processes read and put together.

use std::num::NonZeroU32;

use recado_aws::dynamo::{DynamoConnections, DynamoInbox};
use recado_aws::settings::{Environment, QueueName};
use recado_aws::{Clients, GatewaySockets, SqsQueue};
use recado_dispatcher::{Dispatcher, DispatcherConfig, Ports};
use recado_runtime::system::{SystemClock, SystemEntropy};

type Inbox = DynamoInbox<SystemClock, SystemEntropy>;
type Connections = DynamoConnections<SystemClock, SystemEntropy>;

/// The dispatcher on the ports of AWS.
pub(crate) type OnAws = Dispatcher<Ports<SqsQueue, SqsQueue, Inbox, Connections, GatewaySockets, SystemClock, SystemEntropy>>;

/// What it reads.
#[derive(Debug)]
pub(crate) struct Settings {
    table: String,
    /// The URL of the queue it drains.
    pub(crate) inbox_queue: String,
    inbox_dead_letters: String,
    email_queue: String,
    sockets_endpoint: String,
    posts_per_second: Option<NonZeroU32>,
}

impl Settings {
    /// Reads what both processes read. `None` where something is missing or wrong, which `env` knows.
    pub(crate) fn read(env: &mut Environment) -> Option<Self> {
        let (table, inbox_queue, inbox_dead_letters) = (env.table(), env.queue(QueueName::Inbox), env.dead_letters(QueueName::Inbox));
        let (email_queue, sockets_endpoint) = (env.queue(QueueName::Email), env.sockets_endpoint());
        let posts_per_second = posts_per_second(env);
        Some(Self {
            table: table?,
            inbox_queue: inbox_queue?,
            inbox_dead_letters: inbox_dead_letters?,
            email_queue: email_queue?,
            sockets_endpoint: sockets_endpoint?,
            posts_per_second: posts_per_second?,
        })
    }

    /// The queue it drains.
    pub(crate) fn queue(&self, clients: &Clients) -> SqsQueue {
        SqsQueue::new(clients, &self.inbox_queue, &self.inbox_dead_letters)
    }

    /// The dispatcher.
    pub(crate) fn dispatcher(&self, clients: &Clients) -> OnAws {
        let ports = Ports {
            inbox_queue: self.queue(clients),
            email_queue: SqsQueue::to_send(clients, &self.email_queue),
            inbox: DynamoInbox::new(clients, &self.table, SystemClock, SystemEntropy),
            connections: DynamoConnections::new(clients, &self.table, SystemClock, SystemEntropy),
            sockets: GatewaySockets::new(clients, &self.sockets_endpoint),
            clock: SystemClock,
            entropy: SystemEntropy,
        };
        Dispatcher::new(ports, DispatcherConfig { posts_per_second: self.posts_per_second, ..DispatcherConfig::default() })
    }
}

/// This process's share of the posts that all dispatchers together may make in a second: one at least. `Some(None)` where nothing
/// limits them.
fn posts_per_second(env: &mut Environment) -> Option<Option<NonZeroU32>> {
    let all = env.number("RECADO_POSTS_PER_SECOND", "give how many posts a second all dispatchers may make, or leave it out")?;
    let processes = env.number("RECADO_DISPATCHER_PROCESSES", "give how many dispatchers run at the most, or leave it out")?;
    Some(all.map(|all| share_of(all, processes.unwrap_or(NonZeroU32::MIN))))
}

fn share_of(all: NonZeroU32, processes: NonZeroU32) -> NonZeroU32 {
    NonZeroU32::new(all.get() / processes).unwrap_or(NonZeroU32::MIN)
}
