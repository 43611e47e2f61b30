//! A real `recado` process on a port and a folder of its own, and clients that speak to it over real sockets.
//!
//! Must not know: anything of the inside. Everything waits on a condition, [`DEADLINE`] at the most.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// The longest wait for a condition: many times what it takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A result whose error fails the test with its whole story.
pub type Tested = anyhow::Result<()>;

/// The binary under test, which the test runner built beside this one.
pub fn binary() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    // Tests run from target/<profile>/deps, the load from target/<profile>.
    let found = here.ancestors().skip(1).take(2).map(|folder| folder.join("recado")).find(|binary| binary.is_file());
    found.with_context(|| format!("no `recado` beside {}; run `cargo xtask test`, which builds it first", here.display()))
}

/// A folder for data, and how to run `recado` on it. Outlives the processes that are started and killed on it.
pub struct Folder {
    dir: TempDir,
}

impl Folder {
    /// A new, empty one.
    ///
    /// # Errors
    /// When the machine has no room.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { dir: tempfile::tempdir()? })
    }

    /// Where the data is.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A `recado` command on this folder, deaf to the settings of whoever runs the tests.
    ///
    /// # Errors
    /// When the binary is missing.
    pub fn command(&self, args: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(binary()?);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RECADO_")) {
            command.env_remove(name);
        }
        command.env("RECADO_DATA_DIR", self.data()).args(args).kill_on_drop(true).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn run(&self, args: &[&str]) -> anyhow::Result<Ended> {
        let output = timeout(DEADLINE, self.command(args)?.output()).await.context("the command did not end")??;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) })
    }

    /// Starts a server, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn up(&self, more: &[&str]) -> anyhow::Result<Recado> {
        let mut args = vec!["up", "--json", "--listen", "127.0.0.1:0", "--log", "warn"];
        args.extend(more);
        let mut child = self.command(&args)?.stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("standard output is piped")?;
        let mut lines = BufReader::new(out).lines();
        let line = timeout(DEADLINE, lines.next_line()).await.context("the server was not ready in time")??;
        let ready = serde_json::from_str(&line.context("the server ended before it was ready; its log says why")?)?;
        Ok(Recado { child, ready, http: reqwest::Client::new(), _lines: lines })
    }
}

/// A command that ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it complained.
    pub err: String,
}

/// A running server. Dropped, it is killed.
pub struct Recado {
    child: Child,
    ready: Value,
    http: reqwest::Client,
    /// Kept open, so that the server never writes into a closed pipe.
    _lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

static EVENTS: AtomicU64 = AtomicU64::new(0);

/// An event with an id of its own for these users.
pub fn event(users: &[&str], title: &str) -> Value {
    let id = EVENTS.fetch_add(1, Ordering::Relaxed);
    let recipient = |user: &&str| match user.bytes().all(|b| b.is_ascii_alphanumeric()) {
        true => json!({ "id": user, "email": format!("{user}@example.com") }),
        false => json!({ "id": user }),
    };
    let recipients: Vec<Value> = users.iter().map(recipient).collect();
    json!({
        "specversion": "1.0", "id": format!("e{id}"), "source": "/tests", "type": "publication.permission_granted",
        "data": { "recipients": recipients, "title": title, "url": "/publications/42" }
    })
}

impl Recado {
    /// Its address, as `http://host:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.ready["listen"].as_str().unwrap_or_default())
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it printed when it was ready.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// An HTTP client.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// A token for a user, from the page's own source.
    ///
    /// # Errors
    /// When the server gives none.
    pub async fn token(&self, user: &str) -> anyhow::Result<String> {
        let answer = self.http.post(format!("{}/dev/token", self.url())).json(&json!({ "user": user })).send().await?;
        let answer: Value = answer.error_for_status()?.json().await?;
        Ok(answer["token"].as_str().context("no token")?.to_owned())
    }

    /// Publishes one event and gives the answer as it is.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post_event(&self, body: String) -> anyhow::Result<(StatusCode, Value)> {
        let request = self.http.post(format!("{}/events", self.url())).header("content-type", "application/cloudevents+json").body(body);
        let answer = request.send().await?;
        Ok((answer.status(), answer.json().await?))
    }

    /// Publishes events in one request, all of which must be accepted.
    ///
    /// # Errors
    /// When one is not.
    pub async fn publish_batch(&self, events: &[Value]) -> Tested {
        let request = self.http.post(format!("{}/events", self.url())).header("content-type", "application/cloudevents-batch+json");
        let answer = request.body(serde_json::to_vec(events)?).send().await?;
        ensure!(answer.status() == StatusCode::ACCEPTED, "{}: {}", answer.status(), answer.text().await?);
        Ok(())
    }

