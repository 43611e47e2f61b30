//! A client of the protocol that keeps its state over many connections, as docs/protocol.md says: it shows each item once,
//! and goes on from its cursor.
//!
//! Must not know: what is published.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use recado_domain::limits::FRAME_IDS;
use recado_domain::ports::Entropy;
use recado_memory::SeededEntropy;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::{Client, Endpoints, Tested};

/// After this a `sync` without an answer is repeated; sooner than the protocol's 10 s, since a test is in a hurry.
const REPEAT_SYNC: Duration = Duration::from_secs(4);
/// How long one wait for a frame is, between looks at the time.
const LOOK: Duration = Duration::from_millis(100);
/// Of a device that comes and goes: how long it stays, and how long it is away, at the most.
const STAY: Duration = Duration::from_millis(4_000);
const AWAY: Duration = Duration::from_millis(1_500);

/// How a device behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It stays connected, and asks for nothing after its first `sync` was answered: what comes is pushed.
    Stays,
    /// It comes and goes, often without a word.
    ComesAndGoes,
}

/// What a device keeps: what it showed, and where it stands.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// The ids of what was shown, with the id of its event.
    pub shown: BTreeMap<String, String>,
    /// Items that came again, and were not shown.
    pub repeated: u64,
    /// How often it connected.
    pub connections: u64,
    /// Answers that said `gap`.
    pub gaps: u64,
    cursor: Option<String>,
    to_acknowledge: Vec<String>,
}

/// A device at work. It ends when it is dropped.
pub struct Device {
    /// Whose.
    pub user: String,
    kept: Arc<Mutex<Kept>>,
    leave: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Device {
    /// Has a user's device begin.
    pub fn start(endpoints: &Endpoints, user: &str, presence: Presence, seed: u64) -> Self {
        let (leave, left) = watch::channel(false);
        let kept = Arc::new(Mutex::new(Kept::default()));
        let entropy = SeededEntropy::new(seed);
        let life = Life { endpoints: endpoints.clone(), user: user.to_owned(), presence, entropy, kept: kept.clone(), left };
        Self { user: user.to_owned(), kept, leave, task: tokio::spawn(life.live()) }
    }

    /// What it keeps by now.
    pub fn kept(&self) -> Kept {
        locked(&self.kept).clone()
    }

    /// Has it leave, connect once more, and ask for what it missed.
    ///
    /// # Errors
    /// When it is not answered.
    pub async fn catch_up(mut self, endpoints: &Endpoints) -> anyhow::Result<Kept> {
        self.leave.send(true).ok();
        (&mut self.task).await.context("the device failed")?;
        let mut client = endpoints.connect(&self.user).await?;
        let (since, ack) = {
            let mut kept = locked(&self.kept);
            (kept.cursor.clone(), std::mem::take(&mut kept.to_acknowledge))
        };
        let answer = client.sync(since.as_deref(), &ack).await?;
        let mut kept = self.kept();
        kept.show(&answer.items);
        kept.gaps += u64::from(answer.verdict != "complete");
        Ok(kept)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kept {
    fn show(&mut self, items: &[Value]) {
        for item in items {
            let (Some(id), Some(event)) = (item["id"].as_str(), item["event_id"].as_str()) else { continue };
            if self.shown.insert(id.to_owned(), event.to_owned()).is_some() {
                self.repeated += 1;
            }
            self.to_acknowledge.push(id.to_owned());
        }
    }
}

struct Life {
    endpoints: Endpoints,
    user: String,
    presence: Presence,
    entropy: SeededEntropy,
    kept: Arc<Mutex<Kept>>,
    left: watch::Receiver<bool>,
}

/// A `sync` under way.
struct Asked {
    request: String,
    at: Instant,
    /// How many ids it acknowledged: the first of those that wait for it.
    acknowledged: usize,
}

impl Life {
    async fn live(self) {
        while !*self.left.borrow() {
            // A connection that is refused, or ends, is tried again.
            if let Ok(Ok(client)) = self.connect().await {
                self.session(client).await.ok();
            }
            sleep(AWAY.mul_f64(self.entropy.fraction())).await;
        }
    }

    async fn connect(&self) -> anyhow::Result<Result<Client, u16>> {
        let client = self.endpoints.try_connect(&self.endpoints.token(&self.user)?, true).await?;
        locked(&self.kept).connections += u64::from(client.is_ok());
        Ok(client)
    }

    /// One connection, until it ends or the device leaves.
    async fn session(&self, mut client: Client) -> Tested {
        let until = match self.presence {
            Presence::Stays => None,
            Presence::ComesAndGoes => Some(Instant::now() + STAY.mul_f64(self.entropy.fraction())),
        };
        let mut asked = Some(self.ask(&mut client).await?);
        while !*self.left.borrow() && until.is_none_or(|until| Instant::now() < until) {
            if asked.as_ref().is_some_and(|asked| asked.at.elapsed() > REPEAT_SYNC) {
                asked = Some(self.ask(&mut client).await?);
            }
            let Some(frame) = client.frame(LOOK).await? else { continue };
            match self.take(&frame, asked.as_ref()) {
                Taken::Anything => {}
                Taken::Answer => asked = None,
                Taken::TryAgain => asked = Some(self.ask(&mut client).await?),
            }
        }
        // Half of them go without a word: the connection just breaks.
        if self.entropy.fraction() < 0.5 {
            client.leave().await?;
        }
        Ok(())
    }

    async fn ask(&self, client: &mut Client) -> anyhow::Result<Asked> {
        let request = self.entropy.next_u64().to_string();
        let (frame, acknowledged) = {
            let kept = locked(&self.kept);
            // As many as one frame takes.
            let ack: Vec<&String> = kept.to_acknowledge.iter().take(FRAME_IDS).collect();
            (json!({ "type": "sync", "request": request, "since": kept.cursor, "ack": ack }), ack.len())
        };
        client.send(&frame).await?;
        Ok(Asked { request, at: Instant::now(), acknowledged })
    }

    fn take(&self, frame: &Value, asked: Option<&Asked>) -> Taken {
        let mut kept = locked(&self.kept);
        let answered = asked.filter(|asked| frame["request"] == asked.request.as_str());
        if frame["code"] == "try_again" && answered.is_some() {
            return Taken::TryAgain;
        }
        if frame["type"] != "notifications" {
            return Taken::Anything;
        }
        kept.show(frame["items"].as_array().map_or(&[], Vec::as_slice));
        let Some(asked) = answered.filter(|_| frame["more"] == false) else { return Taken::Anything };
        kept.cursor = frame["cursor"].as_str().map(str::to_owned);
        kept.gaps += u64::from(frame["verdict"] != "complete");
        kept.to_acknowledge.drain(..asked.acknowledged);
        Taken::Answer
    }
}

/// What a frame was to a device.
enum Taken {
    Anything,
    /// The end of what it asked for.
    Answer,
    TryAgain,
}

fn locked(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
