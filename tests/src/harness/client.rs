//! A client that speaks to Recado over a real socket.
//!
//! Must not know: where the other end runs. Everything waits on a condition, [`DEADLINE`] at the most.

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{DEADLINE, Tested};

/// A client on a real socket.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    requests: u64,
    /// Frames that came while another kind was waited for.
    waiting: Vec<Value>,
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
    pub(super) fn new(socket: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Self {
        Self { socket, requests: 0, waiting: Vec::new() }
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
        self.requests += 1;
        let request = self.requests.to_string();
        self.send(&json!({ "type": "sync", "request": request, "since": since, "ack": ack })).await?;
        let mut items = Vec::new();
        loop {
            let frame = self.next_where(|frame| frame["request"] == request.as_str()).await?;
            ensure!(frame["type"] == "notifications", "not an answer: {frame}");
            items.extend(frame["items"].as_array().context("no items")?.iter().cloned());
            if frame["more"] == false {
                let text = |name: &str| frame[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {frame}"));
                return Ok(Answer { items, cursor: text("cursor")?, verdict: text("verdict")? });
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

    async fn next_where(&mut self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        if let Some(at) = self.waiting.iter().position(&wanted) {
            return Ok(self.waiting.remove(at));
        }
        loop {
            match timeout(DEADLINE, self.socket.next()).await.context("no frame came")? {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text)?;
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
