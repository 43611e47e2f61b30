//! `recado up`: every room and adapter of one machine in one process, from start to drain.
//!
//! Startable in process too: tests and applications call [`start`] and get a [`Running`] server of their own. Must not
//! know: any rule of delivery; signals and printing are the command's.

mod compose;
mod guard;
mod mailbox;
mod page;
mod post;
mod routes;
mod settings;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use recado_embedded::Store;
use recado_embedded::sockets::OpenSockets;
use recado_runtime::consumer::Drained;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use self::settings::{Contradiction, LogFormat, Secret, Settings};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings do not hold.
    #[error("{0}")]
    Settings(#[from] Contradiction),
    /// Something of this machine failed.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// Where a server that is ready can be reached; with `--json` this is printed.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    /// Always: it is printed when it is so.
    pub ready: bool,
    /// The address and port it listens on.
    pub listen: String,
    /// The page for a newcomer, in development.
    pub page: Option<String>,
    /// The WebSocket, without its query.
    pub ws: String,
    /// Where to publish.
    pub events: String,
    /// The captured mail, in development without an SMTP server.
    pub mail: Option<String>,
    /// A token for `alice`, in development.
    pub token: Option<String>,
    /// Where everything is kept.
    pub data_dir: String,
}

/// A server at work. Dropped without [`Running::shutdown`], it stops without waiting for anything.
pub struct Running {
    ready: Ready,
    address: SocketAddr,
    drain_deadline: Duration,
    draining: Arc<AtomicBool>,
    /// Ends the taking in of requests.
    closing: CancellationToken,
    /// Ends consumers and what runs beside them.
    stopping: CancellationToken,
    http: JoinHandle<Option<()>>,
    consumers: Vec<JoinHandle<Option<Drained>>>,
    background: Vec<JoinHandle<Option<()>>>,
    sockets: OpenSockets,
    store: Store,
    failed: watch::Receiver<Option<String>>,
}

/// What stopping came to. Whatever did not end is on disk, and is done at the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Consumers that had to give up a batch.
    pub consumers_abandoned: usize,
    /// Sockets that had not ended.
    pub sockets_left: usize,
    /// Whether every request was answered.
    pub requests_answered: bool,
}

impl Stopped {
    /// Whether everything ended in time.
    pub fn is_clean(&self) -> bool {
        *self == Self { consumers_abandoned: 0, sockets_left: 0, requests_answered: true }
    }
}

/// Checks the settings, opens the store, and starts everything. Returns when it is ready.
///
/// # Errors
/// When the settings do not hold, or the folder or the port cannot be used.
pub async fn start(settings: Settings) -> Result<Running, StartError> {
    settings.check()?;
    compose::start(settings).await
}

impl Running {
    /// Where it can be reached.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it keeps everything in, for whoever runs it in process.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns when a part of it stopped by itself, with which one. Then it should be shut down and started anew.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        let reason = match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            Err(_) => None,
        };
        reason.unwrap_or_else(|| "every part stopped".to_owned())
    }

    /// Takes in nothing more, tells clients to connect again, lets what is under way end within the deadline of the
    /// settings, and closes the store.
    pub async fn shutdown(mut self) -> Stopped {
        let deadline = Instant::now() + self.drain_deadline;
        // Sockets and requests keep a part of the time, whatever the consumers take.
        let consumers_until = deadline - self.drain_deadline.mul_f64(0.3);
        self.draining.store(true, Ordering::Release);
        self.closing.cancel();
        self.sockets.say_goaway(self.drain_deadline.mul_f64(0.1)).await;
        // Before the sockets close, so that what is being pushed still arrives.
        self.stopping.cancel();
        let consumers_abandoned = abandoned(std::mem::take(&mut self.consumers), consumers_until).await;
        let sockets_left = self.sockets.close_all(deadline.saturating_duration_since(Instant::now())).await;
        let requests_answered = tokio::time::timeout_at(deadline, &mut self.http).await.is_ok();
        self.http.abort();
        for task in &self.background {
            task.abort();
        }
        self.store.close().await;
        Stopped { consumers_abandoned, sockets_left, requests_answered }
    }
}

/// How many consumers did not end cleanly.
async fn abandoned(consumers: Vec<JoinHandle<Option<Drained>>>, until: Instant) -> usize {
    let drained = consumers.into_iter().map(|mut consumer| async move {
        let ended = tokio::time::timeout_at(until, &mut consumer).await;
        consumer.abort();
        matches!(ended, Ok(Ok(Some(Drained::Clean))))
    });
    join_all(drained).await.into_iter().filter(|clean| !clean).count()
}

impl Drop for Running {
    fn drop(&mut self) {
        self.closing.cancel();
        self.stopping.cancel();
    }
}

/// Runs a part of the server. Should it end before `stop`, `failed` says so: half a server is none.
fn watched<T: Send + 'static>(
    name: &'static str,
    stop: CancellationToken,
    failed: watch::Sender<Option<String>>,
    part: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<Option<T>> {
    let part = AbortOnDropHandle::new(tokio::spawn(part));
    tokio::spawn(async move {
        let ended = part.await;
        if ended.is_err() || !stop.is_cancelled() {
            tracing::error!(part = name, "a part of the server stopped by itself");
            failed.send_replace(Some(format!("the {name} stopped by itself; the log says why")));
        }
        ended.ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_a_failure_and_one_that_was_stopped_is_not() {
        let stop = CancellationToken::new();
        let (failed, seen) = watch::channel(None);
        stop.cancel();
        assert_eq!(watched("one", stop, failed.clone(), async { 7 }).await.unwrap(), Some(7));
        assert!(seen.borrow().is_none());
        assert_eq!(watched("two", CancellationToken::new(), failed, async { 7 }).await.unwrap(), Some(7));
        assert!(seen.borrow().as_ref().unwrap().contains("two"));
    }
}