    /// Publishes one event that must be accepted; answers its notification id.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn publish(&self, event: &Value) -> anyhow::Result<String> {
        let (status, answer) = self.post_event(event.to_string()).await?;
        ensure!(status == StatusCode::ACCEPTED, "{status}: {answer}");
        let id = answer["results"][0]["notification_id"].as_str().or(answer["notification_id"].as_str());
        Ok(id.with_context(|| format!("no notification id in {answer}"))?.to_owned())
    }

    /// Asks the HTTP API as a user.
    ///
    /// # Errors
    /// When it does not answer 2xx with JSON.
    pub async fn get(&self, user: &str, path: &str) -> anyhow::Result<Value> {
        let request = self.http.get(format!("{}{path}", self.url())).bearer_auth(self.token(user).await?);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// Sends JSON to the HTTP API as a user.
    ///
    /// # Errors
    /// When it does not answer 2xx.
    pub async fn post(&self, user: &str, path: &str, body: &Value) -> Tested {
        let request = self.http.post(format!("{}{path}", self.url())).bearer_auth(self.token(user).await?).json(body);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// Everything in a user's inbox, newest first, page by page.
    ///
    /// # Errors
    /// When a page does not come.
    pub async fn inbox(&self, user: &str) -> anyhow::Result<Vec<Value>> {
        let (mut items, mut before) = (Vec::new(), String::new());
        loop {
            let page = self.get(user, &format!("/inbox?limit=100{before}")).await?;
            items.extend(page["items"].as_array().context("no items")?.iter().cloned());
            match page["next"].as_str() {
                Some(next) => before = format!("&before={next}"),
                None => return Ok(items),
            }
        }
    }

    /// Waits until a user's inbox holds so many.
    ///
    /// # Errors
    /// When it does not within the deadline.
    pub async fn inbox_of(&self, user: &str, count: usize) -> anyhow::Result<Vec<Value>> {
        eventually(&format!("{user} has {count} entries"), async || {
            let items = self.inbox(user).await?;
            Ok((items.len() >= count).then_some(items))
        })
        .await
    }

    /// Waits until so many mails were captured.
    ///
    /// # Errors
    /// When they are not within the deadline.
    pub async fn mails(&self, count: usize) -> anyhow::Result<Vec<Value>> {
        eventually(&format!("{count} mails"), async || {
            let answer: Value = self.http.get(format!("{}/mail.json", self.url())).send().await?.error_for_status()?.json().await?;
            let mails = answer["mails"].as_array().context("no mails")?.clone();
            Ok((mails.len() >= count).then_some(mails))
        })
        .await
    }

    /// Connects a client of the protocol, which has not said anything yet.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn connect(&self, user: &str) -> anyhow::Result<Client> {
        self.connect_with(&self.token(user).await?, true).await
    }

    /// Connects a client that only listens.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn connect_plain(&self, user: &str) -> anyhow::Result<Client> {
        self.connect_with(&self.token(user).await?, false).await
    }

    /// Connects a client and has it say that it is there: from then on it is pushed to.
    ///
    /// # Errors
    /// When it is refused, or not answered.
    pub async fn live(&self, user: &str) -> anyhow::Result<Client> {
        let mut client = self.connect(user).await?;
        client.sync(None, &[]).await?;
        Ok(client)
    }

    /// Connects with a token.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn connect_with(&self, token: &str, protocol: bool) -> anyhow::Result<Client> {
        let ws = self.ready["ws"].as_str().context("no socket URL")?;
        let mut request = format!("{ws}?token={token}").into_client_request()?;
        if protocol {
            request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("recado.v1"));
        }
        match timeout(DEADLINE, connect_async(request)).await.context("the socket did not open")? {
            Ok((socket, _)) => Ok(Client { socket, requests: 0, waiting: Vec::new() }),
            Err(tungstenite::Error::Http(answer)) => bail!("refused with {}", answer.status()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills it without a word (SIGKILL).
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(mut self) -> Tested {
        Ok(self.child.kill().await?)
    }

    /// Asks it to stop (SIGTERM).
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub async fn terminate(&self) -> Tested {
        let pid = self.child.id().context("it ended before")?.to_string();
        ensure!(Command::new("kill").args(["-TERM", &pid]).status().await?.success(), "kill failed");
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn ended(mut self) -> anyhow::Result<ExitStatus> {
        Ok(timeout(DEADLINE, self.child.wait()).await.context("the server did not end")??)
    }
}

/// Asks until there is an answer.
///
/// # Errors
/// When there is none within the deadline, or asking fails.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask().await? {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, asking).await.with_context(|| format!("not within {DEADLINE:?}: {what}"))?
}

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

/// The titles of items, in order.
pub fn titles(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(|item| item["title"].as_str()).collect()
}

/// The ids of items, in order.
pub fn ids(items: &[Value]) -> Vec<String> {
    items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned)).collect()
}

impl Client {
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
