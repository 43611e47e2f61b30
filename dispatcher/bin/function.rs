//! `recado-dispatcher-lambda`: the dispatcher as a function, which an event source mapping of the inbox queue invokes.
//!
//! Only a composition root.

mod compose;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use recado_aws::Clients;
use recado_aws::lambda::serve_queue;
use recado_aws::settings::{Ended, Environment};
use recado_runtime::backoff::RetrySchedule;
use recado_runtime::consumer::trigger::Trigger;
use recado_runtime::system::SystemEntropy;

use crate::compose::Settings;

/// What stays of an invocation to give back and reject what is not done.
const MARGIN: Duration = Duration::from_secs(3);

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
    let trigger = Trigger {
        name: "inbox",
        queue: settings.queue(&clients),
        handler: Arc::new(settings.dispatcher(&clients)),
        entropy: SystemEntropy,
        retry: RetrySchedule::default(),
        margin: MARGIN,
    };
    serve_queue(trigger, clients.skew(), &settings.inbox_queue).await
}
