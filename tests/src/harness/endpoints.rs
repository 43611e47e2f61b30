//! How applications and people reach a running Recado, wherever it runs: URLs, and what opens them.
//!
//! Must not know: what is behind them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use recado_domain::ids::{TenantId, UserId};
use recado_domain::ports::Clock;
use recado_runtime::auth::{DevelopmentKey, sign};
use recado_runtime::system::SystemClock;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, client_async, connect_async};

use super::{Client, DEADLINE, Habits, Tested, eventually};

/// Before what failed is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Signs tokens as the issuer that a deployment trusts.
#[derive(Debug, Clone)]
pub enum Issuer {
    /// The key of a folder in development.
    Development(DevelopmentKey),
    /// A secret that the deployment was told.
    Secret(String),
    /// Somebody this deployment was told of, whom the test has to ask itself.
    Elsewhere,
}

impl Issuer {
    /// A token that opens a user's inbox for so long.
    ///
    /// # Errors
    /// When this is no name of a user, or another issuer's.
    pub fn token(&self, user: &str, lasting: Duration) -> anyhow::Result<String> {
        let (user, now) = (UserId::new(user)?, SystemClock.now());
        match self {
            Self::Development(key) => Ok(key.mint(&user, &TenantId::default(), lasting, now)),
            Self::Secret(secret) => Ok(sign(secret.as_bytes(), &user, &TenantId::default(), lasting, now)?),
            Self::Elsewhere => bail!("this deployment trusts an issuer of the test's own: connect with its token"),
        }
    }
}

/// The URLs of a running Recado, and what opens them.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// For whatever has no method here.
    pub http: reqwest::Client,
    /// Of the HTTP API, without a slash at its end.
    pub url: String,
    /// Of the socket, without its query.
    pub ws: String,
    /// What may publish, where a key is asked for.
    pub publish_key: Option<String>,
    /// Who signs tokens.
    pub issuer: Issuer,
    /// How what is asked here takes what is answered.
    pub habits: Habits,
}

impl Endpoints {
    /// A token for a user.
    ///
    /// # Errors
    /// When this is no name of a user, or another issuer's.
    pub fn token(&self, user: &str) -> anyhow::Result<String> {
        self.issuer.token(user, Duration::from_secs(3600))
    }

