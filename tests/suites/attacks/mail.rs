//! Events that try to become headers, markup or template of a mail, and mail servers that quote what they are told.

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use recado_tests::harness::{Tested, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::victim::Victim;

fn event(id: &str, data: Value) -> Value {
    json!({ "specversion": "1.0", "id": id, "source": "/attacks", "type": "attack.tried", "data": data })
}

/// A captured mail: its row in the list, its source, its HTML, and how the mailbox shows it.
struct Captured {
    row: Value,
    source: String,
    html: String,
    policy: String,
    page: String,
}

/// Publishes to alice, and answers the mail of it.
async fn mailed(victim: &Victim, id: &str, mut data: Value) -> anyhow::Result<Captured> {
    let recipient = data["recipient"].take();
    data["recipients"] = json!([recipient]);
    data["channels"] = json!(["email"]);
    let known = mails(victim).await?.len();
    victim.publish(&event(id, data)).await?;
    let row = eventually("one more mail", async || {
        let mails = mails(victim).await?;
        Ok((mails.len() > known).then(|| mails[0].clone()))
    })
    .await?;
    let get = async |path: &str| anyhow::Ok(victim.http.get(format!("{}{path}", victim.url)).send().await?.error_for_status()?);
    let id = row["id"].as_u64().context("no id")?;
    let html = get(&format!("/mail/{id}/html")).await?;
    let policy = html.headers().get("content-security-policy").context("no policy")?.to_str()?.to_owned();
    Ok(Captured {
        source: get(&format!("/mail/{id}/source")).await?.text().await?,
        html: html.text().await?,
        policy,
        page: get("/mail").await?.text().await? + &get(&format!("/mail/{id}")).await?.text().await?,
        row,
    })
}

async fn mails(victim: &Victim) -> anyhow::Result<Vec<Value>> {
    let listed: Value = victim.http.get(format!("{}/mail.json", victim.url)).send().await?.error_for_status()?.json().await?;
    Ok(listed["mails"].as_array().context("no mails")?.clone())
}

/// The names of the headers, in order.
fn headers(source: &str) -> Vec<&str> {
    let head = source.split("\r\n\r\n").next().unwrap_or_default();
    head.lines().filter(|line| !line.starts_with([' ', '\t'])).filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect()
}

const HEADERS: [&str; 9] =
    ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-Recado-Notification", "MIME-Version", "Content-Type"];

#[tokio::test]
async fn no_value_of_an_event_makes_a_header_of_a_mail() -> Tested {
    let victim = Victim::up(&[]).await?;
    victim.secret("alice@example.com");
    let cases = [
        // A line break is refused when it is published; these are what some programs read as one, or decode to one.
        json!({ "title": "Hi\u{2028}Bcc: evil@example.com", "recipient": { "id": "alice", "email": "alice@example.com" } }),
        json!({ "title": "Hi\u{85}Bcc: evil@example.com", "recipient": { "id": "bob", "email": "alice@example.com" } }),
        json!({ "title": "=?utf-8?Q?Hi=0D=0ABcc:_evil@example.com?=", "recipient": { "id": "alice", "email": "alice@example.com" } }),
        json!({ "title": "Hi%0d%0aBcc: evil@example.com", "recipient": { "id": "alice", "email": "alice@example.com" } }),
        json!({ "title": "a".repeat(512), "recipient": { "id": "alice", "email": "alice@example.com", "name": "x".repeat(256) } }),
        json!({ "recipient": { "id": "alice", "email": "alice@example.com", "name": "\"Alice\" <evil@example.com>, x" } }),
        json!({ "recipient": { "id": "alice", "email": "alice@example.com", "name": "Alice>\u{2029}To: <evil@example.com" } }),
    ];
    for (at, data) in cases.into_iter().enumerate() {
        if data["title"].as_str().is_some_and(|title| title.contains('\u{85}')) {
            // U+0085 is a control character: refused.
            let mut refused = data.clone();
            refused["recipients"] = json!([refused["recipient"].take()]);
            let answer = victim.post_events("application/cloudevents+json", event("control", refused).to_string()).await?;
            ensure!(answer.status() == 422, "{}", answer.status());
            continue;
        }
        let mail = mailed(&victim, &at.to_string(), data.clone()).await?;
        ensure!(headers(&mail.source) == HEADERS, "{data}: {:?}", headers(&mail.source));
        ensure!(mail.row["to"] == "alice@example.com", "{data}: {}", mail.row);
        ensure!(!mail.source.lines().any(|line| line.to_ascii_lowercase().starts_with("bcc")), "{data}: {}", mail.source);
    }
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn no_value_of_an_event_becomes_markup_of_a_mail() -> Tested {
    let victim = Victim::up(&["--mail-base-url", "https://app.example.com"]).await?;
    let payloads = [
        "<script>alert('x-marker')</script>",
        "<img src=x onerror=alert('x-marker')>",
        "\"><svg onload=alert('x-marker')>",
        "' onmouseover='alert(1)",
        "</style></title></head><body onload=alert(1)>",
        "<!-- --><iframe srcdoc='x-marker'>",
        "&lt;script&gt;alert('x-marker')&lt;/script&gt;",
        "<a href=\"javascript:alert(1)\">x-marker</a>",
    ];
    for (at, hostile) in payloads.into_iter().enumerate() {
        let data = json!({
            "title": hostile, "body": format!("{hostile}\n{hostile}"), "category": "c", "url": format!("/x?q={}", hostile.replace(' ', "+")),
            "payload": { hostile: hostile }, "recipient": { "id": "alice", "email": "alice@example.com", "name": hostile }
        });
        let mail = mailed(&victim, &at.to_string(), data).await?;
        for shown in [&mail.html, &mail.page] {
            let markup = ["<script>alert", "<img src=x", "<svg", "<iframe src", "<body onload", "<a href=\"javascript"];
            let found = markup.iter().find(|tag| shown.to_ascii_lowercase().contains(**tag));
            ensure!(found.is_none(), "{hostile}: {found:?} in {shown}");
            // No value ends its attribute.
            ensure!(!shown.contains("\" onmouseover") && !shown.contains("' onmouseover"), "{hostile}: {shown}");
        }
        ensure!(mail.html.replace("&#x2f;", "/").contains("href=\"https://app.example.com/x?q="), "{}", mail.html);
        ensure!(mail.policy.starts_with("sandbox;") && mail.policy.contains("default-src 'none'"), "{}", mail.policy);
    }
    victim.has_kept_quiet().await
}

#[tokio::test]
async fn no_value_of_an_event_is_run_as_a_template() -> Tested {
    let victim = Victim::up(&[]).await?;
    let marker = victim.secret("the-payload-nobody-asked-for");
    let payloads = [
        "{{ 7 * 191 }}",
        "{% for x in range(7) %}1337{% endfor %}",
        "{% include 'default/subject.txt' %}",
        "{% extends 'default/body.html' %}",
        "{{ payload.secret }}",
        "{{ self.__init__.__globals__ }}",
        "${7*191}",
        "#{7*191}",
        "<%= 7*191 %>",
    ];
    for (at, hostile) in payloads.into_iter().enumerate() {
        let data = json!({
            "title": hostile, "body": hostile, "payload": { "secret": marker },
            "recipient": { "id": "alice", "email": "alice@example.com", "name": hostile }
        });
        let mail = mailed(&victim, &at.to_string(), data).await?;
        ensure!(mail.row["subject"] == hostile, "{}", mail.row);
        for run in ["1337", &marker] {
            let rest = mail.html.replace(&hostile.replace('\'', "&#x27;"), "");
            ensure!(hostile.contains(run) || !rest.contains(run), "{hostile}: {}", mail.html);
        }
        let escaped = hostile
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('\'', "&#x27;")
            .replace('"', "&quot;")
            .replace('/', "&#x2f;");
        ensure!(mail.html.contains(&escaped), "{hostile} is missing in {}", mail.html);
    }
    // A type or a locale is the name of a folder, and leads to no other.
    for (at, kind) in ["../../etc/passwd", "default/../default", "/etc/passwd", "..", "."].into_iter().enumerate() {
        let mut document = event(
            &format!("type{at}"),
            json!({ "recipients": [{ "id": "alice", "email": "alice@example.com" }], "channels": ["email"], "title": "plain" }),
        );
        document["type"] = json!(kind);
        let known = mails(&victim).await?.len();
        victim.publish(&document).await?;
        eventually("a mail of the default template", async || Ok((mails(&victim).await?.len() > known).then_some(()))).await?;
    }
    victim.has_kept_quiet().await
}

/// A mail server that refuses everybody and repeats what it was told.
async fn repeats(listener: TcpListener) {
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(converse(socket));
    }
}

async fn converse(socket: TcpStream) -> std::io::Result<()> {
    let (read, mut write) = socket.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"220 mail.example.com\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        let answer = match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => "250-mail.example.com\r\n250 AUTH PLAIN LOGIN".to_owned(),
            "AUTH" => "235 welcome".to_owned(),
            "RCPT" => format!("550 5.1.1 {line} is unknown here"),
            "QUIT" => break,
            _ => "250 fine".to_owned(),
        };
        write.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_a_mail_server_quotes_is_repeated_nowhere() -> Tested {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(repeats(listener));
    let victim = Victim::up(&["--smtp", &format!("smtp://mailer:the-smtp-password-4711@{address}")]).await?;
    victim.secret("the-smtp-password-4711");
    victim.secret(STANDARD.encode("\0mailer\0the-smtp-password-4711"));
    victim.secret("alice@example.com");
    let data = json!({ "recipients": [{ "id": "alice", "email": "alice@example.com" }], "channels": ["email"], "title": victim.secret("a title of one mail alone") });
    victim.publish(&event("1", data)).await?;
    eventually("the mail was refused", async || {
        let metrics = victim.http.get(format!("{}/metrics", victim.url)).send().await?.text().await?;
        Ok(metrics.contains("recado_mail_failed_total{kind=\"permanent\"} 1").then_some(()))
    })
    .await?;
    server.abort();
    victim.has_kept_quiet().await
}
