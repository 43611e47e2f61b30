//! A real `recado up` that is killed again and again while events are published and clients come and go; at the end
//! everything accepted was shown to everybody it concerns, and nothing twice (P1, P2).
//!
//! `cargo xtask torture` runs it whole; tests/suites/torture.rs runs it short. Must not know: how the server stores anything but its log.

mod client;
pub mod disk;
mod killer;
pub mod log;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use recado_domain::ports::Entropy;
use recado_memory::SeededEntropy;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::client::Diary;
use self::killer::Killer;
use crate::harness::{Endpoints, Folder, Recado, Tested, ids};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Events to publish.
    pub events: usize,
    /// Kills, at the least: one that comes while the server starts or stops is one more.
    pub kills: usize,
    /// People, each with one client.
    pub users: usize,
    /// Requests under way.
    pub publishers: usize,
    /// Events of a request.
    pub batch: usize,
    /// Chooses faults and moments; what the system's scheduler does it does not choose.
    pub seed: u64,
    /// How long a start may take, from the command to being ready.
    pub start_within: Duration,
    /// How long it may take until everybody has everything, once all is published.
    pub settle_within: Duration,
}

/// What came of it. A run that lost or repeated anything has none.
#[derive(Debug)]
pub struct Report {
    /// Kills by what else was done to the server or its log.
    pub faults: Vec<(&'static str, usize)>,
    /// Times from the command to being ready, after a kill; ascending.
    pub starts: Vec<Duration>,
    /// Publishing alone.
    pub published: Duration,
    /// Until everybody had everything.
    pub took: Duration,
    /// Notifications to be shown: one for each recipient of each event.
    pub expected: usize,
    /// Connections that clients opened.
    pub visits: usize,
    /// Items that came to a client that had shown them before.
    pub again: usize,
    /// Requests that were repeated because the server died before it answered.
    pub repeated: usize,
    /// The database at the end, in bytes.
    pub database: u64,
}

/// What every part of a run shares.
struct Run {
    plan: Plan,
    /// Where the server is; none while there is none.
    server: watch::Sender<Option<Arc<Endpoints>>>,
    next: AtomicUsize,
    accepted: AtomicUsize,
    repeated: AtomicUsize,
    settled: AtomicBool,
    entropy: SeededEntropy,
}

impl Run {
    async fn server(&self) -> anyhow::Result<Arc<Endpoints>> {
        let mut server = self.server.subscribe();
        let there = server.wait_for(Option::is_some).await.context("the run ended")?;
        there.clone().context("a server")
    }

    fn random(&self, below: u64) -> u64 {
        self.entropy.next_u64() % below.max(1)
    }

    fn millis(&self, below: u64) -> Duration {
        Duration::from_millis(self.random(below))
    }

