//! The same on a deployed stack: what its functions answer, and what they and the dispatcher log.
//!
//! The local gateway tells a client nothing of a refused `$connect` but 403; so what the function answered is asked of the function itself.

use std::ops::Deref;

use anyhow::{Context, ensure};
use recado_tests::harness::{Deployment, Issuer, Parameters, Stack, Tested, eventually};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::process::{Child, Command};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::frames::hostile_frames;
use super::problems::{is_problem, reads_as_problem};
use super::secrets::Secrets;
use super::signers::{AUDIENCE, ISSUER, claims, claims_but, compact, hs256, stranger};
use super::tokens::claims_that_do_not_hold;
use super::{inboxes, pages, publishing, tokens};

/// A stack whose processes log all there is.
struct Attacked {
    /// Dropped first: it works in the account.
    dispatcher: Child,
    log: NamedTempFile,
    stack: Stack,
    secrets: Secrets,
    /// The function behind `$connect`.
    connect: String,
}

impl Deref for Attacked {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.stack
    }
}

impl Attacked {
    async fn up(parameters: Parameters<'_>) -> anyhow::Result<Self> {
        let all = [parameters, &[("LogLevel", "trace"), ("TokenLeeway", "5s")]].concat();
        let stack = Stack::deploy(&all).await?;
        let log = NamedTempFile::new()?;
        let mut dispatcher = stack.container("recado-dispatcher")?;
        let dispatcher = dispatcher.env("RECADO_LOG", "trace").stderr(log.reopen()?).spawn()?;
        let functions = stack.http.get(format!("{}/2015-03-31/functions/", stack.account.endpoint));
        let functions = stack.account.ask(stack.account.signed("lambda", functions)).await;
        let mut names =
            functions["Functions"].as_array().context("no functions")?.iter().filter_map(|function| function["FunctionName"].as_str());
        let connect = names.find(|name| name.contains("ConnectFunction") && !name.contains("Disconnect"));
        let connect = connect.with_context(|| format!("no function for $connect in {functions}"))?.to_owned();
        let attacked = Self { dispatcher, log, stack, secrets: Secrets::default(), connect };
        attacked.secrets.keep(attacked.secret()?);
        attacked.secrets.keep(attacked.publish_key.clone().context("no publish key")?);
        Ok(attacked)
    }

    fn secret(&self) -> anyhow::Result<&str> {
        let Issuer::Secret(secret) = &self.issuer else { anyhow::bail!("another issuer") };
        Ok(secret)
    }

    /// A token of these claims, signed as the stack expects.
    fn signed(&self, claims: &Value) -> anyhow::Result<String> {
        let secret = self.secret()?.as_bytes();
        Ok(self.secrets.keep(compact(&json!({ "alg": "HS256" }), claims, |message| hs256(secret, message))))
    }

    /// What the function of `$connect` answers: status and body.
    async fn connect_says(&self, query: &Value, origin: Option<&str>) -> anyhow::Result<(u16, String)> {
        let event = json!({
            "requestContext": {
                "routeKey": "$connect", "eventType": "CONNECT", "messageDirection": "IN", "stage": "live", "connectionId": "an-attack=",
                "extendedRequestId": "JJfe9HMwiYcFqSA=", "requestId": "JJfe9HMwiYcFqSA=", "requestTime": "24/Nov/2026:10:00:00 +0000",
                "requestTimeEpoch": 1_795_514_400_000_i64, "connectedAt": 1_795_514_400_000_i64, "apiId": "70ixmpl4fl",
                "domainName": "70ixmpl4fl.execute-api.us-east-2.amazonaws.com", "identity": { "sourceIp": "192.0.2.1", "userAgent": "" }
            },
            "headers": origin.map_or(json!({}), |origin| json!({ "Origin": origin })), "multiValueHeaders": {},
            "queryStringParameters": {}, "multiValueQueryStringParameters": query, "isBase64Encoded": false
        });
        let request = self.http.post(format!("{}/2015-03-31/functions/{}/invocations", self.account.endpoint, self.connect)).json(&event);
        let answer = self.account.ask(self.account.signed("lambda", request)).await;
        let status = answer["statusCode"].as_u64().with_context(|| format!("no status in {answer}"))?;
        Ok((u16::try_from(status)?, answer["body"].as_str().unwrap_or_default().to_owned()))
    }

