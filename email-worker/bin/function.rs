//! `recado-email-worker-lambda`: the email worker as a function, which an event source mapping of the email queue
//! invokes.
//!
//! Only a composition root.

mod compose;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use recado_aws::Clients;
use recado_aws::lambda::serve_queue;
use recado_aws::settings::{Ended, Environment};
use recado_email_worker::RETRY;
use recado_runtime::consumer::trigger::Trigger;
use recado_runtime::system::SystemEntropy;

use crate::compose::Settings;

/// What stays of an invocation to give back and reject what is not done.
const MARGIN: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    Ended::report(run().await)
}

async fn run() -> Result<(), Ended> {
    let mut env = Environment::of_process();
    env.start_logging();
    let settings = Settings::read(&mut env);
    let settings = env.complete(|| settings)?;
    let clients = Clients::load().await;
    let (queue, queue_url) = (settings.queue(&clients), settings.email_queue.clone());
    let handler = Arc::new(settings.worker(&clients).await);
    serve_queue(Trigger { name: "email", queue, handler, entropy: SystemEntropy, retry: RETRY, margin: MARGIN }, &queue_url).await
}