    /// Publishes a body of some kind and gives the answer as it is.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post_events(&self, kind: &str, body: String) -> anyhow::Result<reqwest::Response> {
        let mut request = self.http.post(format!("{}/events", self.url)).header("content-type", kind).body(body);
        if let Some(key) = &self.publish_key {
            request = request.bearer_auth(key);
        }
        self.answered(request).await
    }

    /// Sends a request. Who is persistent repeats it while the server fails: each of them may be repeated (docs/http.md).
    async fn answered(&self, request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        if self.habits == Habits::Trusting {
            return Ok(request.send().await?);
        }
        let asking = async {
            loop {
                let again = request.try_clone().context("a body that can be sent again")?;
                let answer = again.send().await?;
                if !answer.status().is_server_error() {
                    return Ok(answer);
                }
                sleep(PAUSE).await;
            }
        };
        timeout(DEADLINE, asking).await.context("the server failed again and again")?
    }

    /// Publishes one event and gives the answer as it is.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post_event(&self, body: String) -> anyhow::Result<(StatusCode, Value)> {
        let answer = self.post_events("application/cloudevents+json", body).await?;
        Ok((answer.status(), answer.json().await?))
    }

    /// Publishes events in one request, and gives the answer as it is.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post_batch(&self, events: &[Value]) -> anyhow::Result<(StatusCode, Value)> {
        let answer = self.post_events("application/cloudevents-batch+json", serde_json::to_string(events)?).await?;
        Ok((answer.status(), answer.json().await?))
    }

    /// Publishes events in one request, all of which must be accepted.
    ///
    /// # Errors
    /// When one is not.
    pub async fn publish_batch(&self, events: &[Value]) -> Tested {
        let publishing = async {
            loop {
                let (status, answer) = self.post_batch(events).await?;
                // Some of them were not, for now: the same again is answered the same.
                if self.habits == Habits::Persistent && status == StatusCode::MULTI_STATUS {
                    sleep(PAUSE).await;
                    continue;
                }
                ensure!(status == StatusCode::ACCEPTED, "{status}: {answer}");
                return Ok(());
            }
        };
        timeout(DEADLINE, publishing).await.context("not all were accepted")?
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
        let request = self.http.get(format!("{}{path}", self.url)).bearer_auth(self.token(user)?);
        Ok(self.answered(request).await?.error_for_status()?.json().await?)
    }

    /// Sends JSON to the HTTP API as a user.
    ///
    /// # Errors
    /// When it does not answer 2xx.
    pub async fn post(&self, user: &str, path: &str, body: &Value) -> Tested {
        let request = self.http.post(format!("{}{path}", self.url)).bearer_auth(self.token(user)?).json(body);
        self.answered(request).await?.error_for_status()?;
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

    /// Connects a client of the protocol, which has not said anything yet.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn connect(&self, user: &str) -> anyhow::Result<Client> {
        self.connect_with(&self.token(user)?, true).await
    }

    /// Connects a client that only listens.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn connect_plain(&self, user: &str) -> anyhow::Result<Client> {
        self.connect_with(&self.token(user)?, false).await
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

    /// Connects a client of the protocol whose system takes in little more than what it reads.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn connect_with_little_room(&self, user: &str) -> anyhow::Result<Client> {
        let address: SocketAddr = self.url.trim_start_matches("http://").parse()?;
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4 * 1024)?;
        let stream = MaybeTlsStream::Plain(socket.connect(address).await?);
        let (socket, _) = timeout(DEADLINE, client_async(self.opening(&format!("token={}", self.token(user)?), true)?, stream)).await??;
        Ok(Client::new(socket, self.habits))
    }

    fn opening(&self, query: &str, protocol: bool) -> anyhow::Result<tungstenite::handshake::client::Request> {
        let mut request = format!("{}?{query}", self.ws).into_client_request()?;
        if protocol {
            request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("recado.v1"));
        }
        Ok(request)
    }

    /// Connects with a token. Who is persistent tries again when refused.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn connect_with(&self, token: &str, protocol: bool) -> anyhow::Result<Client> {
        let connecting = async {
            loop {
                match self.try_connect(token, protocol).await? {
                    Ok(client) => return Ok(client),
                    Err(_) if self.habits == Habits::Persistent => sleep(PAUSE).await,
                    Err(status) => bail!("refused with {status}"),
                }
            }
        };
        timeout(DEADLINE, connecting).await.context("the socket did not open")?
    }

    /// Connects with a token, or tells the status it is refused with.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn try_connect(&self, token: &str, protocol: bool) -> anyhow::Result<Result<Client, u16>> {
        self.try_open(&format!("token={token}"), protocol).await
    }

    /// Connects a client of the protocol with a ticket instead of its token.
    ///
    /// # Errors
    /// When there is no ticket, or it is refused.
    pub async fn connect_with_ticket(&self, user: &str) -> anyhow::Result<Client> {
        let request = self.http.post(format!("{}/connection-tickets", self.url)).bearer_auth(self.token(user)?);
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        let ticket = answer["ticket"].as_str().with_context(|| format!("no ticket in {answer}"))?;
        match self.try_open(&format!("ticket={ticket}"), true).await? {
            Ok(client) => Ok(client),
            Err(status) => bail!("refused with {status}"),
        }
    }

    async fn try_open(&self, query: &str, protocol: bool) -> anyhow::Result<Result<Client, u16>> {
        match timeout(DEADLINE, connect_async(self.opening(query, protocol)?)).await.context("the socket did not open")? {
            Ok((socket, _)) => Ok(Ok(Client::new(socket, self.habits))),
            Err(tungstenite::Error::Http(answer)) => Ok(Err(answer.status().as_u16())),
            Err(error) => Err(error.into()),
        }
    }
}