    /// That the function of `$connect` refuses.
    async fn connect_refuses(&self, query: &Value, status: u16, kind: &str, what: &str) -> Tested {
        let (given, body) = self.connect_says(query, None).await?;
        reads_as_problem(given, &body, status, kind, what, &self.secrets)
    }

    /// That a token opens nothing.
    async fn refuses(&self, token: &str, status: u16, kind: &str, what: &str) -> Tested {
        self.secrets.keep(token);
        self.connect_refuses(&json!({ "token": [token] }), status, kind, what).await?;
        for request in [self.http.get(format!("{}/inbox", self.url)), self.http.post(format!("{}/connection-tickets", self.url))] {
            is_problem(request.bearer_auth(token).send().await?, 401, "unauthorized", what, &self.secrets).await?;
        }
        Ok(())
    }

    /// The status of a refused upgrade; `None` where a socket opens.
    async fn refused(&self, query: &str, origin: Option<&str>) -> anyhow::Result<Option<u16>> {
        let mut request = format!("{}?{query}", self.ws).into_client_request()?;
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse()?);
        }
        match connect_async(request).await {
            Ok(_) => Ok(None),
            Err(Error::Http(answer)) => Ok(Some(answer.status().as_u16())),
            Err(error) => Err(error.into()),
        }
    }

    /// An operation of CloudWatch Logs.
    async fn logs(&self, operation: &str, asked: &Value) -> Value {
        let request = self.http.post(&self.account.endpoint).header("x-amz-target", format!("Logs_20140328.{operation}"));
        let request = request.header("content-type", "application/x-amz-json-1.1").body(asked.to_string());
        self.account.ask(self.account.signed("logs", request)).await
    }

    /// Everything that the functions logged.
    async fn logged(&self) -> anyhow::Result<String> {
        let groups = self.logs("DescribeLogGroups", &json!({})).await;
        let mut lines = String::new();
        for group in groups["logGroups"].as_array().context("no log groups")? {
            let mut asked = json!({ "logGroupName": group["logGroupName"] });
            loop {
                let page = self.logs("FilterLogEvents", &asked).await;
                for event in page["events"].as_array().context("no log events")? {
                    lines += event["message"].as_str().unwrap_or_default();
                    lines.push('\n');
                }
                if page["nextToken"].is_null() {
                    break;
                }
                asked["nextToken"] = page["nextToken"].clone();
            }
        }
        Ok(lines)
    }

    /// That nothing secret is in any log. Every test ends with it; `seen` is a line that must be there, or nothing could be found.
    async fn has_kept_quiet(mut self, seen: &[&str]) -> Tested {
        let functions = self.logged().await?;
        for line in seen {
            ensure!(functions.contains(line), "the functions logged no {line:?}: {functions}");
        }
        self.secrets.not_in(&functions, "the log of the functions")?;
        let pid = self.dispatcher.id().context("the dispatcher ended before")?.to_string();
        ensure!(Command::new("kill").args(["-TERM", &pid]).status().await?.success(), "kill failed");
        ensure!(self.dispatcher.wait().await?.success(), "the dispatcher did not end well");
        let log = std::fs::read_to_string(self.log.path())?;
        ensure!(log.contains("recado_"), "the dispatcher logged nothing: {log}");
        self.secrets.not_in(&log, "the log of the dispatcher")
    }
}

/// Where pages of the stack come from.
const PAGES: &str = "https://app.example.com";

