//! `recado-email-worker`: the email worker as a container, which polls the email queue.
//!
//! Only a composition root.

mod compose;

use std::process::ExitCode;

use recado_aws::Clients;
use recado_aws::container::{Container, is_probe, probe};
use recado_aws::settings::{Ended, Environment};
use recado_domain::limits::AWS_BATCH_ENTRIES;
use recado_email_worker::RETRY;
use recado_runtime::consumer::ConsumerConfig;

use crate::compose::{Settings, rate};

/// Mails leave one after the other as SES allows: a batch is no larger than one receive, so that other workers get the rest.
const BATCH: usize = AWS_BATCH_ENTRIES;
/// Batches in work at the same time. They wait for answers most of the time.
const CONCURRENCY: usize = 16;

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
    let config = ConsumerConfig { retry: RETRY, concurrency: CONCURRENCY, batch: BATCH, ..ConsumerConfig::named("email") };
    container.work(&clients, queue, worker, config).await
}
