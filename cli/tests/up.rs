//! `recado up` as a process: what it prints, serves, refuses, and how it stops.

use std::process::Stdio;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

type Client = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

struct Server {
    process: Child,
    ready: Value,
    _dir: tempfile::TempDir,
}

/// The command, without what this machine's environment says.
fn recado(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RECADO_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("within 30 s")
}

async fn up(args: &[&str]) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let all = [&["--json", "up", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()], args].concat();
    let mut process = recado(&all).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    soon(BufReader::new(process.stdout.take().unwrap()).read_line(&mut line)).await.unwrap();
    let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    Server { process, ready, _dir: dir }
}

/// Runs a command that ends by itself; answers its code and what it wrote to standard error.
async fn refused(args: &[&str]) -> (i32, String) {
    let output = soon(recado(args).output()).await.unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

impl Server {
    fn text(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.ready))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.text("listen"))
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let response = soon(reqwest::Client::new().get(self.url(path)).send()).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn publish(&self, id: &str) -> u16 {
        self.send(&json!({"specversion": "1.0", "id": id, "source": "/test", "type": "test.happened",
            "data": {"recipients": [{"id": "alice"}], "title": "It happened"}}))
            .await
    }

    async fn publish_mail(&self, title: &str, people: &[&str]) {
        let people: Vec<Value> = people.iter().map(|id| json!({"id": id, "email": format!("{id}@example.com")})).collect();
        let event = json!({"specversion": "1.0", "id": title, "source": "/test", "type": "test.happened",
            "data": {"recipients": people, "channels": ["email"], "title": title}});
        assert_eq!(self.send(&event).await, 202);
    }

    /// To whom mail was sent and with which subject, the newest first, once there are so many.
    async fn mails(&self, count: usize) -> Vec<(String, String)> {
        let mails = async {
            loop {
                let listed: Value = serde_json::from_str(&self.get("/mail.json").await.1).unwrap();
                let mails = listed["mails"].as_array().unwrap();
                if mails.len() >= count {
                    let text = |mail: &Value, name| mail[name].as_str().unwrap().to_owned();
                    return mails.iter().map(|mail| (text(mail, "to"), text(mail, "subject"))).collect();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        soon(mails).await
    }

    async fn send(&self, event: &Value) -> u16 {
        let request = reqwest::Client::new().post(self.url("/events")).header("content-type", "application/cloudevents+json");
        soon(request.body(event.to_string()).send()).await.unwrap().status().as_u16()
    }

    /// A client that has synced.
    async fn client(&self) -> Client {
        let url = format!("{}?token={}&protocol=recado.v1", self.text("ws"), self.text("token"));
        let mut client = soon(connect_async(url)).await.unwrap().0;
        client.send(Message::text(r#"{"type":"sync","request":"first"}"#)).await.unwrap();
        while next(&mut client).await["verdict"] != "complete" {}
        client
    }

    async fn stop(mut self) -> i32 {
        let pid = self.process.id().unwrap().to_string();
        assert!(soon(Command::new("kill").args(["-TERM", &pid]).status()).await.unwrap().success());
        soon(self.process.wait()).await.unwrap().code().unwrap()
    }
}

async fn next(client: &mut Client) -> Value {
    loop {
        match soon(client.next()).await.unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Close(frame) => panic!("closed: {frame:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_is_published_arrives_and_a_signal_drains() {
    let server = up(&[]).await;
    let mut client = server.client().await;
    assert!(matches!(server.publish("1").await, 200 | 202));
    let item = loop {
        let frame = next(&mut client).await;
        if frame["type"] == "notifications" {
            break frame["items"][0].clone();
        }
    };
    assert_eq!((&item["event_id"], &item["title"]), (&json!("1"), &json!("It happened")));

    let stopping = tokio::spawn(server.stop());
    let mut told = false;
    let code = loop {
        match soon(client.next()).await {
            Some(Ok(Message::Text(text))) => told |= text.contains("goaway"),
            Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
            Some(Ok(_)) => {}
            other => panic!("ended without a close frame: {other:?}"),
        }
    };
    assert!(told);
    assert_eq!(code, 1001);
    assert_eq!(soon(stopping).await.unwrap(), 0);
}

#[tokio::test]
async fn it_says_how_it_is() {
    let server = up(&[]).await;
    let client = server.client().await;
    assert_eq!(server.get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(server.get("/readyz").await, (200, r#"{"ready":true,"reasons":[]}"#.to_owned()));
    let (status, metrics) = server.get("/metrics").await;
    assert_eq!(status, 200);
    for line in
        ["recado_sockets_open 1", "recado_dead_letters{queue=\"inbox\"} 0", "recado_queue_messages{", "process_resident_memory_bytes "]
    {
        assert!(metrics.contains(line), "{line} is missing:\n{metrics}");
    }
    assert_eq!(server.get("/nowhere").await.0, 404);
    drop(client);
}

#[tokio::test]
async fn the_inbox_is_read_with_the_same_token() {
    let server = up(&[]).await;
    assert_eq!(server.get("/inbox").await.0, 401);
    let mut client = server.client().await;
    server.publish("1").await;
    while next(&mut client).await["type"] != "notifications" {}
    let request = reqwest::Client::new().get(server.url("/inbox")).bearer_auth(server.text("token"));
    let page: Value = serde_json::from_str(&soon(request.send()).await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(page["items"][0]["event_id"], "1");
}

#[tokio::test]
async fn a_page_whose_name_was_pointed_at_this_machine_is_refused() {
    let server = up(&[]).await;
    for path in ["/inbox", "/events", "/ws", "/metrics"] {
        let request = reqwest::Client::new().get(server.url(path)).header("host", "evil.example");
        assert_eq!(soon(request.send()).await.unwrap().status(), 421, "{path}");
    }
}

#[tokio::test]
async fn a_ticket_opens_one_socket_and_shows_no_token() {
    let server = up(&[]).await;
    let ask = || reqwest::Client::new().post(server.url("/connection-tickets"));
    let given = soon(ask().bearer_auth(server.text("token")).send()).await.unwrap();
    assert_eq!(given.status(), 201);
    let given: Value = serde_json::from_str(&given.text().await.unwrap()).unwrap();
    let url = given["url"].as_str().unwrap();
    assert_eq!(url, format!("{}?ticket={}", server.text("ws"), given["ticket"].as_str().unwrap()));
    let mut client = soon(connect_async(format!("{url}&protocol=recado.v1"))).await.unwrap().0;
    client.send(Message::text(r#"{"type":"sync","request":"first"}"#)).await.unwrap();
    while next(&mut client).await["verdict"] != "complete" {}

    let foreign = format!("{}?ticket={}", server.text("ws"), "A".repeat(43));
    for (url, status, kind) in [
        (url.to_owned(), 401, "ticket-invalid"),
        (foreign, 401, "ticket-invalid"),
        (format!("{url}&token={}", server.text("token")), 400, "malformed-request"),
        (server.text("ws").to_owned(), 401, "credential-missing"),
    ] {
        let Err(tokio_tungstenite::tungstenite::Error::Http(answer)) = soon(connect_async(&url)).await else { panic!("{url} opened") };
        let problem: Value = serde_json::from_slice(answer.body().as_deref().unwrap_or_default()).unwrap();
        assert_eq!((answer.status().as_u16(), &problem["type"]), (status, &json!(format!("urn:recado:problem:{kind}"))), "{url}");
    }
    assert_eq!(soon(ask().send()).await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_ask_for_a_ticket() {
    let server = up(&["--allow-origin", "https://app.example.com"]).await;
    let allowed = async |origin: &str| {
        let request = reqwest::Client::new().post(server.url("/connection-tickets")).header("origin", origin);
        let answer = soon(request.bearer_auth(server.text("token")).send()).await.unwrap();
        answer.headers().get("access-control-allow-origin").map(|origin| origin.to_str().unwrap().to_owned())
    };
    assert_eq!(allowed("https://app.example.com").await.as_deref(), Some("https://app.example.com"));
    assert_eq!(allowed("https://evil.example").await, None);
}

#[tokio::test]
async fn listening_takes_a_ticket_or_a_header() {
    let server = up(&[]).await;
    assert_eq!(server.publish("1").await, 202);
    for way in [&[][..], &["--no-ticket"]] {
        let arguments = ["listen", "alice", "--json", "--count", "1", "--ws", server.text("ws")];
        let listened = beside(&server, &[&arguments, way].concat()).await;
        assert!(listened.contains("It happened"), "{way:?}: {listened}");
    }
    let elsewhere = server.url("/nowhere");
    let arguments = ["listen", "alice", "--data-dir", server.text("data_dir"), "--ws", server.text("ws"), "--tickets", &elsewhere];
    let (code, said) = refused(&arguments).await;
    assert_eq!(code, 1);
    assert!(said.contains("--no-ticket"), "{said}");
}

#[tokio::test]
async fn a_publish_key_is_asked_for_once_there_is_one() {
    let server = up(&["--publish-key", "0123456789abcdef"]).await;
    assert_eq!(server.publish("1").await, 401);
}

/// Runs a command on the server's folder beside it; answers what it printed.
async fn beside(server: &Server, args: &[&str]) -> String {
    let output = soon(recado(&[args, &["--data-dir", server.text("data_dir")]].concat()).output()).await.unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn who_is_suppressed_gets_no_mail_until_it_is_lifted() {
    let server = up(&[]).await;
    assert_eq!(beside(&server, &["suppressions", "list"]).await, "Nobody is suppressed.\n");
    assert_eq!(beside(&server, &["suppressions", "add", "alice@example.com"]).await, "alice@example.com: suppressed\n");
    let listed: Value = serde_json::from_str(&beside(&server, &["--json", "suppressions", "list"]).await).unwrap();
    assert_eq!(listed["cause"], "operator");
    assert!(!listed.to_string().contains("alice"), "{listed}");

    server.publish_mail("first", &["alice", "bob"]).await;
    let (alice, bob) = ("alice@example.com".to_owned(), "bob@example.com".to_owned());
    assert_eq!(server.mails(1).await, [(bob.clone(), "first".to_owned())]);
    let lifted = beside(&server, &["suppressions", "lift", listed["address_sha256"].as_str().unwrap()]).await;
    assert!(lifted.ends_with(": lifted\n"), "{lifted}");
    assert_eq!(beside(&server, &["suppressions", "check", "alice@example.com"]).await, "alice@example.com: not suppressed\n");
    server.publish_mail("second", &["alice"]).await;
    assert_eq!(server.mails(2).await, [(alice, "second".to_owned()), (bob, "first".to_owned())]);

    let (code, said) = refused(&["suppressions", "add", "alice", "--data-dir", server.text("data_dir")]).await;
    assert_eq!(code, 1);
    assert!(said.contains("`alice` is no e-mail address"), "{said}");
}

#[tokio::test]
async fn settings_that_contradict_each_other_end_with_their_fix() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&["--listen", "0.0.0.0:0"], "--publish-key"),
        (&["--token-secret", "0123456789abcdef0123456789abcdef", "--token-keys", "https://issuer.example/jwks"], "choose one"),
        (&["--token-secret", "short"], "--token-secret"),
        (&["--publish-key", "short"], "16 to 512"),
        (&["--smtp", "mail.example.com"], "--smtp"),
    ];
    for (args, part) in cases {
        let (code, said) = refused(&[&["up", "--data-dir", data], args].concat()).await;
        assert_eq!(code, 3, "{said}");
        assert!(said.contains(part) && said.contains("fix:"), "{said}");
    }
}

#[tokio::test]
async fn one_folder_serves_one_process_and_one_port_too() {
    let server = up(&[]).await;
    let (code, said) = refused(&["up", "--listen", "127.0.0.1:0", "--data-dir", server.text("data_dir")]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("another recado process"), "{said}");
    let elsewhere = tempfile::tempdir().unwrap();
    let (code, said) = refused(&["up", "--listen", server.text("listen"), "--data-dir", elsewhere.path().to_str().unwrap()]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("--listen"), "{said}");
}

#[tokio::test]
async fn a_command_line_that_does_not_read_is_the_users_and_help_is_no_failure() {
    assert_eq!(refused(&["up", "--nonsense"]).await.0, 2);
    assert_eq!(refused(&["up", "--drain-deadline", "soon"]).await.0, 2);
    let output = soon(recado(&["up", "--help"]).output()).await.unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for part in ["--data-dir", "RECADO_LISTEN", "127.0.0.1:8420", "Exit codes"] {
        assert!(help.contains(part), "{part} is missing:\n{help}");
    }
}

#[tokio::test]
async fn people_are_told_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut process =
        recado(&["--listen", "127.0.0.1:0", "--data-dir", dir.path().to_str().unwrap()]).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(process.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("Ctrl-C") {
        assert!(soon(out.read_line(&mut said)).await.unwrap() > 0, "ended early:\n{said}");
    }
    for part in ["Recado is ready.", "Socket", "ws://127.0.0.1:", "Token"] {
        assert!(said.contains(part), "{part} is missing:\n{said}");
    }
    process.start_kill().unwrap();
    let mut rest = String::new();
    soon(out.read_to_string(&mut rest)).await.unwrap();
}
