//! `recado-ws-disconnect`: the route `$disconnect` of a WebSocket API.
//!
//! Only a composition root.

use std::process::ExitCode;

use recado_aws::Clients;
use recado_aws::dynamo::DynamoConnections;
use recado_aws::lambda::{Answer, Event, Route, serve_sockets};
use recado_aws::settings::{Ended, Environment};
use recado_domain::ports::Connections;
use recado_runtime::system::{SystemClock, SystemEntropy};
use recado_ws_handlers::disconnect;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    Ended::report(run().await)
}

async fn run() -> Result<(), Ended> {
    let mut env = Environment::of_process();
    env.start_logging();
    let table = env.table();
    let table = env.complete(|| table)?;
    let connections = DynamoConnections::new(&Clients::load().await, &table, SystemClock, SystemEntropy);
    let connections = &connections;
    serve_sockets(Route::Disconnect, |event| async move { answer(connections, &event).await.unwrap_or_else(|refused| refused) }).await
}

async fn answer(connections: &impl Connections, event: &Event) -> Result<Answer, Answer> {
    let id = event.connection()?;
    match disconnect(connections, &id).await {
        Ok(()) => Ok(Answer::ok()),
        Err(failure) => {
            tracing::warn!(connection = %id, reason = failure.reason(), "a connection was not forgotten; a post that answers gone removes it");
            // Nobody reads it, but the API counts it as an error of its integration.
            Err(Answer::refused(503, "unavailable", "the connection was not forgotten"))
        }
    }
}