    fn all_accepted(&self) -> bool {
        self.accepted.load(Ordering::Acquire) >= self.plan.events
    }
}

fn name(user: usize) -> String {
    format!("u{user}")
}

/// Everybody gets one event in turn, and each tenth event concerns three.
fn recipients(plan: &Plan, event: usize) -> BTreeSet<usize> {
    let others = if event.is_multiple_of(10) { vec![event / 10, event / 7 + 1] } else { Vec::new() };
    std::iter::once(event).chain(others).map(|user| user % plan.users).collect()
}

fn event(plan: &Plan, number: usize) -> Value {
    let recipients: Vec<_> = recipients(plan, number).into_iter().map(|user| json!({ "id": name(user) })).collect();
    json!({
        "specversion": "1.0", "id": number.to_string(), "source": "/torture", "type": "publication.permission_granted",
        "data": { "recipients": recipients, "title": format!("Event {number}"), "body": "Bia gave you access to a plan", "url": "/publications/42" }
    })
}

/// The number of an event, from an item.
fn number(item: &Value) -> anyhow::Result<usize> {
    item["event_id"].as_str().and_then(|id| id.parse().ok()).with_context(|| format!("not an item of this run: {item}"))
}

/// Publishes what is next until nothing is; repeats what was not answered, as whoever publishes must.
async fn publish(run: Arc<Run>) -> Tested {
    loop {
        let from = run.next.fetch_add(run.plan.batch, Ordering::Relaxed);
        if from >= run.plan.events {
            return Ok(());
        }
        let numbers = from..(from + run.plan.batch).min(run.plan.events);
        let events: Vec<_> = numbers.map(|number| event(&run.plan, number)).collect();
        loop {
            let server = run.server().await?;
            match server.post_batch(&events).await {
                Ok((StatusCode::ACCEPTED, _)) => break,
                Ok((status, answer)) => {
                    ensure!(status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::MULTI_STATUS, "{status}: {answer}")
                }
                Err(_) => {}
            }
            run.repeated.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        run.accepted.fetch_add(events.len(), Ordering::Release);
    }
}

/// Runs a plan.
///
/// # Errors
/// When something accepted was not shown, or twice, or a start took too long or failed.
pub async fn run(plan: Plan) -> anyhow::Result<Report> {
    let folder = Folder::new()?;
    let run = Arc::new(Run {
        plan,
        server: watch::Sender::new(None),
        next: AtomicUsize::new(0),
        accepted: AtomicUsize::new(0),
        repeated: AtomicUsize::new(0),
        settled: AtomicBool::new(false),
        entropy: SeededEntropy::new(plan.seed),
    });
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for user in 0..plan.users {
        clients.spawn(client::come_and_go(run.clone(), user));
    }
    let mut publishers = JoinSet::new();
    for _ in 0..plan.publishers {
        publishers.spawn(publish(run.clone()));
    }
    let mut killer = Killer::start(&folder, run.clone()).await?;
    killer.go_on().await?;
    while let Some(published) = publishers.join_next().await {
        published??;
    }
    let published = started.elapsed();
    let recado = killer.recado;
    run.settled.store(true, Ordering::Release);
    let diaries = everybody_has_everything(&mut clients, &plan).await?;
    let took = started.elapsed();
    let expected = (0..plan.events).map(|event| recipients(&plan, event).len()).sum();
    inboxes_hold_each_once(&recado, &plan).await?;
    nothing_was_given_up_and_the_folder_is_whole(&folder, recado).await?;
    killer.starts.sort_unstable();
    Ok(Report {
        faults: killer.faults,
        starts: killer.starts,
        published,
        took,
        expected,
        visits: diaries.iter().map(|diary| diary.visits).sum(),
        again: diaries.iter().map(|diary| diary.again).sum(),
        repeated: run.repeated.load(Ordering::Relaxed),
        database: std::fs::metadata(folder.data().join("recado.db"))?.len(),
    })
}

/// Clients end by themselves once they have shown all there is for them.
async fn everybody_has_everything(clients: &mut JoinSet<anyhow::Result<Diary>>, plan: &Plan) -> anyhow::Result<Vec<Diary>> {
    let all = async {
        let mut diaries = Vec::new();
        while let Some(diary) = clients.join_next().await {
            diaries.push(diary??);
        }
        anyhow::Ok(diaries)
    };
    let within = plan.settle_within;
    let all = tokio::time::timeout(within, all).await;
    all.with_context(|| format!("somebody still lacks something {within:?} after all was published: accepted events are lost"))?
}

/// Whatever clients remember: the inbox itself has every entry, and none twice.
async fn inboxes_hold_each_once(recado: &Recado, plan: &Plan) -> Tested {
    let mut expected = vec![BTreeSet::new(); plan.users];
    for event in 0..plan.events {
        for user in recipients(plan, event) {
            expected[user].insert(event);
        }
    }
    for (user, expected) in expected.into_iter().enumerate() {
        let items = recado.inbox(&name(user)).await?;
        let distinct: BTreeSet<_> = ids(&items).into_iter().collect();
        ensure!(
            distinct.len() == items.len(),
            "{} of {} entries of {} are there twice",
            items.len() - distinct.len(),
            items.len(),
            name(user)
        );
        let stored = items.iter().map(number).collect::<anyhow::Result<BTreeSet<_>>>()?;
        ensure!(stored == expected, "{} has {} of {} entries", name(user), stored.len(), expected.len());
    }
    Ok(())
}

async fn nothing_was_given_up_and_the_folder_is_whole(folder: &Folder, recado: Recado) -> Tested {
    let letters = folder.run(&["dead-letters", "list", "--json"]).await?;
    ensure!(letters.code == Some(0) && letters.out.trim().is_empty(), "dead letters: {letters:?}");
    recado.terminate().await?;
    let ended = recado.ended().await?;
    ensure!(ended.code() == Some(0), "it did not stop cleanly: {ended}");
    let check = folder.run(&["check"]).await?;
    ensure!(check.code == Some(0), "the folder is damaged: {check:?}");
    Ok(())
}
