//! `recado-email-worker`: the email worker as a container, which polls the email queue.
//!
//! Only a composition root.

mod compose;

use std::process::ExitCode;

use recado_aws::Clients;
use recado_aws::container::{Container, is_probe, probe};
use recado_aws::settings::{Ended, Environment};
use recado_email_worker::RETRY;
use recado_runtime::consumer::ConsumerConfig;

use crate::compose::{Settings, rate};

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
    let queue = settings.queue(&clients);
    let per_second = rate(&clients, settings.share).await;
    let worker = settings.worker(&clients, per_second);
    container.work(&clients, queue, worker, ConsumerConfig { retry: RETRY, ..ConsumerConfig::named("email") }).await
}
