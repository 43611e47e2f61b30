//! `recado-mail-feedback-lambda`: what SES reports of bounces and complaints, as a function that an event source mapping
//! of the feedback queue invokes.
//!
//! Only a composition root.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use recado_aws::dynamo::DynamoSuppressions;
use recado_aws::lambda::serve_queue;
use recado_aws::settings::{Ended, Environment, QueueName};
use recado_aws::{Clients, SqsQueue};
use recado_email_worker::Feedback;
use recado_runtime::backoff::RetrySchedule;
use recado_runtime::consumer::trigger::Trigger;
use recado_runtime::system::{SystemClock, SystemEntropy};

/// What stays of an invocation to give back and reject what is not done.
const MARGIN: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    Ended::report(run().await)
}

async fn run() -> Result<(), Ended> {
    let mut env = Environment::of_process();
    env.start_logging();
    let (table, queue, dead_letters) = (env.table(), env.queue(QueueName::Feedback), env.dead_letters(QueueName::Feedback));
    let (table, queue, dead_letters) = env.complete(|| Some((table?, queue?, dead_letters?)))?;
    let clients = Clients::load().await;
    let suppressions = DynamoSuppressions::new(&clients, &table, SystemClock, SystemEntropy);
    let trigger = Trigger {
        name: "feedback",
        queue: SqsQueue::new(&clients, &queue, &dead_letters),
        handler: Arc::new(Feedback::new(Arc::new(suppressions))),
        entropy: SystemEntropy,
        retry: RetrySchedule::default(),
        margin: MARGIN,
    };
    serve_queue(trigger, clients.skew(), &queue).await
}
