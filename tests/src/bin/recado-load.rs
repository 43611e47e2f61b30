//! Load on a real `recado up` over loopback, client and server on the same machine: how many events a second, and
//! how late at half that rate. `cargo xtask bench` builds it in release and runs it; it prints Markdown.
//!
//! The figures depend on the machine; the ratios between them are what to compare.

#![expect(clippy::print_stdout, reason = "a report is what this program is for")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use recado_tests::harness::{Folder, Recado, Tested};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Online users.
const USERS: usize = 100;
/// Events of a request.
const BATCH: usize = 50;
/// Requests under way.
const PUBLISHERS: usize = 8;

/// When each event was accepted and received, in microseconds since the start; 0: not yet.
struct Times {
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

fn at(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(0.0, |d| d.as_secs_f64() * 1000.0)
}

fn batch(run: &str, from: usize, count: usize) -> Vec<Value> {
    let event = |n: usize| {
        json!({
            "specversion": "1.0", "id": format!("{run}:{n}"), "source": "/load", "type": "publication.permission_granted",
            "time": "2026-11-24T10:00:00Z",
            "data": { "recipients": [{ "id": format!("u{}", n % USERS) }], "category": "permissions", "title": "You can now view Q3 plan",
                      "body": "Bia gave you access", "url": "/publications/42", "payload": { "publication": 42 } }
        })
    };
    (from..from + count).map(event).collect()
}

/// Connects every user; each counts what it receives.
async fn online(recado: &Recado, run: &'static str, times: &Arc<Times>) -> anyhow::Result<JoinSet<()>> {
    let mut clients = JoinSet::new();
    for user in 0..USERS {
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

/// As fast as it goes: events a second, published to received by all.
async fn throughput(recado: &Arc<Recado>, events: usize) -> anyhow::Result<f64> {
    let times = Arc::new(Times::new(events));
    let mut clients = online(recado, "t", &times).await?;
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
                recado.publish_batch(&batch("t", from, BATCH.min(events - from))).await?;
            }
        });
    }
    while let Some(done) = publishers.join_next().await {
        done??;
    }
    let published = started.elapsed();
    all_received(&times, events).await?;
    let all = started.elapsed();
    println!("| published by | {:.1} s |\n| received by | {:.1} s |", published.as_secs_f64(), all.as_secs_f64());
    clients.shutdown().await;
    Ok(events as f64 / all.as_secs_f64())
}

/// At a steady rate: accepted to received.
async fn latency(recado: &Arc<Recado>, rate: f64, events: usize) -> anyhow::Result<Vec<Duration>> {
    const AT_ONCE: usize = 25;
    let times = Arc::new(Times::new(events));
    let mut clients = online(recado, "l", &times).await?;
    let mut tick = tokio::time::interval(Duration::from_secs_f64(AT_ONCE as f64 / rate));
    let mut publishes = JoinSet::new();
    for from in (0..events).step_by(AT_ONCE) {
        tick.tick().await;
        let (recado, times) = (recado.clone(), times.clone());
        publishes.spawn(async move {
            recado.publish_batch(&batch("l", from, AT_ONCE)).await?;
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

fn resident_mib(recado: &Recado) -> anyhow::Result<f64> {
    let pid = recado.pid().context("it ended")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

#[tokio::main]
async fn main() -> Tested {
    let events: usize = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let folder = Folder::new()?;
    let recado = Arc::new(folder.up(&[]).await?);
    let idle = resident_mib(&recado)?;
    println!("| {events} events to {USERS} users online | |\n| --- | --- |");
    let mut rates = Vec::new();
    let rate = throughput(&recado, events).await?;
    rates.push(rate);
    let after_one = resident_mib(&recado)?;
    println!("| **events a second, published to received** | **{rate:.0}** |");
    let half = rate / 2.0;
    let some = (events / 4).next_multiple_of(25);
    let sorted = latency(&recado, half, some).await?;
    println!("| at half that rate ({half:.0}/s), accepted to received: p50 | {:.1} ms |", at(&sorted, 0.50));
    println!("| p99 | {:.1} ms |\n| longest | {:.1} ms |", at(&sorted, 0.99), at(&sorted, 1.0));
    let after_two = resident_mib(&recado)?;
    println!("| memory of the server: idle, after {events}, after {} | {idle:.0}, {after_one:.0}, {after_two:.0} MiB |", events + some);
    Ok(())
}
