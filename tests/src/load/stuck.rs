//! Clients that never read, and what they cost the others.
//!
//! Must not know: what is a good figure.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::steady::latency;
use crate::harness::{Client, Endpoints, Tested, eventually};

/// What stuck clients cost.
#[derive(Debug)]
pub struct Beside {
    /// Accepted to received of the others, ascending, with nobody stuck.
    pub alone: Vec<Duration>,
    /// The same beside the stuck ones.
    pub beside: Vec<Duration>,
    /// What each of the stuck was closed with once it read again, and when that was after it connected.
    pub closed: Vec<(u16, String, Duration)>,
    /// Events for the stuck clients.
    pub for_stuck: usize,
}

fn name(stuck: usize) -> String {
    format!("stuck{stuck}")
}

/// A large event for each of the stuck.
fn large(number: usize, stuck: usize) -> Vec<Value> {
    let event = |client: usize| {
        json!({
            "specversion": "1.0", "id": format!("large:{number}:{client}"), "source": "/load", "type": "report.finished",
            "data": { "recipients": [{ "id": name(client) }], "title": "A report", "payload": { "report": "x".repeat(16 * 1024) } }
        })
    };
    (0..stuck).map(event).collect()
}

/// Measures so many users at a steady rate, first alone, then with `stuck` clients beside them that get an event with
/// every request and read none. In the end the stuck read, learn why they were closed, and connect again.
///
/// # Errors
/// When somebody misses something.
pub async fn beside_stuck_clients(
    recado: &Endpoints,
    users: usize,
    stuck: usize,
    steady: (f64, f64),
    alone: f64,
) -> anyhow::Result<Beside> {
    let alone = latency(recado, "alone", users, (steady.0, alone), Vec::new).await?;
    let mut clients = Vec::new();
    for client in 0..stuck {
        let mut client = recado.connect_with_little_room(&name(client)).await?;
        client.sync(None, &[]).await?;
        clients.push((client, Instant::now()));
    }
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    let beside = latency(recado, "beside", users, steady, move || large(counted.fetch_add(1, Ordering::Relaxed), stuck));
    let (beside, closed) = tokio::join!(beside, read_once_closed(recado, clients));
    let (beside, closed) = (beside?, closed?);
    let per_client = requests.load(Ordering::Relaxed);
    for client in 0..stuck {
        nothing_is_missing(recado, &name(client), per_client).await?;
    }
    Ok(Beside { alone, beside, closed, for_stuck: per_client * stuck })
}

/// Leaves them alone until the server has closed them all, and has them read then: what they are closed with, and how
/// long after they connected.
async fn read_once_closed(recado: &Endpoints, clients: Vec<(Client, Instant)>) -> anyhow::Result<Vec<(u16, String, Duration)>> {
    let when = eventually("those that do not read are closed", async || {
        let metrics = recado.http.get(format!("{}/metrics", recado.url)).send().await?.text().await?;
        let closed = metrics.lines().find_map(|line| line.strip_prefix("recado_sockets_closed_total{reason=\"slow consumer\"} "));
        Ok(closed.is_some_and(|count| count.parse().is_ok_and(|count: usize| count >= clients.len())).then(Instant::now))
    })
    .await?;
    let read = clients.into_iter().map(|(mut client, connected)| async move {
        let (code, reason) = client.closed().await.context("the stuck client was not told why")?;
        anyhow::Ok((code, reason, when.saturating_duration_since(connected)))
    });
    futures_util::future::try_join_all(read).await
}

/// Connected again, it gets all it did not read.
async fn nothing_is_missing(recado: &Endpoints, user: &str, count: usize) -> Tested {
    recado.inbox_of(user, count).await?;
    let answer = recado.connect(user).await?.sync(None, &[]).await?;
    anyhow::ensure!(answer.items.len() >= count.min(100), "{user} was sent {} of {count}", answer.items.len());
    Ok(())
}
