//! Load on a real `recado up` over loopback, client and server on the same machine. `cargo xtask bench` builds it in
//! release and runs it, a scenario at a time; it prints Markdown, and fails where something is lost or memory grows.
//!
//! The figures depend on the machine; the ratios between them are what to compare.

#![expect(clippy::print_stdout, reason = "a report is what this program is for")]

use std::time::Duration;

use anyhow::{bail, ensure};
use recado_tests::harness::{Folder, Recado, Tested};
use recado_tests::load::{Crowd, SoakPlan, at, batch, beside_stuck_clients, latency, resident_mib, soak, throughput};

/// Online users.
const USERS: usize = 100;
/// The steady rate, in events a second: half of the 5,000 that Recado is meant to do on two cores.
const STEADY: f64 = 2_500.0;
/// How long each leg of the steady run is: between them the memory is read.
const LEG_SECONDS: f64 = 15.0;
/// Names the legs apart, so that no event is published twice.
const LEGS: [&str; 6] = ["leg1", "leg2", "leg3", "leg4", "leg5", "leg6"];

/// Sockets of the crowds.
const CROWD: usize = 10_000;
/// How long a crowd may take to come.
const CROWD_WITHIN: Duration = Duration::from_secs(180);

/// Clients that do not read, and the rate and seconds beside them.
const STUCK: usize = 5;
const BESIDE: (f64, f64) = (1_000.0, 20.0);

/// An hour at 100 events a second and a connection a second.
const HOUR: SoakPlan = SoakPlan { users: USERS, events: 360_000, connections: 3_600, sample_every: Duration::from_secs(1) };
/// What the second half of it may add, in MiB: less than the page caches of the database may still take in.
const HOUR_MAY_ADD: f64 = 6.0;

#[tokio::main]
async fn main() -> Tested {
    let mut args = std::env::args().skip(1);
    let scenario = args.next();
    let count = args.next().map(|text| text.parse()).transpose()?;
    match scenario.as_deref() {
        Some("pipeline") => pipeline(count.unwrap_or(100_000)).await,
        Some("sockets") => sockets(count.unwrap_or(CROWD)).await,
        Some("storm") => storm(count.unwrap_or(CROWD)).await,
        Some("stuck") => stuck(count.unwrap_or(STUCK)).await,
        Some("soak") => hour(count.unwrap_or(HOUR.events)).await,
        _ => bail!("name a scenario: pipeline, sockets, storm, stuck, soak"),
    }
}

/// How many events a second, how late at a steady rate, and how much memory.
async fn pipeline(events: usize) -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let mut memory = vec![resident_mib(&recado)?];
    println!("| {events} events to {USERS} users online | |\n| --- | --- |");
    let (published, received) = throughput(&recado, "t", USERS, events).await?;
    println!("| published by | {:.1} s |\n| received by | {:.1} s |", published.as_secs_f64(), received.as_secs_f64());
    let rate = events as f64 / received.as_secs_f64();
    println!("| **events a second, published to received** | **{rate:.0}** |");
    memory.push(resident_mib(&recado)?);
    row("at half that rate", latency(&recado, "half", USERS, (rate / 2.0, 4.0), Vec::new).await?);
    memory.push(resident_mib(&recado)?);
    let mut steady = Vec::new();
    for run in LEGS {
        steady.extend(latency(&recado, run, USERS, (STEADY, LEG_SECONDS), Vec::new).await?);
        memory.push(resident_mib(&recado)?);
    }
    row(&format!("at {STEADY:.0} events a second, for {:.0} s", LEG_SECONDS * LEGS.len() as f64), steady);
    println!("| memory of the server: idle, after each run above, and after each {LEG_SECONDS:.0} s of the last | {} MiB |", mib(&memory));
    Ok(())
}

fn mib(samples: &[f64]) -> String {
    let rounded: Vec<String> = samples.iter().map(|mib| format!("{mib:.0}")).collect();
    rounded.join(", ")
}

fn row(what: &str, mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let (p50, p99, longest) = (at(&latencies, 0.50), at(&latencies, 0.99), at(&latencies, 1.0));
    println!("| accepted to received {what}: p50, p99, longest | {p50:.1}, **{p99:.1}**, {longest:.1} ms |");
}

