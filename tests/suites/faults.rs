//! What happens when the process stops or dies in the middle of work: nothing accepted is lost (P1), nothing twice (P2).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;
use recado_tests::harness::{Folder, Recado, Tested, event, eventually, ids};
use reqwest::StatusCode;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// Publishes from several tasks until told to stop or the server goes; remembers what was accepted.
struct Load {
    accepted: Arc<Mutex<BTreeSet<String>>>,
    count: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Load {
    fn start(recado: &Recado, users: &'static [&'static str]) -> Self {
        let mut load = Self { accepted: Arc::default(), count: Arc::default(), stop: Arc::default(), tasks: JoinSet::new() };
        for user in users {
            let (accepted, count, stop) = (load.accepted.clone(), load.count.clone(), load.stop.clone());
            let (http, url) = (recado.http.clone(), format!("{}/events", recado.url));
            load.tasks.spawn(async move {
                while !stop.load(Ordering::Acquire) {
                    let body = event(&[user], "under load").to_string();
                    let request = http.post(&url).header("content-type", "application/cloudevents+json").body(body);
                    let Ok(answer) = request.send().await else { return };
                    let status = answer.status();
                    let Ok(answer) = answer.json::<serde_json::Value>().await else { return };
                    let id = answer["results"][0]["notification_id"].as_str().or(answer["notification_id"].as_str());
                    if let (StatusCode::ACCEPTED, Some(id)) = (status, id) {
                        accepted.lock().await.insert(id.to_owned());
                        count.fetch_add(1, Ordering::Release);
                    }
                }
            });
        }
        load
    }

    async fn reaches(&self, count: usize) -> Tested {
        eventually(&format!("{count} events are accepted"), async || Ok((self.count.load(Ordering::Acquire) >= count).then_some(()))).await
    }

    async fn end(mut self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Release);
        while self.tasks.join_next().await.is_some() {}
        std::mem::take(&mut *self.accepted.lock().await)
    }
}

const USERS: &[&str] = &["alice", "bob", "carla", "dora"];

/// Every accepted notification is in some inbox, each inbox holds nothing twice.
async fn all_arrive(recado: &Recado, accepted: &BTreeSet<String>) -> Tested {
    eventually("everything accepted is in an inbox", async || {
        let mut stored = BTreeSet::new();
        for user in USERS {
            let inbox = ids(&recado.inbox(user).await?);
            let distinct: BTreeSet<_> = inbox.iter().cloned().collect();
            assert_eq!(distinct.len(), inbox.len(), "{user} has an entry twice");
            stored.extend(distinct);
        }
        Ok(accepted.is_subset(&stored).then_some(()))
    })
    .await
    .with_context(|| format!("of {} accepted", accepted.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_during_publish_and_dispatch_loses_nothing_accepted() -> Tested {
    let folder = Folder::new()?;
    let mut accepted = BTreeSet::new();
    for round in 1..=5 {
        let recado = folder.up(&[]).await?;
        let load = Load::start(&recado, USERS);
        load.reaches(40 * round).await?;
        recado.kill().await?;
        accepted.extend(load.end().await);
    }
    let recado = folder.up(&[]).await?;
    all_arrive(&recado, &accepted).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_loses_nothing_and_tells_clients_to_come_back() -> Tested {
    let folder = Folder::new()?;
    let recado = folder.up(&[]).await?;
    let mut alice = recado.live("alice").await?;
    let load = Load::start(&recado, USERS);
    load.reaches(100).await?;
    recado.terminate().await?;
    assert!(alice.next("goaway").await?["reconnect_after_ms"].is_u64());
    assert_eq!(alice.closed().await?.0, 1001);
    let accepted = load.end().await;
    assert_eq!(recado.ended().await?.code(), Some(0));
    let recado = folder.up(&[]).await?;
    all_arrive(&recado, &accepted).await
}
