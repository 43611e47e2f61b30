//! `recado-dispatcher`: the dispatcher as a container, which polls the inbox queue.
//!
//! Only a composition root. One thread: a call to AWS costs the less processor time the fewer threads share it; more
//! cores are used by more tasks.

mod compose;

use std::process::ExitCode;

use recado_aws::Clients;
use recado_aws::container::{Container, is_probe, probe};
use recado_aws::settings::{Ended, Environment};
use recado_dispatcher::polling;

use crate::compose::Settings;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if is_probe() {
        return probe().await;
    }
    Ended::report(run().await)
}

async fn run() -> Result<(), Ended> {
    let mut env = Environment::of_process();
    env.start_logging();
    let (settings, container) = (Settings::read(&mut env), Container::read(&mut env));
    let settings = env.complete(|| settings)?;
    let clients = Clients::load().await;
    let (queue, dispatcher) = (settings.queue(&clients), settings.dispatcher(&clients));
    container.work(&clients, queue, dispatcher, polling()).await
}