/// Publishes one event for each member of a crowd.
async fn one_each(recado: &Recado, run: &str, count: usize) -> Tested {
    for from in (0..count).step_by(200) {
        recado.publish_batch(&batch(run, count, from, 200.min(count - from))).await?;
    }
    Ok(())
}

/// What an open socket costs.
async fn sockets(count: usize) -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&["--max-connections", &count.to_string()]).await?;
    let idle = resident_mib(&recado)?;
    let mut crowd = Crowd::of(count);
    crowd.send_to(Some(&recado));
    let came = crowd.until(count, 0, CROWD_WITHIN).await?;
    // What came with opening them, such as buffers of requests, is given back meanwhile.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let open = resident_mib(&recado)?;
    println!("| {count} idle sockets | |\n| --- | --- |");
    println!("| all connected at once and live after | {:.1} s |", came.as_secs_f64());
    println!("| memory of the server: before, with all of them | {idle:.0}, {open:.0} MiB |");
    println!("| **memory per socket** | **{:.1} KiB** |", (open - idle) * 1024.0 / count as f64);
    one_each(&recado, "once", count).await?;
    let got = crowd.until(count, count, CROWD_WITHIN).await?;
    println!("| then one event for each: all received after | {:.1} s |", got.as_secs_f64());
    println!("| memory after that | {:.0} MiB |", resident_mib(&recado)?);
    Ok(())
}

/// Everybody comes back at once, to a server that has just been killed, for what was published meanwhile.
async fn storm(count: usize) -> Tested {
    let folder = Folder::new()?;
    let most = count.to_string();
    let recado = folder.up(&["--max-connections", &most]).await?;
    let mut crowd = Crowd::of(count);
    crowd.send_to(Some(&recado));
    crowd.until(count, 0, CROWD_WITHIN).await?;
    one_each(&recado, "before", count).await?;
    crowd.until(count, count, CROWD_WITHIN).await?;
    let at_work = resident_mib(&recado)?;
    crowd.send_to(None);
    recado.kill().await?;
    let recado = folder.up(&["--max-connections", &most]).await?;
    one_each(&recado, "meanwhile", count).await?;
    crowd.send_to(Some(&recado));
    let back = crowd.until(count, 2 * count, CROWD_WITHIN).await?;
    println!("| {count} clients reconnect at once after a kill -9 | |\n| --- | --- |");
    println!("| **all are live again and have what they missed after** | **{:.1} s** |", back.as_secs_f64());
    println!("| attempts that failed meanwhile | {} |", crowd.refused());
    println!("| memory of the server: before the kill, after the storm | {at_work:.0}, {:.0} MiB |", resident_mib(&recado)?);
    Ok(())
}

/// What clients that do not read cost the others.
async fn stuck(count: usize) -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let stuck = beside_stuck_clients(&recado, USERS, count, BESIDE, 10.0).await?;
    let (rate, seconds) = BESIDE;
    println!("| {count} clients that never read, beside {USERS} that do, at {rate:.0} events a second | |\n| --- | --- |");
    row("with nobody stuck", stuck.alone);
    row(&format!("beside them, for {seconds:.0} s"), stuck.beside);
    println!("| events of 16 KiB for those that do not read | {} |", stuck.for_stuck);
    for (code, reason, after) in &stuck.closed {
        println!("| one was closed after | {:.1} s, with {code} `{reason}` |", after.as_secs_f64());
    }
    ensure!(stuck.closed.len() == count, "{} of {count} were closed", stuck.closed.len());
    Ok(())
}

/// Whether an hour's worth of work leaves anything in memory.
async fn hour(events: usize) -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let plan = SoakPlan { events, ..HOUR };
    let soak = soak(&recado, plan).await?;
    println!("| {events} events and {} connections beside {USERS} users online | |\n| --- | --- |", plan.connections);
    println!("| took | {:.0} s |", soak.took.as_secs_f64());
    let every = soak.samples.len().div_ceil(12).max(1);
    let some: Vec<f64> = soak.samples.iter().copied().step_by(every).collect();
    println!("| memory of the server, every {every} s | {} MiB |", mib(&some));
    let growth = soak.second_half;
    println!("| **growth over the second half**, noise | **{:.1} MiB**, ± {:.1} MiB |", growth.over_all, growth.noise);
    ensure!(growth.over_all < HOUR_MAY_ADD, "memory grows: {growth:?}");
    Ok(())
}