#[tokio::test]
async fn a_token_that_does_not_hold_opens_neither_a_socket_nor_an_inbox() -> Tested {
    let stack = Attacked::up(&[("TokenIssuer", ISSUER), ("TokenAudience", AUDIENCE), ("AllowOrigins", PAGES)]).await?;
    let (good, secret) = (claims("alice"), stack.secret()?.as_bytes().to_owned());
    let unsigned = |header: Value| compact(&header, &good, |_| Vec::new());
    let with = |header: Value, secret: &[u8]| compact(&header, &good, |message| hs256(secret, message));
    let valid = stack.signed(&good)?;
    let (message, signature) = valid.rsplit_once('.').context("a token")?;
    let cases = [
        ("alg none", unsigned(json!({ "alg": "none" })), "token-malformed"),
        ("alg nOnE", unsigned(json!({ "alg": "nOnE" })), "token-malformed"),
        ("an empty secret", with(json!({ "alg": "HS256" }), b""), "token-signature"),
        ("another secret", with(json!({ "alg": "HS256" }), b"another secret of at least 32 bytes, too"), "token-signature"),
        ("the secret under a name", with(json!({ "alg": "HS256", "kid": "../../dev/null" }), &secret), "token-key-unknown"),
        ("HS512 in its header", with(json!({ "alg": "HS512" }), &secret), "token-algorithm"),
        ("RS256 by a stranger", stranger().token_with(&json!({ "alg": "RS256" }), "RS256", &good), "token-algorithm"),
        ("ES256 by a stranger", stranger().token_with(&json!({ "alg": "ES256" }), "ES256", &good), "token-algorithm"),
        ("a key of its own", with(json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "AAAA" } }), b"\0\0\0"), "token-signature"),
        ("no signature", format!("{message}."), "token-signature"),
        ("half a signature", format!("{message}.{}", &signature[..signature.len() / 2 - 1]), "token-signature"),
        ("no token", "not a token".to_owned(), "token-malformed"),
    ];
    for (what, token, kind) in cases {
        stack.refuses(&token, 401, kind, what).await?;
    }
    for (changes, kind) in claims_that_do_not_hold() {
        stack.refuses(&stack.signed(&claims_but(changes.clone()))?, 401, kind, &changes.to_string()).await?;
    }
    let padded = stack.signed(&claims_but(json!({ "padding": "p".repeat(8 * 1024) })))?;
    stack.refuses(&padded, 400, "malformed-request", "a token above the limit").await?;
    for query in [json!({ "token": [valid, valid] }), json!({ "token": [valid], "ticket": ["x".repeat(43)] })] {
        stack.connect_refuses(&query, 400, "malformed-request", "two at once").await?;
    }
    stack.connect_refuses(&json!({}), 401, "credential-missing", "none").await?;
    tokens::counts_nowhere_else(&stack, &stack.secrets, &valid).await?;
    // A real socket meets the same.
    let forged = stack.secrets.keep(with(json!({ "alg": "HS256" }), b"another secret of at least 32 bytes, too"));
    ensure!(stack.refused(&format!("token={forged}"), None).await? == Some(Stack::EXPECTED.unauthorized));
    ensure!(stack.refused(&format!("token={valid}"), None).await?.is_none(), "a good token opens");
    stack.has_kept_quiet(&["a token was refused"]).await
}

#[tokio::test]
async fn a_ticket_is_good_once_and_a_page_of_another_site_gets_nothing() -> Tested {
    let stack = Attacked::up(&[("TokenIssuer", ISSUER), ("TokenAudience", AUDIENCE), ("AllowOrigins", PAGES)]).await?;
    let token = stack.signed(&claims("alice"))?;
    let given: Value = stack.http.post(format!("{}/connection-tickets", stack.url)).bearer_auth(&token).send().await?.json().await?;
    let ticket = stack.secrets.keep(given["ticket"].as_str().with_context(|| format!("no ticket in {given}"))?);
    for (what, ticket) in [("in upper case", ticket.to_uppercase()), ("a pattern", "*".to_owned()), ("empty", String::new())] {
        stack.connect_refuses(&json!({ "ticket": [ticket] }), 401, "ticket-invalid", what).await?;
    }
    let request = stack.http.get(format!("{}/inbox", stack.url)).bearer_auth(&ticket);
    is_problem(request.send().await?, 401, "unauthorized", "a ticket as a token", &stack.secrets).await?;
    ensure!(stack.refused(&format!("ticket={ticket}"), Some(PAGES)).await?.is_none(), "a good ticket opens");
    stack.connect_refuses(&json!({ "ticket": [ticket] }), 401, "ticket-invalid", "used").await?;
    ensure!(stack.refused(&format!("ticket={ticket}"), None).await? == Some(Stack::EXPECTED.unauthorized));
    for origin in pages::FOREIGN {
        let (status, body) = stack.connect_says(&json!({ "token": [token] }), Some(origin)).await?;
        reads_as_problem(status, &body, 403, "foreign-origin", origin, &stack.secrets)?;
        for path in ["/inbox", "/connection-tickets"] {
            let answer = stack.http.get(format!("{}{path}", stack.url)).bearer_auth(&token).header("origin", origin).send().await?;
            ensure!(!answer.headers().contains_key("access-control-allow-origin"), "{origin} may read {path}");
        }
    }
    ensure!(stack.refused(&format!("token={token}"), Some(pages::FOREIGN[0])).await? == Some(403));
    for kind in pages::FORMS {
        for path in ["/inbox/read", "/inbox/archive", "/inbox/read-all", "/connection-tickets", "/events"] {
            let form = pages::form(&stack, kind, path, "{}");
            is_problem(form.send().await?, 401, "unauthorized", path, &stack.secrets).await?;
        }
        let with_token = pages::form(&stack, kind, "/inbox/read", "{}").bearer_auth(&token);
        is_problem(with_token.send().await?, 415, "unsupported-media-type", kind, &stack.secrets).await?;
    }
    let key = stack.publish_key.clone().context("no publish key")?;
    publishing::takes_the_whole_key_alone(&stack, &stack.secrets, &key, &token).await?;
    stack.has_kept_quiet(&["a token was refused"]).await
}

