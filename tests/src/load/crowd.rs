//! A crowd of clients of the protocol, one for each user: each keeps its cursor, and connects again when told where.
//!
//! Must not know: what the server costs.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use recado_domain::ports::Entropy;
use recado_runtime::system::SystemEntropy;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::{Client, Endpoints, Tested};

/// How long a member that was refused waits at the most.
const AGAIN_WITHIN: u64 = 1_000;

/// The clients. Dropped, they are gone.
pub struct Crowd {
    shared: Arc<Shared>,
    members: JoinSet<Tested>,
}

struct Shared {
    server: watch::Sender<Option<Arc<Endpoints>>>,
    /// Members whose `sync` was answered and whose socket is open.
    live: AtomicUsize,
    /// Distinct notifications that members received.
    received: AtomicUsize,
    /// Attempts to connect that failed.
    refused: AtomicUsize,
}

impl Crowd {
    /// So many users `u0`, `u1`, …, of whom nobody is connected yet.
    pub fn of(users: usize) -> Self {
        let shared = Arc::new(Shared {
            server: watch::Sender::new(None),
            live: AtomicUsize::new(0),
            received: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
        });
        let mut members = JoinSet::new();
        for user in 0..users {
            members.spawn(member(shared.clone(), user));
        }
        Self { shared, members }
    }

    /// Has all of them connect, at once, or leave.
    pub fn send_to(&self, server: Option<&Endpoints>) {
        self.shared.server.send_replace(server.map(|server| Arc::new(server.clone())));
    }

    /// How many attempts to connect failed.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Waits until so many are live and so many notifications were received in all; answers how long that took.
    ///
    /// # Errors
    /// When it does not come to that `within` the time.
    pub async fn until(&mut self, live: usize, received: usize, within: Duration) -> anyhow::Result<Duration> {
        let started = Instant::now();
        loop {
            let (now, got) = (self.shared.live.load(Ordering::Acquire), self.shared.received.load(Ordering::Acquire));
            if now == live && got >= received {
                return Ok(started.elapsed());
            }
            if let Some(ended) = self.members.try_join_next() {
                ended??;
                bail!("a member ended");
            }
            ensure!(started.elapsed() < within, "{now} of {live} are live and received {got} of {received}, after {within:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What a member keeps.
#[derive(Default)]
struct Memory {
    cursor: Option<String>,
    seen: HashSet<String>,
}

impl Memory {
    fn take(&mut self, items: &[serde_json::Value], shared: &Shared) {
        let ids = items.iter().filter_map(|item| item["id"].as_str());
        let new = ids.filter(|id| self.seen.insert((*id).to_owned())).count();
        shared.received.fetch_add(new, Ordering::Release);
    }
}

async fn member(shared: Arc<Shared>, user: usize) -> Tested {
    let (name, mut server, mut memory) = (format!("u{user}"), shared.server.subscribe(), Memory::default());
    loop {
        let there = server.wait_for(Option::is_some).await.context("the crowd is dissolved")?.clone().context("a server")?;
        let Ok(client) = open(&there, &name, &mut memory, &shared).await else {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(SystemEntropy.next_u64() % AGAIN_WITHIN)).await;
            continue;
        };
        shared.live.fetch_add(1, Ordering::Release);
        listen(client, &mut server, &mut memory, &shared).await;
        shared.live.fetch_sub(1, Ordering::Release);
    }
}

async fn open(server: &Endpoints, name: &str, memory: &mut Memory, shared: &Shared) -> anyhow::Result<Client> {
    let mut client = server.connect(name).await?;
    let answer = client.sync(memory.cursor.as_deref(), &[]).await?;
    memory.take(&answer.items, shared);
    memory.cursor = Some(answer.cursor);
    Ok(client)
}

/// Until the socket ends, or the crowd is sent away.
async fn listen(mut client: Client, server: &mut watch::Receiver<Option<Arc<Endpoints>>>, memory: &mut Memory, shared: &Shared) {
    loop {
        tokio::select! {
            gone = server.wait_for(Option::is_none) => return drop(gone),
            items = client.items_or_end() => match items {
                Ok(items) => memory.take(&items, shared),
                Err(_) => return,
            },
        }
    }
}
