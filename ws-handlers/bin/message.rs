//! `recado-ws-message`: the route `$default` of a WebSocket API, which gets every frame of a client.
//!
//! Only a composition root.

use std::process::ExitCode;

use recado_aws::dynamo::{DynamoConnections, DynamoInbox};
use recado_aws::lambda::{Answer, Event, Route, serve_sockets};
use recado_aws::settings::{Ended, Environment};
use recado_aws::{Clients, GatewaySockets};
use recado_runtime::system::{SystemClock, SystemEntropy};
use recado_ws_handlers::{MessagePorts, message};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    Ended::report(run().await)
}

struct Process {
    inbox: DynamoInbox<SystemClock, SystemEntropy>,
    connections: DynamoConnections<SystemClock, SystemEntropy>,
    sockets: GatewaySockets,
}

async fn run() -> Result<(), Ended> {
    let mut env = Environment::of_process();
    env.start_logging();
    let (table, endpoint) = (env.table(), env.sockets_endpoint());
    let (table, endpoint) = env.complete(|| Some((table?, endpoint?)))?;
    let clients = Clients::load().await;
    let process = Process {
        inbox: DynamoInbox::new(&clients, &table, SystemClock, SystemEntropy),
        connections: DynamoConnections::new(&clients, &table, SystemClock, SystemEntropy),
        sockets: GatewaySockets::new(&clients, &endpoint),
    };
    let process = &process;
    serve_sockets(Route::Message, |event| async move { process.answer(&event).await.unwrap_or_else(|refused| refused) }).await
}

impl Process {
    async fn answer(&self, event: &Event) -> Result<Answer, Answer> {
        let id = event.connection()?;
        let ports = MessagePorts {
            inbox: &self.inbox,
            connections: &self.connections,
            sockets: &self.sockets,
            clock: &SystemClock,
            entropy: &SystemEntropy,
        };
        match message(ports, &id, &event.text()).await {
            Ok(()) => Ok(Answer::ok()),
            Err(failure) => {
                tracing::debug!(connection = %id, reason = failure.reason(), "a message could not be answered; its client repeats it");
                Err(Answer::refused(503, "unavailable", failure.reason()))
            }
        }
    }
}
