//! `recado listen`: connects as a user and prints the frames that come, one a line.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use recado_domain::connection::SUBPROTOCOL;
use recado_domain::ids::{TenantId, UserId};
use recado_domain::limits::FRAME_IDS;
use recado_domain::ports::Clock;
use recado_runtime::auth::sign;
use recado_runtime::system::SystemClock;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use url::Url;

use super::{complain, print_line, runtime};
use crate::development;
use crate::stack::StackArgs;
use crate::up::Secret;

/// What `recado listen` can be told.
#[derive(Debug, Args)]
pub struct ListenArgs {
    /// Whose notifications; a token of the development key, or of --token-secret, is made for them.
    #[arg(required_unless_present = "token", conflicts_with = "token")]
    pub user: Option<UserId>,
    /// The user's tenant.
    #[arg(long, default_value = "default")]
    pub tenant: TenantId,
    /// A token to use instead.
    #[arg(long, env = "RECADO_TOKEN", value_name = "JWT", hide_env_values = true)]
    pub token: Option<Secret>,
    /// The secret to sign a token with, of a server or stack that verifies with one.
    #[arg(long, env = "RECADO_TOKEN_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub token_secret: Option<Secret>,
    /// The WebSocket of the running Recado.
    #[arg(long, env = "RECADO_WS", value_name = "URL", default_value = "ws://127.0.0.1:8420/ws")]
    pub ws: Url,
    /// Where a ticket for the WebSocket is asked for. [default: `connection-tickets` beside the WebSocket, or of the stack's HTTP API]
    #[arg(long, env = "RECADO_TICKETS", value_name = "URL", conflicts_with = "no_ticket")]
    pub tickets: Option<Url>,
    /// Connect with the token itself, as a header.
    #[arg(long)]
    pub no_ticket: bool,
    /// The data folder with the development key.
    #[arg(long, env = "RECADO_DATA_DIR", value_name = "DIR", default_value = "./.recado")]
    pub data_dir: PathBuf,
    /// Go on from this cursor: the last one that was printed.
    #[arg(long, value_name = "CURSOR")]
    pub since: Option<String>,
    /// Only listen, as a client that knows nothing of the protocol: what is pending comes by itself.
    #[arg(long, conflicts_with = "since")]
    pub plain: bool,
    /// Leave after so many notifications.
    #[arg(long, value_name = "NUMBER")]
    pub count: Option<u64>,
    /// The stack to listen to instead.
    #[command(flatten)]
    pub stack: StackArgs,
}

/// Within the 9 minutes of the protocol (R5): keeps the socket alive and repairs what a push missed.
const SYNC_EVERY: Duration = Duration::from_secs(8 * 60);

/// How late the next frame of an answer may be before the `sync` is repeated (docs/protocol.md).
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How long an answer with a ticket may take.
const TICKET_WITHIN: Duration = Duration::from_secs(10);

/// Prints frames until the server closes, a signal, or `--count`.
///
/// # Errors
/// When it cannot connect, or the server closed.
pub fn run(args: ListenArgs, json: bool) -> anyhow::Result<()> {
    runtime()?.block_on(listen(args, json))
}

