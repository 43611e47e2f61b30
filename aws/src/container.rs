//! A container that works off one queue: from its signals to its drain, and what it shows of itself.
//!
//! It opens no port unless `RECADO_LISTEN` asks for `/healthz`, `/readyz` and `/metrics`. It is unready while polls
//! fail, while this machine's clock is off (R6), and while it stops. While the clock is off it gives every message back. Must not
//! know: what a message means.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use recado_domain::failure::Failure;
use recado_domain::ports::{AckToken, Outcome, Outgoing, Queue, Received};
use recado_runtime::consumer::{ConsumerConfig, Drained, Handler, consume};
use recado_runtime::settings::Contradiction;
use recado_runtime::status::{self, Check, Status};
use recado_runtime::system::SystemEntropy;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::clients::Clients;
use crate::clocked::WithAClock;
use crate::settings::{Ended, Environment};

/// Less than the 30 s after which ECS kills a container that was told to stop (`stopTimeout`).
const DRAIN: Duration = Duration::from_secs(25);

/// How a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container {
    /// Where it shows what it does; nowhere by default.
    pub listen: Option<SocketAddr>,
    /// How long batches in work may take after the signal to stop.
    pub drain: Duration,
}

impl Container {
    /// Reads `RECADO_LISTEN` and `RECADO_DRAIN_DEADLINE`.
    pub fn read(env: &mut Environment) -> Self {
        let listen = env.text("RECADO_LISTEN").and_then(|text| {
            let fix = "give address and port, such as 127.0.0.1:8421, or leave it out";
            env.noted(text.parse().map_err(|_| Contradiction::new("RECADO_LISTEN is no address and port", fix)))
        });
        Self { listen, drain: env.duration("RECADO_DRAIN_DEADLINE", DRAIN) }
    }

    /// Works off a queue until SIGTERM or SIGINT, then drains. A second signal ends it at once: messages in work are
    /// received again.
    ///
    /// # Errors
    /// When signals, metrics or the address of `RECADO_LISTEN` cannot be had, or the consumer ends by itself.
    pub async fn work<Q: Queue, H: Handler>(self, clients: &Clients, queue: Q, handler: H, config: ConsumerConfig) -> Result<(), Ended> {
        let failed = |what: &str, error: &dyn std::fmt::Display| Ended::Failed(Failure::permanent(format!("{what}: {error}")));
        // Before anything starts, so that a signal meanwhile is not lost.
        let mut signals = Signals::new().map_err(|error| failed("signals cannot be received", &error))?;
        let polls = Polls::default();
        let draining = Arc::new(AtomicBool::new(false));
        if let Some(address) = self.listen {
            let metrics = status::recorder().map_err(|error| failed("metrics", &error))?;
            let listener = TcpListener::bind(address).await.map_err(|error| failed(&format!("cannot listen on {address}"), &error))?;
            let address = listener.local_addr().map_err(|error| failed("the port cannot be told", &error))?;
            tracing::info!(%address, "status is shown");
            let checks = vec![polls.check(), clock_is_right(clients)];
            tokio::spawn(status::fold(metrics.clone()));
            tokio::spawn(status::serve(listener, Status { draining: draining.clone(), checks, measures: Vec::new(), metrics }));
        }
        let stop = CancellationToken::new();
        let config = ConsumerConfig { drain: self.drain, ..config };
        let queue = Arc::new(Watched { queue, polls });
        let handler = Arc::new(WithAClock::new(Arc::new(handler), clients.skew().clone()));
        tracing::info!(queue = config.name, "working");
        let mut consuming = tokio::spawn(consume(queue, handler, Arc::new(SystemEntropy), config, stop.clone()));
        tokio::select! {
            () = signals.next() => tracing::info!("stopping; a second signal stops at once"),
            _ = &mut consuming => return Err(Ended::Failed(Failure::permanent("the consumer stopped by itself; its log says why"))),
        }
        draining.store(true, Ordering::Release);
        stop.cancel();
        tokio::select! {
            drained = consuming => if !matches!(drained, Ok(Drained::Clean)) {
                tracing::warn!("not every batch ended in time; its messages are received again");
            },
            () = signals.next() => tracing::warn!("stopped at once; messages in work are received again"),
        }
        Ok(())
    }
}

