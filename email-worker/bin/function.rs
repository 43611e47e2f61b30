//! `recado-email-worker-lambda`: the email worker as a function, which an event source mapping of the email queue
//! invokes.
//!
//! Only a composition root.

mod compose;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use recado_aws::Clients;
use recado_aws::lambda::serve_queue;
use recado_aws::settings::{Ended, Environment};
use recado_domain::ports::Received;
use recado_email_worker::RETRY;
use recado_runtime::consumer::trigger::Trigger;
use recado_runtime::consumer::{Deadline, Disposition, Handler};
use recado_runtime::system::SystemEntropy;
use tokio::sync::OnceCell;

use crate::compose::{OnAws, Settings, rate};

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
    let (queue, queue_url, skew) = (settings.queue(&clients), settings.email_queue.clone(), clients.skew().clone());
    let handler = Arc::new(OnFirstBatch { clients, share: settings.share, settings: Mutex::new(Some(settings)), worker: OnceCell::new() });
    let trigger = Trigger { name: "email", queue, handler, entropy: SystemEntropy, retry: RETRY, margin: MARGIN };
    serve_queue(trigger, &skew, &queue_url).await
}

/// The worker, put together when there is mail: it asks SES for the account's rate, and a function that starts asks
/// nobody anything.
struct OnFirstBatch {
    clients: Clients,
    share: u32,
    settings: Mutex<Option<Settings>>,
    worker: OnceCell<OnAws>,
}

impl OnFirstBatch {
    async fn worker(&self) -> OnAws {
        let per_second = rate(&self.clients, self.share).await;
        // Nothing is awaited from here on: whoever takes them puts the worker into its place.
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner).take();
        settings.expect("the worker is put together once").worker(&self.clients, per_second)
    }
}

impl Handler for OnFirstBatch {
    async fn handle(&self, batch: Vec<Received>, deadline: &Deadline) -> Vec<Disposition> {
        self.worker.get_or_init(|| self.worker()).await.handle(batch, deadline).await
    }
}
