//! `recado-ws-connect`: the route `$connect` of a WebSocket API.
//!
//! Only a composition root.

use std::process::ExitCode;

use recado_aws::dynamo::{DynamoConnections, DynamoTickets};
use recado_aws::lambda::{Answer, Event, Route, serve_sockets};
use recado_aws::settings::{Ended, Environment, QueueName, Verifier};
use recado_aws::{Clients, GatewaySockets, SqsQueue};
use recado_domain::opening::{Declared, Origins};
use recado_runtime::system::{SystemClock, SystemEntropy};
use recado_ws_handlers::{ConnectPorts, ConnectRequest, REPLAY_DELAY, connect};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    Ended::report(run().await)
}

struct Process {
    origins: Origins,
    tokens: Verifier,
    tickets: DynamoTickets<SystemClock>,
    connections: DynamoConnections<SystemClock, SystemEntropy>,
    inbox_queue: SqsQueue,
    sockets: GatewaySockets,
}

async fn run() -> Result<(), Ended> {
    let mut env = Environment::of_process();
    env.start_logging();
    let (table, queue, endpoint) = (env.table(), env.queue(QueueName::Inbox), env.sockets_endpoint());
    let (tokens, origins) = (env.tokens(), env.origins());
    let (table, queue, endpoint, tokens, origins) = env.complete(|| Some((table?, queue?, endpoint?, tokens?, origins?)))?;
    let clients = Clients::load().await;
    let process = Process {
        origins,
        tokens,
        tickets: DynamoTickets::new(&clients, &table, SystemClock),
        connections: DynamoConnections::new(&clients, &table, SystemClock, SystemEntropy),
        inbox_queue: SqsQueue::to_send(&clients, queue),
        sockets: GatewaySockets::new(&clients, &endpoint),
    };
    let process = &process;
    serve_sockets(Route::Connect, |event| async move { process.answer(&event).await.unwrap_or_else(|refused| refused) }).await
}

impl Process {
    async fn answer(&self, event: &Event) -> Result<Answer, Answer> {
        let connection = event.connection()?;
        let opening = event.opening(&self.origins)?;
        let Declared { credential, protocol, device } = opening.declared.clone();
        let ports = ConnectPorts {
            tokens: &self.tokens,
            tickets: &self.tickets,
            connections: &self.connections,
            inbox_queue: &self.inbox_queue,
            sockets: &self.sockets,
            clock: &SystemClock,
            replay_delay: REPLAY_DELAY,
        };
        match connect(ports, ConnectRequest { connection, credential, protocol, device }).await {
            Ok(_) => Ok(Answer::accepted(&opening)),
            Err(refused) => Err(Answer::refused(refused.status, refused.code, refused.message)),
        }
    }
}
