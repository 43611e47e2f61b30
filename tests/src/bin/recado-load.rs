//! Load on a real `recado up` over loopback, client and server on the same machine: how many events a second, how late
//! at a steady rate, and how much memory. `cargo xtask bench` builds it in release and runs it; it prints Markdown.
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
/// The steady rate, in events a second: half of the 5,000 that Recado is meant to do on two cores.
const STEADY: f64 = 2_500.0;
/// Legs of the steady run, and how long each is: between them the memory is read.
const LEGS: usize = 6;
const LEG_SECONDS: f64 = 15.0;

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
async fn latency(recado: &Arc<Recado>, run: &'static str, rate: f64, seconds: f64) -> anyhow::Result<Vec<Duration>> {
    const AT_ONCE: usize = 25;
    let events = ((rate * seconds) as usize).next_multiple_of(AT_ONCE);
    let times = Arc::new(Times::new(events));
    let mut clients = online(recado, run, &times).await?;
    let mut tick = tokio::time::interval(Duration::from_secs_f64(AT_ONCE as f64 / rate));
    let mut publishes = JoinSet::new();
    for from in (0..events).step_by(AT_ONCE) {
        tick.tick().await;
        let (recado, times) = (recado.clone(), times.clone());
        publishes.spawn(async move {
            recado.publish_batch(&batch(run, from, AT_ONCE)).await?;
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

/// Names the runs apart, so that no event is published twice.
const RUNS: [&str; LEGS] = ["leg1", "leg2", "leg3", "leg4", "leg5", "leg6"];

#[tokio::main]
async fn main() -> Tested {
    let events: usize = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let folder = Folder::new()?;
    let recado = Arc::new(folder.up(&[]).await?);
    let idle = resident_mib(&recado)?;
    println!("| {events} events to {USERS} users online | |\n| --- | --- |");
    let rate = throughput(&recado, events).await?;
    println!("| **events a second, published to received** | **{rate:.0}** |");
    let mut memory = vec![idle, resident_mib(&recado)?];
    row("at half that rate", latency(&recado, "half", rate / 2.0, 4.0).await?);
    memory.push(resident_mib(&recado)?);
    let mut steady = Vec::new();
    for run in RUNS {
        steady.extend(latency(&recado, run, STEADY, LEG_SECONDS).await?);
        memory.push(resident_mib(&recado)?);
    }
    row(&format!("at {STEADY:.0} events a second, for {:.0} s", LEG_SECONDS * LEGS as f64), steady);
    let memory: Vec<String> = memory.iter().map(|mib| format!("{mib:.0}")).collect();
    println!(
        "| memory of the server: idle, after each run above, and after each {LEG_SECONDS:.0} s of the last | {} MiB |",
        memory.join(", ")
    );
    Ok(())
}

fn row(what: &str, mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let (p50, p99, longest) = (at(&latencies, 0.50), at(&latencies, 0.99), at(&latencies, 1.0));
    println!("| accepted to received {what}: p50, p99, longest | {p50:.1}, **{p99:.1}**, {longest:.1} ms |");
}
