//! A client that speaks to Recado over a real socket.
//!
//! Must not know: where the other end runs. Everything waits on a condition, [`DEADLINE`] at the most.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{DEADLINE, Tested};

/// How clients take what they are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habits {
    /// Nothing fails where they are: what does fails the test, and what comes twice does too.
    Trusting,
    /// As docs/protocol.md asks of a client: what is not answered is asked again, what was shown is not shown again.
    Persistent,
}

/// After this a persistent client repeats its `sync`. The protocol asks for it after 10 s; sooner is allowed, and a test is
/// in a hurry.
const REPEAT_SYNC: Duration = Duration::from_secs(4);

/// A client on a real socket.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    habits: Habits,
    requests: u64,
    /// Frames that came while another kind was waited for.
    waiting: Vec<Value>,
    /// The ids of items that came, of a client that is [`Habits::Persistent`].
    shown: HashSet<String>,
}

/// The whole answer to a `sync`.
#[derive(Debug)]
pub struct Answer {
    /// In order.
    pub items: Vec<Value>,
    /// Where to go on.
    pub cursor: String,
    /// `complete` or `gap`.
    pub verdict: String,
}

impl Client {
    /// Speaks over this socket.
    pub(super) fn new(socket: WebSocketStream<MaybeTlsStream<TcpStream>>, habits: Habits) -> Self {
        Self { socket, habits, requests: 0, waiting: Vec::new(), shown: HashSet::new() }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send(&mut self, frame: &Value) -> Tested {
        self.send_text(frame.to_string()).await
    }

    /// Sends any text.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send_text(&mut self, text: String) -> Tested {
        Ok(self.socket.send(Message::text(text)).await?)
    }

    /// Sends a `sync` and reads its whole answer. Live frames meanwhile wait.
    ///
    /// # Errors
    /// When the answer does not come.
    pub async fn sync(&mut self, since: Option<&str>, ack: &[String]) -> anyhow::Result<Answer> {
        if self.habits == Habits::Trusting {
            return self.ask(since, ack).await?.context("the server asks to try again");
        }
        let answered = async {
            loop {
                if let Ok(Some(answer)) = timeout(REPEAT_SYNC, self.ask(since, ack)).await.unwrap_or(Ok(None)) {
                    return answer;
                }
            }
        };
        timeout(DEADLINE, answered).await.context("no sync was answered")
    }

    /// Sends a `sync` once; none where the answer is to try again.
    async fn ask(&mut self, since: Option<&str>, ack: &[String]) -> anyhow::Result<Option<Answer>> {
        self.requests += 1;
        let request = self.requests.to_string();
        self.send(&json!({ "type": "sync", "request": request, "since": since, "ack": ack })).await?;
        let mut items = Vec::new();
        loop {
            let frame = self.next_where(|frame| frame["request"] == request.as_str()).await?;
            if frame["code"] == "try_again" {
                return Ok(None);
            }
            ensure!(frame["type"] == "notifications", "not an answer: {frame}");
            items.extend(frame["items"].as_array().context("no items")?.iter().cloned());
            if frame["more"] == false {
                let text = |name: &str| frame[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {frame}"));
                return Ok(Some(Answer { items, cursor: text("cursor")?, verdict: text("verdict")? }));
            }
        }
    }

    /// The next frame of a kind; others wait.
    ///
    /// # Errors
    /// When none comes.
    pub async fn next(&mut self, kind: &str) -> anyhow::Result<Value> {
        self.next_where(|frame| frame["type"] == kind).await.with_context(|| format!("waiting for a `{kind}` frame"))
    }

    /// The items of live frames until there are so many.
    ///
    /// # Errors
    /// When fewer come.
    pub async fn live_items(&mut self, count: usize) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        while items.len() < count {
            let frame = self.next_where(|frame| frame["type"] == "notifications" && frame.get("more").is_none()).await;
            let frame = frame.with_context(|| format!("waiting for {count} items, got {}", items.len()))?;
            items.extend(frame["items"].as_array().context("no items")?.iter().cloned());
        }
        Ok(items)
    }