async fn listen(args: ListenArgs, json: bool) -> anyhow::Result<()> {
    let (ws, token) = (socket(&args)?, token(&args)?);
    let mut url = ws.clone();
    url.query_pairs_mut().append_pair("device", "recado listen");
    if !args.no_ticket {
        let ticket = ticket(tickets(&args)?, &token).await?;
        url.query_pairs_mut().append_pair("ticket", &ticket);
    }
    let mut request = url.as_str().into_client_request().context("--ws")?;
    if args.no_ticket {
        let header = HeaderValue::from_str(&format!("Bearer {token}")).context("the token is no header's value")?;
        request.headers_mut().insert("authorization", header);
    }
    if !args.plain {
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
    }
    // The error of a refused upgrade holds the whole answer: its status is what helps.
    let (mut socket, _) = match connect_async(request).await {
        Ok(connected) => connected,
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => bail!("the server refused the connection with {}", answer.status()),
        Err(error) => bail!("cannot connect to {}: {error}", ws.as_str().split('?').next().unwrap_or_default()),
    };
    if !json {
        complain("listening; Ctrl-C leaves");
    }
    let mut state = State { since: args.since, ..State::default() };
    let mut sync_at = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(sync_at), if !args.plain => {
                socket.send(Message::text(state.sync())).await.context("the connection was lost")?;
                sync_at = Instant::now() + state.next_sync();
            }
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    let mut frame: Value = serde_json::from_str(&text).context("the server sent a frame that is not JSON")?;
                    if state.take(&mut frame) || state.has_much_to_confirm() {
                        sync_at = Instant::now() + state.next_sync();
                    }
                    print_line(&if json { frame.to_string() } else { readable(&frame) })?;
                    if args.count.is_some_and(|count| state.shown >= count) {
                        socket.close(None).await.ok();
                        return Ok(());
                    }
                }
                Some(Ok(Message::Close(close))) => match close {
                    Some(close) => bail!("the server closed: {} {}", u16::from(close.code), close.reason),
                    None => bail!("the server closed"),
                },
                Some(Ok(_)) => {}
                Some(Err(error)) => bail!("the connection was lost: {error}"),
                None => bail!("the connection was lost"),
            },
            _ = tokio::signal::ctrl_c() => {
                // Leaving: a server that does not answer the close will notice by itself.
                socket.close(None).await.ok();
                return Ok(());
            }
        }
    }
}

/// `ws://host/ws` has its tickets at `http://host/connection-tickets`.
fn tickets_beside(ws: &Url) -> anyhow::Result<Url> {
    let http = ws.as_str().replacen("ws", "http", 1);
    let beside = Url::parse(&http).and_then(|url| url.join("connection-tickets"));
    beside.context("--ws is no URL of a WebSocket; give one that begins with ws:// or wss://")
}

/// Exchanges the token for what opens one socket.
async fn ticket(url: Url, token: &str) -> anyhow::Result<String> {
    let client = reqwest::Client::builder().timeout(TICKET_WITHIN).build()?;
    let answer = client.post(url.clone()).bearer_auth(token).send().await.map_err(reqwest::Error::without_url);
    let answer = answer.with_context(|| format!("cannot ask for a ticket at {url}; is `recado up` running there?"))?;
    let status = answer.status();
    let said: Value = answer.json().await.unwrap_or_default();
    match said["ticket"].as_str() {
        Some(ticket) => Ok(ticket.to_owned()),
        None if status.as_u16() == 404 => bail!("there are no tickets at {url}; name the place with --tickets, or give --no-ticket"),
        None => bail!("no ticket from {url}: {status} {}", said["detail"].as_str().unwrap_or_default()),
    }
}

fn tickets(args: &ListenArgs) -> anyhow::Result<Url> {
    if let Some(tickets) = &args.tickets {
        return Ok(tickets.clone());
    }
    match args.stack.outputs()? {
        Some(outputs) => {
            let api = outputs.get("HttpApiUrl")?.trim_end_matches('/');
            format!("{api}/connection-tickets").parse().context("the output `HttpApiUrl`")
        }
        None => tickets_beside(&args.ws),
    }
}

fn socket(args: &ListenArgs) -> anyhow::Result<Url> {
    match args.stack.outputs()? {
        Some(outputs) => outputs.get("WebSocketUrl")?.parse().context("the output `WebSocketUrl`"),
        None => Ok(args.ws.clone()),
    }
}