#[tokio::test]
async fn what_somebody_with_an_account_sends_changes_nothing_of_others_and_is_nowhere_in_a_log() -> Tested {
    let stack = Attacked::up(&[]).await?;
    publishing::refuses_hostile_events(&stack, &stack.secrets).await?;
    inboxes::another_users_ids_change_nothing_over_http(&stack, &stack.secrets).await?;
    inboxes::another_users_ids_change_nothing_over_a_socket(&stack, &stack.secrets).await?;
    inboxes::the_same_name_in_another_tenant_is_somebody_else(&stack, &stack.secrets).await?;
    inboxes::a_cursor_that_is_not_ones_own_or_was_tampered_with_is_a_gap(&stack, &stack.secrets).await?;
    let mut mallory = stack.live("mallory").await?;
    let marker = stack.secrets.keep("mallorys-marker-4711");
    // The local gateway reads a frame itself to choose its route, and ends the socket of one that nests deeper than Python reads.
    let shallow = |frame: &String| !frame.contains("[[[") && !frame.contains(r#"{"type":{"type":"#);
    for (frame, code) in hostile_frames(&marker).into_iter().filter(|(frame, _)| shallow(frame)) {
        mallory.send_text(frame.clone()).await?;
        let answer = mallory.next("error").await.with_context(|| format!("{frame:.80}"))?;
        ensure!(answer["code"] == code, "{frame:.80}: {answer}");
        ensure!(!answer["message"].to_string().contains(&marker), "{answer}");
    }
    let address = stack.secrets.keep("alice.of.the.attacks@example.com");
    let hostile = stack.secrets.keep("<script>alert('mail')</script>{{ 7 * 191 }}=?utf-8?Q?=0D=0ABcc:_x?=");
    let data = json!({
        "recipients": [{ "id": "alice", "email": address, "name": hostile }], "channels": ["email"], "title": hostile, "body": hostile,
        "payload": { "secret": stack.secrets.keep("the payload of one mail alone") }
    });
    stack.publish(&json!({ "specversion": "1.0", "id": "mail", "source": "/attacks", "type": "attack.tried", "data": data })).await?;
    let mails = eventually("the mail", async || Ok(Some(stack.account.mails().await).filter(|mails| !mails.is_empty()))).await?;
    ensure!(mails.len() == 1 && mails[0].to == address, "{mails:?}");
    let source = String::from_utf8_lossy(&mails[0].message).into_owned();
    ensure!(!source.lines().any(|line| line.to_ascii_lowercase().starts_with("bcc")), "{source}");
    let html = stack.mails(1).await?.remove(0).html;
    ensure!(!html.contains("<script>") && html.contains("&lt;script&gt;") && html.contains("{{ 7 * 191 }}"), "{html}");
    stack.has_kept_quiet(&["recado_"]).await
}