    /// The items of the next live frame, however long it takes; pings are answered meanwhile.
    ///
    /// # Errors
    /// When the socket ends.
    pub async fn items_or_end(&mut self) -> anyhow::Result<Vec<Value>> {
        loop {
            let live = |frame: &Value| frame["type"] == "notifications" && frame.get("more").is_none();
            if let Some(at) = self.waiting.iter().position(live) {
                return Ok(self.waiting.remove(at)["items"].as_array().cloned().unwrap_or_default());
            }
            match self.socket.next().await.context("the socket ended")?? {
                Message::Text(text) => self.waiting.push(serde_json::from_str(&text)?),
                Message::Close(close) => bail!("the server closed: {close:?}"),
                _ => {}
            }
        }
    }

    async fn next_where(&mut self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        if let Some(at) = self.waiting.iter().position(&wanted) {
            return Ok(self.waiting.remove(at));
        }
        // One for the whole wait: pings must not push it on.
        let until = Instant::now() + DEADLINE;
        loop {
            match timeout_at(until, self.socket.next()).await.context("no frame came")? {
                Some(Ok(Message::Text(text))) => {
                    let Some(frame) = self.fresh(serde_json::from_str(&text)?) else { continue };
                    if wanted(&frame) {
                        return Ok(frame);
                    }
                    self.waiting.push(frame);
                }
                Some(Ok(Message::Close(close))) => bail!("the server closed: {close:?}"),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the socket ended"),
            }
        }
    }

    /// A frame without what a persistent client has shown; none where nothing of a live one is left.
    fn fresh(&mut self, mut frame: Value) -> Option<Value> {
        if self.habits == Habits::Trusting || frame["type"] != "notifications" {
            return Some(frame);
        }
        let live = frame.get("more").is_none();
        let items = frame["items"].as_array_mut()?;
        items.retain(|item| item["id"].as_str().is_some_and(|id| self.shown.insert(id.to_owned())) || !live);
        (!live || !items.is_empty()).then_some(frame)
    }

    /// The next frame as it is, whatever it says; none where none comes within this time.
    ///
    /// # Errors
    /// When the socket ends.
    pub async fn frame(&mut self, within: Duration) -> anyhow::Result<Option<Value>> {
        let Ok(message) = timeout(within, self.socket.next()).await else { return Ok(None) };
        match message.context("the socket ended")?? {
            Message::Text(text) => Ok(Some(serde_json::from_str(&text)?)),
            Message::Close(close) => bail!("the server closed: {close:?}"),
            _ => Ok(None),
        }
    }

    /// Waits for the server's close, and answers its code and reason.
    ///
    /// # Errors
    /// When the socket ends without one.
    pub async fn closed(&mut self) -> anyhow::Result<(u16, String)> {
        loop {
            match timeout(DEADLINE, self.socket.next()).await.context("it was not closed")? {
                Some(Ok(Message::Close(Some(close)))) => return Ok((close.code.into(), close.reason.to_string())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the socket ended without a close frame"),
            }
        }
    }

    /// Leaves, and waits until the server knows.
    ///
    /// # Errors
    /// When the socket is broken.
    pub async fn leave(mut self) -> Tested {
        self.socket.close(None).await?;
        while let Some(message) = timeout(DEADLINE, self.socket.next()).await.context("the close was not answered")? {
            if message.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Everything that waits or comes before the answer to a `sync`: after this, nothing is under way to this client
    /// that the server had posted before the sync arrived.
    ///
    /// # Errors
    /// When the sync is not answered.
    pub async fn drained(&mut self) -> anyhow::Result<Vec<Value>> {
        self.sync(None, &[]).await?;
        Ok(std::mem::take(&mut self.waiting))
    }
}