fn token(args: &ListenArgs) -> anyhow::Result<String> {
    const FOR: Duration = Duration::from_secs(3600);
    if let Some(token) = &args.token {
        return Ok(token.0.clone());
    }
    let user = args.user.as_ref().context("name a user, or give --token")?;
    if let Some(secret) = &args.token_secret {
        return sign(secret.0.as_bytes(), user, &args.tenant, FOR, SystemClock.now()).context("--token-secret");
    }
    let key = development::load(&args.data_dir).context("is `recado up` running with this --data-dir? Otherwise give --token")?;
    Ok(key.mint(user, &args.tenant, FOR, SystemClock.now()))
}

/// What a client remembers.
#[derive(Default)]
struct State {
    since: Option<String>,
    to_ack: Vec<String>,
    /// Of `to_ack`, how many the last `sync` confirmed: they stay until it is answered.
    confirming: usize,
    syncs: u64,
    /// Whether the last `sync` was answered to its end.
    answered: bool,
    shown: u64,
    /// The ids shown last, oldest first: an answer overlaps with what was shown before (P2).
    recent: VecDeque<String>,
}

impl State {
    fn sync(&mut self) -> String {
        self.syncs += 1;
        self.answered = false;
        // The most a `sync` may confirm; the rest is confirmed by the next one.
        self.confirming = self.to_ack.len().min(FRAME_IDS);
        let (request, ack) = (self.syncs.to_string(), &self.to_ack[..self.confirming]);
        json!({ "type": "sync", "request": request, "since": self.since, "ack": ack, "client": concat!("recado-cli/", env!("CARGO_PKG_VERSION")) }).to_string()
    }

    /// How long to wait for the next `sync`, from now.
    fn next_sync(&self) -> Duration {
        match self.answered {
            false => ANSWER_WITHIN,
            true if self.has_much_to_confirm() => Duration::ZERO,
            true => SYNC_EVERY,
        }
    }

    /// Whether there is a `sync` full to confirm, and none under way.
    fn has_much_to_confirm(&self) -> bool {
        self.answered && self.to_ack.len() >= FRAME_IDS
    }

    /// Remembers what a frame shows, and takes out what was shown before. Says whether it belongs to the answer that is waited for.
    fn take(&mut self, frame: &mut Value) -> bool {
        let answers = frame["request"].as_str() == Some(&self.syncs.to_string());
        if answers && frame["more"] == false {
            self.answered = true;
            self.to_ack.drain(..std::mem::take(&mut self.confirming));
        }
        if let Some(items) = frame["items"].as_array_mut() {
            let ids = items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned));
            self.to_ack.extend(ids);
            items.retain(|item| item["id"].as_str().is_none_or(|id| self.is_new(id)));
            self.shown += items.len() as u64;
        }
        if let Some(cursor) = frame["cursor"].as_str() {
            self.since = Some(cursor.to_owned());
        }
        answers
    }

    fn is_new(&mut self, id: &str) -> bool {
        if self.recent.iter().any(|recent| recent == id) {
            return false;
        }
        if self.recent.len() == FRAME_IDS {
            self.recent.pop_front();
        }
        self.recent.push_back(id.to_owned());
        true
    }
}