/// `recado-… probe`: asks the process that runs beside it whether it is ready, for a container's health check.
pub async fn probe() -> ExitCode {
    let mut env = Environment::of_process();
    env.start_logging();
    let container = Container::read(&mut env);
    let asked = match env.complete(|| Some(container)) {
        Ok(Container { listen: Some(address), .. }) => status::probe(address).await,
        Ok(_) => Err("RECADO_LISTEN is missing: the process shows nothing of itself".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    match asked {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!(reason, "not ready");
            ExitCode::FAILURE
        }
    }
}

/// Whether this process was started to ask another ([`probe`]).
pub fn is_probe() -> bool {
    std::env::args_os().nth(1).is_some_and(|argument| argument == "probe")
}

fn clock_is_right(clients: &Clients) -> Check {
    let skew = clients.skew().clone();
    Box::new(move || {
        let checked = skew.check().map_err(|off| off.to_string());
        Box::pin(async move { checked })
    })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What the last poll came to.
#[derive(Debug, Clone, Default)]
struct Polls(Arc<Mutex<Option<String>>>);

impl Polls {
    fn note<T>(&self, outcome: &Outcome<T>) {
        let problem = outcome.as_ref().err().map(|failure| failure.reason().to_owned());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    fn check(&self) -> Check {
        let polls = self.clone();
        Box::new(move || {
            let problem = polls.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Box::pin(async move { problem.map_or(Ok(()), |reason| Err(format!("polling fails: {reason}"))) })
        })
    }
}

/// A queue whose polls are looked at.
struct Watched<Q> {
    queue: Q,
    polls: Polls,
}

impl<Q: Queue> Queue for Watched<Q> {
    fn max_batch(&self) -> usize {
        self.queue.max_batch()
    }

    async fn receive(&self, max: usize, wait: Duration, visibility: Duration) -> Outcome<Vec<Received>> {
        let received = self.queue.receive(max, wait, visibility).await;
        self.polls.note(&received);
        received
    }

    async fn ack(&self, tokens: &[AckToken]) -> Vec<Outcome<()>> {
        self.queue.ack(tokens).await
    }

    async fn extend(&self, tokens: &[AckToken], visibility: Duration) -> Vec<Outcome<()>> {
        self.queue.extend(tokens, visibility).await
    }

    async fn release(&self, messages: &[(AckToken, Duration)]) -> Vec<Outcome<()>> {
        self.queue.release(messages).await
    }

    async fn reject(&self, messages: &[(Received, String)]) -> Vec<Outcome<()>> {
        self.queue.reject(messages).await
    }

    async fn send(&self, messages: &[Outgoing]) -> Vec<Outcome<()>> {
        self.queue.send(messages).await
    }
}

#[cfg(test)]
mod tests {
    use recado_memory::{ManualClock, MemoryQueue, SeededEntropy};

    use super::*;

    #[tokio::test]
    async fn a_poll_that_fails_makes_the_process_unready_until_one_succeeds() {
        let queue = MemoryQueue::new(ManualClock::default(), SeededEntropy::new(1));
        let watched = Watched { queue: queue.clone(), polls: Polls::default() };
        let check = watched.polls.check();
        assert_eq!(check().await, Ok(()));
        queue.faults().fail_next("receive", Failure::transient("no permission for sqs:ReceiveMessage"));
        assert!(watched.receive(1, Duration::ZERO, Duration::from_secs(1)).await.is_err());
        assert_eq!(check().await, Err("polling fails: no permission for sqs:ReceiveMessage".to_owned()));
        assert!(watched.receive(1, Duration::ZERO, Duration::from_secs(1)).await.is_ok());
        assert_eq!(check().await, Ok(()));
    }

    #[test]
    fn an_address_is_read_or_refused() {
        let listen = |text| {
            let mut env = Environment::of([("RECADO_LISTEN", text)]);
            let container = Container::read(&mut env);
            env.complete(|| Some(container.listen)).map_err(|error| error.to_string())
        };
        assert_eq!(listen(""), Ok(None));
        assert_eq!(listen("127.0.0.1:8421"), Ok(Some(SocketAddr::from(([127, 0, 0, 1], 8421)))));
        assert!(listen("localhost").unwrap_err().contains("RECADO_LISTEN"));
    }
}
