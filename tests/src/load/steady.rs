//! Many users online, and events for them: as fast as it goes, or at a steady rate.
//!
//! Must not know: what is done with the figures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Endpoints, Tested};

/// Events of a request as fast as it goes.
const BATCH: usize = 50;
/// Requests under way as fast as it goes.
const PUBLISHERS: usize = 8;
/// Events of a request at a steady rate.
const AT_ONCE: usize = 25;

/// When each event was accepted and received, in microseconds since the start; 0: not yet.
#[derive(Debug)]
pub struct Times {
    start: Instant,
    accepted: Vec<AtomicU64>,
    received: Vec<AtomicU64>,
    count: AtomicUsize,
}

impl Times {
    fn new(events: usize) -> Self {
        let zeros = || (0..events).map(|_| AtomicU64::new(0)).collect();
        Self { start: Instant::now(), accepted: zeros(), received: zeros(), count: AtomicUsize::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// Accepted to received, ascending. What arrives before the answer to its publish counts as at once.
    fn latencies(&self) -> Vec<Duration> {
        let pairs = self.accepted.iter().zip(&self.received);
        let micros = pairs.map(|(a, r)| r.load(Ordering::Acquire).saturating_sub(a.load(Ordering::Acquire)));
        let mut all: Vec<_> = micros.map(Duration::from_micros).collect();
        all.sort_unstable();
        all
    }
}

/// A share of ascending durations lies below this many milliseconds.
pub fn at(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
}

/// Events of a run, from this number on, each to one of so many users in turn.
pub fn batch(run: &str, users: usize, from: usize, count: usize) -> Vec<Value> {
    let event = |n: usize| {
        json!({
            "specversion": "1.0", "id": format!("{run}:{n}"), "source": "/load", "type": "publication.permission_granted",
            "time": "2026-11-24T10:00:00Z",
            "data": { "recipients": [{ "id": format!("u{}", n % users) }], "category": "permissions", "title": "You can now view Q3 plan",
                      "body": "Bia gave you access", "url": "/publications/42", "payload": { "publication": 42 } }
        })
    };
    (from..from + count).map(event).collect()
}

/// Connects every user; each counts what it receives.
async fn online(recado: &Endpoints, run: &'static str, users: usize, times: &Arc<Times>) -> anyhow::Result<JoinSet<()>> {
    let mut clients = JoinSet::new();
    for user in 0..users {
        let mut client = recado.live(&format!("u{user}")).await?;
        let times = times.clone();
        clients.spawn(async move {
            // Ends with the socket, or when the run ends.
            while let Ok(items) = client.live_items(1).await {
                let now = times.now();
                for item in items {
                    let number = item["event_id"].as_str().and_then(|id| id.strip_prefix(run)?.strip_prefix(':')?.parse::<usize>().ok());
                    // A redelivered one counts once, when it came first.
                    if let Some(slot) = number.and_then(|n| times.received.get(n))
                        && slot.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire).is_ok()
                    {
                        times.count.fetch_add(1, Ordering::Release);
                    }
                }
            }
        });
    }
    Ok(clients)
}

async fn all_received(times: &Times, events: usize) -> Tested {
    let limit = Instant::now() + Duration::from_secs(300);
    while times.count.load(Ordering::Acquire) < events {
        ensure!(Instant::now() < limit, "{} of {events} received", times.count.load(Ordering::Acquire));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// As fast as it goes; answers when all was published, and when all was received.
///
/// # Errors
/// When something is refused, or not received.
pub async fn throughput(recado: &Endpoints, run: &'static str, users: usize, events: usize) -> anyhow::Result<(Duration, Duration)> {
    let times = Arc::new(Times::new(events));
    let mut clients = online(recado, run, users, &times).await?;
    let next = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut publishers = JoinSet::new();
    for _ in 0..PUBLISHERS {
        let (recado, next) = (recado.clone(), next.clone());
        publishers.spawn(async move {
            loop {
                let from = next.fetch_add(BATCH, Ordering::Relaxed);
                if from >= events {
                    return anyhow::Ok(());
                }
                recado.publish_batch(&batch(run, users, from, BATCH.min(events - from))).await?;
            }
        });
    }
    while let Some(done) = publishers.join_next().await {
        done??;
    }
    let published = started.elapsed();
    all_received(&times, events).await?;
    let received = started.elapsed();
    clients.shutdown().await;
    Ok((published, received))
}

/// At a steady rate: accepted to received, ascending. `beside` makes what goes into each request besides.
///
/// # Errors
/// When something is refused, or not received.
pub async fn latency(
    recado: &Endpoints,
    run: &'static str,
    users: usize,
    (rate, seconds): (f64, f64),
    mut beside: impl FnMut() -> Vec<Value>,
) -> anyhow::Result<Vec<Duration>> {
    let events = ((rate * seconds) as usize).next_multiple_of(AT_ONCE);
    let times = Arc::new(Times::new(events));
    let mut clients = online(recado, run, users, &times).await?;
    let mut tick = tokio::time::interval(Duration::from_secs_f64(AT_ONCE as f64 / rate));
    let mut publishes = JoinSet::new();
    for from in (0..events).step_by(AT_ONCE) {
        tick.tick().await;
        let (recado, times) = (recado.clone(), times.clone());
        let events = [batch(run, users, from, AT_ONCE), beside()].concat();
        publishes.spawn(async move {
            recado.publish_batch(&events).await?;
            let now = times.now();
            times.accepted[from..from + AT_ONCE].iter().for_each(|slot| slot.store(now, Ordering::Release));
            anyhow::Ok(())
        });
    }
    while let Some(done) = publishes.join_next().await {
        done??;
    }
    all_received(&times, events).await?;
    clients.shutdown().await;
    Ok(times.latencies())
}