/// A frame for people. Control characters of an event must not reach a terminal.
fn readable(frame: &Value) -> String {
    let plain = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let kind = frame["type"].as_str().unwrap_or("?");
    let mut lines = Vec::new();
    for item in frame["items"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let title = item["title"].as_str().or(item["type"].as_str()).unwrap_or("?");
        let read = if item["read_at"].is_null() { "●" } else { "○" };
        let mut line = format!("{read} {}  {}", plain(item["time"].as_str().unwrap_or("?")), plain(title));
        for more in ["body", "url"] {
            if let Some(text) = item[more].as_str() {
                line.push_str(&format!("\n    {}", plain(text)));
            }
        }
        lines.push(line);
    }
    match kind {
        "notifications" if frame["more"] == false => lines.push(format!(
            "— up to date ({}); go on from here with --since {}",
            frame["verdict"].as_str().unwrap_or("?"),
            frame["cursor"].as_str().unwrap_or("?")
        )),
        "notifications" => {}
        "unread" => lines.push(format!("— {}{} unread", frame["count"], if frame["capped"] == true { "+" } else { "" })),
        _ => lines.push(format!("— {}", plain(&frame.to_string()))),
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_beside_the_socket() {
        let beside = |ws: &str| tickets_beside(&ws.parse().unwrap()).unwrap().to_string();
        assert_eq!(beside("ws://127.0.0.1:8420/ws"), "http://127.0.0.1:8420/connection-tickets");
        assert_eq!(beside("wss://notify.example.com/a/ws"), "https://notify.example.com/a/connection-tickets");
    }

    #[test]
    fn an_event_cannot_steer_the_terminal() {
        let frame =
            json!({ "type": "notifications", "items": [{ "title": "\u{1b}[2Jboo", "time": "2026-11-24T10:00:00Z", "read_at": null }] });
        assert!(!readable(&frame).contains('\u{1b}'));
    }

    #[test]
    fn what_was_shown_is_confirmed_by_the_next_sync() {
        let mut state = State::default();
        state.take(&mut json!({ "items": [{ "id": "a" }], "cursor": "c" }));
        let sync: Value = serde_json::from_str(&state.sync()).unwrap();
        assert_eq!((&sync["ack"], &sync["since"]), (&json!(["a"]), &json!("c")));
        state.take(&mut json!({ "request": "1", "items": [{ "id": "b" }], "more": false }));
        assert_eq!(state.to_ack, ["b"]);
    }

    #[test]
    fn a_sync_that_is_not_answered_is_repeated_with_what_it_confirmed() {
        let mut state = State::default();
        state.take(&mut json!({ "items": [{ "id": "a" }] }));
        state.sync();
        assert!(!state.take(&mut json!({ "items": [{ "id": "b" }] })), "a push is no answer");
        assert_eq!(state.next_sync(), ANSWER_WITHIN);
        let again: Value = serde_json::from_str(&state.sync()).unwrap();
        assert_eq!((&again["request"], &again["ack"]), (&json!("2"), &json!(["a", "b"])));
        assert!(!state.take(&mut json!({ "request": "1", "items": [], "more": false })), "somebody answers late");
        assert!(state.take(&mut json!({ "request": "2", "items": [], "more": true })));
        assert_eq!(state.next_sync(), ANSWER_WITHIN, "the rest may be lost");
        assert!(state.take(&mut json!({ "request": "2", "items": [], "more": false })));
        assert_eq!((state.next_sync(), state.to_ack.len()), (SYNC_EVERY, 0));
    }

    #[test]
    fn a_sync_confirms_a_thousand_and_the_next_one_the_rest() {
        let mut state = State { answered: true, ..State::default() };
        let items: Vec<Value> = (0..=FRAME_IDS).map(|n| json!({ "id": n.to_string() })).collect();
        state.take(&mut json!({ "items": items }));
        assert_eq!((state.has_much_to_confirm(), state.next_sync()), (true, Duration::ZERO));
        let sync: Value = serde_json::from_str(&state.sync()).unwrap();
        assert_eq!(sync["ack"].as_array().unwrap().len(), FRAME_IDS);
        state.take(&mut json!({ "request": "1", "items": [], "more": false }));
        assert_eq!(state.to_ack, [FRAME_IDS.to_string()]);
    }

    #[test]
    fn what_was_shown_is_not_shown_again_and_confirmed_all_the_same() {
        let mut state = State::default();
        state.take(&mut json!({ "items": [{ "id": "a" }] }));
        let mut overlap = json!({ "items": [{ "id": "a" }, { "id": "b" }] });
        state.take(&mut overlap);
        assert_eq!(overlap["items"], json!([{ "id": "b" }]));
        assert_eq!((state.shown, state.to_ack.len()), (2, 3));
    }
}
