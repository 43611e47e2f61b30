//! A client of the protocol that keeps its cursor and the ids it showed, and connects again whatever happens.
//!
//! Must not know: when and why its server dies.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{Run, name, number, recipients};
use crate::harness::{Client, Tested};

/// Ids that a client remembers (docs/protocol.md).
const REMEMBERED: usize = 1_000;
/// Ids of one frame.
const FRAME_IDS: usize = 1_000;

/// What a client keeps while it is away.
#[derive(Debug, Default)]
pub(super) struct Diary {
    cursor: Option<String>,
    /// By id, the latest last.
    remembered: Vec<String>,
    known: HashSet<String>,
    unacknowledged: Vec<String>,
    /// Events shown, for the run to judge; a client of the real world has no such list.
    shown: BTreeSet<usize>,
    pub(super) visits: usize,
    pub(super) again: usize,
}

impl Diary {
    /// Shows what is new. Fails where that shows an event for a second time.
    fn show(&mut self, items: &[Value]) -> Tested {
        for item in items {
            let id = item["id"].as_str().context("an item without an id")?.to_owned();
            if !self.known.insert(id.clone()) {
                self.again += 1;
                continue;
            }
            self.unacknowledged.push(id.clone());
            self.remembered.push(id);
            if self.remembered.len() > REMEMBERED {
                self.known.remove(&self.remembered.remove(0));
            }
            ensure!(self.shown.insert(number(item)?), "shown twice: {item}");
        }
        Ok(())
    }
}

/// Why a visit ended.
enum Left {
    /// The server was lost, or does not answer.
    Lost,
    /// It was time.
    Enough(Box<Client>),
    /// There is nothing more to come.
    Done,
}

/// Connects, stays for a while, leaves one way or another, until all of its events were shown. A server that is gone is
/// no failure; what it answers wrongly is.
pub(super) async fn come_and_go(run: Arc<Run>, user: usize) -> anyhow::Result<Diary> {
    let all: BTreeSet<usize> = (0..run.plan.events).filter(|event| recipients(&run.plan, *event).contains(&user)).collect();
    let mut diary = Diary::default();
    loop {
        match visit(&run, user, &all, &mut diary).await? {
            Left::Done => return Ok(diary),
            // Half of them say goodbye, the others are just gone.
            Left::Enough(client) if run.random(2) == 0 => drop(client.leave().await),
            Left::Enough(client) => drop(client),
            Left::Lost => {}
        }
        tokio::time::sleep(run.millis(500)).await;
    }
}

async fn visit(run: &Run, user: usize, all: &BTreeSet<usize>, diary: &mut Diary) -> anyhow::Result<Left> {
    let server = run.server().await?;
    let Ok(mut client) = server.connect(&name(user)).await else { return Ok(Left::Lost) };
    diary.visits += 1;
    let ack: Vec<String> = diary.unacknowledged.iter().take(FRAME_IDS).cloned().collect();
    let Ok(answer) = client.sync(diary.cursor.as_deref(), &ack).await else { return Ok(Left::Lost) };
    ensure!(answer.verdict == "complete", "the cursor of {} is answered with {}", name(user), answer.verdict);
    diary.show(&answer.items)?;
    diary.cursor = Some(answer.cursor);
    diary.unacknowledged.drain(..ack.len());
    let until = Instant::now() + Duration::from_millis(500) + run.millis(6_000);
    loop {
        if diary.shown.len() == all.len() && run.settled.load(Ordering::Acquire) {
            ensure!(diary.shown == *all, "{} was shown what is not for them", name(user));
            return Ok(Left::Done);
        }
        match timeout_at(until, client.live_items(1)).await {
            Ok(Ok(items)) => diary.show(&items)?,
            Ok(Err(_)) => return Ok(Left::Lost),
            Err(_) => return Ok(Left::Enough(Box::new(client))),
        }
    }
}
